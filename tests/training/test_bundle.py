"""Bundles: whole or refused, and never executed."""

import json
import pickle
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.decoding.tree_shape import TreeShape
from adaspec_rl.training import bundle as bundles
from adaspec_rl.training.bundle import PolicyBundle, load_bundle, save_bundle
from tests.mutations import mutated
from tests.recording.recordings import random_head

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


def branching_bundle() -> PolicyBundle:
    """Its actions draft trees, and with two drafters at once."""
    tree = TreeShape((-1, -1, 0, 0), (0, 1, 0, 1))
    actions = tuple(action_list("all", 8, 2, (0.5,), [[tree], [tree]]))
    spec, rng = ObservationSpec(drafters=2, trees=True, tables=2), np.random.default_rng(0)
    weight = rng.normal(size=(len(spec), len(actions))).astype(np.float32)
    two = {
        name: getattr(COSTS, name) * 2
        for name in ("draft_step", "stopping_step", "overhead", "catch_up")
    }
    costs = replace(
        COSTS,
        **two,
        tree_verification=tuple(2e-3 + 1e-4 * w for w in range(17)),
        levels=((2e-4,) * 16,) * 2,
    )
    return replace(
        make_bundle(),
        actor=Actor((weight,), (np.zeros(len(actions), dtype=np.float32),)),
        actions=actions,
        spec=spec,
        profile=CostProfile("cpu", 5e-5, (costs,)),
        survival=(ProductSurvival(),) * 2,
    )


def test_trees_and_pairs_of_drafters_travel_with_the_policy(tmp_path):
    bundle = branching_bundle()
    save_bundle(bundle, tmp_path / "policy")
    loaded = load_bundle(tmp_path / "policy")
    assert loaded.actions == bundle.actions and loaded.spec == bundle.spec
    assert loaded.profile == bundle.profile
    assert any(action.tree for action in loaded.actions)
    assert any(action.also for action in loaded.actions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda action: action.update(parents=[0, 0, 0, 0]), "node 0 has parent 0"),
        (lambda action: action.update(ranks=[]), "a tree needs 1 node or more and a rank for each"),
        (lambda action: action.update(length=7), "length is the depth of its tree, 2, got 7"),
        (lambda action: action.update(also=[5]), "drafts with drafter 5: expected one of the 2"),
        (lambda action: action.pop("also"), "lacks also"),
    ],
)
def test_a_tree_that_makes_no_sense_is_refused(tmp_path, change, message):
    save_bundle(branching_bundle(), tmp_path / "policy")
    place = next(n for n, action in enumerate(branching_bundle().actions) if action.tree)
    edit(tmp_path / "policy", lambda d: change(d["actions"][place]), reseal=True)
    with pytest.raises(ValueError, match=message):
        load_bundle(tmp_path / "policy")


def test_trees_beyond_the_cost_profile_are_refused():
    bundle = branching_bundle()
    wide = Action(1, tree=TreeShape((-1,) * 17, tuple(range(17))))
    with pytest.raises(ValueError, match="trees of up to 16 nodes, but one of 17 nodes"):
        replace(bundle, actions=(*bundle.actions[:-1], wide))


@pytest.fixture
def saved(tmp_path):
    save_bundle(make_bundle(), tmp_path / "policy")
    return tmp_path / "policy"


def edit(folder, change, reseal=False):
    path = folder / bundles.DESCRIPTION
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))
    if reseal:
        seal(folder)


def seal(folder, text=None):
    """Write the description, or `text`, with the right checksum, as a stranger can."""
    path = folder / bundles.DESCRIPTION
    if text is None:
        description = json.loads(path.read_text())
        description.pop("checksum")
        text = json.dumps(description)
    checksum = bundles._checksum(json.loads(text), (folder / bundles.WEIGHTS).read_bytes())
    path.write_text(text.replace("{", f'{{"checksum": "{checksum}", ', 1), encoding="utf-8")


