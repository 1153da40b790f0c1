"""Traversal verification: sampled drafts are judged from their ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from adaspec_rl.decoding.sampling import warp_logits
from adaspec_rl.decoding.verification.rejection import Rejection
from adaspec_rl.decoding.verification.tree_walks import POINT_MASS, draw, traversal


@dataclass
class Traversal(Rejection):
    """Keeps more than `Rejection`, also at the target's distribution (arXiv:2505.12398).

    On a chain it is block verification (arXiv:2403.10444): a token that would be rejected on its
    own may be accepted together with those after it.
    """

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(tokens)
        rows = [POINT_MASS] * count if draft_log_probs is None else range(count)
        after = [((node, row),) for node, row in enumerate(rows)]
        draws = (*after[1:], (), *after[:1])

        @cache
        def p(node: int) -> np.ndarray:
            return on_host(warp_logits(logits[node + 1], self.sampling).softmax(-1))

        def q(row: int) -> np.ndarray:
            assert draft_log_probs is not None
            return on_host(draft_log_probs[row].exp())

        luck = lucky(self.generator, count + 2)
        path, weights = traversal(tokens.tolist(), draws, p, q, luck)
        following = draw(weights, luck())
        device = logits.device
        return torch.tensor(len(path), device=device), torch.tensor(following, device=device)


def lucky(generator: torch.Generator, most: int) -> Callable[[], float]:
    """A source of `most` random numbers in [0, 1), brought to the host in one transfer."""
    device = generator.device
    numbers = torch.rand(most, dtype=torch.float64, device=device, generator=generator)
    return iter(numbers.tolist()).__next__


def on_host(values: torch.Tensor) -> np.ndarray:
    """The values as an array on the host."""
    found: np.ndarray = values.cpu().numpy()
    return found
