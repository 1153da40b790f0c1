"""Draft length and verification threshold decided together, token by token. Lossy.

This is JointAdaSpec's decision process: after each drafted token, it decides how leniently the
token will be verified (one of `LENIENCES`) and whether to draft another. The reward is the number
of accepted tokens, less `MILLISECOND` for each millisecond and `price` for each token that is not
the target's own. Deviates: the state is the depth, the drafter's probability of the newest token
(by bucket) and the chance that all tokens so far are accepted; it is solved exactly, on the
target's probabilities of drafted tokens in its own texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, DraftedToken, Round
from adaspec_rl.decoding.verification.lossy import Scheduled

LENIENCES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)  # T of T p(x) >= max p
MILLISECOND = 0.01  # its price, in accepted tokens
BUCKETS = 8
SURVIVALS = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True, slots=True)
class JointTable:
    """The best decisions after the drafted token at each depth, `[depth, survival, bucket]`."""

    edges: np.ndarray  # [BUCKETS - 1], of the drafter's probability
    stands: np.ndarray  # [bucket, T]: the chance that a token is accepted
    lenience: np.ndarray  # index of T for the token
    goes_on: np.ndarray  # whether another token is drafted
    drafts: bool  # whether to draft at all
    value: float  # worth of a round beyond a plain step's

    @property
    def max_length(self) -> int:
        return len(self.lenience)


def solve_joint(
    texts: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    token_ms: float,
    round_ms: float = 0.0,
    max_length: int,
    price: float,
) -> JointTable:
    """Solve the decision process by backward induction.

    Args:
        texts: for each text, two arrays `[n]` over its positions: the drafter's probability of its
            own first choice, and the target's probability of that token as a share of its most
            probable token's (1 where the two agree).
        token_ms: milliseconds to draft and verify one more token.
        round_ms: further milliseconds of a round with a draft, beyond a plain step.
        price: the cost of a token that is not the target's own, in accepted tokens.

    Raises:
        ValueError: there are no positions, or `price` or `max_length` is out of range.
    """
    check_between("max_length", max_length, 1, 64)
    check_between("price", price, 0)
    if not sum(len(probability) for probability, _ in texts):
        raise ValueError("the decision process needs texts: expected at least 1 position, got none")
    every = np.concatenate([probability for probability, _ in texts])
    edges = np.quantile(every, np.linspace(0, 1, BUCKETS + 1)[1:-1])
    stands, lossy = _outcomes(texts, edges)
    first, following = _buckets(texts, edges)
    cost = MILLISECOND * token_ms
    shape = (max_length, len(SURVIVALS), BUCKETS)
    lenience, goes_on = np.zeros(shape, dtype=int), np.zeros(shape, dtype=bool)
    gain = SURVIVALS[:, None, None] * (stands - price * lossy)  # [survival, bucket, T]
    survival = SURVIVALS[:, None, None] * stands  # after the token
    value = gain[:, :, 0]  # the last depth: no decision follows, and the token is verified exactly
    for depth in range(max_length - 2, -1, -1):
        after = value @ following.T  # [survival, bucket]: the value of one more token
        more = np.stack(
            [np.interp(survival[:, b], SURVIVALS, after[:, b]) for b in range(BUCKETS)], axis=1
        )
        total = gain + np.maximum(0.0, more - cost)
        lenience[depth] = total.argmax(-1)
        chosen = lenience[depth][..., None]
        goes_on[depth] = np.take_along_axis(more, chosen, -1)[..., 0] > cost
        value = np.take_along_axis(total, chosen, -1)[..., 0]
    best = float(first @ value[-1]) - cost - MILLISECOND * round_ms
    return JointTable(edges, stands, lenience, goes_on, best > 0, best)


def _outcomes(
    texts: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """By bucket and T `[BUCKETS, T]`: the chance that a token is accepted, and as a mismatch.

    Each bucket starts with one exact token, so that none is empty.
    """
    stands, lossy = np.ones((2, BUCKETS, len(LENIENCES))) * [[[1.0]], [[0.0]]]
    count = np.ones(BUCKETS)
    for probability, share in texts:
        bucket = edges.searchsorted(probability, side="right")
        kept = share[:, None] * np.array(LENIENCES) >= 1
        np.add.at(stands, bucket, kept)
        np.add.at(lossy, bucket, kept & (share < 1)[:, None])
        np.add.at(count, bucket, 1)
    return stands / count[:, None], lossy / count[:, None]


def _buckets(
    texts: Sequence[tuple[np.ndarray, np.ndarray]], edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each bucket `[BUCKETS]`, and after each bucket `[BUCKETS, BUCKETS]`."""
    first, following = np.zeros(BUCKETS), np.full((BUCKETS, BUCKETS), 1 / BUCKETS)
    for probability, _ in texts:
        bucket = edges.searchsorted(probability, side="right")
        np.add.at(first, bucket, 1)
        np.add.at(following, (bucket[:-1], bucket[1:]), 1)
    return first / first.sum(), following / following.sum(-1, keepdims=True)


class JointStop:
    """Decides after each drafted token, and notes how leniently it will be verified."""

    needs = frozenset[str]()

    def __init__(self, table: JointTable, rule: Scheduled) -> None:
        self.table, self.rule = table, rule
        self._survival = 1.0

    def __call__(self, token: DraftedToken) -> bool:
        if token.depth == 1:
            self.rule.leniences.clear()
            self._survival = 1.0
        bucket = int(self.table.edges.searchsorted(token.probability, side="right"))
        place = (token.depth - 1, int(round(self._survival * (len(SURVIVALS) - 1))), bucket)
        chosen = self.table.lenience[place]
        self.rule.leniences.append(LENIENCES[chosen])
        self._survival *= float(self.table.stands[bucket, chosen])
        return not self.table.goes_on[place]


class Joint:
    """Plays a table, with drafter number `drafter`. Lossy, and greedy only."""

    observes = None

    def __init__(self, table: JointTable, drafter: int = 0, name: str = "joint") -> None:
        self.name, self._rule = name, Scheduled()
        self.action = FALLBACK
        if table.drafts:
            stop = JointStop(table, self._rule)
            self.action = Action(table.max_length, drafter, rule=stop, lossy=self._rule)

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        self._rule.leniences.clear()
        return self.action

    def observe(self, round_: Round) -> None:
        pass
