"""Exports: files that engines' published interfaces allow, and predictions that hold for them.

The interfaces are those that each module's `INTERFACE` names; nothing of the engines is imported.
"""

import inspect
import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.decoding.round import Action
from adaspec_rl.interop import export, schedules, to_llama_cpp, to_onnx, to_tensorrt_llm, to_vllm
from adaspec_rl.interop.exported import FILE, load_export
from adaspec_rl.interop.replayed import predictions
from adaspec_rl.interop.sglang import EmaSteps, LearnedSteps
from adaspec_rl.interop.table import DraftTable
from tests.interop.shop import LOOKUP, MODEL, hostile, shop

STEPS = st.lists(st.lists(st.floats(0.1, 10), min_size=5, max_size=5), min_size=3, max_size=3).map(
    np.array
)


def config(exports, to: str, name: str):
    return json.loads((exports[to][0] / name).read_text())


@pytest.mark.parametrize("to", [to for to in export.KINDS if to != "onnx"])
def test_what_an_export_predicts_is_what_its_files_bring(to, exports, small_shop):
    folder, made = exports[to]
    assert made.parts and load_export(folder) == made
    again = export.repredicted(folder, small_shop)
    for part in made.parts:
        assert [one.rows for one in part.predictions] == [1, 4]
        assert again[part.name] == part.predictions
        assert part.lost and part.use and all((folder / name).is_file() for name in part.files)


@pytest.mark.parametrize("to", ["vllm", "tensorrt-llm"])
def test_another_schedule_in_the_file_predicts_something_else(to, exports, small_shop, tmp_path):
    folder, made = exports[to]
    part = made.part("schedule")
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = config(exports, to, "speculative_config.json")
    if to == "vllm":
        changed["num_speculative_tokens_per_batch_size"] = [[1, 64, 0]]
        changed["num_speculative_tokens"] = 1
    else:
        changed |= {"max_draft_len": 1, "draft_len_schedule": {"64": 1}}
    (tmp_path / "speculative_config.json").write_text(json.dumps(changed))
    parts = export.KINDS[to].replayables(tmp_path, replace(made, parts=(part,)))
    found = predictions(parts, small_shop.withheld, small_shop.costs, (1, 4))["schedule"]
    assert found != part.predictions
    if to == "vllm":
        assert [one.speedup for one in found] == [1.0, 1.0]


def test_vllm_is_given_ranges_without_gaps(exports):
    made = config(exports, "vllm", "speculative_config.json")
    assert made["method"] == "draft_model" and made["model"] == "drafts/small"
    entries = made["num_speculative_tokens_per_batch_size"]
    assert entries[0][0] == 1 and entries[-1][1] == 64
    for (low, high, length), following in zip(entries, [*entries[1:], [65, 0, 0]]):
        assert low <= high and following[0] == high + 1
        assert 0 <= length <= made["num_speculative_tokens"]
    assert len({entry[2] for entry in entries}) == len(entries) == 2  # dear batches draft less
    lookup = config(exports, "vllm", "speculative_config_lookup.json")
    assert lookup["method"] == "custom_class" and lookup["model"].count(".") == 1


@pytest.mark.parametrize(
    "entries", [[[2, 4, 1]], [[1, 4, 3], [4, 8, 1]], [[1, 4, 3], [6, 8, 1]], [[1, 4, 4]]]
)
def test_a_schedule_that_vllm_would_refuse_is_refused(entries):
    with pytest.raises(ValueError, match="does not fit: expected one from"):
        to_vllm.read_schedule(
            {
                "num_speculative_tokens": 3,
                "num_speculative_tokens_per_batch_size": entries,
            }
        )


def test_tensorrt_llm_is_given_a_schedule_that_it_takes(exports):
    made = config(exports, "tensorrt-llm", "speculative_config.json")
    bounds = {int(size): length for size, length in made["draft_len_schedule"].items()}
    assert bounds[min(bounds)] == made["max_draft_len"] == max(bounds.values())
    assert min(bounds) >= 1 and min(bounds.values()) >= 0
    assert 0 < made["acceptance_rate_threshold"] < 1 and made["acceptance_rate_window_size"] > 0
    assert to_tensorrt_llm.upper_bounds({1: 4, 5: 2, 9: 0}, 64) == {4: 4, 8: 2}
    for wrong in ({"4": 1, "8": 2}, {}, {"4": 2, "8": 3}):
        with pytest.raises(ValueError, match="draft_len_schedule is"):
            to_tensorrt_llm.read_schedule({"max_draft_len": 2, "draft_len_schedule": wrong})


