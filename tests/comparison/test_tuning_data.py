"""Where the parameters of controllers are tuned."""

from dataclasses import asdict, replace

import pytest

from adaspec_rl.comparison.workbench import training_data
from adaspec_rl.config import DataConfig
from tests.report.test_report import bundle

HELD_OUT = DataConfig(source="jsonl", path="bench.jsonl", test_share=1.0, chat="off")


def trained_on(data):
    policy = bundle(("cost",))
    return replace(policy, training={**policy.training, "data": data})


def test_a_training_split_is_tuned_on_where_there_is_one():
    data = replace(HELD_OUT, test_share=0.5)
    assert training_data(data, trained_on(asdict(DataConfig()))) == data


def test_where_all_is_held_out_what_the_policy_was_trained_on_is(tmp_path):
    path = tmp_path / "train.jsonl"
    path.touch()
    own = DataConfig(source="jsonl", path=str(path), train_prompts=7)
    assert training_data(HELD_OUT, trained_on(asdict(own))) == own


def test_without_the_policys_prompts_embedded_ones_are_and_a_warning_says_so(caplog):
    assert training_data(HELD_OUT, None) == DataConfig(chat="off")
    assert not caplog.records
    absent = asdict(DataConfig(source="jsonl", path="absent.jsonl"))
    assert training_data(HELD_OUT, trained_on(absent)) == DataConfig(chat="off")
    assert "absent.jsonl, which is not here" in caplog.text


@pytest.mark.parametrize("data", [{"path": ["a"]}, {"odd": 1}, {"test_share": "x"}])
def test_a_bundles_data_that_are_none_are_refused(data):
    with pytest.raises(ValueError, match="^training.data of the policy is no data configuration"):
        training_data(HELD_OUT, trained_on(data))
