import pytest

from adaspec_rl.control.action import action_list, most_nodes
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.tree_shape import TreeShape


def test_lengths_only():
    assert action_list("length", 3) == [FALLBACK, Action(1), Action(2), Action(3)]


def test_thresholds_and_drafters_multiply():
    actions = action_list("length_threshold", 2, drafters=2, thresholds=(0.5,))
    assert actions[:4] == [FALLBACK, Action(1), Action(2), Action(2, 0, 0.5)]
    assert actions[4:] == [Action(1, 1), Action(2, 1), Action(2, 1, 0.5)]


TREE = TreeShape((-1, -1, 0), (0, 1, 0))


def test_trees_and_pairs_come_on_top():
    trees = [[TreeShape.chain(2), TREE], [TREE]]
    chains = action_list("length_threshold", 3, 2, (0.5,))
    with_trees = action_list("tree", 3, 2, (0.5,), trees)
    assert set(with_trees) - set(chains) == {Action(2, d, tree=TREE) for d in range(2)}
    every = action_list("all", 3, 2, (0.5,), trees)
    assert every[: len(with_trees)] == with_trees
    assert every[len(with_trees) :] == [Action(2, 0, also=(1,)), Action(3, 0, 0.5, also=(1,))]
    assert action_list("all", 1, 2, (), [[], []])[-1] == Action(1, 0, also=(1,))


def test_the_largest_tree_counts_all_that_may_be_merged():
    assert most_nodes([FALLBACK, Action(9)]) == 0
    assert most_nodes([Action(2, tree=TREE), Action(1, 0, also=(1,))]) == 3
    assert most_nodes([Action(2, tree=TREE), Action(4, 0, also=(1, 2))]) == 12


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "words"},
        {"max_length": 0},
        {"drafters": 0},
        {"kind": "tree"},
        {"kind": "all", "drafters": 2, "trees": [[TREE]]},
    ],
)
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="expected|at least|needs the token trees of"):
        action_list(**arguments)


@pytest.mark.parametrize("values", [{"length": -1}, {"length": 1, "threshold": 1.5}])
def test_actions_check_themselves(values):
    with pytest.raises(ValueError, match="must be"):
        Action(**values)