@given(steps=STEPS, tiers=st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_a_schedule_has_few_lengths_and_none_is_better(steps, tiers):
    sizes = [1, 4, 16]
    made = schedules.fewest(steps, sizes, tiers)
    assert len(set(made.values())) <= tiers and min(made) == 1

    def lengths(schedule):
        return [[n for at, n in schedule.items() if at <= size][-1] for size in sizes]

    def cost(some):
        return sum(row[n] / row[0] for row, n in zip(steps, some))

    if tiers > 2:
        assert cost(lengths(made)) == pytest.approx(sum(row.min() / row[0] for row in steps))
    one = min(range(5), key=lambda n: cost([n] * 3))
    if one in steps.argmin(axis=1):
        assert cost(lengths(made)) <= cost([one] * 3) + 1e-9


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    sizes=st.sets(st.integers(2, 60), min_size=3, max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_schedules_come_back_from_both_engines_files(lengths, sizes):
    schedule = schedules.merged(dict(zip([1, *sorted(sizes)], lengths)))
    entries = to_vllm.ranges(schedule, 64)
    found = {"num_speculative_tokens": 5, "num_speculative_tokens_per_batch_size": entries}
    assert to_vllm.read_schedule(found) == schedule
    capped = to_tensorrt_llm.capped(schedule)
    bounds = to_tensorrt_llm.upper_bounds(capped, 64)
    if bounds:
        read = to_tensorrt_llm.read_schedule(
            {"max_draft_len": capped[1], "draft_len_schedule": bounds}
        )
        assert read == schedules.merged({**capped, 65: 0})
    else:
        assert capped == {1: 0}


def test_sglang_is_given_tiers_by_batch_size(exports):
    folder, _ = exports["sglang"]
    made = config(exports, "sglang", "adaptive_config.json")
    slots = {key: slot for key, slot in made.items() if key.isdigit()}
    assert set(slots) == {"1", "4"}
    for slot in slots.values():
        steps = slot["candidate_steps"]
        assert steps == sorted(set(steps)) and all(type(n) is int and n >= 0 for n in steps)
        assert set(slot) <= {
            "candidate_steps", "up_hysteresis", "down_hysteresis", "ceiling_coeff",
        }  # fmt: skip
    assert 0 < made["ema_alpha"] <= 1 and made["update_interval"] >= 1
    assert len(EmaSteps(made).candidate_steps) <= 3  # tiers are few, and known in advance
    for wrong in ({}, {"1": {"candidate_steps": []}}, {"1": {"candidate_steps": [-1]}}):
        with pytest.raises(ValueError, match="expected"):
            EmaSteps(wrong)


@pytest.mark.parametrize("kind", [EmaSteps, LearnedSteps])
def test_sglang_can_call_what_it_calls(kind, exports):
    """`AdaptiveSpecPolicy`'s methods, with its arguments in its order."""
    folder, _ = exports["sglang"]
    policy = kind.load(folder / "adaptive_config.json" if kind is EmaSteps else folder)
    wanted = {
        "set_cuda_graph_bs": ["cuda_graph_bs"],
        "get_steps_for_batch": ["batch_size"],
        "on_verify_complete": ["num_correct_drafts_per_req", "batch_size", "num_steps"],
        "cuda_graph_bs_for_step": ["step"],
        "on_state_activated": ["steps"],
    }
    for name, arguments in wanted.items():
        assert list(inspect.signature(getattr(policy, name)).parameters) == arguments
    candidates = policy.candidate_steps
    policy.set_cuda_graph_bs([1, 2, 4])
    assert policy.cuda_graph_bs_for_step(candidates[0]) == [1, 2, 4]
    seen = policy.get_steps_for_batch(2)
    for accepted in [0] * 40 + [3] * 40:
        changed = policy.on_verify_complete([accepted, accepted], 2)
        now = policy.get_steps_for_batch(2)
        assert now in candidates and changed == (now if now != seen else None)
        seen = now


def test_a_learned_sglang_policy_tries_again_after_a_while_without_drafts(exports):
    policy = LearnedSteps.load(exports["sglang"][0])
    policy._policy.decide = lambda seen: Action(0)  # type: ignore[method-assign]
    policy._steps = 0
    found = []
    for _ in range(200):
        found.append(policy.get_steps_for_batch(1))
        policy.on_verify_complete([0], 1, found[-1])
    drafts = [n for n, steps in enumerate(found) if steps]
    assert drafts == [64, 129, 194] and found[64] == min(n for n in policy.candidate_steps if n)


def test_llama_cpp_is_given_flags_that_come_back(exports):
    folder, made = exports["llama.cpp"]
    words = shlex.split((folder / "flags.txt").read_text())
    assert words[:4] == ["--spec-type", "draft-simple", "--spec-draft-model", "drafts/small"]
    assert words[4::2] == ["--spec-draft-n-max", "--spec-draft-n-min", "--spec-draft-p-min"]
    for name in ("flags.txt", "flags_ngram.txt"):
        text = (folder / name).read_text()
        flags = to_llama_cpp.Flags.parse(text)
        assert shlex.join(flags.words()) + "\n" == text and flags.n_min <= flags.n_max
    with pytest.raises(ValueError, match="expected flags among"):
        to_llama_cpp.Flags.parse("--spec-draft-n-max 4 --draft 3")


def test_llama_cpp_verifies_what_the_drafter_is_sure_of(small_shop):
    """By `--spec-draft-p-min`, the first unsure token ends the draft and is left out of it."""
    trace = small_shop.withheld.of_drafters([MODEL])
    flags = to_llama_cpp.Flags("draft-simple", 4, 2, 0.6)
    drafts = to_llama_cpp.FlaggedDrafts(flags)
    seen = to_llama_cpp.as_drafted(flags, trace).drafters[0].survival
    sure = (np.exp(trace.drafters[0].signals[:, :, 0]) >= np.float32(0.6)).cumprod(axis=1)
    expected = sure.sum(axis=1)
    found = drafts.allot(range(len(seen)), list(seen))
    assert found == np.where(expected >= 2, expected, 0).tolist() and 0 < np.mean(found) < 4


def test_n_grams_of_llama_cpp_have_a_least_length(small_shop):
    trace = small_shop.withheld.of_drafters([LOOKUP])
    table = trace.drafters[0]
    for n_match in (1, 3):
        flags = to_llama_cpp.Flags("ngram-mod", 4, n_match=n_match)
        made = to_llama_cpp.as_drafted(flags, trace).drafters[0].tokens
        for text, start in zip(trace.texts, trace.starts):
            whole = [*text.prompt.tolist(), *text.tokens.tolist()]
            for at in range(len(text.tokens)):
                before = whole[: len(text.prompt) + at]
                end = before[-n_match:]
                known = any(before[n : n + n_match] == end for n in range(len(before) - n_match))
                expected = table.tokens[start + at] if known else np.full(4, -1)
                assert (made[start + at] == expected).all()


def test_a_table_comes_back_and_decides_by_its_cells(exports):
    table = DraftTable.load(exports["table"][0] / "table.csv")
    assert table.csv() == (exports["table"][0] / "table.csv").read_text()
    assert table.rows == (1, 4)
    small = DraftTable((1, 4), (0, 100), (0.0, 0.5), tuple(Action(n) for n in range(8)))
    for rows, context, acceptance, length in (
        (1, 0, 0.0, 0), (3, 99, 0.5, 1), (1, 100, 0.2, 2), (9, 5, 0.1, 4), (4, 999, 1.0, 7),
    ):  # fmt: skip
        assert small.decide(rows, context, acceptance).length == length
    with pytest.raises(ValueError, match="expected rising rows"):
        DraftTable((2,), (0,), (0.0,), (Action(1),))


@pytest.mark.parametrize("to", ["vllm", "tensorrt-llm"])
def test_a_hostile_drafter_is_not_used(to, small_shop, tmp_path):
    made = export.written(to, hostile(small_shop), tmp_path / to)
    assert "schedule" not in [part.name for part in made.parts]
    assert all("do not speculate" in part.advice for part in made.parts)


def test_a_policy_that_sees_what_engines_do_not_report_gets_no_lookup(tmp_path):
    own = shop(tmp_path, groups=("target", "context"))
    made = export.written("vllm", own, tmp_path / "vllm")
    assert [part.name for part in made.parts] == ["schedule"]


def test_exports_say_where_they_are_from(exports, small_shop):
    for _, made in exports.values():
        source = made.source
        assert source.bundle == small_shop.bundle.checksum and source.fingerprint
        assert source.drafters == ("toy99", "ngram") and source.texts > 0
        assert source.versions and source.profile == "toy" and made.interface
    stale = exports["vllm"][1].part("schedule").mind[0]
    assert "cache is not kept up" in stale and "catch-up" in stale


def test_a_damaged_export_is_refused(exports, tmp_path):
    with pytest.raises(ValueError, match=f"it has no {FILE}"):
        load_export(tmp_path)
    content = json.loads((exports["table"][0] / FILE).read_text())
    content["parts"][0]["predictions"][0]["rows"] = "many"
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged .*rows"):
        load_export(tmp_path)


def test_an_onnx_graph_prefers_what_the_actor_prefers(small_shop, tmp_path):
    pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    made = export.written("onnx", small_shop, tmp_path / "onnx")
    assert export.repredicted(tmp_path / "onnx", small_shop) == {
        "actor": made.part("actor").predictions
    }
    graph = ReferenceEvaluator(str(tmp_path / "onnx" / to_onnx.FILE))
    spec: ObservationSpec = small_shop.bundle.spec
    seen = np.random.default_rng(0).normal(size=(7, len(spec))).astype(np.float32)
    (found,) = graph.run(["preferences"], {"observation": seen})
    np.testing.assert_allclose(found, small_shop.bundle.actor(seen), rtol=1e-5, atol=1e-5)


def test_without_onnx_one_sentence_says_what_to_install(small_shop, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ValueError, match="needs the package onnx: pip install"):
        to_onnx.onnx_bytes(small_shop.bundle.actor)
