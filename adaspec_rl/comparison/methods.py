"""Every known way to control speculation: how to build it, what to tune, and its source."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from adaspec_rl.comparison.workbench import Workbench
from adaspec_rl.control.action import action_list
from adaspec_rl.control.baselines.adaedl import AdaEdl
from adaspec_rl.control.baselines.batch_table import BatchTable
from adaspec_rl.control.baselines.exp3 import Exp3
from adaspec_rl.control.baselines.fixed import FixedAction, FixedLength
from adaspec_rl.control.baselines.heuristic import Heuristic
from adaspec_rl.control.baselines.hysteresis import Hysteresis
from adaspec_rl.control.baselines.markov import Markov
from adaspec_rl.control.baselines.ruled import Ruled
from adaspec_rl.control.baselines.sglang_tiers import SglangTiers
from adaspec_rl.control.baselines.sliding_window import SlidingWindow
from adaspec_rl.control.baselines.specdec_pp import SpecDecPlusPlus
from adaspec_rl.control.baselines.switching import Switching
from adaspec_rl.control.baselines.tapout import TapOut
from adaspec_rl.control.baselines.thompson import Thompson
from adaspec_rl.control.baselines.ucb1 import Ucb1
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.stopping.confidence import ConfidenceStop
from adaspec_rl.control.stopping.cumulative_confidence import CumulativeConfidenceStop
from adaspec_rl.control.stopping.svip import SvipStop
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import FALLBACK, StopRule
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.replay.markov_solver import solve
from adaspec_rl.replay.oracle import best_fixed, fixed_steps, lengths_of


@dataclass(frozen=True, slots=True)
class Range:
    """A parameter's range; the default is the source's own value, if the source names one."""

    default: int | float
    low: float
    high: float
    log: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> int | float:
        """A trial's value, an integer if the default is an integer."""
        if isinstance(self.default, int):
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def checked(self, value: object) -> int | float:
        """`value`, if it is in this range.

        Raises:
            ValueError: it is not.
        """
        wanted = int if isinstance(self.default, int) else float
        if (
            not isinstance(value, wanted)
            or isinstance(value, bool)
            or not self.low <= value <= self.high
        ):
            raise ValueError(f"{value!r} is no {wanted.__name__} from {self.low} to {self.high}")
        return value


DRAFTER = "drafter"  # the parameter of controllers that use a single drafter
Parameters = Mapping[str, int | float]  # of a controller, by their names
Build = Callable[..., Controller]  # (bench, **parameters)


@dataclass(frozen=True, slots=True)
class Method:
    """A way to control speculation."""

    name: str
    source: str
    build: Build
    space: Mapping[str, Range] = field(default_factory=dict)  # the tuned parameters
    drafters: frozenset[str] = frozenset()  # the drafters that it needs, by name
    several: bool = False  # whether it uses several drafters; otherwise it is built for one

    def space_among(self, drafters: int) -> Mapping[str, Range]:
        """`space`, and which of so many drafters to use, by number, if there is a choice."""
        if self.several or not self.space or drafters < 2:
            return self.space
        return {**self.space, DRAFTER: Range(0, 0, drafters - 1)}


def _fixed(bench: Workbench, length: int, drafter: int = 0) -> Controller:
    return FixedLength(min(length, bench.max_length), drafter, name="fixed")


def _markov(bench: Workbench, drafter: int = 0, **parameters: Any) -> Controller:
    tables = solve(
        bench.trace,
        bench.profile,
        drafter=drafter,
        max_length=bench.max_length,
        batch_size=bench.batch_size,
        **parameters,
    )
    return Markov(tables, bench.max_length, drafter)


def _ruled(name: str, rule: Callable[..., StopRule]) -> Build:
    def build(bench: Workbench, drafter: int = 0, **parameters: Any) -> Controller:
        return Ruled(name, rule(**parameters), bench.max_length, drafter)

    return build


def _plain(make: Callable[..., Controller]) -> Build:
    return lambda bench, **parameters: make(bench.max_length, **parameters)


