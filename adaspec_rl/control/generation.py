"""A whole generation under a controller, timed."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.observation import CostFeatures, Observer, RoundArrays
from adaspec_rl.control.text_features import TextFeatures
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


class StreamObserver:
    """Observations of a single session: an `Observer` of batch 1 that reads tokens."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self._text = TextFeatures()
        self._reads = "context" in observer.spec.groups
        self._seen: np.ndarray | None = None  # the observation, until it changes

    def start(self, prompt: Sequence[int], forecast: Forecast = NO_FORECAST) -> None:
        """A text begins. `forecast` is the session's, if the observation has that group."""
        if self._reads:
            self._text.start(prompt)
        self.observer.reset(text=self._text.values, forecast=forecast)
        self._seen = None

    def update(self, round_: Round, forecast: Forecast = NO_FORECAST) -> None:
        if not self.observer.spec.changes:
            return
        if self._reads:
            self._text.extend(round_.tokens)
        spec, text = self.observer.spec, self._text.values
        if spec.needs_rounds:
            self.observer.update(
                RoundArrays.from_rounds([round_], [text], [forecast], spec.needs_signals)
            )
        else:  # takes a fraction of the time
            self.observer.read(text, forecast)
        self._seen = None

    def follow(self, prompt: Sequence[int], made: "Generation") -> Iterator[Round]:
        """Yield the rounds of a generation; at each, the observation is that before the round."""
        ahead = (
            [*made.forecasts, NO_FORECAST]
            if made.forecasts
            else [NO_FORECAST] * (1 + len(made.rounds))
        )
        self.start(prompt, ahead[0])
        for played, following in zip(made.rounds, ahead[1:]):
            yield played
            self.update(played, following)

    def observation(self) -> np.ndarray:
        """`[features]` float32; the same array as long as nothing has changed."""
        if self._seen is None:
            self._seen = self.observer.observation()[0]
        return self._seen


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
    observer = StreamObserver(Observer(spec, cost)) if spec else None
    began = clock()
    deciding = 0.0
    session.start(prompt, seed, signals=spec is not None and spec.needs_signals)
    controller.reset(prompt, seed)
    foresees = spec is not None and spec.needs_forecast
    ahead = session.forecast() if foresees else NO_FORECAST
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
            ahead = session.forecast()
        if observer:
            observer.update(round_, ahead)
        rounds.append(round_)
        actions.append(action)
        deciding += decided - before + clock() - stepped
    seconds = clock() - began
    return Generation(
        session.tokens, session.finished, rounds, seconds, deciding, actions, forecasts
    )
