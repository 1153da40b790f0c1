"""Bundles: whole or refused, and never executed."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.replay.cost_profile import CostProfile, RoundCosts
from adaspec_rl.training import bundle as bundles
from adaspec_rl.training.bundle import PolicyBundle, load_bundle, save_bundle

COSTS = RoundCosts(
    context=64,
    batch_size=1,
    autoregressive_step=2e-3,
    draft_step=(3e-4,),
    stopping_step=(2e-5,),
    verification=tuple(2e-3 + 1e-4 * w for w in range(9)),
    overhead=(1e-4,),
    catch_up=(1e-5,),
)
PROFILE = CostProfile("cpu", 5e-5, (COSTS, replace(COSTS, context=256, overhead=(2e-4,))))


def make_bundle() -> PolicyBundle:
    rng = np.random.default_rng(0)
    spec, actions = ObservationSpec(), tuple(action_list("length_threshold", 8))
    sizes = [len(spec), 16, 16, len(actions)]
    return PolicyBundle(
        actor=Actor(
            tuple(rng.normal(size=(a, b)).astype(np.float32) for a, b in zip(sizes, sizes[1:])),
            tuple(rng.normal(size=b).astype(np.float32) for b in sizes[1:]),
        ),
        actions=actions,
        spec=spec,
        pair="toy",
        fingerprint="0123456789abcdef",
        profile=PROFILE,
        survival=(ProductSurvival(),),
        training={"steps": 10},
    )


@pytest.fixture
def saved(tmp_path):
    save_bundle(make_bundle(), tmp_path / "policy")
    return tmp_path / "policy"


def edit(folder, change, reseal=False):
    path = folder / bundles.DESCRIPTION
    description = json.loads(path.read_text())
    change(description)
    if reseal:  # as a stranger with this package would
        description.pop("checksum")
        packed = (folder / bundles.WEIGHTS).read_bytes()
        description["checksum"] = bundles._checksum(description, packed)
    path.write_text(json.dumps(description))


def test_a_loaded_policy_decides_as_the_saved_one(saved):
    original, loaded = make_bundle(), load_bundle(saved)
    assert loaded.actions == original.actions and loaded.spec == original.spec
    assert loaded.profile == PROFILE and loaded.fingerprint == original.fingerprint
    for x in np.random.default_rng(1).normal(size=(50, len(original.spec))).astype(np.float32):
        assert loaded.controller().decide(x) == original.controller().decide(x)


def test_saving_replaces_the_folder_and_leaves_nothing_beside_it(saved):
    (saved / "stale").write_text("")
    save_bundle(make_bundle(), saved)
    assert sorted(path.name for path in saved.iterdir()) == ["policy.json", "policy.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


def test_loading_runs_no_code(saved, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("loading a bundle reached for code execution")

    for module, names in ((pickle, ("load", "loads", "Unpickler")),):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    import builtins

    for name in ("eval", "exec"):
        monkeypatch.setattr(builtins, name, refuse)
    load_bundle(saved)


def test_pickled_weights_are_not_even_looked_at(saved):
    class Bomb:
        def __reduce__(self):
            return (exec, ("raise SystemExit('boom')",))

    (saved / bundles.WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="altered or truncated"):
        load_bundle(saved)
    edit(saved, lambda _: None, reseal=True)
    with pytest.raises(ValueError, match="incomplete"):
        load_bundle(saved)


def test_truncated_and_altered_files_are_refused(saved):
    weights = saved / bundles.WEIGHTS
    packed = weights.read_bytes()
    weights.write_bytes(packed[:-40])
    with pytest.raises(ValueError, match="altered or truncated"):
        load_bundle(saved)
    weights.write_bytes(packed[:-1] + bytes([packed[-1] ^ 1]))
    with pytest.raises(ValueError, match="altered or truncated"):
        load_bundle(saved)
    weights.write_bytes(packed)
    edit(saved, lambda d: d["actions"][1].update(length=7))
    with pytest.raises(ValueError, match="altered or truncated"):
        load_bundle(saved)
    description = saved / bundles.DESCRIPTION
    description.write_text(description.read_text()[:-30])
    with pytest.raises(ValueError, match="is not JSON"):
        load_bundle(saved)
    description.unlink()
    with pytest.raises(ValueError, match=r"has no policy\.json"):
        load_bundle(saved)
    shutil.rmtree(saved)
    with pytest.raises(ValueError, match="is not a policy bundle"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=99), "schema 99 but this version reads 4"),
        (lambda d: d["observation"]["features"][0].update(name="moon"), "first difference: moon"),
        (lambda d: d["observation"]["features"][0].update(scale=9), "their order or scale"),
        (lambda d: d["actions"].pop(), "actions"),
        (lambda d: d.pop("network"), "incomplete"),
        (lambda d: d["observation"].update(groups=["weather"]), "unknown feature group"),
        (lambda d: d["cost_profile"]["points"][0].pop("overhead"), "lacks overhead"),
        (lambda d: d["cost_profile"].update(schema=1), "schema 1 is not 3: measure it anew"),
    ],
)
def test_foreign_bundles_are_refused_with_what_differs(saved, change, message):
    edit(saved, change, reseal=True)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


def test_another_pair_is_refused_by_name(saved):
    loaded = load_bundle(saved)
    loaded.check_pair("toy", "0123456789abcdef")
    with pytest.raises(ValueError, match="trained for the pair toy .* but this is llama"):
        loaded.check_pair("llama", "ffff")
