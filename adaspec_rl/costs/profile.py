"""What decoding costs on one machine: the parts of a round, by context length and batch size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaspec_rl import strict_json
from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.costs.work import DraftWork, RoundWork
from adaspec_rl.files import write_atomically

if TYPE_CHECKING:  # policies also decide where torch is not installed
    import torch

SCHEMA = 3
SHORTEST, LONGEST = 1e-12, 1e6  # seconds that a part of a round can take
MOST = 2**31 - 1  # tokens of context, or texts in a batch


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Median seconds of each part of a round, at one context length and batch size."""

    context: int  # tokens before the round
    batch_size: int
    autoregressive_step: float  # a whole fallback round
    draft_step: tuple[float, ...]  # one drafted token, by drafter
    stopping_step: tuple[float, ...]  # its extra time under a threshold, by drafter
    verification: tuple[float, ...]  # the target's forward, by width 1, 2, …
    overhead: tuple[float, ...]  # of a round with a draft, beyond its forwards, by drafter
    catch_up: tuple[float, ...]  # a token committed since the drafter's last round, by drafter
    # The pass that runs on a GPU when a draft is stopped, by drafter; (): there is none.
    in_vain: tuple[float, ...] = ()
    # The costs of token trees, for as many nodes each; (): not measured, and trees are refused.
    tree_verification: tuple[float, ...] = ()  # the target's forward, by width 1, 2, …
    levels: tuple[tuple[float, ...], ...] = ()  # a level of 1, 2, … nodes, by drafter
    tree_overhead: float = 0.0  # the further time of a round that branches

    def __post_init__(self) -> None:
        for name in ("context", "batch_size"):
            check_between(name, getattr(self, name), 1, MOST)
        _check_seconds("autoregressive_step", self.autoregressive_step, SHORTEST)
        for names, shortest in (
            (("draft_step", "verification"), SHORTEST),
            (("stopping_step", "overhead", "catch_up", "in_vain"), 0.0),
        ):
            for name in names:
                for number, seconds in enumerate(getattr(self, name)):
                    _check_seconds(f"{name}[{number}]", seconds, shortest)
        if not self.verification:
            raise ValueError("verification needs the seconds of at least 1 width, got none")
        self._check_trees()
        for name in (
            "stopping_step",
            "overhead",
            "catch_up",
            *(["in_vain"] if self.in_vain else []),
        ):
            if len(getattr(self, name)) != len(self.draft_step):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} numbers: expected one for each of the "
                    f"{len(self.draft_step)} drafters in draft_step"
                )

    def _check_trees(self) -> None:
        _check_seconds("tree_overhead", self.tree_overhead)
        for name, parts in (
            ("tree_verification", self.tree_verification),
            *((f"levels[{number}]", parts) for number, parts in enumerate(self.levels)),
        ):
            for width, seconds in enumerate(parts):
                _check_seconds(f"{name}[{width}]", seconds, SHORTEST)
        wanted = len(self.draft_step) if self.tree_verification else 0
        if len(self.levels) != wanted:
            raise ValueError(
                f"levels has {len(self.levels)} lists: expected one for each of {wanted} drafters "
                "whose trees were measured"
            )
        sizes = {len(parts) for parts in self.levels}
        if self.tree_verification and sizes - {len(self.tree_verification) - 1}:
            raise ValueError(
                f"levels cover {', '.join(map(str, sorted(sizes)))} nodes but tree_verification "
                f"{len(self.tree_verification) - 1}: expected the same"
            )

    @property
    def max_length(self) -> int:
        """The longest draft whose verification was measured."""
        return len(self.verification) - 1

    @property
    def max_nodes(self) -> int:
        """Nodes of the largest token tree that was measured; 0: none was."""
        return max(0, len(self.tree_verification) - 1)

    def seconds(
        self,
        drafter: int,
        drafted: int,
        stopping: bool = False,
        unread: int = 0,
        *,
        asked: int = 0,
    ) -> float:
        """The cost of a round in which one drafter drafted a chain of `drafted` tokens.

        Args:
            stopping: whether a threshold was used.
            unread: see `Unread`.
            asked: how many tokens it would have drafted without stopping.
        """
        if drafted == 0:
            return self.autoregressive_step
        draft = DraftWork.chain(drafter, drafted, stopping=stopping, asked=asked)
        return self.of(RoundWork((draft,), drafted)) + self.catch_up[drafter] * unread

    def of(self, work: RoundWork) -> float:
        """The cost of a round whose drafters have nothing to catch up on.

        Raises:
            ValueError: drafts or trees are larger than what was measured.
        """
        if not work.drafts:
            return self.autoregressive_step
        if work.branches:
            check_nodes(self.max_nodes, work.nodes)
            verifying = self.tree_verification[work.nodes] + self.tree_overhead
        else:
            if work.nodes > self.max_length:
                raise ValueError(
                    f"the cost profile covers drafts of up to {self.max_length} tokens, got "
                    f"{work.nodes}"
                )
            verifying = self.verification[work.nodes]
        overhead = max(self.overhead[drafter] for drafter in work.drafters)
        return sum(map(self._drafting, work.drafts)) + verifying + overhead

    def _drafting(self, draft: DraftWork) -> float:
        drafter = draft.drafter
        if draft.branches:
            return sum(self.levels[drafter][width - 1] for width in draft.levels)
        step = self.draft_step[drafter] + (self.stopping_step[drafter] if draft.stopping else 0.0)
        seconds = step * len(draft.levels)
        return seconds + (self.in_vain[drafter] if draft.cut and self.in_vain else 0.0)

    def drifted(self, memory: float, arithmetic: float) -> "RoundCosts":
        """The costs when memory and arithmetic take these factors longer than was measured.

        Memory limits a plain step's forward, and arithmetic what a wider one takes beyond it.
        Drafters and the time between forwards do not change.
        """
        plain = self.verification[0]

        def changed(forwards: Sequence[float]) -> tuple[float, ...]:
            return tuple(memory * plain + arithmetic * max(0.0, s - plain) for s in forwards)

        return replace(
            self,
            autoregressive_step=self.autoregressive_step + (memory - 1) * plain,
            verification=changed(self.verification),
            tree_verification=changed(self.tree_verification),
        )

    def features(self) -> CostFeatures:
        """The costs as policies observe them, in units of one autoregressive step."""
        unit = self.autoregressive_step
        rise = self.verification[-1] - self.verification[0]
        return CostFeatures(
            draft_step=self.draft_step[0] / unit if self.draft_step else 0.0,
            verification_step=rise / max(1, self.max_length) / unit,
            overhead=self.overhead[0] / unit if self.overhead else 0.0,
            batch_size=self.batch_size,
            other_draft_steps=tuple(step / unit for step in self.draft_step[1:]),
            trees=self._tree_features(),
        )

    def _tree_features(self) -> tuple[float, ...]:
        """The cost of verifying one more node, and of each drafter drafting it, in steps."""
        if not self.tree_verification:
            return ()
        unit = self.autoregressive_step * max(1, self.max_nodes)
        ends = [self.tree_verification, *self.levels]
        return tuple((parts[-1] - parts[0]) / unit for parts in ends)


