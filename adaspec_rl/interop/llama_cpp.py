"""A draft model for llama-cpp-python: a lookup in the text, under a trained policy.

`Llama(..., draft_model=LookupDraft.load(FOLDER))` calls it before every evaluation. It takes the
place of `llama_cpp.llama_speculative.LlamaDraftModel`, an interface of one method.
"""

from pathlib import Path
from typing import Any

import numpy as np

from adaspec_rl.interop.runtime import LookupPolicy, LookupText


class LookupDraft:
    """Drafts the tokens that followed the text's end last time, as many as the policy decides."""

    def __init__(self, policy: LookupPolicy) -> None:
        self._policy = policy
        self._text: LookupText | None = None

    @classmethod
    def load(cls, folder: Path, drafter: int) -> "LookupDraft":
        """Load from an export's folder; `drafter` is the lookup's number in `export.json`."""
        return cls(LookupPolicy.load(Path(folder), drafter))

    def __call__(self, input_ids: np.ndarray, /, **kwargs: Any) -> np.ndarray:
        """`[k]` tokens to try after `input_ids` `[n]`, the whole text so far; k may be 0."""
        tokens = np.asarray(input_ids)
        text = self._text
        known = len(text.tokens) if text else 0
        if text and text.ends(tokens[:known]):
            if known < len(tokens):
                text.committed(tokens[known:].tolist())
        else:
            text = self._text = LookupText(self._policy)
            text.start(tokens.tolist())
        return np.array(text.propose(), dtype=np.intc)