def _sliding_window(bench: Workbench, drafter: int = 0, **parameters: Any) -> Controller:
    cost = bench.profile.at(batch_size=bench.batch_size).features()
    own = replace(cost, draft_step=(cost.draft_step, *cost.other_draft_steps)[drafter])
    return SlidingWindow(bench.max_length, drafter, cost=own, **parameters)


def _hysteresis(bench: Workbench, up: float, down: float, off: float, **rest: Any) -> Controller:
    """`down` is a share of `up` and `off` a share of `down`, so that all values are consistent."""
    return Hysteresis(bench.max_length, up=up, down=up * down, off=up * down * off, **rest)


def _ucb1(bench: Workbench, **parameters: Any) -> Controller:
    return Ucb1(bench.max_length, arms=lengths_of(bench.trace, bench.max_length), **parameters)


def _switching(
    bench: Workbench,
    match: int,
    lookup_length: int,
    length: int = 12,
    threshold: float = 0.0,
    name: str = "switching",
) -> Controller:
    """The switching rule with the first drafter that is not a lookup as its model."""
    names = [table.name for table in bench.trace.drafters]
    model = next((n for n, name in enumerate(names) if name != NgramLookup.name), None)
    if model is None:
        raise ValueError(
            "controller=switching needs a draft model beside ngram: add one to model.drafters"
        )
    return Switching(
        lookup=names.index(NgramLookup.name),
        model=model,
        lookup_length=min(lookup_length, bench.max_length),
        length=min(length, bench.max_length),
        threshold=threshold,
        match=match,
        name=name,
    )


def _switching_stop(bench: Workbench, **parameters: Any) -> Controller:
    return _switching(bench, name="switching_stop", **parameters)


def _bandit(make: Callable[..., Controller]) -> Build:
    return lambda bench, **parameters: make(
        bench.max_length,
        seed=bench.seed,
        arms=lengths_of(bench.trace, bench.max_length),
        **parameters,
    )


def _batch_table(bench: Workbench) -> Controller:
    """At each measured batch size, the best length on the training texts, up to the next size.

    The drafter is the best one at the size of the comparison.
    """
    every = lengths_of(bench.trace, bench.max_length)
    best, _ = best_fixed(bench.trace, bench.profile, actions=every, batch_size=bench.batch_size)
    actions = [action for action in every if action.drafter == best.drafter]
    sizes = sorted({point.batch_size for point in bench.profile.points})
    lows, highs = [1, *sizes[1:]], [*(size - 1 for size in sizes[1:]), sys.maxsize]
    lengths = [
        best_fixed(bench.trace, bench.profile, actions=[FALLBACK, *actions], batch_size=size)[0]
        for size in sizes
    ]
    table = [(low, high, own.length) for low, high, own in zip(lows, highs, lengths)]
    return BatchTable(bench.max_length, best.drafter, batch_size=bench.batch_size, table=table)


def _together(bench: Workbench) -> Controller:
    """The two drafters, and the length or threshold, that are fastest on the training texts."""
    names = [table.name for table in bench.trace.drafters]
    unbranched: list[list[TreeShape]] = [[] for _ in names]
    actions = action_list("all", bench.max_length, len(names), trees=unbranched)
    pairs = [action for action in actions if action.also]
    if not pairs:
        raise ValueError(
            f"controller=together needs two drafters, but the pair has {names[0]} alone: add one "
            "to model.drafters"
        )
    steps = fixed_steps(bench.trace, pairs, bench.profile, batch_size=bench.batch_size)
    return FixedAction(pairs[int(steps.sum(axis=1).argmin())], "together")