def check_nodes(known: int, nodes: int) -> None:
    """Refuse trees with more nodes than the `known` number whose costs were measured.

    Raises:
        ValueError: there are more nodes, or no trees were measured.
    """
    if nodes > known:
        covered = f"trees of up to {known} nodes" if known else "no token trees"
        raise ValueError(
            f"the cost profile covers {covered}, but one of {nodes} nodes is to be drafted: "
            "measure it anew, with trees among the actions (env.actions=all)"
        )


class Unread:
    """Tokens committed since each drafter's last draft, which it has to catch up on.

    A drafter that drafts in every round has none: its next draft step reads the new tokens anyway.
    All drafters have to read the prompt when a text begins.
    """

    def __init__(self, drafters: int) -> None:
        self.tokens = [0] * drafters

    def start(self, prompt: int) -> None:
        """A text begins, after `prompt` tokens."""
        self.tokens = [prompt] * len(self.tokens)

    def seconds(self, costs: "RoundCosts") -> float:
        """Seconds that reading these tokens would take."""
        return sum(tokens * rise for tokens, rise in zip(self.tokens, costs.catch_up))

    def played(self, drafters: Sequence[int], emitted: int) -> list[int]:
        """Count a round; returns how much the `drafters` that drafted had to catch up on."""
        before = [self.tokens[drafter] for drafter in drafters]
        self.tokens = [tokens + emitted for tokens in self.tokens]
        for drafter in drafters:
            self.tokens[drafter] = 0
        return before


