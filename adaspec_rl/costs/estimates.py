"""Computes the costs of a round's parts from timings, so that the parts add up to whole rounds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.decoding.tree_shape import TreeShape

FEWEST = 3  # timings of each part
PRECISION = 0.01  # of an autoregressive step, or of the part if it takes longer
EFFICIENCY, SPREAD = 1.2533, 1.4826  # for normal noise: of a median, and of a median deviation

TALLEST = 5  # levels of a tree that is timed

Kind = tuple  # what was timed, e.g. ("verification", 4) or ("round", drafter, length)


class Timings:
    """Seconds of each kind at one context."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Kind, list[float]] = defaultdict(list)

    def add(self, kind: Kind, seconds: float) -> None:
        """Add one timing."""
        self._seconds[kind].append(seconds)

    def count(self, kind: Kind) -> int:
        """Timings of `kind` so far."""
        return len(self._seconds[kind])

    def kinds(self, name: str, *more: object) -> list[Kind]:
        """The timed kinds that begin with these values, sorted."""
        wanted = (name, *more)
        return sorted(
            kind for kind, found in self._seconds.items() if found and kind[: len(wanted)] == wanted
        )

    def median(self, kind: Kind) -> float:
        """The median of all timings but the first, which warms up; of all if there are few."""
        return statistics.median(self._warm(kind))

    def error(self, kind: Kind) -> float:
        """The standard error of `median`."""
        found, middle = self._warm(kind), self.median(kind)
        deviation = statistics.median(abs(seconds - middle) for seconds in found)
        return EFFICIENCY * SPREAD * deviation / math.sqrt(len(found))

    def narrow(self, kind: Kind) -> bool:
        """Whether half the median's 95% interval is within `PRECISION` of it, or of a step."""
        if self.count(kind) <= FEWEST:
            return False
        unit = max(self.median(("fallback",)), self.median(kind))
        return 1.96 * self.error(kind) <= PRECISION * unit

    def _warm(self, kind: Kind) -> list[float]:
        found = self._seconds[kind]
        return found[1:] if len(found) > FEWEST else found


def round_costs(
    found: Timings, context: int, max_length: int, drafters: int, nodes: int = 0
) -> RoundCosts:
    """The costs at a context, of drafts of up to `max_length` tokens and trees of up to `nodes`.

    Verification widths between two measured ones are interpolated. A draft step is the extra time
    of a longer draft, timed alone, plus any extra time that whole rounds show. The overhead is the
    rest of whole rounds. A tree level takes a draft step, plus the extra time of its forward pass
    over that of a single token.
    """
    widths = [kind[1] for kind in found.kinds("verification")]
    measured = [found.median(("verification", width)) for width in widths]
    verification = interpolated(widths, measured, max_length + 1)
    steps, stopping, overheads, catching_up = [], [], [], []
    for drafter in range(drafters):
        step = _slope(found, "draft", drafter)
        rest = {
            kind[2]: found.median(kind) - verification[kind[2]] - kind[2] * step
            for kind in found.kinds("round", drafter)
        }
        shortest, longest = min(rest), max(rest)
        if longest > shortest:
            # A drafter that drafts alone stays in the processor's cache, as it does not in rounds.
            more = max(0.0, rest[longest] - rest[shortest]) / (longest - shortest)
            step += more
            rest = {length: seconds - more * length for length, seconds in rest.items()}
        steps.append(max(1e-9, step))
        overheads.append(max(0.0, statistics.mean(rest.values())))
        (slower,) = found.kinds("stopping", drafter)
        plain = found.median(("draft", drafter, slower[2]))
        stopping.append(max(0.0, (found.median(slower) - plain) / slower[2]))
        reading = found.median(("catch up", drafter)) - found.median(("draft", drafter, 1))
        catching_up.append(max(0.0, reading / context))
    trees: dict[str, Any] = {}
    if nodes:
        wide = interpolated(widths, measured, nodes + 1)
        trees = _trees(found, wide, steps, overheads)
    return RoundCosts(
        context=context,
        batch_size=1,
        autoregressive_step=found.median(("fallback",)),
        draft_step=tuple(steps),
        stopping_step=tuple(stopping),
        verification=verification,
        overhead=tuple(overheads),
        catch_up=tuple(catching_up),
        **trees,
    )


def tree_widths(most: int) -> tuple[int, ...]:
    """Widths that are measured for all widths up to `most`: powers of two."""
    return tuple(sorted({*(2**n for n in range(most.bit_length())), most}))


def _trees(
    found: Timings,
    verification: tuple[float, ...],
    steps: Sequence[float],
    overheads: Sequence[float],
) -> dict[str, Any]:
    """The parts of `RoundCosts` for trees.

    The time of whole rounds beyond their passes is split into a part per node, which is added to
    the drafter's levels, and a part per round.
    """
    levels, rounds = [], []
    for drafter, step in enumerate(steps):
        level = _levels(found, drafter, step, len(verification) - 1)
        rest = {}
        for kind in found.kinds("branch", drafter):
            shape = bushy(kind[2])
            passes = sum(level[len(nodes) - 1] for nodes in shape.levels)
            known = passes + verification[shape.nodes] + overheads[drafter]
            rest[shape.nodes] = found.median(kind) - known
        few, many = min(rest, default=0), max(rest, default=0)
        node = max(0.0, (rest[many] - rest[few]) / (many - few)) if many > few else 0.0
        if rest:
            rounds.append(max(0.0, statistics.mean(rest[n] - n * node for n in rest)))
        levels.append(tuple(more + n * node for n, more in enumerate(level, 1)))
    overhead = statistics.mean(rounds) if rounds else 0.0
    return {"tree_verification": verification, "levels": tuple(levels), "tree_overhead": overhead}


def bushy(nodes: int) -> TreeShape:
    """A tree with two choices after each node and at most `TALLEST` levels."""
    widest = 2 ** (TALLEST + 1) - 2
    parents = [node // 2 - 1 if node < widest else -1 for node in range(nodes)]
    ranks = [node % 2 if node < widest else 2 + node - widest for node in range(nodes)]
    return TreeShape(tuple(parents), tuple(ranks))


def _levels(found: Timings, drafter: int, step: float, nodes: int) -> tuple[float, ...]:
    """Seconds of levels of 1, 2, … `nodes` nodes."""
    kinds = found.kinds("level", drafter)
    forwards = interpolated([kind[2] for kind in kinds], list(map(found.median, kinds)), nodes)
    return tuple(step + max(0.0, seconds - forwards[0]) for seconds in forwards)


def interpolated(widths: Sequence[int], seconds: Sequence[float], widest: int) -> tuple[float, ...]:
    """Seconds of verifications of width 1 to `widest`, interpolated from the given widths."""
    return tuple(np.interp(range(1, widest + 1), widths, seconds).tolist())


def policy_seconds(found: Timings) -> float:
    """The time that a learned policy adds to a round: its signals, if needed, and its decision."""
    more = 0.0
    for kind in found.kinds("signals"):
        more = max(0.0, found.median(kind) - found.median(kind[1:]))
    return more + found.median(("policy",))


def _slope(found: Timings, name: str, drafter: int) -> float:
    """Seconds of one more token; if noise hides the rise, the average of the longest draft."""
    kinds = found.kinds(name, drafter)
    first, last = kinds[0], kinds[-1]
    rise = found.median(last) - found.median(first)
    if rise <= 0:
        return found.median(last) / last[2]
    return rise / (last[2] - first[2])