def reweigh(folder, change):
    """Alter the arrays in place, or by what `change` returns, and seal the bundle."""
    path = folder / bundles.WEIGHTS
    weights = {name: array.copy() for name, array in load(path.read_bytes()).items()}
    path.write_bytes(save(change(weights) or weights))
    seal(folder)


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
    seal(saved)
    with pytest.raises(ValueError, match=r"cannot be used: policy\.safetensors is damaged"):
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
    with pytest.raises(ValueError, match=r"policy\.json is not JSON"):
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
        (lambda d: d.update(schema=99), "schema 99 but this version reads 5"),
        (lambda d: d["observation"]["features"][0].update(name="moon"), "first difference: moon"),
        (lambda d: d["observation"]["features"][0].update(scale=9), "their order or scale"),
        (lambda d: d["actions"].pop(), "actions"),
        (lambda d: d.update(schema=5.0), "schema 5.0 but"),
        (lambda d: d.update(schema=None), "schema None but"),
        (lambda d: d.pop("network"), "lacks network"),
        (lambda d: d.update(moon=1), "has an unknown 'moon'"),
        (lambda d: d["pair"].update(name=7), r"pair\.name is 7: expected a text"),
        (lambda d: d["pair"].update(name="\x1b[2J"), r"pair\.name is .*: expected a text"),
        (lambda d: d["observation"].update(groups=["weather"]), "unknown feature group"),
        (lambda d: d["observation"].update(groups=["cost", "cost"]), "'cost' is named twice"),
        (lambda d: d["observation"].update(drafters=2), r"drafters is 2: expected 1"),
        (lambda d: d["observation"].update(drafters=10**12), r"drafters is 10+: expected 1"),
        (lambda d: d["observation"].update(vocab_size=0), "vocab_size of at least 2, got 8 and 0"),
        (lambda d: d["observation"].update(max_length=True), "max_length is true: expected an int"),
        (lambda d: d.update(actions=[]), "from 31 features to 0 actions"),
        (lambda d: d["actions"][3].update(rule="fast"), r'actions\[3\]\.rule is "fast": .* null'),
        (
            lambda d: d["actions"][3].update(drafter=7),
            r"actions\[3\] drafts with drafter 7: .* 1 dr",
        ),
        (lambda d: d["actions"][3].update(drafter=-1), r"actions\[3\] drafts with drafter -1"),
        (lambda d: d["actions"][3].update(length=9), r"actions\[3\] is to draft 9: .* at most 8"),
        (lambda d: d["actions"][3].update(length=2.5), r"length is 2\.5: expected an integer"),
        (lambda d: d["actions"][3].update(threshold=2), r"threshold must be in \[0, 1\], got 2"),
        (lambda d: d["actions"][3].pop("rule"), r"actions\[3\] lacks rule"),
        (lambda d: d["network"].update(activation="relu"), "activation is 'relu': expected 'tanh'"),
        (lambda d: d["network"].update(layers=[]), "weights of shapes .* expected layers from 31"),
        (lambda d: d["network"]["layers"][0].reverse(), r"layers has shapes \(\(16, 31\), "),
        (lambda d: d["network"]["layers"].append([3, 3]), r"lacks layer3\.weight"),
        (lambda d: d["network"].update(layers=7), r"network\.layers is 7: expected a list"),
        (lambda d: d.update(survival=["head"]), "survival head lacks agreement"),
        (lambda d: d.update(survival=["luck"]), r"survival\[0\] is 'luck': expected 'product' or"),
        (lambda d: d.update(survival=[]), "drafters is 1: expected 0"),
        (lambda d: d.update(cost_profile=None), "cost_profile is null: expected an object"),
        (lambda d: d["cost_profile"]["points"][0].pop("overhead"), "lacks overhead"),
        (lambda d: d["cost_profile"].update(schema=1), "schema 1 is not 3: measure it anew"),
        (lambda d: d["cost_profile"].update(policy=True), "policy is true: expected a finite num"),
        (lambda d: d["training"].update(speedup="much"), r'training\.speedup is "much"'),
        (lambda d: d.update(training=None), "training is null: expected an object"),
        (lambda d: d["versions"].update(torch=2), r"versions\.torch is 2: expected a text"),
    ],
)
def test_foreign_bundles_are_refused_with_what_differs(saved, change, message):
    edit(saved, change, reseal=True)
    with pytest.raises(ValueError, match=message) as caught:
        load_bundle(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["layer1.weight"].fill(np.nan), "weights that are not finite"),
        (lambda w: w["layer1.bias"].fill(np.inf), "weights that are not finite"),
        (lambda w: w["layer1.bias"].fill(1e30), "weights that are not finite, or above 1e"),
        (lambda w: {**w, "layer1.bias": np.zeros(16)}, "float64 numbers in 'layer1.bias'"),
        (lambda w: {**w, "layer1.bias": np.zeros(7, np.float32)}, "biases of .*7"),
        (lambda w: {**w, "layer1.bias": np.float32(0)[None][0:0]}, "biases of .*0"),
        (lambda w: {**w, "layer1.weight": w["layer1.weight"].ravel()}, "network.layers has shapes"),
        (lambda w: {**w, "moon": np.zeros(1, np.float32)}, "has an unknown 'moon'"),
        (lambda w: {k: v for k, v in w.items() if k != "layer2.bias"}, r"lacks layer2\.bias"),
    ],
)
def test_foreign_weights_are_refused_with_what_differs(saved, change, message):
    reweigh(saved, change)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