@dataclass(frozen=True, slots=True)
class CostProfile:
    """The costs of rounds on one machine, measured at some context lengths and batch sizes."""

    device: str
    policy: float  # seconds of one round's signals, observation and decision
    points: tuple[RoundCosts, ...]  # by batch size, then context

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a cost profile needs at least 1 measured point, got none")
        _check_seconds("policy", self.policy)
        for what, sizes in (
            ("drafters", {len(point.draft_step) for point in self.points}),
            ("verification widths", {len(point.verification) for point in self.points}),
            ("widths of trees", {len(point.tree_verification) for point in self.points}),
        ):
            if len(sizes) > 1:
                raise ValueError(
                    f"the points of a cost profile have {' and '.join(map(str, sorted(sizes)))} "
                    f"{what}: expected the same number at each"
                )
        ordered = tuple(sorted(self.points, key=_place))
        places = [_place(point) for point in ordered]
        if len(set(places)) < len(places):
            raise ValueError(
                f"a cost profile has {len(places)} points at {len(set(places))} batch sizes and "
                "contexts: expected one at each"
            )
        object.__setattr__(self, "points", ordered)

    @property
    def drafters(self) -> int:
        """How many drafters were measured."""
        return len(self.points[0].draft_step)

    @property
    def max_length(self) -> int:
        """The longest draft that every point covers."""
        return min(point.max_length for point in self.points)

    @property
    def max_nodes(self) -> int:
        """Nodes of the largest token tree that every point covers; 0: none."""
        return min(point.max_nodes for point in self.points)

    def contexts(self, batch_size: int = 1) -> list[RoundCosts]:
        """The points of a batch size, shortest context first.

        Raises:
            ValueError: this batch size was not measured.
        """
        found = [point for point in self.points if point.batch_size == batch_size]
        if not found:
            known = sorted({point.batch_size for point in self.points})
            raise ValueError(
                f"the cost profile of {self.device} has no batch size {batch_size}, only "
                f"{', '.join(map(str, known))}: measure it, or set cost.batch_size to one of these"
            )
        return found

    def at(self, context: int | None = None, batch_size: int = 1) -> RoundCosts:
        """The measured point nearest to `context` tokens; None: the middle one."""
        found = self.contexts(batch_size)
        if context is None:
            return found[len(found) // 2]
        return min(found, key=lambda point: abs(point.context - context))

    def of_drafters(self, chosen: Sequence[int]) -> "CostProfile":
        """The costs of some of the drafters, in this order."""

        def some(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values[number] for number in chosen)

        points = [
            replace(
                point,
                draft_step=some(point.draft_step),
                stopping_step=some(point.stopping_step),
                overhead=some(point.overhead),
                catch_up=some(point.catch_up),
                in_vain=some(point.in_vain) if point.in_vain else (),
                levels=tuple(point.levels[n] for n in chosen) if point.levels else (),
            )
            for point in self.points
        ]
        return replace(self, points=tuple(points))

    def check(self, drafters: int, max_length: int, nodes: int = 0) -> None:
        """Refuse a profile that lacks a pair's drafters or the wanted draft lengths or trees."""
        if self.drafters != drafters:
            raise ValueError(
                f"the cost profile of {self.device} covers {self.drafters} drafters but the pair "
                f"has {drafters}: measure it for this pair (cost=measured)"
            )
        if self.max_length < max_length:
            raise ValueError(
                f"the cost profile of {self.device} covers drafts of up to {self.max_length} "
                f"tokens but env.max_length is {max_length}: lower it, or measure the profile anew"
            )
        check_nodes(self.max_nodes, nodes)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON, which `from_dict` reads."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CostProfile":
        """Read what `to_dict` wrote.

        Raises:
            ValueError: another schema, or a value is missing or invalid.
        """
        found = values.get("schema")
        if type(found) is not int or found != SCHEMA:
            raise ValueError(f"cost profile schema {found!a:.40} is not {SCHEMA}: measure it anew")
        try:
            content = {name: part for name, part in values.items() if name != "schema"}
            return strict_json.typed(cls, content)
        except ValueError as error:
            raise ValueError(f"the cost profile is damaged ({error}): measure it anew") from None

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "CostProfile":
        """Read a JSON file that `save` wrote.

        Raises:
            ValueError: there is no such file, or it is no cost profile.
        """
        if not path.is_file():
            raise ValueError(f"there is no cost profile {path}: expected a JSON file")
        values = strict_json.read(path, f"the cost profile {path}")
        if not isinstance(values, dict):
            raise ValueError(f"the cost profile {path} holds no object: measure it anew")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _check_seconds(name: str, seconds: float, shortest: float = 0.0) -> None:
    check_between(f"seconds of {name}", seconds, shortest, LONGEST)


def _place(point: RoundCosts) -> tuple[int, int]:
    return point.batch_size, point.context


def device_name(device: "torch.device") -> str:
    """A readable name: the GPU's, or the CPU's with the number of threads in use."""
    import torch

    from adaspec_rl.engine.machine import processor

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"
