"""A whole generation under a controller, timed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from adaspec_rl.control.controller import Controller
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
    forecasts: list[Forecast] = field(default_factory=list, repr=False)  # before each, if observed


def follow(observer: StreamObserver, prompt: Sequence[int], made: Generation) -> Iterator[Round]:
    """Yield the rounds of a generation; at each, the observation is that before the round."""
    ahead = made.forecasts or [NO_FORECAST] * len(made.rounds)
    observer.start(prompt, ahead[0] if ahead else NO_FORECAST)
    for played, following in zip(made.rounds, [*ahead[1:], NO_FORECAST]):
        yield played
        observer.update(played, following)


def generate(
    session: Session,
    controller: Controller,
    prompt: Sequence[int],
    *,
    cost: CostFeatures,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Generation:
    """Generate from `prompt` until the text ends; `controller` chooses every round's action."""
    spec = controller.observes
    observer = StreamObserver(spec, cost) if spec else None
    began = clock()
    deciding = 0.0
    session.start(prompt, seed, signals=spec is not None and spec.needs_signals)
    controller.reset(prompt, seed)
    foresees = spec is not None and spec.needs_forecast
    tables = spec is not None and spec.tables > 0
    ahead = session.forecast(tables) if foresees else NO_FORECAST
    if observer:
        observer.start(prompt, ahead)
    rounds, actions, forecasts = [], [], []
    while session.finished is None:
        before = clock()
        action = controller.decide(observer.observation() if observer else None)
        decided = clock()
        round_ = session.step(action)
        stepped = clock()
        controller.observe(round_)
        if foresees:
            forecasts.append(ahead)
            ahead = session.forecast(tables)
        if observer:
            observer.update(round_, ahead)
        rounds.append(round_)
        actions.append(action)
        deciding += decided - before + clock() - stepped
    seconds = clock() - began
    return Generation(
        session.tokens, session.finished, rounds, seconds, deciding, actions, forecasts
    )
