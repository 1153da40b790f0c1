"""Rounds that branch, against trees that are written out token by token."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.replay.outcomes import outcomes, positions
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import profile, toy_trace, toys
from tests.recording.trees import shapes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    made = toys(noise=(0.3, 0.6))
    made.drafters = [*made.drafters, NgramLookup()]
    return made, toy_trace(tmp_path_factory.mktemp("traces"), made, ranks=True, eos_ids=(2,))


def paths(shape: TreeShape, model, so_far: list[int], room: int) -> set[tuple[int, ...]]:
    """Every path of a tree that is drafted greedily, as its tokens."""
    found: list[tuple[int, ...]] = []
    for parent, rank in zip(shape.parents, shape.ranks):
        before = () if parent < 0 else found[parent]
        scores = model.logits([*so_far, *before]).numpy()
        found.append((*before, int(np.argsort(-scores, kind="stable")[rank])))
    return {path for path in found if len(path) <= room}


def spelled(tree: set[tuple[int, ...]], ahead: list[int]) -> int:
    """Tokens of the longest path that spells what lies ahead."""
    return max((n for n in range(1, len(ahead) + 1) if tuple(ahead[:n]) in tree), default=0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=shapes(), drafter=st.integers(0, 1))
def test_a_trees_rounds_are_those_of_the_tree_written_out(recorded, shape, drafter):
    made, trace = recorded
    found = outcomes(trace, [Action(shape.depth, drafter, tree=shape)])
    room, model = positions(trace)[2], made.drafters[drafter].model
    for text, start in zip(trace.texts, trace.starts):
        tokens = text.tokens.tolist()
        for g in range(len(tokens)):
            at = start + g
            tree = paths(shape, model, [*text.prompt.tolist(), *tokens[:g]], room[at])
            accepted = spelled(tree, tokens[g:])
            assert (found.drafted[0, at], found.accepted[0, at]) == (len(tree), accepted)
            path = tuple(tokens[g : g + accepted])
            goes_on = any(len(p) == accepted + 1 and p[:accepted] == path for p in tree)
            reached = min(accepted + goes_on, len(tree), len(tokens) - g)
            assert found.reached[0, at] == reached
            work = found.works[found.work[0, at]]
            depths = [len(path) for path in tree]
            levels = tuple(depths.count(d) for d in range(1, max(depths, default=0) + 1))
            assert work.nodes == len(tree) == sum(levels)
            assert [draft.levels for draft in work.drafts] == ([levels] if levels else [])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    length=st.integers(1, 4),
    drafters=st.permutations(range(3)),
    count=st.integers(2, 3),
    threshold=st.sampled_from([0.0, 0.2, 0.6]),
)
def test_merged_chains_share_prefixes_and_the_longest_stands(
    recorded, length, drafters, count, threshold
):
    _, trace = recorded
    first, *also = drafters[:count]
    action = Action(length, first, threshold, also=tuple(also))
    alone = [Action(length, drafter, threshold) for drafter in drafters[:count]]
    found, apart = outcomes(trace, [action]), outcomes(trace, alone)
    for at in range(len(found.context)):
        chains = [
            tuple(trace.drafters[d].tokens[at, : apart.drafted[n, at]].tolist())
            for n, d in enumerate(drafters[:count])
        ]
        tree = {chain[:n] for chain in chains for n in range(1, len(chain) + 1)}
        assert found.drafted[0, at] == len(tree)
        assert found.accepted[0, at] == apart.accepted[:, at].max()
        work = found.works[found.work[0, at]]
        lengths = {d: len(chain) for d, chain in zip(drafters, chains) if chain}
        assert {draft.drafter: len(draft.levels) for draft in work.drafts} == lengths
        assert all(draft.stopping == (threshold > 0) for draft in work.drafts)


def test_a_chain_as_a_tree_costs_and_brings_what_the_chain_does(recorded):
    _, trace = recorded
    session = ReplaySession(trace, profile(drafters=3))
    for drafter in range(3):
        actions = [Action(3, drafter), Action(3, drafter, tree=TreeShape.chain(3))]
        for text in trace.texts:
            played = []
            for action in actions:
                session.start(text.prompt.tolist(), text.seed)
                while session.finished is None:
                    played.append(session.step(action))
            half = len(played) // 2
            for chain, tree in zip(played[:half], played[half:]):
                assert replace(chain, rejected=(), at_leaf=tree.at_leaf, levels=tree.levels) == tree
                assert chain.reached == tree.reached


def test_what_cannot_be_replayed_is_refused(recorded, tmp_path):
    _, trace = recorded
    tree = TreeShape((-1, -1), (0, 1))
    with pytest.raises(ValueError, match="merges chains of several drafters, no trees"):
        outcomes(trace, [Action(1, 0, tree=tree, also=(1,))])
    with pytest.raises(ValueError, match="no drafter number 3: the trace has 0 to 2"):
        outcomes(trace, [Action(1, 0, also=(3,))])
    without = toy_trace(tmp_path)
    with pytest.raises(ValueError, match="no ranks of toy90's choices"):
        outcomes(without, [Action(1, 0, tree=tree)])
    session = ReplaySession(trace, profile(drafters=3))
    session.start([1, 2])
    with pytest.raises(ValueError, match="trees of up to 16 nodes, but one of 17 nodes"):
        session.step(Action(1, 0, tree=TreeShape((-1,) * 17, tuple(range(17)))))
