"""Measures a cost profile on the live engine: medians of interleaved timings, within a budget."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from adaspec_rl.console import duration
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.estimates import (
    FEWEST,
    Kind,
    bushy,
    interpolated,
    policy_seconds,
    round_costs,
    tree_widths,
)
from adaspec_rl.costs.profile import CostProfile, RoundCosts, device_name
from adaspec_rl.costs.timed_text import (
    TimedText,
    endless,
    smallest_context,
    stretched,
    timed_forward,
)
from adaspec_rl.decoding.drafters import Drafter
from adaspec_rl.decoding.drafters.hidden_state import unknown_features
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.pairs.pair import own_model

REPEATS = 4  # timings of each part between two starts of the text
BATCHED = 6  # timings of each forward at a batch size above 1
USUAL = 3  # length of the drafts that show the price of signals
FEW_NODES = 8  # of the small tree whose rounds are timed besides those of the largest
SHORT = 4  # tokens of the longest timed draft if steps are slow


@dataclass(frozen=True, slots=True)
class Plan:
    """What is timed, and how often at least."""

    contexts: tuple[int, ...]
    widths: tuple[int, ...]  # of verifications; those in between are interpolated
    lengths: tuple[int, ...]  # of drafts in whole rounds; other lengths are linear
    nodes: int = 0  # of the largest token tree
    fewest: int = FEWEST

    def kinds(self, drafters: int, branching: Sequence[int] = ()) -> list[Kind]:
        """Everything that is timed at each context, in an order that puts similar kinds together.

        `branching` are the drafters that can draft more than chains.
        """
        longest = max(self.lengths)
        drafts = sorted({1, longest})
        found: list[Kind] = [("fallback",), *(("verification", width) for width in self.widths)]
        for drafter in range(drafters):
            found += [("draft", drafter, length) for length in drafts]
            found.append(("stopping", drafter, longest))
            found += [("round", drafter, length) for length in self.lengths]
        if self.nodes:
            found += [("verification", width) for width in tree_widths(self.nodes + 1)]
            levels = tree_widths(self.nodes)
            found += [("level", drafter, n) for drafter in range(drafters) for n in levels]
            sizes = sorted({min(FEW_NODES, self.nodes), self.nodes})
            found += [("branch", drafter, n) for drafter in branching for n in sizes]
        return list(dict.fromkeys(found))


def measure(
    session: LiveSession,
    prompts: Sequence[Sequence[int]],
    *,
    max_length: int = 8,
    samples: int = 48,
    seconds: float | None = 30.0,
    contexts: Sequence[int] = (64, 256),
    batch_sizes: Sequence[int] = (1,),
    nodes: int = 0,
    spec: ObservationSpec | None = None,
    progress: Callable[[float], None] = lambda share: None,
    note: Callable[[str], None] = lambda text: None,
) -> CostProfile:
    """Time the parts of a round at every context, each alone, and whole rounds besides.

    All parts take turns until every median is known to a hundredth of a step. So if the machine
    becomes slower or faster, it does so for all parts. If the budget does not suffice for three
    timings of each, fewer widths and lengths are timed and the rest is interpolated; as a last
    resort, only the first context is timed. Batch sizes above 1 time forwards alone and take the
    rest from batch 1.

    Texts do not end here, and lookups always find something, so that all lengths occur.

    Args:
        prompts: token ids; cut or repeated to each context length.
        samples: the most timings of each part.
        seconds: the time budget; None: no limit. It is exceeded only if the models are too slow for
            two timings of the fewest parts.
        contexts: tokens before the rounds.
        nodes: of the largest token tree; 0: trees are not measured. Tree widths between powers of
            two are interpolated.
        spec: what policies will observe, which also takes time; None: everything.
        progress: is told the share that is done.
        note: is told, in one sentence, if the budget was too small for all parts.

    Raises:
        ValueError: there is nothing to measure, or the models cannot hold a context.
    """
    widest = max(max_length, nodes) + 1
    _check(session, prompts, widest, samples, seconds, contexts, batch_sizes)
    measured = endless(session, max_length)
    measured.prepare(max(contexts) + measured.max_new_tokens)
    began = session.clock()
    drafters = len(session.models)
    spec = spec or ObservationSpec(
        max_length=max_length, vocab_size=session.target.vocab_size, drafters=max(1, drafters)
    )
    texts = {
        context: TimedText(measured, stretched(prompts[n % len(prompts)], context), spec)
        for n, context in enumerate(contexts)
    }
    batches = sorted(set(batch_sizes) - {1})
    budget = math.inf if seconds is None else seconds / (1 + len(batches))
    choices = [replace(plan, nodes=nodes) for plan in _plans(contexts, max_length)]
    plan = _affordable(choices, texts[contexts[0]], drafters, budget)
    timed = [texts[context] for context in plan.contexts]
    _time_all(timed, plan, drafters, samples, began, budget, progress)
    points = [round_costs(t.found, len(t.prompt), max_length, drafters, nodes) for t in timed]
    for number, batch in enumerate(batches, 2):
        until = began + number * budget
        points += [
            _batched(session, prompts[0], point, batch, plan.widths, until)
            for point in points[: len(timed)]
        ]
    progress(1.0)
    taken = session.clock() - began
    if plan != choices[0] or (seconds is not None and taken > 1.2 * seconds):
        note(_shortfall(plan, choices[0], points[0].autoregressive_step, taken, seconds))
    device = f"{device_name(session.target.device)}, {session.target.execution}"
    if session.target.device.type != "cpu":
        points = [_stopped_late(point, session.models) for point in points]
    return CostProfile(device, policy_seconds(timed[0].found), tuple(points))


def _stopped_late(point: RoundCosts, drafters: Sequence[Drafter]) -> RoundCosts:
    """The costs if drafts are stopped while the next pass runs; lookups run no pass."""
    steps = zip(drafters, point.draft_step)
    return replace(point, in_vain=tuple(step if item.model else 0.0 for item, step in steps))


def _check(
    session: LiveSession,
    prompts: Sequence[Sequence[int]],
    widest: int,
    samples: int,
    seconds: float | None,
    contexts: Sequence[int],
    batch_sizes: Sequence[int],
) -> None:
    if not prompts or min(map(len, prompts)) < 1:
        raise ValueError("measuring costs needs prompts of at least 1 token")
    for name, values in (
        ("cost.samples", [samples]),
        ("cost.contexts", contexts),
        ("cost.batch_sizes", batch_sizes),
    ):
        if not values or min(values) < 1:
            raise ValueError(f"{name} needs numbers of at least 1, got {list(values)}: set some")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"cost.seconds must be above 0, or null for no limit, got {seconds}")
    limit = smallest_context(session)
    room = limit - max(session.max_new_tokens, widest)
    if max(contexts) > room:
        raise ValueError(
            f"cost.contexts has {max(contexts)} tokens but the models hold {limit}, of which "
            f"{limit - room} are to be generated: expected at most {room}"
        )


def _plans(contexts: Sequence[int], max_length: int) -> Iterator[Plan]:
    """Plans from the most that can be timed to the least."""
    widest = max_length + 1
    all_widths = tuple(range(1, widest + 1))
    some_widths = tuple(sorted({*(2**n for n in range(widest.bit_length())), widest}))
    both, short = tuple(sorted({1, max_length})), min(SHORT, max_length)
    every = tuple(dict.fromkeys(contexts))
    yield Plan(every, all_widths, both)
    yield Plan(every, some_widths, both)
    yield Plan(every, some_widths, tuple(sorted({1, short})))
    yield Plan(every[:1], some_widths, tuple(sorted({1, short})))
    yield Plan(every[:1], tuple(sorted({1, widest})), (short,), fewest=2)


def _affordable(choices: Sequence[Plan], text: TimedText, drafters: int, budget: float) -> Plan:
    """The first plan that fits the budget after a trial, with its fewest timings; else the last."""
    clock = text.session.clock
    began = clock()
    text.start()
    reading = clock() - began
    step = _tried(text, ("fallback",))
    drafts = [_tried(text, ("draft", drafter, 1)) for drafter in range(drafters)]
    left = budget - (clock() - began)

    def takes(plan: Plan) -> float:
        def seconds(kind: Kind) -> float:
            if kind[0] in ("fallback", "verification"):
                return step  # a wide one takes a little more
            if kind[0] == "level":
                return drafts[kind[1]]  # likewise
            if kind[0] == "branch":
                return drafts[kind[1]] * bushy(kind[2]).depth + step
            drafting = drafts[kind[1]] * (kind[2] + 1)  # one more to catch up
            return drafting + (step if kind[0] == "round" else 0.0)

        once = sum(map(seconds, plan.kinds(drafters, text.branching)))
        readings = sum(reading * context / len(text.prompt) for context in plan.contexts)
        if text.spec.needs_signals:  # signals: rounds with and without them, and another reading
            once += 2 * (step + sum(drafts[:1]) * USUAL)
            readings += reading
        return plan.fewest * once * len(plan.contexts) + readings

    return next((plan for plan in choices if takes(plan) <= left), choices[-1])


def _tried(text: TimedText, kind: Kind) -> float:
    """Seconds of `kind`: the better of two timings, as the first one warms up."""
    began = text.session.clock()
    text.time(kind)
    between = text.session.clock()
    text.time(kind)
    return min(between - began, text.session.clock() - between)


def _time_all(
    texts: Sequence[TimedText],
    plan: Plan,
    drafters: int,
    samples: int,
    began: float,
    budget: float,
    progress: Callable[[float], None],
) -> None:
    """Time all kinds at all contexts in turns, until they are known or time is up."""
    clock, kinds = texts[0].session.clock, plan.kinds(drafters, texts[0].branching)
    fewest, shown = min(plan.fewest, samples), 0.0
    current: TimedText | None = texts[0]  # tried before
    signals: list[Kind] = []
    if texts[0].spec.needs_signals:  # so that some rounds are timed with them and without
        usual = ("round", 0, min(USUAL, max(plan.lengths))) if drafters else ("fallback",)
        kinds = list(dict.fromkeys([*kinds, usual]))
        signals.append(("signals", *usual))

    def wanted(text: TimedText, kind: Kind) -> bool:
        count = text.found.count(kind)
        late = count and clock() - began + text.found.median(kind) > budget
        return count < fewest or (count < samples and not late)

    def show() -> None:
        nonlocal shown
        counts = [min(samples, text.found.count(kind)) for text in texts for kind in kinds]
        share = max((clock() - began) / budget, sum(counts) / (samples * len(counts)))
        shown = max(shown, min(0.99, share))
        progress(shown)

    def visit(text: TimedText, kinds: Sequence[Kind], signals: bool = False) -> None:
        nonlocal current
        if text is not current or signals:
            text.start(signals)
        current = None if signals else text
        for _ in range(REPEATS):
            for kind in kinds:
                if wanted(text, kind):
                    text.time(kind)
                    show()

    while any(wanted(text, kind) for text in texts for kind in kinds):
        for text in texts:
            visit(text, kinds)
        if signals:
            visit(texts[0], signals, True)
        if all(text.found.narrow(kind) for text in texts for kind in kinds):
            break


def _batched(
    session: LiveSession,
    prompt: Sequence[int],
    single: RoundCosts,
    batch: int,
    widths: Sequence[int],
    until: float,
) -> RoundCosts:
    """The costs of `single` at another batch size: forwards are measured, the rest is kept."""
    tokens = torch.tensor(stretched(prompt, single.context)).repeat(batch, 1)

    def timed(model: LanguageModel, widths: Sequence[int]) -> list[float]:
        # A drafter may know fewer tokens than the target.
        on_device = tokens.clamp_max(model.vocab_size - 1).to(model.device)
        model.reset(batch)
        model.extend(on_device, keep=1, **unknown_features(model, on_device))
        rows: list[list[float]] = []
        while len(rows) < 2 or (len(rows) < BATCHED and session.clock() < until):
            rows.append([timed_forward(model, on_device, w, session.clock) for w in widths])
        model.reset()
        return [statistics.median(column) for column in zip(*rows[1:])]

    verification = interpolated(widths, timed(session.target, widths), single.max_length + 1)
    drafts = [
        timed(own, [1])[0] if (own := own_model(drafter, session.target)) else step
        for drafter, step in zip(session.models, single.draft_step)
    ]
    rest = single.autoregressive_step - single.verification[0]
    return replace(
        single,
        batch_size=batch,
        autoregressive_step=verification[0] + max(0.0, rest),
        draft_step=tuple(drafts),
        verification=verification,
    )


def _shortfall(plan: Plan, best: Plan, step: float, taken: float, seconds: float | None) -> str:
    """One sentence on what was left out for lack of time."""
    left_out = []
    if plan.contexts != best.contexts:
        left_out.append(f"only contexts of {', '.join(map(str, plan.contexts))} tokens")
    if plan.widths != best.widths:
        left_out.append(f"only verifications of {', '.join(map(str, plan.widths))} tokens")
    if plan.lengths != best.lengths:
        left_out.append(f"no drafts beyond {max(plan.lengths)} tokens")
    limit = "" if seconds is None else f" of cost.seconds={seconds:g}"
    return (
        f"an autoregressive step takes {step:.3g} s: within the budget{limit}, "
        f"{', '.join(left_out) or 'the fewest timings'} were timed, in {duration(taken)}; raise "
        "cost.seconds for a finer profile"
    )
