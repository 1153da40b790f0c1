"""The models' work in a round, which determines its cost on any machine."""

from dataclasses import dataclass

from adaspec_rl.decoding.round import Action, Round


@dataclass(frozen=True, slots=True)
class DraftWork:
    """One drafter's work in a round."""

    drafter: int
    levels: tuple[int, ...]  # tokens of each of its forward passes; a chain's have 1 each
    stopping: bool = False  # whether it was asked after each token to stop
    cut: bool = False  # whether it stopped early

    @classmethod
    def chain(
        cls, drafter: int, drafted: int, *, stopping: bool = False, asked: int = 0
    ) -> "DraftWork":
        """A chain of `drafted` tokens; without stopping it would have had `asked`."""
        return cls(drafter, (1,) * drafted, stopping, stopping and drafted < asked)

    @property
    def branches(self) -> bool:
        """Whether the drafter drafts more than a chain."""
        return max(self.levels) > 1


@dataclass(frozen=True, slots=True)
class RoundWork:
    """The work of all models in a round."""

    drafts: tuple[DraftWork, ...] = ()  # of the drafters that drafted anything; (): a plain step
    nodes: int = 0  # drafted tokens that the target verifies

    @property
    def drafters(self) -> tuple[int, ...]:
        """The numbers of the drafters that drafted."""
        return tuple(draft.drafter for draft in self.drafts)

    @property
    def branches(self) -> bool:
        """Whether more than a chain is verified."""
        return len(self.drafts) > 1 or any(draft.branches for draft in self.drafts)


PLAIN_STEP = RoundWork()


def played_work(action: Action, played: Round) -> RoundWork:
    """The work of the models in a round of `action`."""
    if not played.drafted:
        return PLAIN_STEP
    drafters = (action.drafter, *action.also)
    levels = played.levels if action.branches else ((1,) * played.drafted,)
    drafts = [
        DraftWork(drafter, widths, action.stops, action.stops and len(widths) < action.length)
        for drafter, widths in zip(drafters, levels, strict=True)
        if widths
    ]
    return RoundWork(tuple(drafts), played.drafted)
