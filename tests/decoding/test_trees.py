"""Token trees and drafters that draft together: lossless, whatever the tree."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import NgramLookup, TableDrafter
from adaspec_rl.decoding.drafters.branching import grown
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from tests.decoding.actions import anything, growing
from tests.decoding.tables import random_table
from tests.toy import ToyModel, greedy_text, similar, toy_session

DRAFTERS = 4


def session_of(target: ToyModel, **options):
    """Two models, a lookup and a table."""
    table = TableDrafter(random_table(target.vocab_size, 5, (0.3,)), target.vocab_size)
    models = [similar(target, 0.3), similar(target, 0.9)]
    return toy_session(target, [*models, NgramLookup(), table], **options)


schedules = st.lists(anything(DRAFTERS) | growing(DRAFTERS), min_size=12, max_size=12)


@settings(deadline=None, max_examples=80)
@given(
    actions=schedules,
    prompt=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    eos=st.sampled_from([(), (3,), (1, 5)]),
    budget=st.integers(1, 30),
    context=st.sampled_from([18, 64]),
)
def test_greedy_text_is_that_of_plain_decoding(actions, prompt, seed, eos, budget, context):
    target = ToyModel(seed=seed, context_length=context)
    session = session_of(target, eos_ids=eos, max_new_tokens=budget)
    session.start(prompt)
    for action in itertools.cycle(actions):
        before = len(session.tokens)
        played = session.step(action)
        assert session.tokens[before:] == list(played.tokens)
        assert played.accepted <= min(played.drafted, action.length)
        assert (
            played.drafted
            <= (action.tree.nodes if action.tree else action.length)
            + len(action.also) * action.length
        )
        assert len(played.draft_log_probs) <= action.length
        if session.finished:
            break
    assert session.tokens == greedy_text(target, prompt, min(budget, context - len(prompt)), eos)


@settings(deadline=None, max_examples=40)
@given(
    actions=schedules,
    seed=st.integers(0, 1000),
    top_k=st.sampled_from([0, 3]),
)
def test_coupled_text_is_that_of_plain_decoding(actions, seed, top_k):
    target = ToyModel(seed=seed % 7, sharpness=1.0)
    texts = []
    for schedule in ([FALLBACK], actions):
        session = session_of(target, sampling=Sampling(0.9, top_k), verification="coupled")
        session.start([1, 2], seed=seed)
        turns = itertools.cycle(schedule)
        while not session.finished:
            session.step(next(turns))
        texts.append(session.tokens)
    assert texts[0] == texts[1]


def forwards_of(action: Action) -> tuple[list[int], list[int]]:
    target = ToyModel(seed=1)
    drafter = similar(target, 0.4)
    session = toy_session(target, [drafter])
    session.start([1, 2, 3])
    target.forwards.clear()
    session.step(action)
    return target.forwards, drafter.forwards


def test_one_forward_of_the_drafter_a_level_and_one_of_the_target():
    shape = TreeShape((-1, -1, 0, 0, 1, 2), (0, 1, 0, 1, 0, 0))
    target, drafter = forwards_of(Action(3, tree=shape))
    assert target == [7]
    assert drafter == [3, 2, 1]  # the prompt, both nodes with children, the one below


def test_a_chain_as_a_tree_is_the_chain():
    rounds = []
    for action in (Action(4), Action(4, tree=TreeShape.chain(4))):
        session = toy_session(target := ToyModel(seed=3), [similar(target, 0.3)])
        session.start([1, 2, 3])
        rounds.append([session.step(action) for _ in range(3)])
    for one, other in zip(*rounds):
        for name in ("drafted", "accepted", "tokens", "draft_log_probs", "draft_survivals"):
            assert getattr(one, name) == getattr(other, name)


def test_two_branches_accept_what_either_would():
    """Siblings make good a wrong first choice; a second drafter what the first one misses."""
    target = ToyModel(seed=4)
    drafters = [similar(target, 0.5), similar(target, 0.6, seed=3)]

    def accepted(action: Action) -> int:
        session = toy_session(target, drafters, max_new_tokens=40)
        session.start([1, 2])
        found = 0
        while not session.finished:
            found += session.step(action).accepted
        return found

    wide = TreeShape((-1, -1, -1, 0, 1, 2), (0, 1, 2, 0, 0, 0))
    assert accepted(Action(2, tree=wide)) > accepted(Action(2))
    assert accepted(Action(2, 0, also=(1,))) > max(accepted(Action(2, n)) for n in (0, 1))


class Told:
    """A drafter whose choices after every path are given."""

    def __init__(self, confidences: dict[tuple[int, ...], list[float]]) -> None:
        self.given = confidences

    def after(self, nodes, tokens, parents, most):
        def path(node):
            return () if node < 0 else (*path(parents[node]), tokens[node])

        self.last = [self.given.get(path(node), [])[:count] for node, count in zip(nodes, most)]
        return [list(range(len(found))) for found in self.last]

    def confidences(self):
        return [[math.log(value) for value in found] for found in self.last]

    def renumber(self, nodes):
        self.kept = list(nodes)

    def chain(self, asked):
        return asked


@pytest.mark.parametrize(("nodes", "width"), [(1, 3), (4, 3), (7, 3), (12, 3), (7, 2), (7, 1)])
def test_a_tree_grows_best_first(nodes, width):
    """As with a heap: always the likeliest path that is left, its parent taken before."""
    random, depth = np.random.default_rng(0), 4
    paths = [path for n in range(depth) for path in itertools.product(range(3), repeat=n)]
    given = {path: sorted(random.dirichlet([0.5] * 3), reverse=True) for path in paths}
    chances = {(): 1.0}
    for path in paths:
        chances |= {(*path, token): chances[path] * given[path][token] for token in range(width)}
        for token in range(width, 3):
            chances[(*path, token)] = 0.0
    best = sorted(filter(None, chances), key=lambda path: -chances[path])[:nodes]
    tree = grown(Told(given), TreeGrowth(nodes, depth, width), drawn=False)
    made = []
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents)):
        assert parent < node
        made.append((*(made[parent] if parent >= 0 else ()), token))
    if width == 3:  # nothing was left out for width
        assert set(made) == set(best)
    assert len(made) == min(nodes, depth if width == 1 else nodes)
    spine = [path for path in made if not any(path)]
    assert len(tree.chain()) == len(spine)


def test_a_tree_that_grows_is_refused_where_tokens_are_drawn():
    session = toy_session(target := ToyModel(5, seed=3), [similar(target, 0.3)], temperature=1.0)
    session.start([1])
    with pytest.raises(ValueError, match="the 4 likeliest nodes leaves out tokens .*coupled"):
        session.step(Action(3, tree=TreeGrowth(4, 3, 2)))


def test_drafters_keep_what_was_accepted_of_their_trees():
    target = ToyModel(seed=6, context_length=200)
    session = toy_session(target, [similar(target, 0.4)], max_new_tokens=100)
    session.start([1, 2])
    model = session.models[0].model
    shape = TreeShape((-1, -1, 0, 0, 1, 1, 2), (0, 1, 0, 1, 0, 1, 0))
    turns = itertools.cycle([shape, TreeGrowth(7, 3, 3)])
    while not session.finished:
        session.step(Action(3, tree=next(turns)))
        assert model.cache == session.sequence.tokens[: len(model.cache)]
        assert target.cache == session.sequence.tokens[:-1]


@pytest.mark.parametrize("rule", ["rejection", "traversal"])
def test_identical_models_accept_everything_of_their_first_choices(rule):
    target = ToyModel(5, seed=3)
    session = toy_session(
        target, [similar(target, 0.0)], temperature=1.0, verification=rule, max_new_tokens=40
    )
    session.start([1], seed=5)
    shape = TreeShape((-1, -1, 0, 2), (0, 1, 0, 0))
    while not session.finished:
        played = session.step(Action(3, tree=shape))
        assert played.accepted == 3 or session.finished
        assert played.at_leaf


def test_what_has_no_draft_is_a_plain_step_and_misuse_is_refused():
    target = ToyModel(seed=8)
    drafters = [NgramLookup(), NgramLookup()]
    session = toy_session(target, drafters)
    session.start([1])
    played = session.step(Action(3, 0, also=(1,)))
    assert (played.drafted, played.accepted, len(played.tokens)) == (0, 0, 1)
    assert target.cache == session.sequence.tokens[:-1]
    session = toy_session(target, drafters, temperature=1.0, verification="traversal")
    session.start([1])
    with pytest.raises(ValueError, match="traversal verifies the draft of one drafter"):
        session.step(Action(3, 0, also=(1,)))
    with pytest.raises(ValueError, match="no drafter number 7"):
        session.step(Action(2, 0, also=(7,)))
