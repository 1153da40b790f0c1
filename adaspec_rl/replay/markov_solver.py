"""Solves the tabular Markov decision process of `control.baselines.markov` on a recording.

Every outcome is recorded, so the worth of drafting on after a token is the mean, over rounds, of
what drafting on would have gained. Value iteration alternates with replays, because the tables
decide which rounds are visited and which drafts reach a given position.
"""

from dataclasses import dataclass, replace

import numpy as np

from adaspec_rl.control.baselines.markov import Markov, MarkovPolicy
from adaspec_rl.control.checks import check_between
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.outcomes import nearest_context, positions
from adaspec_rl.replay.session import ReplaySession

ITERATIONS = 40  # of the worth of each class of acceptance
ROUNDS = 50_000  # the most rounds to iterate on
UNREACHED = 1e-3  # factor on a round's weight for each stop that would have ended its draft earlier


@dataclass(frozen=True, slots=True)
class Played:
    """The rounds of a policy on all texts."""

    at: np.ndarray  # [R] position in the trace at which each round began
    acceptance: np.ndarray  # [R], recent acceptance before the round
    speed: float  # tokens per autoregressive step


@dataclass(frozen=True, slots=True)
class Visits:
    """`R` rounds with the outcome of every draft length 0 to `K`: `[R, K + 1]` unless noted."""

    acceptance: np.ndarray  # [R] class
    entropy: np.ndarray  # [R, K] class of each drafted token
    tokens: np.ndarray
    blind: np.ndarray  # autoregressive steps
    asked: np.ndarray  # autoregressive steps, with a look at the entropy of each token
    later: np.ndarray  # class of acceptance after the round
    goes_on: np.ndarray  # whether the text continues


def solve(
    trace: Trace,
    profile: CostProfile,
    lam: float | None = None,
    *,
    drafter: int = 0,
    max_length: int | None = None,
    batch_size: int = 1,
    acceptance_classes: int = 4,
    entropy_classes: int = 8,
    span: float = 10.0,
    prior: float = 0.5,
    discount: float = 0.9,
    sweeps: int = 4,
) -> MarkovPolicy:
    """The fastest tables found on these texts, at least as fast there as the best fixed length.

    The reward of a round is `tokens / lam - steps`; without `lam`, it is the best speed so far
    (Dinkelbach's method).

    Raises:
        ValueError: an argument is out of range, or the profile lacks the drafts or the batch size.
    """
    longest = min(max_length or trace.max_length, trace.max_length)
    check_between("drafter", drafter, 0, len(trace.drafters) - 1)
    check_between("acceptance_classes", acceptance_classes, 1)
    check_between("entropy_classes", entropy_classes, 1)
    check_between("span", span, 1)
    check_between("prior", prior, 0, 1)
    check_between("discount", discount, 0, 1)
    profile.check(len(trace.drafters), longest)
    session = ReplaySession(trace, profile, batch_size=batch_size)
    plain = MarkovPolicy((), (), (0,), (False,), (((False,),) * longest,), span, prior)
    policies = [replace(plain, lengths=(length,)) for length in range(longest + 1)]
    played = [_play(session, policy, drafter) for policy in policies]
    acceptance = np.concatenate([item.acceptance for item in played])
    entropy = trace.drafters[drafter].signals[:, :longest, 1]
    edges = (_edges(acceptance, acceptance_classes), _edges(entropy, entropy_classes))
    stops = np.zeros((acceptance_classes, longest, entropy_classes), dtype=bool)
    for _ in range(sweeps):
        visits = _visits(session, played, drafter, longest, edges, plain)
        rate = lam or max(item.speed for item in played)
        lengths, asks, stops = _iterate(visits, rate, stops, discount)
        policies.append(
            replace(
                plain,
                acceptance_edges=tuple(edges[0].tolist()),
                entropy_edges=tuple(edges[1].tolist()),
                lengths=tuple(lengths.tolist()),
                asks=tuple(asks.tolist()),
                stops=tuple(tuple(map(tuple, table)) for table in stops.tolist()),
            )
        )
        played.append(_play(session, policies[-1], drafter))
    return policies[int(np.argmax([item.speed for item in played]))]


def _edges(values: np.ndarray, classes: int) -> np.ndarray:
    """Borders `[classes - 1]` between classes of about the same size."""
    return np.quantile(values.astype(float), np.arange(1, classes) / classes)


