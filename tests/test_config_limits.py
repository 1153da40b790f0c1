"""Every setting has limits; whatever is typed, it is valid or refused in one sentence."""

import math
import shlex
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl import config as schema
from adaspec_rl.command import checked, is_mistake
from adaspec_rl.config import CONF
from adaspec_rl.config_limits import CONTROLLER, LIMITS, SHAPE
from adaspec_rl.explanation import explain, quoted
from adaspec_rl.limits import (
    Either,
    Flag,
    Limit,
    ListOf,
    Number,
    OrNull,
    TableOf,
    Text,
    Whole,
    Words,
)
from tests.command_line import PARSER, composed, configured, refusal


def leaves() -> set[str]:
    found = {*schema.keys(schema.TrainConfig), *schema.keys(schema.EvaluateConfig)}
    return {key for key in found if not any(other.startswith(f"{key}.") for other in found)}


def test_every_setting_has_limits():
    assert leaves() == set(LIMITS)


def test_closed_lists_are_those_of_the_parts():
    from adaspec_rl.comparison.compare import MODES
    from adaspec_rl.comparison.contestants import NAMES
    from adaspec_rl.control.observation import GROUPS
    from adaspec_rl.decoding.verification import RULES
    from adaspec_rl.decoding.verification.lossy import LOSSY
    from adaspec_rl.engine.load_options import ENGINES
    from adaspec_rl.engine.quantization import QUANTIZATIONS
    from adaspec_rl.envs.reward import REWARDS
    from adaspec_rl.envs.spec_decode import TIMINGS
    from adaspec_rl.pairs.inflate import SHAPES
    from adaspec_rl.pairs.pair import MEMORY

    for key, words in {
        "env.verification": (*RULES, *LOSSY),
        "engine.name": ENGINES,
        "env.reward": REWARDS,
        "env.timing": TIMINGS,
        "evaluation.mode": MODES,
        "model.memory": MEMORY,
        "controller.name": NAMES,
    }.items():
        assert LIMITS[key].words == tuple(words), key
    assert LIMITS["env.features"].item.words == GROUPS
    assert LIMITS["model.quantize"].limit.words == QUANTIZATIONS
    assert SHAPE.words == tuple(SHAPES)
    assert set(LIMITS["logger.name"].words) == {path.stem for path in CONF.glob("logger/*.yaml")}
    assert set(CONTROLLER.words) == {path.stem for path in CONF.glob("controller/*.yaml")}


def choices() -> list[tuple[str, ...]]:
    """Every file of every group, with what it needs besides."""
    needs = {
        "data=jsonl": ("data.path=a.jsonl",),
        "data=gsm8k": ("data.path=a.jsonl",),
        "data=hub": ("data.name=a/b",),
        "cost=file": ("cost.path=a.json",),
        "model=pair": ("model.target=a", "model.drafter=b"),
        "agent=ppo_live": ("env=live",),
        "env=live": ("agent=ppo_live",),
    }
    names = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]
    return [(name, *needs.get(name, ())) for name in names]


@pytest.mark.parametrize("overrides", choices(), ids=lambda overrides: overrides[0])
def test_every_file_of_the_configuration_passes(overrides, monkeypatch):
    monkeypatch.setattr("adaspec_rl.config_conflicts.find_spec", lambda name: object())
    for script in ("train_policy", "evaluate")[overrides[0].startswith("controller=") :]:
        checked(composed(*overrides, script=script), script)


def ends(limit: Limit) -> tuple[list[str], list[str]]:
    """Values at the limit's ends as one types them: those it allows, those just beyond."""
    match limit:
        case OrNull(inner):
            good, bad = ends(inner)
            return [*good, "null"], [value for value in bad if value != "null"]
        case Words(words):
            return list(words), ["nope", "''", "5", "[a]"]
        case Whole(low, high):
            wrong = [low - 1, high + 1, 10**18, 1e18, 0.5, "many", "nan", "inf", "[1]", "''"]
            return [str(low), str(high)], list(map(str, wrong))
        case Number(low, high, above, below):
            good = [low, high][above : 1 if below else 2] or [(low + high) / 2]
            bad = [low - 1, high + 1, "nan", "inf", "-inf", "1e30", "many", "[1]"]
            bad += [low] * above + [high] * below
            return list(map(str, good)), list(map(str, bad))
        case Flag():
            return ["true", "false"], ["perhaps", "[true]"]
        case TableOf(_):
            return ["{}"], ["5", "[1]", "word"]
        case ListOf(item, least, most, repeated):
            good, bad = ends(item)
            bad = [f"[{value}]" for value in bad] + [f"[[{good[0]}]]", "[null]", "5", "null"]
            bad += ["[]"] * (least > 0) + [f"[{good[0]},{good[0]}]"] * (not repeated)
            bad += [f"[{','.join([good[0]] * (most + 1))}]"]
            return [f"[{value}]" for value in good], bad
        case Either(Number() as one, _):
            good, bad = ends(one)
            return [*good, f"[{good[0]}]"], [value for value in bad if value != "[1]"]
        case Either(_, _):
            return ["all", "[fixed,oracle]", "ucb1"], [
                "abc",
                "[]",
                "5",
                "[abc]",
                "{a: 1}",
                "[[all]]",
            ]
        case Text(_, pattern):
            if pattern == Text().pattern:
                return ["word", "'ü='"], ["''", "'  '", "[a]"]
            if "{text}" in LIMITS["data.template"].wanted and "text" in pattern:
                return ["'Q: {text}'"], ["''", "word", "5"]
            return ["cpu", "auto"], ["mps", "meta", "''", "5", "cuda:x", "cuda:-1", "CPU"]
    raise AssertionError(limit)


