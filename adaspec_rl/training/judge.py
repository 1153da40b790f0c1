"""How good a policy is during training: its replayed speedup on withheld training texts."""

from collections.abc import Callable, Sequence

import numpy as np

from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import best_fixed
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, play_all


def split(trace: Trace, share: float) -> tuple[Trace, Trace]:
    """Texts to learn from, and withheld ones: about `share` of each domain, evenly spaced."""
    learned, withheld = split_domains(trace.domains, share)
    return trace.select(learned), trace.select(withheld)


def split_domains(domains: Sequence[str], share: float) -> tuple[list[int], list[int]]:
    """The numbers of the texts to learn from and of the withheld ones, by each text's domain.

    Raises:
        ValueError: no text would be left to learn from.
    """
    every = max(2, round(1 / share))
    withheld: list[int] = []
    for domain in dict.fromkeys(domains):
        members = [n for n, name in enumerate(domains) if name == domain]
        withheld += members[every - 1 :: every] or members[-1:]
    learned = sorted(set(range(len(domains))) - set(withheld))
    if not learned:
        raise ValueError(
            f"{len(domains)} training prompts are too few to withhold some of them: "
            "expected at least 2 a domain"
        )
    return learned, sorted(withheld)


class Judge:
    """Replays every withheld text under each of several cost profiles."""

    def __init__(
        self,
        tables: ReplayTables,
        spec: ObservationSpec,
        profiles: Sequence[Sequence[RoundCosts]],
        policy: Sequence[float],
    ) -> None:
        self._streams = ReplayStreams(
            tables, spec, profiles, policy=policy, streams=len(tables.trace.texts)
        )
        self._count = len(profiles)
        longest = max(action.length for action in tables.actions)
        self.fixed = fixed_speedups(tables.trace, profiles, longest)  # [P]

    def speedups(self, actor: Actor) -> np.ndarray:
        """The actor's speedup under each profile, `[P]`."""
        decide = deciding(actor)
        return np.array([play_all(self._streams, decide, p).speedup for p in range(self._count)])


def deciding(actor: Actor) -> Callable[[np.ndarray], np.ndarray]:
    """The most preferred action of each observation."""
    return lambda observation: actor(observation).argmax(axis=1)


def fixed_speedups(
    trace: Trace, profiles: Sequence[Sequence[RoundCosts]], max_length: int
) -> np.ndarray:
    """The best fixed draft length's speedup under each profile, `[P]`."""
    found = []
    for points in profiles:
        batch_size = points[0].batch_size
        profile = CostProfile("", 0.0, tuple(points))
        found.append(best_fixed(trace, profile, max_length=max_length, batch_size=batch_size)[1])
    return np.array(found)
