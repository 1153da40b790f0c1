"""A whole generation under a controller, timed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.guard import charge, looks
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.decoding.forecast import NO_FORECAST, Forecast
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.session import Session


@dataclass(slots=True)
class Generation:
    """What one generation produced and took."""

    tokens: list[int]
    finished: str
    rounds: list[Round] = field(repr=False)
    seconds: float = 0.0  # all of it: prompt, rounds, decisions
    controller_seconds: float = 0.0  # observations and decisions alone
    actions: list[Action] = field(default_factory=list, repr=False)  # what each round was told
    # Before each round, if they are observed; None: nobody looked.
    forecasts: list[Forecast | None] = field(default_factory=list, repr=False)


def follow(observer: StreamObserver, prompt: Sequence[int], made: Generation) -> Iterator[Round]:
    """Yield the rounds of a generation; at each, the observation is that before the round."""
    ahead = NO_FORECAST
    observer.start(prompt, lambda tables: ahead)
    for played, told in zip(made.rounds, made.forecasts or itertools.repeat(None)):
        ahead = told or NO_FORECAST
        yield played
        observer.update(played)


def generate(
    session: Session,
    controller: Controller,
    prompt: Sequence[int],
    *,
    cost: CostFeatures,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    deciding: float | None = None,
) -> Generation:
    """Generate from `prompt` until the text ends; `controller` chooses every round's action.

    A guard counts what each decision took by the clock, or `deciding` seconds if they are given, as
    in replay.
    """
    spec = controller.observes
    observer = StreamObserver(spec, cost) if spec else None
    began = clock()
    spent = 0.0
    session.start(prompt, seed, signals=spec is not None and spec.needs_signals)
    controller.reset(prompt, seed)
    if observer:
        observer.start(prompt, session.forecast)
    rounds, actions = [], []
    forecasts: list[Forecast | None] = []
    while session.finished is None:
        before = clock()
        looked = looks(controller)
        asked = observer if looked else None
        action = controller.decide(asked.observation() if asked else None)
        decided = clock()
        if looked:
            charge(controller, decided - before if deciding is None else deciding)
        round_ = session.step(action)
        stepped = clock()
        controller.observe(round_)
        if observer:
            observer.update(round_)
        rounds.append(round_)
        actions.append(action)
        if spec and spec.needs_forecast:
            forecasts.append(asked.forecast if asked else None)
        spent += decided - before + clock() - stepped
    seconds = clock() - began
    return Generation(session.tokens, session.finished, rounds, seconds, spent, actions, forecasts)
