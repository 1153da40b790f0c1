"""The configuration group `cost`: measured, from a file, or by name."""

import json

import pytest
from omegaconf import OmegaConf

from adaspec_rl import from_config
from adaspec_rl.command import expand
from adaspec_rl.config import CONF, CostConfig
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.from_config import saved_profile_from
from tests import PROJECT
from tests.command_line import composed
from tests.recording.recordings import profile

COSTS = profile(max_length=4)


def test_costs_are_measured_unless_said_otherwise():
    cost = composed().cost
    assert saved_profile_from(cost) is None
    assert cost.contexts == [64, 256] and cost.batch_sizes == [1] and cost.batch_size == 1


def test_a_file_on_the_command_line_is_read(tmp_path, monkeypatch):
    COSTS.save(tmp_path / "here" / "my-costs.json")
    monkeypatch.chdir(tmp_path)
    for path in ("here/my-costs.json", str(tmp_path / "here" / "my-costs.json")):
        assert saved_profile_from(composed(f"cost={path}").cost) == COSTS


@pytest.mark.parametrize(
    "argument", ["cost=measured", "cost.path=a.json", "data.path=a.json", "-m"]
)
def test_other_arguments_stay_as_they_are(argument):
    assert expand(argument) == [argument]


def test_named_profiles_are_found_from_any_folder(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    COSTS.save(project / "cost" / "mine.json")
    monkeypatch.setattr(from_config, "CONF", project)
    monkeypatch.chdir(elsewhere)
    assert saved_profile_from(CostConfig("file", "cost/mine.json")) == COSTS


def test_every_named_profile_that_ships_is_sound():
    for path in CONF.glob("cost/*.json"):
        found = saved_profile_from(composed(f"cost={path.stem}").cost)
        assert found == CostProfile.load(path)


def test_an_absent_file_is_named_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no cost profile nowhere\.json: expected"):
        saved_profile_from(composed("cost=nowhere.json").cost)


def test_a_benchmark_writes_what_the_group_reads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    from costs import write_named

    write_named(COSTS, "mine", "made up", tmp_path)
    written = OmegaConf.load(tmp_path / "mine.yaml")
    assert json.loads((tmp_path / "mine.json").read_text())["schema"] == 3
    cost = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(CostConfig), written))
    assert saved_profile_from(cost) == COSTS
