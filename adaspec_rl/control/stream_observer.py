"""Observations of one text, number by number.

For a single stream, NumPy's calls take several times as long as the arithmetic, and decoding waits
for them. The numbers are those of an `Observer` of batch 1, to the bit.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from adaspec_rl.control.observation import (
    DRAFTER_DECAY,
    EMA_DECAYS,
    EMA_SPANS,
    GROUPS,
    PRIOR_ACCEPTANCE,
    RECENT,
    CostFeatures,
    ObservationSpec,
    draft_numbers,
)
from adaspec_rl.control.text_features import TextFeatures
from adaspec_rl.decoding.forecast import NO_FORECAST, Forecast
from adaspec_rl.decoding.round import Round

SETTLED = 8  # after this many rounds without drafts, one more changes nothing but the tokens
_DECAYS = EMA_DECAYS.tolist()

Forecaster = Callable[[bool], Forecast]  # `Session.forecast`


def unforeseen(tables: bool) -> Forecast:
    """No forecast."""
    return NO_FORECAST


class StreamObserver:
    """Observations of a single session, which reads the session's rounds and tokens.

    Rounds before which nobody asks for an observation cost next to nothing.

    Attributes:
        forecast: the session's at the latest observation, if it is observed.
    """

    def __init__(self, spec: ObservationSpec, cost: CostFeatures) -> None:
        self.spec = spec
        table = spec.table()
        every = [name for group in GROUPS for name, _ in table[group]]
        ends = np.cumsum([len(table[group]) for group in GROUPS]).tolist()
        self._first = dict(zip(GROUPS, [0, *ends]))  # where each group begins
        scales = np.asarray(spec.scales, dtype=np.float32).tolist()
        self._observed = [(every.index(name), scale) for name, scale in zip(spec.names, scales)]
        self._values = array("f", bytes(4 * len(every)))  # all features, unscaled
        self._unread = array("f", bytes(4 * spec.drafters))
        self._array = np.frombuffer(self._values, dtype=np.float32)  # the same memory
        logs = self._first["target"] - spec.drafters
        self._log_unread = self._array[logs : logs + spec.drafters]
        self._unread_array = np.frombuffer(self._unread, dtype=np.float32)
        self._costs = self._array[self._first["cost"] :]
        self._told: CostFeatures | None = None  # costs
        self._foreseen = len(table["lookup"])
        self._unforeseen = (0.0,) * self._foreseen
        self._text = TextFeatures()
        self._reads = "context" in spec.groups
        self.forecast = NO_FORECAST
        self._rounds: list[Round] = []  # not read yet
        self._seen: np.ndarray | None = None  # the observation, until it changes
        self.set_costs(cost)

    def set_costs(self, cost: CostFeatures) -> None:
        """Set the costs of decoding. Those of drafters without features are left out."""
        if cost == self._told:
            return
        known = cost.values()[: len(self._costs)]
        self._costs[: len(known)] = known
        self._told, self._seen = cost, None

    def start(self, prompt: Sequence[int], forecast: Forecaster = unforeseen) -> None:
        """A text begins. `forecast` is the session's, and asked only if it is observed."""
        if self._reads:
            self._text.start(prompt)
        self._array[: self._first["cost"]] = 0.0
        self._array[: len(EMA_SPANS)] = PRIOR_ACCEPTANCE
        self._array[self._first["drafters"] :][: self.spec.drafters] = PRIOR_ACCEPTANCE
        self._unread_array[:] = 0.0
        self._forecast, self._rounds, self._seen = forecast, [], None

    def update(self, round_: Round) -> None:
        """Add a round, which is read when the next observation is asked for."""
        if self.spec.changes:
            self._rounds.append(round_)
            self._seen = None

    def _read(self) -> None:
        """Read the latest rounds, the text and the forecast."""
        if self._reads and self._rounds:
            self._text.extend([token for round_ in self._rounds for token in round_.tokens])
        if self.spec.needs_rounds:
            for round_ in self._latest():
                self._add(round_)
            np.log1p(self._unread_array, out=self._log_unread)
        self._rounds.clear()
        if self.spec.needs_forecast:
            self.forecast = self._forecast(self.spec.tables > 0)
        self._put("context", self._text.values)
        self._put("lookup", (self.forecast + self._unforeseen)[: self._foreseen])

    def _latest(self) -> Sequence[Round]:
        """The rounds that are not read yet, without those that change nothing but the tokens.

        Of the newest rounds without drafts, all but the last few are only counted.
        """
        rounds = self._rounds
        first = len(rounds)
        while first and not rounds[first - 1].drafted:
            first -= 1
        last = len(rounds) - SETTLED
        if first >= last:
            return rounds
        tokens = sum(len(round_.tokens) for round_ in rounds[first:last])
        return [*rounds[:first], replace(rounds[first], tokens=(0,) * tokens), *rounds[last:]]

    def _put(self, group: str, values: Sequence[float]) -> None:
        for at, value in enumerate(values, self._first[group]):
            self._values[at] = value

    def _add(self, round_: Round) -> None:
        values, unread, own = self._values, self._unread, self._first["drafters"]
        for drafter in range(self.spec.drafters):
            unread[drafter] += len(round_.tokens)
        accepted = len(EMA_SPANS)
        drafted, since = accepted + RECENT, own - 1
        for recent in (accepted, drafted):
            values[recent + 1 : recent + RECENT] = values[recent : recent + RECENT - 1]
        values[accepted], values[drafted] = round_.accepted, round_.drafted
        values[since] = min(values[since] + 1, 8)
        if round_.drafted:
            rate = round_.accepted / max(round_.reached, 1)
            for at, decay in enumerate(_DECAYS):
                values[at] = rate + (values[at] - rate) * decay
            used = own + round_.drafter
            values[used] = rate + (values[used] - rate) * DRAFTER_DECAY
            unread[round_.drafter] = values[since] = 0
            self._put("draft", draft_numbers(round_))
        self._put("target", (round_.target_entropy, round_.target_top_probability))

    def observation(self) -> np.ndarray:
        """`[features]` float32; the same array as long as nothing has changed."""
        if self._seen is None:
            self._read()
            values = self._values  # Quotients of float32 are rounded as float32 division would.
            found = array("f", [values[at] / scale for at, scale in self._observed])
            self._seen = np.frombuffer(found, dtype=np.float32)
        return self._seen