def _play(session: ReplaySession, policy: MarkovPolicy, drafter: int) -> Played:
    trace, at, acceptance = session.trace, [], []
    points = session.profile.contexts(session.batch_size)
    nearest = nearest_context(points, positions(trace)[0])
    units = np.array([point.autoregressive_step for point in points])[nearest].tolist()  # [M]
    controller = Markov(policy, trace.max_length, drafter)
    steps = 0.0
    for text in trace.texts:
        session.start(text.prompt.tolist(), text.seed, signals=False)
        controller.reset()
        position = int(trace.starts[session.number])
        while session.finished is None:
            at.append(position)
            acceptance.append(controller.acceptance)
            round_ = session.step(controller.decide(None))
            controller.observe(round_)
            steps += round_.seconds / units[position]
            position += len(round_.tokens)
    return Played(np.array(at), np.array(acceptance), len(trace.drafters[drafter].tokens) / steps)


def _visits(
    session: ReplaySession,
    played: list[Played],
    drafter: int,
    longest: int,
    edges: tuple[np.ndarray, np.ndarray],
    plain: MarkovPolicy,
) -> Visits:
    """All rounds played so far, or an evenly spaced selection of them."""
    trace, table = session.trace, session.trace.drafters[drafter]
    at = np.concatenate([item.at for item in played])
    stride = -(-len(at) // ROUNDS)
    at = at[::stride]
    before = np.concatenate([item.acceptance for item in played])[::stride, None]  # [R, 1]
    context, left, room = (values[at] for values in positions(trace))
    allowed = np.minimum(room, (table.tokens[at] >= 0).sum(axis=1))
    drafted = np.minimum(np.arange(longest + 1), allowed[:, None])  # [R, K + 1]
    accepted = np.minimum(table.accepted[at, None], drafted)
    tokens = np.minimum(accepted + 1, left[:, None])
    reached = np.minimum(tokens, drafted)
    share = np.where(drafted > 0, accepted / np.maximum(reached, 1), plain.prior)
    points = session.profile.contexts(session.batch_size)
    costs = np.array(
        [
            [
                [
                    p.seconds(drafter, k, asks, asked=longest) / p.autoregressive_step
                    for k in range(longest + 1)
                ]
                for p in points
            ]
            for asks in (False, True)
        ]
    )  # [2, contexts, K + 1]
    nearest = nearest_context(points, context)[:, None]
    return Visits(
        acceptance=np.searchsorted(edges[0], before[:, 0], side="right"),
        entropy=np.searchsorted(edges[1], table.signals[at, :longest, 1], side="right"),
        tokens=tokens,
        blind=costs[0][nearest, drafted],
        asked=costs[1][nearest, drafted],
        later=np.searchsorted(edges[0], before + (share - before) / plain.span, side="right"),
        goes_on=tokens < left[:, None],
    )


def _iterate(
    visits: Visits, rate: float, stops: np.ndarray, discount: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best length `[A]`, whether to ask during the draft `[A]`, and stops `[A, K, E]`."""
    classes, longest, _ = stops.shape
    members = np.bincount(visits.acceptance, minlength=classes)
    worth = np.zeros(classes)  # of the start of a round
    for _ in range(ITERATIONS):
        later = discount * np.where(visits.goes_on, worth[visits.later], 0.0)
        blind, asked = (
            visits.tokens / rate - cost + later for cost in (visits.blind, visits.asked)
        )
        stops, onward = _stops(visits, asked, stops)
        options = [*blind.T, onward]  # [K + 2][R]
        sums = [np.bincount(visits.acceptance, option, classes) for option in options]
        overall = np.array([[option.mean()] for option in options])  # for classes without rounds
        means = np.where(members > 0, np.array(sums) / np.maximum(members, 1), overall)
        worth = means.max(axis=0)
    chosen = means.argmax(axis=0)
    return np.minimum(chosen, longest), chosen > longest, stops


def _stops(visits: Visits, asked: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where to stop `[A, K, E]`, decided from the last token backwards, and the rewards `[R]`.

    A draft's history is not part of the state. Its weight depends on whether the stops `before`
    would have allowed it.
    """
    classes, longest, entropies = before.shape
    cells = visits.acceptance[:, None] * entropies + visits.entropy  # [R, K]
    table = before.transpose(1, 0, 2).reshape(longest, -1)  # [K, A * E]
    stopped = table[np.arange(longest), cells]  # [R, K]
    weights = np.cumprod(np.where(stopped, UNREACHED, 1.0), axis=1)
    found = np.ones((longest, classes * entropies), dtype=bool)
    onward = asked[:, longest]
    for drafted in range(longest - 1, 0, -1):
        cell = cells[:, drafted - 1]
        weight = weights[:, drafted - 2] if drafted > 1 else np.ones(len(cell))
        gain = np.bincount(cell, weight * (onward - asked[:, drafted]), classes * entropies)
        found[drafted - 1] = gain <= 0
        onward = np.where(found[drafted - 1, cell], asked[:, drafted], onward)
    return found.reshape(longest, classes, entropies).transpose(1, 0, 2), onward