def script_of(key: str) -> str:
    return "evaluate" if key in ("policy", "rivals") else "train_policy"


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_what_is_beyond_a_limit_is_refused_by_name(key):
    for value in ends(LIMITS[key])[1]:
        sentence = refusal(f"{key}={value}", script=script_of(key))
        assert sentence and sentence.startswith(f"{key} must be "), (key, value, sentence)
        assert "\n" not in sentence and LIMITS[key].wanted in sentence


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_what_is_within_a_limit_is_allowed(key):
    for value in ends(LIMITS[key])[0]:
        sentence = refusal(f"{key}={value}", script=script_of(key))
        assert sentence is None or LIMITS[key].wanted not in sentence, (key, value, sentence)


scalars = st.one_of(
    st.none().map(lambda _: "null"),
    st.booleans().map(lambda value: str(value).lower()),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(["", "nan", "inf", "-inf", "1e400", "0x10", "???", "${seed}", "${nothing}"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.text(string.printable, max_size=12).map(quoted),
)
typed = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=4), inner, max_size=3)
        .map(lambda items: "{" + ",".join(f"{k}:{v}" for k, v in items.items()) + "}"),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(sorted(LIMITS)), value=typed, sign=st.sampled_from(["", "+", "++"]))
def test_whatever_is_typed_is_valid_or_refused_in_one_sentence(key, value, sign):
    script = script_of(key)
    try:
        found = configured(f"{sign}{key}={value}", script=script)
        sentence = None
    except Exception as error:
        assert is_mistake(error), repr(error)
        sentence = explain(error, script)
    if sentence is None:
        for part in key.split("."):
            found = getattr(found, part)
        assert LIMITS[key].allows(found)
        assert not any(isinstance(x, float) and not math.isfinite(x) for x in flat(found))
    else:
        assert sentence and "\n" not in sentence and len(sentence) < 1000
        assert "Traceback" not in sentence and "hydra.cc" not in sentence


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return flat(list(value.values()))
    if isinstance(value, list):
        return [part for item in value for part in flat(item)]
    return [value]


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_the_form_that_a_refusal_suggests_is_read_as_the_text_that_was_meant(text):
    (override,) = PARSER.parse_overrides([f"data.path={quoted(text)}"])
    assert override.value() == text.replace("${", r"\${")
    if text.strip():
        sentence = refusal(f"policy={text}", script="evaluate")
        if sentence and "quote the value" in sentence:
            suggested = sentence.split("quote the value, ")[1].removesuffix(", or add -m")
            (argument,) = shlex.split(suggested)
            assert configured(argument, script="evaluate").policy == text


@pytest.mark.parametrize(
    "name", ["a=b", "a(b", "a#b", "it's", "ü", "日本", "a;b", 'a"b', "{a}", "[a].x"]
)
def test_paths_that_need_quotes_say_how_to_quote_them(name):
    sentence = refusal(f"policy={name}", script="evaluate")
    assert sentence and sentence.startswith(f"policy={name} cannot be read as it is: ")
    (argument,) = shlex.split(sentence.split("quote the value, ")[1])
    assert configured(argument, script="evaluate").policy == name


def test_a_cost_profile_needs_no_quotes():
    found = composed("cost=it's=ü.json")
    assert found.cost.path == "it's=ü.json"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("+agent.lr=3", "unknown key 'agent.lr': did you mean agent.learning_rate?"),
        ("++agent.gama=3", "unknown key 'agent.gama': did you mean agent.gamma"),
        ("+sed=3", "unknown key 'sed': did you mean seed?"),
        ("+env.zzz=1", "unknown key 'env.zzz': expected one of env.session, "),
        ("agent.learning_rte=1", "unknown key 'agent.learning_rte': did you mean agent.learning_"),
        ("seed", "expected KEY=VALUE, got 'seed'"),
    ],
)  # fmt: skip
def test_keys_that_there_are_not_are_refused_with_near_matches(argument, sentence):
    found = refusal(argument)
    assert found and found.startswith(sentence)