def _tiers(bench: Workbench, step: int, **parameters: Any) -> Controller:
    tiers = [1 + step * n for n in range(4)]
    return SglangTiers(bench.max_length, tiers=tiers, **parameters)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "fixed", "one length, tuned on the training texts", _fixed, {"length": Range(3, 1, 12)}
        ),
        Method(
            "heuristic",
            "transformers' heuristic schedule",
            _plain(Heuristic),
            {"start": Range(5, 1, 12)},
        ),
        Method(
            "confidence",
            "transformers' assistant_confidence_threshold",
            _ruled("confidence", ConfidenceStop),
            {"threshold": Range(0.4, 0.05, 0.95)},
        ),
        Method(
            "cumulative_confidence",
            "product of the drafter's probabilities (arXiv:2406.16858)",
            _ruled("cumulative_confidence", CumulativeConfidenceStop),
            {"threshold": Range(0.2, 0.05, 0.95)},
        ),
        Method(
            "svip",
            "SVIP (arXiv:2411.18462)",
            _ruled("svip", SvipStop),
            {"threshold": Range(0.77, 0.2, 2.0)},
        ),
        Method(
            "adaedl",
            "AdaEDL (arXiv:2410.18351)",
            _plain(AdaEdl),
            {
                "gamma": Range(0.2, 0.05, 0.6),
                "target": Range(0.9, 0.5, 0.99),
                "start": Range(0.4, 0.1, 0.9),
                "step": Range(0.01, 0.001, 0.1, log=True),
            },
        ),
        Method(
            "sliding_window",
            "the closed form of arXiv:2211.17192 from running averages",
            _sliding_window,
            {"span": Range(20.0, 3.0, 200.0, log=True), "prior": Range(0.7, 0.3, 0.95)},
        ),
        Method(
            "hysteresis",
            "acceptance thresholds with fallback and probes, as in llama.cpp",
            _hysteresis,
            {
                "start": Range(4, 1, 8),
                "up": Range(0.7, 0.5, 0.98),
                "down": Range(0.57, 0.2, 0.9),
                "off": Range(0.37, 0.0, 0.9),
                "window": Range(8, 2, 32, log=True),
            },
        ),
        Method(
            "specdec_pp",
            "SpecDec++'s rule (arXiv:2405.19715) on this project's survival head",
            _plain(SpecDecPlusPlus),
            {"threshold": Range(0.7, 0.2, 0.95)},
        ),
        Method(
            "ucb1",
            "UCB1 over lengths (BanditSpec, arXiv:2505.15141)",
            _ucb1,
            {"exploration": Range(1.0, 0.02, 2.0, log=True)},
            several=True,
        ),
        Method(
            "exp3",
            "EXP3 over lengths (BanditSpec, arXiv:2505.15141)",
            _bandit(Exp3),
            {"exploration": Range(0.1, 0.005, 0.5, log=True)},
            several=True,
        ),
        Method(
            "thompson",
            "Thompson sampling over lengths (arXiv:1209.3353)",
            _bandit(Thompson),
            {"exploration": Range(0.5, 0.02, 2.0, log=True)},
            several=True,
        ),
        Method(
            "tapout",
            "TapOut (arXiv:2511.02017): UCB1 over stopping rules",
            _plain(TapOut),
            {"exploration": Range(1.0, 0.02, 2.0, log=True), "blend": Range(0.5, 0.0, 1.0)},
        ),
        Method(
            "sglang_tiers",
            "SGLang's adaptive speculative steps",
            _tiers,
            {
                "step": Range(2, 1, 3),
                "rate": Range(0.2, 0.02, 0.9, log=True),
                "up": Range(0.0, -1.0, 1.0),
                "down": Range(-0.25, -1.0, 1.0),
            },
        ),
        Method(
            "markov",
            "tabular MDP over entropy, position and recent acceptance, by value iteration",
            _markov,
            {"entropy_classes": Range(8, 2, 16), "acceptance_classes": Range(4, 1, 6)},
        ),
        Method(
            "switching",
            "an n-gram lookup (arXiv:2304.04487) where the match is long, else the draft model",
            _switching,
            {
                "match": Range(4, 1, 16, log=True),
                "lookup_length": Range(8, 1, 12),
                "length": Range(3, 1, 12),
            },
            drafters=frozenset({NgramLookup.name}),
            several=True,
        ),
        Method(
            "switching_stop",
            "the same, the draft model stopping early by this project's survival head",
            _switching_stop,
            {
                "match": Range(4, 1, 16, log=True),
                "lookup_length": Range(8, 1, 12),
                "threshold": Range(0.5, 0.1, 0.8),
            },
            drafters=frozenset({NgramLookup.name}),
            several=True,
        ),
        Method("together", "always the same two drafters in one tree", _together, several=True),
        Method("batch_table", "vLLM's table of lengths by batch size, measured here", _batch_table),
    )
}
