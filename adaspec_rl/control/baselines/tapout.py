"""A bandit over stopping rules."""

from collections.abc import Sequence

from adaspec_rl.control.baselines.ucb1 import Ucb1
from adaspec_rl.control.checks import check_between
from adaspec_rl.control.stopping.confidence import ConfidenceStop
from adaspec_rl.control.stopping.cumulative_confidence import CumulativeConfidenceStop
from adaspec_rl.control.stopping.entropy_bound import EntropyBoundStop
from adaspec_rl.control.stopping.svip import SvipStop
from adaspec_rl.decoding.round import Action, Round, StopRule


def default_rules() -> list[StopRule]:
    """One rule of each kind, untuned."""
    return [
        ConfidenceStop(0.4),
        ConfidenceStop(0.8),
        CumulativeConfidenceStop(0.3),
        SvipStop(0.6),
        EntropyBoundStop(0.4),
    ]


class TapOut(Ucb1):
    """UCB1 whose arms are stopping rules; it chooses one for each draft.

    TapOut (arXiv:2511.02017), in its variant that chooses per sequence. The worth of a round blends
    its acceptance length and its accepted share: `blend` accepted / max_length + (1 - `blend`)
    accepted / drafted. Deviates: TapOut's rules on margins and on entropy differences are left out,
    as rules are not told these; AdaEDL's threshold is fixed; the cumulative confidence is added.
    """

    name = "tapout"

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        exploration: float = 1.0,
        blend: float = 0.5,
        rules: Sequence[StopRule] | None = None,
    ) -> None:
        check_between("max_length", max_length, 1)
        check_between("blend", blend, 0, 1)
        chosen = default_rules() if rules is None else rules
        arms = [Action(max_length, drafter, rule=rule) for rule in chosen]
        super().__init__(max_length, drafter, exploration, arms)
        self._blend, self._max_length = blend, max_length

    def worth(self, action: Action, round_: Round) -> float:
        length = round_.accepted / self._max_length
        share = round_.accepted / round_.drafted
        return self._blend * length + (1 - self._blend) * share
