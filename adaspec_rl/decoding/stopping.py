"""Early stopping within a draft, by the estimated chance that all of it survives."""

from collections.abc import Sequence

import numpy as np
import torch

from adaspec_rl.decoding.suffix_index import SuffixIndex
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.verification import Choice


def agreement(index: SuffixIndex, drafted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Match lengths before each drafted token, and whether the token is what followed; `[k]`."""
    guesses = [index.predict(drafted[:depth]) for depth in range(len(drafted))]
    match = np.array([length for length, _ in guesses], dtype=np.float32)
    agrees = np.array([guess == token for (_, guess), token in zip(guesses, drafted)])
    return match, agrees.astype(np.float32)


class ThresholdStop:
    """Stops a draft after the token at which its estimated survival falls under `threshold`."""

    def __init__(self, threshold: float, survival: Survival, index: SuffixIndex) -> None:
        self.threshold = threshold
        self._survival = survival
        self._index = index
        self._drafted: list[int] = []
        self._chance = 1.0  # that all tokens so far are accepted

    def __call__(self, logits: torch.Tensor, choice: Choice, hidden: torch.Tensor | None) -> bool:
        self._chance *= float(self._survival(self._evidence(logits, choice, hidden))[0])
        return self._chance < self.threshold

    def _evidence(
        self, logits: torch.Tensor, choice: Choice, hidden: torch.Tensor | None
    ) -> Evidence:
        log_prob = logits.log_softmax(-1).index_select(0, choice.token.view(1))
        nothing = np.zeros(1, dtype=np.float32)
        if not self._survival.needs_evidence:
            return Evidence(log_prob.cpu().numpy(), nothing, nothing, nothing, None)
        best = choice.scores.topk(2).values
        numbers = torch.cat([log_prob, best, choice.token.view(1)]).tolist()
        token = int(numbers[3])
        match, guess = self._index.predict(self._drafted)
        self._drafted.append(token)
        return Evidence(
            log_prob=np.array(numbers[:1], dtype=np.float32),
            choice_margin=np.array([numbers[1] - numbers[2]], dtype=np.float32),
            match=np.array([match], dtype=np.float32),
            agrees=np.array([guess == token], dtype=np.float32),
            hidden=None if hidden is None else hidden.float().cpu().numpy()[None],
        )
