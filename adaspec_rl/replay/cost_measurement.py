"""Measure a cost profile on the live engine: medians over interleaved samples."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.control.generation import StreamObserver
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec, Observer
from adaspec_rl.decoding.drafters import DraftModel
from adaspec_rl.decoding.forecast import NO_FORECAST
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.replay.cost_profile import CostProfile, RoundCosts, device_name

NEVER = 1e-30  # a threshold that stops nothing but pays for the estimate
REPEATS = 6  # timings of each verification width after one prompt
SPAN = 48  # tokens generated at a context before it has grown too far from its name

Samples = defaultdict[tuple, list[float]]


def measure(
    session: LiveSession,
    prompts: Sequence[Sequence[int]],
    *,
    max_length: int = 8,
    samples: int = 24,
    contexts: Sequence[int] = (64, 256),
    batch_sizes: Sequence[int] = (1,),
    spec: ObservationSpec | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> CostProfile:
    """Time `samples` real rounds of every draft length at every context, and the parts alone.

    With R(k) the median seconds of a round of k drafted tokens and V(w) those of a verification of
    width w, a draft step is what R(k) - V(k + 1) gains a token, and the overhead is the rest. What
    catching up takes a token is seen where a drafter first reads the prompt. Batch sizes above 1
    time forwards alone and keep the rest of batch 1.

    Args:
        prompts: token ids; cut or repeated to each context length.
        contexts: tokens before the rounds.
        spec: what policies will observe, which takes time too; None: everything.

    Raises:
        ValueError: nothing to measure, a context that the models cannot hold, or texts too short
            to time.
    """
    if not prompts or min(map(len, prompts)) < 1:
        raise ValueError("measuring costs needs prompts of at least 1 token")
    for name, values in (
        ("cost.samples", [samples]),
        ("cost.contexts", contexts),
        ("cost.batch_sizes", batch_sizes),
    ):
        if not values or min(values) < 1:
            raise ValueError(f"{name} needs numbers of at least 1, got {list(values)}: set some")
    limit = min([session.target.context_length, *(d.context_length for d in session.models)])
    room = limit - max(session.max_new_tokens, max_length + 1)
    if max(contexts) > room:
        raise ValueError(
            f"cost.contexts has {max(contexts)} tokens but the models hold {limit}, of which "
            f"{limit - room} are to be generated: expected at most {room}"
        )
    spec = spec or ObservationSpec(max_length=max_length, vocab_size=session.target.vocab_size)
    observed = _observed(session, prompts[0], spec)
    timed: dict[int, Samples] = {context: defaultdict(list) for context in contexts}
    for context in contexts:  # warms up
        _time_rounds(session, _stretched(prompts[0], context), 0, max_length, defaultdict(list))
    fewest = number = 0
    while fewest < samples:
        if number > 100 * (len(prompts) + samples):
            raise ValueError(
                f"the texts are too short to time drafts of {max_length} tokens: raise "
                f"max_new_tokens (it is {session.max_new_tokens}) or lower max_length"
            )
        for context, found in timed.items():
            prompt = _stretched(prompts[number % len(prompts)], context)
            for drafter in range(max(1, len(session.models))):
                _time_rounds(session, prompt, drafter, max_length, found)
            _time_verification(session.target, prompt, max_length, found)
        number += 1
        fewest = min(len(values) for found in timed.values() for values in found.values())
        progress(min(1.0, fewest / samples))
    points = [_solve(found, context, len(session.models)) for context, found in timed.items()]
    for batch in sorted(set(batch_sizes) - {1}):
        points += [_batched(session, prompts[0], point, batch) for point in points[: len(contexts)]]
    ordered = sorted(points, key=lambda point: (point.batch_size, point.context))
    return CostProfile(device_name(session.target.device), observed, tuple(ordered))


def _stretched(prompt: Sequence[int], length: int) -> list[int]:
    """`prompt` repeated, then cut to its last `length` tokens."""
    return (list(prompt) * (length // len(prompt) + 1))[-length:]


def _time_rounds(
    session: LiveSession, prompt: Sequence[int], drafter: int, max_length: int, found: Samples
) -> None:
    """Some tokens of one generation, always with the kind of round that has fewest samples."""
    kinds: list[tuple] = [("fallback",)]
    if session.models:
        kinds += [("round", drafter, length) for length in range(1, max_length + 1)]
        kinds += [("stopping", drafter, length) for length in {max_length // 2 + 1, max_length}]
    lacking: defaultdict[tuple, int] = defaultdict(int)
    for kind in kinds:
        found[kind]  # known, even where nothing was timed yet
    session.start(prompt, signals=False)
    if session.models:
        first = session.step(Action(1, drafter))  # reads the whole prompt
        found["catch up", drafter].append(first.seconds)
        session.step(Action(1, drafter, NEVER))  # and so does the first estimate
    while session.finished is None and len(session.tokens) < SPAN:
        kind = min(kinds, key=lambda kind: len(found[kind]) + lacking[kind])
        played = session.step(_action(kind))
        if kind == ("fallback",) or played.drafted == kind[2]:
            found[kind].append(played.seconds)
        else:  # a lookup may find less than asked for: go on with another kind
            lacking[kind] += 1


def _action(kind: tuple) -> Action:
    if kind[0] == "fallback":
        return FALLBACK
    return Action(kind[2], kind[1], NEVER if kind[0] == "stopping" else 0.0)


def _time_verification(
    target: LanguageModel, prompt: Sequence[int], max_length: int, found: Samples
) -> None:
    """Each width a few times, after the prompt."""
    target.reset()
    tokens = torch.tensor([prompt], device=target.device)
    target.prefill(tokens)
    for _ in range(REPEATS):
        for width in range(1, max_length + 2):
            found["verification", width].append(_time_forward(target, tokens, width))


def _time_forward(model: LanguageModel, tokens: torch.Tensor, width: int) -> float:
    """Seconds of `model` reading `width` more of `tokens` `[B, W]`, which it then forgets."""
    held = model.lengths
    wide = tokens[:, :width] if width <= tokens.shape[1] else tokens.repeat(1, width)[:, :width]
    began = time.perf_counter()
    model.extend(wide)[0, -1].argmax().item()  # waits for the device
    seconds = time.perf_counter() - began
    model.rollback(held)
    return seconds


def _solve(found: Samples, context: int, drafters: int) -> RoundCosts:
    median = {kind: statistics.median(values) for kind, values in found.items()}
    widths = sorted(kind[1] for kind in median if kind[0] == "verification")
    verification = tuple(median["verification", width] for width in widths)
    longest = len(verification) - 1
    steps, stopping, overheads, catching_up = [], [], [], []
    for drafter in range(drafters):
        drafting = [median["round", drafter, k] - verification[k] for k in range(1, longest + 1)]
        rises = [(later - drafting[0]) / k for k, later in enumerate(drafting[1:], 1)]
        steps.append(max(1e-9, statistics.median(rises) if rises else drafting[0]))
        rest = [seconds - k * steps[-1] for k, seconds in enumerate(drafting, 1)]
        overheads.append(max(0.0, statistics.median(rest)))
        reading = median["catch up", drafter] - median["round", drafter, 1]
        catching_up.append(max(0.0, reading / context))
        more = [
            (seconds - median["round", drafter, kind[2]]) / kind[2]
            for kind, seconds in median.items()
            if kind[:2] == ("stopping", drafter)
        ]
        stopping.append(max(0.0, statistics.median(more)))
    return RoundCosts(
        context=context,
        batch_size=1,
        autoregressive_step=median[("fallback",)],
        draft_step=tuple(steps),
        stopping_step=tuple(stopping),
        verification=verification,
        overhead=tuple(overheads),
        catch_up=tuple(catching_up),
    )


def _batched(
    session: LiveSession, prompt: Sequence[int], single: RoundCosts, batch: int
) -> RoundCosts:
    """The costs of `single` at another batch size: forwards measured, the rest kept."""
    tokens = torch.tensor(_stretched(prompt, single.context)).repeat(batch, 1)
    target = session.target

    def timed(model: LanguageModel, widths: Sequence[int]) -> list[float]:
        on_device = tokens.to(model.device)
        model.reset(batch)
        model.extend(on_device, keep=1)
        samples = [[_time_forward(model, on_device, w) for w in widths] for _ in range(REPEATS)]
        model.reset()
        return [statistics.median(column) for column in zip(*samples[1:])]

    verification = timed(target, range(1, single.max_length + 2))
    drafts = [
        timed(drafter.model, [1])[0] if isinstance(drafter, DraftModel) else step
        for drafter, step in zip(session.models, single.draft_step)
    ]
    rest = single.autoregressive_step - single.verification[0]
    return RoundCosts(
        context=single.context,
        batch_size=batch,
        autoregressive_step=verification[0] + max(0.0, rest),
        draft_step=tuple(drafts),
        stopping_step=single.stopping_step,
        verification=tuple(verification),
        overhead=single.overhead,
        catch_up=single.catch_up,
    )


def _observed(session: LiveSession, prompt: Sequence[int], spec: ObservationSpec) -> float:
    """Median seconds that a learned policy adds to a round: its signals, observation, decision."""
    rng = np.random.default_rng(0)
    widths = (len(spec), 64, 64, 16)
    actor = Actor(
        tuple(rng.normal(size=shape).astype(np.float32) for shape in zip(widths, widths[1:])),
        tuple(np.zeros(width, dtype=np.float32) for width in widths[1:]),
    )
    policy = LearnedPolicy(actor, [FALLBACK] * widths[-1], spec)
    action = Action(min(3, spec.max_length)) if session.models else FALLBACK
    stepping: dict[bool, list[float]] = {True: [], False: []}  # with signals or without
    deciding: list[float] = []
    observer = StreamObserver(Observer(spec, CostFeatures(0.1, 0.1, 0.1)))
    for signals in (True, False) * 4 if spec.needs_signals else (False,) * 4:
        session.start(prompt, signals=signals)
        session.step(action)
        observer.start(prompt)
        while session.finished is None and len(session.tokens) < SPAN:
            began = time.perf_counter()
            played = session.step(action)
            stepped = time.perf_counter()
            observer.update(played, session.forecast() if spec.needs_forecast else NO_FORECAST)
            policy.decide(observer.observation())
            deciding.append(time.perf_counter() - stepped)
            if played.drafted == action.length:
                stepping[signals].append(stepped - began)
    medians = {key: statistics.median(values) for key, values in stepping.items() if values}
    more = max(0.0, medians[True] - medians[False]) if len(medians) == 2 else 0.0
    return more + (statistics.median(deciding) if deciding else 0.0)
