"""Token windows for language-model training, a pure function of (seed, step)."""

from collections.abc import Mapping

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from adaspec_rl.data.corpus import documents

DIALOGUE_DOCUMENTS = 6000  # conversations in the `fit` split: about two million tokens


class PackedCorpus:
    """Each domain's documents as one long token array, sampled in windows.

    Documents are joined by the end-of-text token. A batch depends on (seed, step) alone, so that
    training resumes exactly.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, mix: Mapping[str, float]) -> None:
        """`mix` gives each domain's share of the windows; shares are normalised."""
        total = sum(mix.values())
        self.domains = list(mix)
        self.shares = np.array([mix[domain] / total for domain in self.domains])
        self.tokens = {domain: _tokenize(tokenizer, domain) for domain in self.domains}

    def batch(self, seed: int, step: int, rows: int, length: int) -> torch.Tensor:
        """Windows of `length` + 1 tokens, `[rows, length + 1]` int64."""
        rng = np.random.default_rng((seed, step))
        chosen = rng.choice(len(self.domains), size=rows, p=self.shares)
        windows = []
        for index in chosen:
            tokens = self.tokens[self.domains[index]]
            start = rng.integers(0, len(tokens) - length)
            windows.append(tokens[start : start + length + 1])
        return torch.from_numpy(np.stack(windows).astype(np.int64))


def _tokenize(tokenizer: PreTrainedTokenizerFast, domain: str) -> np.ndarray:
    texts = []
    for index, text in enumerate(documents(domain, "fit")):
        if domain == "dialogue" and index == DIALOGUE_DOCUMENTS:
            break
        texts.append(text)
    encoded = tokenizer(texts, verbose=False)["input_ids"]  # each begins with the end-of-text token
    return np.concatenate([np.asarray(ids, dtype=np.uint16) for ids in encoded])