def test_flat_weights_whose_description_fits_are_refused(saved):
    reweigh(saved, lambda w: {**w, "layer1.weight": w["layer1.weight"].ravel()})
    edit(saved, lambda d: d["network"]["layers"].__setitem__(1, [256]), reseal=True)
    with pytest.raises(ValueError, match="weights of shapes .*256,.* expected layers from 31"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nests lists and objects more than 64 deep"),
        ('{"schema": 5, "a": ' + "[" * 200 + "]" * 200 + "}", "more than 64 deep"),
        ('{"schema": 5, "schema": 5}', "has the key 'schema' twice"),
        ('{"schema": 5, "training": NaN}', "has NaN in place of a number"),
        ('{"schema": 5, "training": 1e999}', "has the number 1e999"),
        ("", "is empty"),
        ("[]", "has schema None but this version reads 5"),
    ],
)
def test_what_is_not_strict_json_is_refused_before_the_checksum(saved, text, message):
    (saved / bundles.DESCRIPTION).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_bundle(saved)


def test_a_head_for_another_vocabulary_is_refused(tmp_path):
    heads = (random_head(4096),)
    save_bundle(replace(make_bundle(), survival=heads), tmp_path / "policy")
    kept = load_bundle(tmp_path / "policy").survival[0]
    assert all(map(np.array_equal, kept.tensors().values(), heads[0].tensors().values()))
    with pytest.raises(ValueError, match="knows 8 tokens: expected the 4096 of the vocabulary"):
        replace(make_bundle(), survival=(random_head(8),))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_policy_that_is_not_finite_is_never_saved(tmp_path, value):
    actor = make_bundle().actor
    weights = (*actor.weights[:-1], np.full_like(actor.weights[-1], value))
    with pytest.raises(ValueError, match="not finite.* lower agent.learning_rate"):
        save_bundle(replace(make_bundle(), actor=replace(actor, weights=weights)), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_single_bit_flips_and_cuts_are_refused(saved):
    rng = np.random.default_rng(0)
    for name in (bundles.WEIGHTS, bundles.DESCRIPTION):
        path = saved / name
        whole = path.read_bytes()
        for _ in range(60):
            flipped = bytearray(whole)
            flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(ValueError):
                load_bundle(saved)
        for _ in range(30):
            path.write_bytes(whole[: rng.integers(len(whole) - 1)])
            with pytest.raises(ValueError):
                load_bundle(saved)
        path.write_bytes(whole)
    load_bundle(saved)


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest") / "policy"
    save_bundle(replace(make_bundle(), survival=(random_head(4096),)), folder)
    return folder, json.loads((folder / bundles.DESCRIPTION).read_text())


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_altered_descriptions_are_refused_in_one_sentence_or_work(honest, data):
    folder, description = honest
    unsealed = {name: part for name, part in description.items() if name != "checksum"}
    text = data.draw(mutated(unsealed))
    seal(folder, text)
    try:
        bundle = load_bundle(folder)
    except ValueError as error:
        assert "\n" not in str(error) and str(folder) in str(error), str(error)
        assert "checksum" not in str(error), str(error)
        return
    observation = np.ones(len(bundle.spec), np.float32)
    assert bundle.controller().decide(observation) in bundle.actions
    assert bundle.guarded().decide(observation).length <= bundle.spec.max_length
    assert np.isfinite(bundle.profile.points[0].features().values()).all()
    for survival in bundle.survival:
        assert 0 <= survival.one(5, 7, -0.5, 1.0, 3, True) <= 1


def pair_like(name, fingerprint, drafters=1, vocab_size=4096):
    target = SimpleNamespace(vocab_size=vocab_size)
    return SimpleNamespace(
        name=name, fingerprint=fingerprint, drafters=(None,) * drafters, target=target
    )


def test_another_pair_is_refused_by_name(saved):
    loaded = load_bundle(saved)
    loaded.check_pair(pair_like("toy", "0123456789abcdef"))
    with pytest.raises(ValueError, match="trained for the pair toy .* but this is llama"):
        loaded.check_pair(pair_like("llama", "ffff"))
    for other in ({"drafters": 2}, {"vocab_size": 8}):  # the fingerprint was forged
        with pytest.raises(ValueError, match="trained for the pair toy .* but this is toy"):
            loaded.check_pair(pair_like("toy", "0123456789abcdef", **other))


def test_sampling_by_another_rule_than_the_policys_own_is_refused():
    trained = {"temperature": 0.8, "verification": "coupled"}
    bundle = replace(make_bundle(), training=trained)
    bundle.check_verification("coupled")
    with pytest.raises(ValueError, match="trained for env.verification=coupled but this is rej"):
        bundle.check_verification("rejection")
    replace(bundle, training=trained | {"temperature": 0.0}).check_verification("rejection")
