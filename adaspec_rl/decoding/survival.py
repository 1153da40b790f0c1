"""The chance that a drafted token will be accepted, estimated before the target has seen it.

The product of these chances over a draft is the chance that all of it survives, which early
stopping compares with an action's threshold.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from adaspec_rl.decoding.compiled_survival import CompiledHead, Curves

MATCH_LIMIT = 16  # tokens; longer matches of the text's end count as this
# No match, or a match of 1, 2-3, 4-7, 8-15 or more tokens whose guess is wrong or right.
AGREEMENTS = 2 * MATCH_LIMIT.bit_length() + 1
# In nats, the knots of the head's curves: linear in between, constant beyond the ends.
MARGINS = (*(n / 5 for n in range(11)), 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
SURPRISES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LARGEST_ODDS = 100.0  # of one looked-up number, so that the exponential of a sum of four is finite


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an estimate may use, for `N` drafted tokens."""

    token: np.ndarray  # [N] integers
    previous: np.ndarray  # [N] integers, the token before it
    log_prob: np.ndarray  # [N], of the token, by the drafter
    choice_margin: np.ndarray  # [N], how far its score is above every other's
    match: np.ndarray  # [N], longest earlier occurrence of the text before the token
    agrees: np.ndarray  # [N], 1 where the token is what followed there, else 0


class Survival(Protocol):
    """Estimates the chance that a drafted token is accepted, given that all before it were."""

    name: str

    @property
    def needs_match(self) -> bool:
        """Whether it reads matches, tokens and margins."""
        ...

    @property
    def needs_log_prob(self) -> bool: ...

    def __call__(self, evidence: Evidence) -> np.ndarray:
        """Chances `[N]`."""
        ...

    def one(
        self, token: int, previous: int, log_prob: float, margin: float, match: int, agrees: bool
    ) -> float:
        """The chance of a single token; arguments that are not needed may be anything."""
        ...


class ProductSurvival:
    """Trusts the drafter: the estimate is its own probability of the token."""

    name = "product"
    needs_match = False
    needs_log_prob = True

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return np.exp(evidence.log_prob)

    def one(
        self, token: int, previous: int, log_prob: float, margin: float, match: int, agrees: bool
    ) -> float:
        return math.exp(log_prob)


