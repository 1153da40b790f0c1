"""Predictions from other engines' reports: formats, the fit, and simulated texts."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.interop import predict
from adaspec_rl.interop.acceptance import by_position, fit, of_histogram, of_rounds
from adaspec_rl.interop.predict import PredictConfig, simulated
from adaspec_rl.interop.readers import read
from tests.interop.shop import profile

VLLM = {
    "id": "cmpl-1",
    "usage": {"completion_tokens": 9},
    "metrics": {
        "speculative_decoding": {
            "mean_acceptance_length": 2.25,
            "draft_acceptance_rate": 0.5,
            "acceptance_histogram": [1, 1, 2, 0],
            "num_spec_steps": 4,
            "num_accepted_draft_tokens": 5,
            "num_draft_tokens": 10,
            "num_spec_tokens": 3,
            "per_step_accepted": [2, 0, 1, 2],
            "per_step_drafted": [3, 3, 2, 2],
        }
    },
}
SGLANG = {
    "text": "…",
    "meta_info": {
        "completion_tokens": 12,
        "spec_verify_ct": 5,
        "spec_accept_histogram": [1, 2, 1, 1],
        "spec_draft_token_num": 15,
        "spec_accept_token_num": 7,
        "spec_accept_length": 2.4,
    },
}
PROMETHEUS = """# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 100.0
vllm:spec_decode_num_drafts_created{engine="0",model_name="m"} 1.7e+09
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 300.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 150.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 80.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 50.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"} 20.0
vllm:num_requests_running{engine="0"} 3.0
"""
LLAMA = """0.16 I slot print_timing: id 0 | draft acceptance = 0.50000 ( 10 accepted / 20 generated)
0.16 I spec common_specu: statistics        draft-mtp: #calls(b,g,a) =    1     10     10, \
#gen drafts =     10, #acc drafts =     8, #gen tokens =     20, #acc tokens =    12, \
#mean acc len = 2.20, #acc rate/pos = (0.800, 0.400), dur(b,g,a) = 0.004, 8.560, 0.264 ms
0.32 I spec common_specu: statistics        draft-mtp: #calls(b,g,a) =    2     50     50, \
#gen drafts =     50, #acc drafts =    40, #gen tokens =    100, #acc tokens =    60, \
#mean acc len = 2.20, #acc rate/pos = (0.800, 0.400), dur(b,g,a) = 0.004, 38.560, 1.264 ms
"""
OLD_LLAMA = "statistics ngram_simple: #calls = 15, #gen drafts = 10, #acc drafts = 5, " + (
    "#gen tokens = 40, #acc tokens = 20\n"
)


def written(folder, name: str, content) -> str:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "reached", "accepted", "complete"),
    [
        (VLLM, [4, 3, 1], [3, 2, 0], True),
        (SGLANG, [5, 4, 2], [4, 2, 1], True),
        (PROMETHEUS, [100, 80, 50], [80, 50, 20], True),
        (LLAMA, [50, 40], [40, 20], True),
        (json.dumps(VLLM) + "\n" + json.dumps(VLLM) + "\n", [4, 3, 1], [3, 2, 0], True),
        ("data: " + json.dumps(VLLM) + "\n\ndata: [DONE]\n", [4, 3, 1], [3, 2, 0], True),
    ],
)
def test_reports_are_counts_by_depth(content, reached, accepted, complete, tmp_path):
    found = read(written(tmp_path, "report", content))
    assert found[0].reached.tolist() == reached and found[0].accepted.tolist() == accepted
    assert all(item.complete == complete for item in found)


def test_sums_alone_are_spread_over_depths(tmp_path):
    (found,) = read(written(tmp_path, "log", OLD_LLAMA))
    assert found.depth == 4 and found.reached[0] == 10 and not found.complete
    assert found.accepted.sum() == pytest.approx(20, abs=2)


def test_newer_names_of_sglang_are_read_first(tmp_path):
    info = dict(SGLANG["meta_info"]) | {
        "spec_correct_drafts_histogram": [0, 5],
        "spec_num_proposed_drafts": 5,
        "spec_num_correct_drafts": 5,
    }
    (found,) = read(written(tmp_path, "one", {"choices": [{"meta_info": info}]}))
    assert found.reached.tolist() == [5] and found.accepted.tolist() == [5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello", "reports no drafts: expected responses of vLLM"),
        ("{}", "reports no drafts"),
        ({"meta_info": {"spec_verify_ct": 3}}, "has no spec_accept_histogram"),
        (
            {"meta_info": {**SGLANG["meta_info"], "spec_accept_token_num": 9}},
            "has 9 accepted tokens but its histogram has 7",
        ),
        (
            {
                "metrics": {
                    "speculative_decoding": {"per_step_accepted": [2], "per_step_drafted": [1]}
                }
            },
            "more tokens accepted than drafted",
        ),
    ],
)
def test_other_files_are_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(written(tmp_path, "report", content))


def test_histograms_that_leave_out_lengths_are_lower_bounds():
    """Ten rounds that draft 1 token, ten that draft 3, all accepted."""
    exact = fit([of_rounds("a", [1] * 10 + [3] * 10, [1] * 10 + [3] * 10)])
    assert exact.complete and exact.chances.min() > 0.9
    biased = fit([of_histogram("a", [0, 10, 0, 10], 40)])
    assert not biased.complete and biased.chances[1] < 0.6
    assert of_histogram("a", [0, 0, 0, 10], 30).complete
    assert not of_histogram("a", [0, 0, 0, 10], None).complete


@given(
    rounds=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30),
)
@settings(max_examples=80, deadline=None)
def test_counts_of_rounds_add_up(rounds):
    kept, made = [min(pair) for pair in rounds], [max(pair) for pair in rounds]
    found = of_rounds("a", kept, made)
    assert found.accepted.sum() == sum(kept) and found.rounds == len(rounds)
    for depth in range(found.depth):
        reached = [k for k, m in zip(kept, made) if m > depth and k >= depth]
        assert found.reached[depth] == len(reached)
        assert found.accepted[depth] == sum(k > depth for k in reached)


def requests(count: int, rng, chance=(0.9, 0.3), rounds: int = 60, drafted: int = 4):
    """Half of them accept often, half seldom."""
    made = []
    for n in range(count):
        draws = rng.random((rounds, drafted)) < chance[n % len(chance)]
        made.append(of_rounds(f"{n}", draws.cumprod(axis=1).sum(axis=1), [drafted] * rounds))
    return made


def test_the_fit_finds_the_chances_and_their_intervals_hold():
    held = 0
    for seed in range(40):
        found = fit(requests(12, np.random.default_rng(seed), chance=(0.7,), rounds=25), seed)
        true = sum(0.7**n for n in range(1, 4))
        estimate = found.accepted(3)
        assert estimate.low <= estimate.value <= estimate.high
        held += estimate.low <= true <= estimate.high
    assert 33 <= held <= 40  # 95%, and few requests make intervals a little narrow
    assert found.accepted(6).value > found.accepted(4).value  # beyond what was drafted


def test_a_prediction_is_what_other_lengths_bring():
    costs = profile(sizes=(1,)).of_drafters([0]).at(None)
    found = fit(requests(20, np.random.default_rng(1), chance=(0.8,), rounds=200))
    for length in (1, 2, 4):
        expected = 1 + sum(0.8**n for n in range(1, length + 1))
        seconds = costs.seconds(0, length) / costs.autoregressive_step
        assert found.speedup(length, costs).value == pytest.approx(expected / seconds, rel=0.03)


def test_simulated_texts_accept_as_their_requests_did():
    found = fit(requests(24, np.random.default_rng(2)))
    trace = simulated(found, 6)
    (table,) = trace.drafters
    means = [(table.accepted[a:b] > 0).mean() for a, b in zip(trace.starts[:-1], trace.starts[1:])]
    assert np.mean(means[0::2]) == pytest.approx(0.9, abs=0.05)
    assert np.mean(means[1::2]) == pytest.approx(0.3, abs=0.05)
    assert table.accepted.max() <= 6


def test_positions_are_told_apart():
    kept = [0] * 32 + [2] * 40
    spans = by_position([of_rounds("a", kept, [2] * 72)], (0, 32, 128))
    assert spans == [(0, 0, 32), (32, 32, 32), (128, 8, 8)]


def test_the_command_predicts_lengths_and_an_export(exports, tmp_path, capsys):
    path = written(
        tmp_path,
        "reports.jsonl",
        "\n".join(
            json.dumps(
                {
                    "metrics": {
                        "speculative_decoding": {
                            "per_step_accepted": item.accepted_by_round.tolist(),
                            "per_step_drafted": item.drafted_by_round.tolist(),
                        }
                    }
                }
            )
            for item in requests(16, np.random.default_rng(3))
        ),
    )
    saved = tmp_path / "costs.json"
    profile().save(saved)
    out = tmp_path / "figures.json"
    predict.main(
        [str(path), f"costs={saved}", f"export={exports['sglang'][0]}", f"out={out}", "rows=4"]
    )
    printed = capsys.readouterr().out
    assert "fixed draft lengths" in printed and "by these costs: draft" in printed
    found = json.loads(out.read_text())
    assert set(found["parts"]) == {"ema", "actor"} and found["best"] >= 1
    assert found["parts"]["ema"]["low"] <= found["parts"]["ema"]["speedup"]
    assert [float(x) for x in found["chances"]][0] == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no file given"),
        (["missing.json"], "there is no file missing.json"),
        (["missing.json", "draft_step=x"], "draft_step must be a number from 0 to 100"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed and printed.count("\n") == 1


def test_nothing_pays_at_dear_drafts(tmp_path):
    path = written(tmp_path, "metrics", PROMETHEUS)
    config = PredictConfig(draft_step=5.0, max_length=3)
    assert predict.predict([path], config).best == 0
