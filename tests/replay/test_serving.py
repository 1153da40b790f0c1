"""Serving simulated in replay, and when requests come."""

import numpy as np
import pytest

from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.replay.load import arrivals, recorded_arrivals
from adaspec_rl.replay.serving import serve
from tests.recording.recordings import toy_trace
from tests.replay.test_batch_replay import flat_costs


@pytest.mark.parametrize("kind, spread", [("constant", 0.0), ("poisson", 1.0), ("bursty", 3.0)])
def test_requests_come_at_the_rate_asked_for(kind, spread):
    times = arrivals(kind, 4.0, 40_000, np.random.default_rng(0))
    gaps = np.diff(times)
    assert times[0] == 0 and (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(0.25, rel=0.06)
    assert gaps.std() / gaps.mean() == pytest.approx(spread, abs=0.1)


def test_a_file_of_arrivals_is_read_strictly(tmp_path):
    path = tmp_path / "times.txt"
    path.write_text("0\n0.5\n\n2.25\n")
    assert recorded_arrivals(path).tolist() == [0.0, 0.5, 2.25]
    for text, message in (("1\n0.5\n", "line 2 is 0.5"), ("x\n", "line 1"), ("\n", "no arrival")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            recorded_arrivals(path)
    with pytest.raises(ValueError, match="unknown load 'daily'"):
        arrivals("daily", 1.0, 1, np.random.default_rng(0))


def test_requests_wait_for_rows_and_for_prompts(tmp_path):
    tables = BatchTables(toy_trace(tmp_path))
    # Plain rounds of n rows take 10 + n seconds; every text has 12 tokens.
    alone = serve(tables, flat_costs(), FixedForAll(0), np.array([5.0]), np.array([0]), 2)
    prefill = 10 + len(tables.trace.texts[0].prompt)
    assert alone.first[0] == pytest.approx(5 + prefill + 11)
    assert alone.ended[0] == pytest.approx(5 + prefill + 12 * 11)
    assert alone.per_token[0] == pytest.approx(11)
    three = serve(
        tables, flat_costs(), FixedForAll(0), np.array([0.0, 0.0, 1.0]), np.array([0, 0, 0]), 2
    )
    assert three.ended[0] == three.ended[1] == pytest.approx(10 + 2 * (prefill - 10) + 12 * 12)
    assert three.first[2] == pytest.approx(three.ended[0] + prefill + 11)
    assert three.goodput(1e9, 1e9) == pytest.approx(3 / three.ended[2])
    assert three.goodput(60.0, 1e9) == pytest.approx(2 / three.ended[2])
    assert three.figures(60.0, 1e9)["target_passes"] == 24 + 2


def test_drafts_serve_faster_and_their_waste_is_counted(tmp_path):
    tables = BatchTables(toy_trace(tmp_path))
    times = arrivals("poisson", 0.02, 12, np.random.default_rng(0))
    texts = np.arange(12) % 5
    plain, drafting = (
        serve(tables, flat_costs(), FixedForAll(length), times, texts, 4) for length in (0, 3)
    )
    assert plain.verified == 0
    assert drafting.tokens.sum() == plain.tokens.sum()
    assert drafting.per_token.mean() < plain.per_token.mean()
    assert drafting.figures(1.0, 1.0)["thrown_away"] == drafting.drafted - drafting.accepted > 0