@dataclass(frozen=True)
class SurvivalHead:
    """A calibrated estimate: its log-odds are a sum of looked-up numbers, fitted on recordings.

    The numbers say how much the drafter's confidence means given what an n-gram lookup says, which
    tokens the drafter is usually right about, and after which tokens. An estimate takes a few
    microseconds and no array operation, so that it pays to ask often. A network on the drafter's
    hidden state was as good, but took a quarter of a small drafter's forward pass
    (`recording.fitting`).
    """

    agreement: np.ndarray  # [11, margins] float32, by agreement, at each of `MARGINS`
    surprise: np.ndarray  # [surprises] float32, at minus each log-probability; [0]: not used
    token: np.ndarray  # [V] float32
    previous: np.ndarray  # [V] float32
    name = "head"
    needs_match = True

    def __post_init__(self) -> None:
        parts = (
            _curves(self.agreement, MARGINS),
            _curves(self.surprise[None], SURPRISES)[0] if self.needs_log_prob else None,
            array("d", self.token.tolist()),  # a lookup touches less memory than in a list
            array("d", self.previous.tolist()),
        )
        object.__setattr__(self, "_looked_up", parts)

    def __reduce__(self) -> tuple[object, ...]:
        return SurvivalHead.from_tensors, (self.tensors(),)

    @cached_property
    def compiled(self) -> CompiledHead:
        """The same for compiled code; models of this process must run compiled."""
        numbers = self.token.astype(np.float64), self.previous.astype(np.float64)
        return CompiledHead(
            _flat_curves(self.agreement, MARGINS),
            _flat_curves(self.surprise.reshape(-1, len(SURPRISES)), SURPRISES),
            *numbers,
            match_limit=MATCH_LIMIT,
        )

    @property
    def needs_log_prob(self) -> bool:
        return bool(len(self.surprise))

    def __call__(self, evidence: Evidence) -> np.ndarray:
        rows = agreement_class(evidence.match, evidence.agrees)
        agreement, surprise, token, previous = (
            values.astype(np.float64) for values in self.tensors().values()
        )
        index, share = between(evidence.choice_margin, MARGINS)
        low, high = agreement[rows, index], agreement[rows, index + 1]
        odds = low + (high - low) * share + token[evidence.token] + previous[evidence.previous]
        if self.needs_log_prob:
            index, share = between(-evidence.log_prob, SURPRISES)
            low, high = surprise[index], surprise[index + 1]
            odds = odds + low + (high - low) * share
        return 1.0 / (1.0 + np.exp(-odds))

    def one(
        self, token: int, previous: int, log_prob: float, margin: float, match: int, agrees: bool
    ) -> float:
        curves, surprise, tokens, after = self._looked_up  # type: ignore[attr-defined]
        row = 2 * min(match, MATCH_LIMIT).bit_length() - 1 + agrees if match else 0
        odds = _read(curves[row], margin, MARGINS) + tokens[token] + after[previous]
        if surprise is not None:
            odds += _read(surprise, -log_prob, SURPRISES)
        return 1.0 / (1.0 + math.exp(-odds))

    def tensors(self) -> dict[str, np.ndarray]:
        """Its arrays by name, for files."""
        return {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "SurvivalHead":
        """The head with these `tensors`.

        Raises:
            ValueError: an array is missing, or of the wrong shape or type, or not finite.
        """
        missing = [name for name in _TENSORS if name not in tensors]
        if missing:
            raise ValueError(f"the survival head lacks {', '.join(missing)}: fit it anew")
        shapes = {name: list(tensors[name].shape) for name in _TENSORS}
        if not _fit(tensors):
            raise ValueError(
                f"the survival head has arrays of shapes {shapes}, expected agreement "
                f"[{AGREEMENTS}, {len(MARGINS)}], surprise [0] or [{len(SURPRISES)}], and token "
                "and previous of one length: fit it anew"
            )
        for name in _TENSORS:
            array = tensors[name]
            if array.dtype != np.float32 or not (np.abs(array) <= LARGEST_ODDS).all():
                raise ValueError(
                    f"the survival head's {name} has {array.dtype} numbers of up to "
                    f"{np.abs(array).max(initial=0.0):g}, expected float32 of at most "
                    f"{LARGEST_ODDS:g}: fit it anew"
                )
        return cls(**{name: tensors[name] for name in _TENSORS})


def same_survival(a: Survival, b: Survival) -> bool:
    """Whether both give the same estimate for everything."""
    if isinstance(a, SurvivalHead) and isinstance(b, SurvivalHead):
        theirs = b.tensors()
        return all(np.array_equal(own, theirs[name]) for name, own in a.tensors().items())
    return type(a) is type(b)


_TENSORS = ("agreement", "surprise", "token", "previous")


def _fit(tensors: Mapping[str, np.ndarray]) -> bool:
    shapes = {name: tensors[name].shape for name in _TENSORS}
    return (
        shapes["agreement"] == (AGREEMENTS, len(MARGINS))
        and shapes["surprise"] in ((0,), (len(SURPRISES),))
        and shapes["token"] == shapes["previous"]
        and len(shapes["token"]) == 1
    )


def agreement_class(match: np.ndarray, agrees: np.ndarray) -> np.ndarray:
    """Row of `SurvivalHead.agreement` of each token, `[N]`."""
    size = _BIT_LENGTHS[np.minimum(match, MATCH_LIMIT).astype(np.int64)]
    return np.where(size > 0, 2 * size - 1 + agrees.astype(np.int64), 0)


_BIT_LENGTHS = np.array([length.bit_length() for length in range(MATCH_LIMIT + 1)])


def between(values: np.ndarray, knots: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Index of the knot below each of `values` `[N]`, and the share of the way to the next one."""
    x = np.clip(np.asarray(values, dtype=np.float64), knots[0], knots[-1])
    places = np.array(knots)
    index = np.clip(np.searchsorted(places, x, side="right") - 1, 0, len(knots) - 2)
    return index, (x - places[index]) / (places[index + 1] - places[index])


Curve = tuple[list[float], list[float]]  # values at the knots, and slopes after them


def _curves(values: np.ndarray, knots: tuple[float, ...]) -> list[Curve]:
    """The curve of each row of `values` `[N, knots]`."""
    values = values.astype(np.float64)
    slopes = np.diff(values, axis=1, append=values[:, -1:]) / np.diff(knots, append=math.inf)
    return list(zip(values.tolist(), slopes.tolist()))


def _flat_curves(values: np.ndarray, knots: tuple[float, ...]) -> Curves:
    """`_curves` for compiled code."""
    found = np.array(_curves(values, knots), dtype=np.float64)
    return Curves(np.array(knots), found.reshape(-1, 2, len(knots)))


def _read(curve: Curve, x: float, knots: tuple[float, ...]) -> float:
    values, slopes = curve
    x = min(x, knots[-1])
    at = bisect_right(knots, x) - 1
    return values[at] + slopes[at] * (x - knots[at]) if at >= 0 else values[0]
