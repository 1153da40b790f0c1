"""An exact rule that also accepts some mismatches."""

from collections.abc import Sequence

import torch

from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.sampling import best
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification.acceptance import leading, row
from adaspec_rl.decoding.verification.choice import Choice, Perturbation
from adaspec_rl.decoding.verification.coupled import Coupled
from adaspec_rl.decoding.verification.greedy import Greedy
from adaspec_rl.decoding.verification.lossy.rule import LossyRule, Seen, States


class Lenient:
    """Greedy or coupled verification under which `rule` accepts some mismatches. Lossy.

    The token after the accepted draft is the target's own pick.

    Attributes:
        distances: `[k + 1]` after `verify`: 1 where the token, if it is emitted, is not the
            target's own pick, else 0. At temperature 0 that is the total variation from the
            target's choice; under coupling its mean is at least the total variation.
    """

    needs_log_probs = False

    def __init__(self, exact: Greedy | Coupled, rule: LossyRule) -> None:
        self.exact, self.rule = exact, rule
        self.distances = torch.zeros(1)
        self._states: States | None = None

    def see(self, states: States | None) -> None:
        """Set the states of the next draft, for a rule that `needs_states`; None: it gets none."""
        self._states = states

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        return self.exact.propose(logits, position, ids)

    def perturbation(
        self, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> Perturbation | None:
        return self.exact.perturbation(positions, ids)

    def pick(self, candidates: Candidates, position: int) -> Pick:
        return self.exact.pick(candidates, position)

    def weigh(
        self, logits: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.exact.weigh(logits, positions, ids)

    def verify(
        self,
        logits: torch.Tensor,
        tokens: torch.Tensor,
        draft_log_probs: torch.Tensor | None,
        position: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, scores = self.weigh(logits, range(position, position + len(logits)))
        picks = best(scores)[:, 0]  # [k + 1]
        kept = agrees = picks[:-1] == tokens
        if logits.device.type != "cpu" or not agrees.all():
            seen = Seen(log_probs.log_softmax(-1), tokens, picks, self._states)
            kept = agrees | self.rule.keeps(seen)
        self._states = None
        accepted = leading(kept)
        stands = torch.arange(len(tokens), device=tokens.device) < accepted
        self.distances = torch.cat([stands & ~agrees, stands.new_zeros(1)]).float()
        return accepted, row(picks, accepted)
