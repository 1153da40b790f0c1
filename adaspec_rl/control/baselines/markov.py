"""Draft lengths and stops looked up in a solved table."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import FALLBACK, Action, DraftedToken, Round


@dataclass(frozen=True, slots=True)
class MarkovPolicy:
    """What to do in each state; `replay.markov_solver.solve` finds it."""

    acceptance_edges: tuple[float, ...]  # [A - 1], between classes of recent acceptance
    entropy_edges: tuple[float, ...]  # [E - 1] nats, between classes of the newest token's entropy
    lengths: tuple[int, ...]  # [A] tokens to draft at most; 0 is the fallback
    asks: tuple[bool, ...]  # [A] whether `stops` is looked up on the way
    stops: tuple[tuple[tuple[bool, ...], ...], ...]  # [A][tokens so far, from 1][E]
    span: float  # rounds that recent acceptance looks back
    prior: float  # recent acceptance at the start of a text, and where it goes without drafts

    def after(self, acceptance: float, round_: Round) -> float:
        """Recent acceptance after this round."""
        share = round_.accepted / round_.reached if round_.drafted else self.prior
        return acceptance + (share - acceptance) / self.span


@dataclass(frozen=True, slots=True)
class TableStop:
    """Stops where a table says so, given the tokens drafted so far and the newest one's entropy."""

    edges: tuple[float, ...]
    stops: tuple[tuple[bool, ...], ...]
    needs = frozenset({"entropy"})

    def __call__(self, token: DraftedToken) -> bool:
        return self.stops[token.depth - 1][bisect_right(self.edges, token.entropy)]


class Markov:
    """Plays a solved tabular Markov decision process.

    At the start of a round, the state is the class of recent acceptance; after each drafted token,
    it also has the token's position in the draft and its entropy. The policy decides whether to
    draft at all, and then whether to continue. It follows no single paper: it is the tabular
    counterpart of learned stopping policies, which SpecDec++ (arXiv:2405.19715) formulates as such
    a process.
    """

    name = "markov"
    observes = None

    def __init__(self, policy: MarkovPolicy, max_length: int, drafter: int = 0) -> None:
        check_between("max_length", max_length, 1)
        self._policy = policy
        self._actions = [
            _action(policy, number, max_length, drafter) for number in range(len(policy.lengths))
        ]
        self.acceptance = policy.prior  # recently

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.acceptance = self._policy.prior

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._actions[bisect_right(self._policy.acceptance_edges, self.acceptance)]

    def observe(self, round_: Round) -> None:
        self.acceptance = self._policy.after(self.acceptance, round_)


def _action(policy: MarkovPolicy, number: int, max_length: int, drafter: int) -> Action:
    length = min(policy.lengths[number], max_length)
    if not length:
        return FALLBACK
    rule = TableStop(policy.entropy_edges, policy.stops[number]) if policy.asks[number] else None
    return Action(length, drafter, rule=rule)
