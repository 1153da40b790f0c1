"""A proposer for vLLM: a lookup in each request's text, under a trained policy.

vLLM makes it from `speculative_config={"method": "custom_class", "model": "MODULE.CLASS", …}` and
calls `propose` once a step. Nothing of vLLM is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from adaspec_rl.interop.runtime import LookupPolicy, LookupText


class LookupProposer:
    """Drafts for all requests of a step; lists may be of any length, and empty.

    An exported class sets `folder` and `drafter`. vLLM gives no ids, so requests are recognised by
    their row: if a row's text has an unexpected length or end, the row holds another request.
    """

    folder: ClassVar[Path]
    drafter: ClassVar[int]

    def __init__(self, vllm_config: Any) -> None:
        self._policy = LookupPolicy.load(self.folder, self.drafter)
        self._most = int(vllm_config.speculative_config.num_speculative_tokens)
        self._longest = int(vllm_config.model_config.max_model_len)
        self._texts: dict[int, LookupText] = {}

    def propose(
        self,
        sampled_token_ids: Sequence[Sequence[int]],
        num_tokens_no_spec: Any,
        token_ids_cpu: Any,
        slot_mappings: Any = None,
    ) -> list[list[int]]:
        """Draft tokens for each request, in vLLM's order.

        Args:
            sampled_token_ids: the tokens that the last step added to each; empty while a prompt is
                still being read, and then nothing is drafted.
            num_tokens_no_spec: `[requests]` lengths of the texts, including the last step.
            token_ids_cpu: `[requests, max_model_len]`.
        """
        counts = np.asarray(num_tokens_no_spec)
        rows = sum(bool(len(sampled)) for sampled in sampled_token_ids)
        drafts: list[list[int]] = []
        for row, sampled in enumerate(sampled_token_ids):
            count = int(counts[row])
            room = min(self._most, self._longest - count - 1)
            if not len(sampled) or room < 1:
                drafts.append([])
                continue
            text = self._followed(row, np.asarray(token_ids_cpu[row, :count]), len(sampled))
            drafts.append(text.propose(rows, room))
        return drafts

    def load_model(self, *arguments: Any, **named: Any) -> None:
        """There is no model to load."""

    def _followed(self, row: int, tokens: np.ndarray, new: int) -> LookupText:
        """The text of `row`, updated to `tokens`, of which the last `new` are new."""
        text = self._texts.get(row)
        if text and text.ends(tokens[:-new]):
            text.committed(tokens[-new:].tolist())
            return text
        text = self._texts[row] = LookupText(self._policy)
        text.start(tokens.tolist())
        return text
