"""Costs of batched rounds: interpolation, levels of a draft, files, and the modelled GPU."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.config import CONF
from adaspec_rl.costs.batch_costs import BatchCosts, DrafterCosts, Drafting
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.costs.modelled_gpu import H200, LLAMA_8B, modelled

FILE = CONF / "batch_cost" / "h200_modelled.json"


def seconds(rows: float, width: float, context: float) -> float:
    return 2.0 + 3.0 * rows + 0.5 * rows * width + 0.25 * context


def linear() -> ForwardCosts:
    rows, widths, contexts = (1, 4, 8), (1, 2, 5), (10, 100)
    table = tuple(tuple(tuple(seconds(r, w, c) for c in contexts) for w in widths) for r in rows)
    return ForwardCosts(rows, widths, contexts, table)


@pytest.mark.parametrize("rows, width, context", [(1, 1, 10), (3, 1.5, 40), (9, 7, 300), (8, 2, 5)])
def test_passes_are_linear_between_and_beyond_what_was_measured(rows, width, context):
    found = linear()(np.array([rows, 0]), np.array([rows * width, 0]), np.array(context))
    assert found == pytest.approx([seconds(rows, width, context), 0.0])


def test_axes_of_one_place_make_no_difference():
    flat = ForwardCosts((1,), (1,), (1,), (((0.5,),),))
    assert flat(np.array([1, 7]), np.array([9, 90]), np.array(1000)).tolist() == [0.5, 0.5]


def test_drafting_goes_level_by_level():
    target = ForwardCosts((1,), (1, 2), (1,), (((10.0,), (11.0,)),))
    model = DrafterCosts(
        ForwardCosts((1, 2), (1, 2), (1,), (((1.0,), (1.5,)), ((1.2,), (2.2,)))), 0.25, 0.125
    )
    costs = BatchCosts("toy", target, (model, model), overhead=0.5)
    drafting = Drafting(
        rows=np.array([[[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], np.zeros((2, 3))]),
        unread=np.array([[2.0, 0.0], [0.0, 0.0]]),
        stopping=np.array([[[True, True, False], [False] * 3], [[False] * 3] * 2]),
    )
    found = costs.seconds(np.ones(2), np.array([1.0, 0.0]), np.ones(2), drafting)
    # Level 1: 2 rows that read 4 tokens; level 2: one row and token.
    assert found == pytest.approx([11.0 + 0.5 + 2.2 + 1.0 + 2 * 0.25 + 0.125, 10.5])


def test_a_file_says_the_same(tmp_path):
    costs = modelled()
    costs.save(tmp_path / "costs.json")
    assert BatchCosts.load(tmp_path / "costs.json") == costs


def test_the_shipped_file_is_the_model_and_says_so():
    assert BatchCosts.load(FILE) == modelled()
    assert "modelled and not measured" in json.loads(FILE.read_text())["device"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 2}, "schema 2: expected 1"),
        ({"overhead": -1.0}, "overhead must be at least 0"),
        ({"target": {**linear().__dict__, "rows": [4, 1, 8]}}, "expected rising rows"),
        ({"target": {**linear().__dict__, "rows": [1, 4]}}, "expected seconds of shape"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    content = modelled().to_dict() | change
    for part in ("_axes", "_table"):
        content["target"].pop(part, None)
    (tmp_path / "costs.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        BatchCosts.load(tmp_path / "costs.json")


def test_a_plain_step_of_the_model_is_near_the_limit_of_its_bandwidth():
    costs = modelled()
    alone = float(costs.verifying(np.array(1.0), np.array(0.0), np.array(100.0)))
    limit = LLAMA_8B.number * LLAMA_8B.weights / H200.bytes
    assert limit / 0.85 < alone < 1.15 * limit / 0.85
    full = float(costs.verifying(np.array(512.0), np.array(0.0), np.array(100.0)))
    assert full > 3 * alone  # products decide, not weights
    assert float(costs.verifying(np.array(8.0), np.array(8.0), np.array(100.0))) == pytest.approx(
        float(costs.verifying(np.array(8.0), np.array(0.0), np.array(100.0))), 1e-3
    )


def test_features_are_in_plain_rounds():
    costs = replace(modelled(), overhead=0.0)
    found = costs.features(4, 200.0)
    plain = float(costs.verifying(np.array(4.0), np.array(0.0), np.array(200.0)))
    level = float(costs.drafting(0, np.array(4.0), np.array(200.0)))
    assert found.draft_step == pytest.approx(level / plain)
    assert found.batch_size == 4
    assert len(found.other_draft_steps) == 1
