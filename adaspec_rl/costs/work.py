"""What a round asks of the models: what its cost depends on, whatever machine it runs on."""

from dataclasses import dataclass

from adaspec_rl.decoding.round import Action, Round


@dataclass(frozen=True, slots=True)
class DraftWork:
    """What one drafter does in a round."""

    drafter: int
    levels: tuple[int, ...]  # tokens of each of its forward passes; a chain's have 1 each
    stopping: bool = False  # asked after each token whether to stop
    cut: bool = False  # and stopped

    @classmethod
    def chain(
        cls, drafter: int, drafted: int, *, stopping: bool = False, asked: int = 0
    ) -> "DraftWork":
        """A chain of `drafted` tokens, of `asked` that it would have had without stopping."""
        return cls(drafter, (1,) * drafted, stopping, stopping and drafted < asked)

    @property
    def branches(self) -> bool:
        """Whether it drafts more than a chain."""
        return max(self.levels) > 1


@dataclass(frozen=True, slots=True)
class RoundWork:
    """What all do in a round."""

    drafts: tuple[DraftWork, ...] = ()  # of the drafters that drafted anything; (): a plain step
    nodes: int = 0  # drafted tokens that the target verifies

    @property
    def drafters(self) -> tuple[int, ...]:
        """Those that drafted."""
        return tuple(draft.drafter for draft in self.drafts)

    @property
    def branches(self) -> bool:
        """Whether what is verified is more than a chain."""
        return len(self.drafts) > 1 or any(draft.branches for draft in self.drafts)


PLAIN_STEP = RoundWork()


def played_work(action: Action, played: Round) -> RoundWork:
    """What models did in a round of `action`."""
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
