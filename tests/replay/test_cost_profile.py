import pytest

from adaspec_rl.replay.cost_profile import CostProfile, measure
from tests.toy import ToyModel, similar, toy_session


def test_measured_parts_add_up_and_survive_saving(tmp_path):
    target = ToyModel(seed=1)
    session = toy_session(target, [similar(target, 0.3)], max_new_tokens=40)
    shares = []
    profile = measure(session, [[1, 2], [3], [4, 5]], max_length=4, progress=shares.append)
    assert shares[-1] == 1.0 and shares == sorted(shares)
    assert profile.max_length == 4 and len(profile.draft_step) == 1
    assert profile.seconds(0, 0) == profile.autoregressive_step
    assert profile.seconds(0, 3) == pytest.approx(
        3 * profile.draft_step[0] + profile.verification[3] + profile.overhead
    )
    profile.save(tmp_path / "profile.json")
    assert CostProfile.load(tmp_path / "profile.json") == profile


def test_a_session_without_drafters_has_only_a_target():
    profile = measure(toy_session(ToyModel(seed=1), []), [[1, 2], [3]], max_length=2)
    assert profile.draft_step == () and profile.overhead == 0.0


def test_features_are_in_units_of_one_autoregressive_step():
    profile = CostProfile("cpu", 2.0, (0.5,), (2.0, 2.1, 2.2), 0.1)
    features = profile.features()
    assert features.draft_step == 0.25 and features.overhead == 0.05
    assert features.verification_step == pytest.approx(0.05)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="positive seconds"):
        CostProfile("cpu", 0.0, (0.5,), (2.0,), 0.1)
    with pytest.raises(ValueError, match="covers drafts of up to 2 tokens, got 3"):
        CostProfile("cpu", 2.0, (0.5,), (2.0, 2.1, 2.2), 0.1).seconds(0, 3)
    with pytest.raises(ValueError, match="lacks device, autoregressive_step"):
        CostProfile.from_dict({"schema": 1})
    with pytest.raises(ValueError, match="schema 7 is not 1"):
        CostProfile.from_dict({"schema": 7})
