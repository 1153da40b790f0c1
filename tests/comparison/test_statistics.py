import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.comparison.statistics import (
    interquartile_mean,
    paired_ratio,
    paired_ratio_interval,
    probability_of_improvement,
    repeated_ngrams,
    stratified_bootstrap_interval,
    throughput,
)

SEEDS = st.integers(0, 2**32 - 1)
# Scores of two methods, [runs, tasks], with ties; what rliable 1.2.0 (scipy 1.17.1) makes of them:
# metrics.aggregate_iqm(X), aggregate_iqm(Y), probability_of_improvement(X, Y), and (Y, X).
X = np.array(
    [[1.02, 1.31, 0.97], [1.10, 1.28, 1.05], [0.95, 1.40, 1.01], [1.07, 1.19, 0.88],
     [1.22, 1.33, 1.12]]
)  # fmt: skip
Y = np.array([[1.00, 1.28, 0.99], [1.10, 1.30, 1.00], [0.97, 1.19, 1.01], [1.01, 1.25, 0.90]])
RLIABLE = (1.1177777777777778, 1.0516666666666665, 0.6833333333333332, 0.31666666666666665)


def timings(seed: int, prompts: int = 60) -> tuple[np.ndarray, ...]:
    """Tokens and seconds of two methods, unrelated to each other."""
    rng = np.random.default_rng(seed)
    tokens, other = rng.integers(5, 200, size=(2, prompts)).astype(float)
    return (
        tokens,
        tokens * rng.uniform(0.5, 2, prompts),
        other,
        other * rng.uniform(0.5, 2, prompts),
    )


def test_throughput_is_a_ratio_of_sums():
    tokens, seconds = np.array([10.0, 90.0]), np.array([10.0, 10.0])
    assert throughput(tokens, seconds) == 5.0  # the mean of ratios would also be 5 only by luck
    assert throughput(tokens, np.array([1.0, 19.0])) == 5.0
    assert paired_ratio(tokens, seconds, tokens, 2 * seconds) == 2.0
    assert paired_ratio(tokens, seconds, 2 * tokens, seconds) == 0.5


def test_the_interval_is_paired():
    rng = np.random.default_rng(0)
    tokens = rng.uniform(10, 1000, size=50)
    seconds = tokens / rng.uniform(50, 500, size=50)  # prompts differ wildly
    low, high = paired_ratio_interval(tokens, seconds / 1.5, tokens, seconds)
    assert low == pytest.approx(1.5) and high == pytest.approx(1.5)  # but the ratio never does


def test_noise_that_both_methods_share_cancels():
    rng = np.random.default_rng(3)
    tokens, seconds = np.full(80, 100.0), rng.lognormal(0, 1, size=80)
    fast = seconds / 1.2 * rng.lognormal(0, 0.02, size=80)
    low, high = paired_ratio_interval(tokens, fast, tokens, seconds)
    assert high - low < 0.03 and low < 1.2 < high
    shuffled = rng.permutation(80)  # the same numbers, no longer each other's
    low, high = paired_ratio_interval(tokens, fast[shuffled], tokens, seconds)
    assert high - low > 0.3


def test_the_interval_is_that_of_resampled_prompts():
    tokens, seconds, other, other_seconds = timings(5)
    chosen = np.random.default_rng(7).integers(60, size=(500, 60))
    ratios = [
        throughput(tokens[drawn], seconds[drawn]) / throughput(other[drawn], other_seconds[drawn])
        for drawn in chosen
    ]
    found = paired_ratio_interval(
        tokens, seconds, other, other_seconds, resamples=500, level=0.9, seed=7
    )
    assert found == pytest.approx(np.percentile(ratios, [5, 95]))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        tokens = np.full(40, 100.0)
        base = rng.normal(1.0, 0.1, size=40)
        fast = base / (2.0 + rng.normal(0, 0.4, size=40))
        low, high = paired_ratio_interval(tokens, fast, tokens, base, resamples=400, seed=trial)
        truth = 1 / np.mean(1 / (2.0 + np.random.default_rng(2).normal(0, 0.4, size=100_000)))
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


@given(SEEDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_units_scale_the_ratio_and_its_interval(seed, seconds_scale, tokens_scale):
    tokens, seconds, other, other_seconds = timings(seed)
    base = np.array(
        [
            paired_ratio(tokens, seconds, other, other_seconds),
            *paired_ratio_interval(tokens, seconds, other, other_seconds, resamples=100),
        ]
    )
    scaled = (tokens * tokens_scale, seconds * seconds_scale, other, other_seconds)
    assert paired_ratio(*scaled) == pytest.approx(base[0] * tokens_scale / seconds_scale)
    assert paired_ratio_interval(*scaled, resamples=100) == pytest.approx(
        base[1:] * tokens_scale / seconds_scale
    )


@given(SEEDS)
def test_the_interval_holds_the_estimate_and_turns_over_with_the_methods(seed):
    tokens, seconds, other, other_seconds = timings(seed)
    low, high = paired_ratio_interval(tokens, seconds, other, other_seconds, resamples=500)
    assert low < paired_ratio(tokens, seconds, other, other_seconds) < high
    inverse = paired_ratio_interval(other, other_seconds, tokens, seconds, resamples=500)
    assert inverse == pytest.approx((1 / high, 1 / low), rel=0.02)  # quantiles are interpolated
    narrow = paired_ratio_interval(tokens, seconds, other, other_seconds, resamples=500, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_intervals_are_determined_by_their_seed():
    figures = timings(0)
    assert paired_ratio_interval(*figures, seed=1) == paired_ratio_interval(*figures, seed=1)
    assert paired_ratio_interval(*figures, seed=1) != paired_ratio_interval(*figures, seed=2)


def test_a_hundred_intervals_take_seconds_at_most():
    figures = timings(0, prompts=200)
    began = time.perf_counter()
    for _ in range(10):
        paired_ratio_interval(*figures)
    assert time.perf_counter() - began < 1.0  # 0.07 s on an idle core


def test_unpaired_arrays_are_refused():
    three, two = np.ones(3), np.ones(2)
    with pytest.raises(ValueError, match=r"one shape \[prompts\], got .*\[3\], \[2\]"):
        paired_ratio(three, three, three, two)
    with pytest.raises(ValueError, match=r"got \[\[0\]"):
        paired_ratio_interval(*4 * [np.ones(0)])


def test_the_interquartile_mean_and_the_probability_agree_with_rliable():
    assert interquartile_mean(X) == pytest.approx(RLIABLE[0], rel=1e-12)
    assert interquartile_mean(Y) == pytest.approx(RLIABLE[1], rel=1e-12)
    assert probability_of_improvement(X.T, Y.T) == pytest.approx(RLIABLE[2], rel=1e-12)
    assert probability_of_improvement(Y.T, X.T) == pytest.approx(RLIABLE[3], rel=1e-12)


def trim_mean(scores: np.ndarray, share: float) -> float:
    """As `scipy.stats.trim_mean(scores, share, axis=None)` is defined."""
    left = sorted(scores.ravel().tolist())
    for _ in range(int(share * scores.size)):
        left = left[1:-1]
    return sum(left) / len(left)


def mann_whitney(x: np.ndarray, y: np.ndarray) -> float:
    """U of `x`, from its rank sum with mid-ranks for ties, over its maximum."""
    pooled = [*x, *y]
    ranks = [
        sum(other < one for other in pooled) + (sum(other == one for other in pooled) + 1) / 2
        for one in x
    ]
    return (sum(ranks) - len(x) * (len(x) + 1) / 2) / (len(x) * len(y))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), SEEDS, st.integers(1, 30))
def test_both_follow_their_definitions(ours, theirs, tasks, seed, values):  # few values: many ties
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(values, size=(runs, tasks)) / 7 for runs in (ours, theirs))
    assert interquartile_mean(x) == pytest.approx(trim_mean(x, 0.25))
    expected = np.mean([mann_whitney(a, b) for a, b in zip(x.T, y.T)])
    found = probability_of_improvement(x.T, y.T)
    assert found == pytest.approx(expected)
    assert found + probability_of_improvement(y.T, x.T) == pytest.approx(1.0)
    assert probability_of_improvement((3 * x + 1).T, (3 * y + 1).T) == pytest.approx(found)


def test_tasks_weigh_the_same_whatever_their_size():
    better, worse = np.arange(10, 12), np.arange(10)
    assert probability_of_improvement([better, worse[:1]], [worse, better]) == 0.5
    assert probability_of_improvement([better], [worse]) == 1.0
    with pytest.raises(ValueError, match="as many tasks of both methods, got 1 and 2"):
        probability_of_improvement([better], [better, worse])
    with pytest.raises(ValueError, match="scores of both methods, got 2 and 0"):
        probability_of_improvement([better], [worse[:0]])


def test_runs_are_resampled_within_each_task_and_in_each_apart():
    scores = np.arange(12.0).reshape(4, 3)  # a score's task is its remainder by 3
    seen = []
    stratified_bootstrap_interval(
        scores, lambda drawn: float(seen.append(drawn.copy()) or 0), resamples=300
    )
    drawn = np.stack(seen)
    assert drawn.shape == (300, 4, 3)
    assert (drawn % 3 == np.arange(3)).all()
    runs = drawn // 3
    assert (runs[:, :, 0] != runs[:, :, 1]).any()
    assert np.bincount(runs.astype(int).ravel()) == pytest.approx(np.full(4, 900), rel=0.15)


def test_the_interval_over_runs_is_that_of_all_possible_resamples():
    scores = np.array([[0.0, 0.0], [1.0, 10.0]])
    # Sums by task: 0, 1, 2 and 0, 10, 20, each with chances 1/4, 1/2, 1/4.
    low, high = stratified_bootstrap_interval(scores, np.sum, resamples=20_000, level=0.8)
    assert (low, high) == (1.0, 21.0)  # 1/16 lies below 1, 3/16 below 2; above 21 likewise
    low, high = stratified_bootstrap_interval(scores, np.sum, resamples=20_000, level=0.95)
    assert (low, high) == (0.0, 22.0)


@given(SEEDS, st.floats(0.1, 10), st.floats(-5, 5))
def test_the_interval_over_runs_moves_with_the_scores(seed, scale, shift):
    scores = np.random.default_rng(seed).normal(size=(6, 4))
    low, high = stratified_bootstrap_interval(scores, interquartile_mean, resamples=200)
    assert low < interquartile_mean(scores) < high
    moved = stratified_bootstrap_interval(scale * scores + shift, interquartile_mean, resamples=200)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift))


def test_scores_without_runs_and_tasks_are_refused():
    with pytest.raises(ValueError, match=r"shape \[runs, tasks\], got \[3\]"):
        stratified_bootstrap_interval(np.ones(3), interquartile_mean)
    with pytest.raises(ValueError, match="at least one score, got none"):
        interquartile_mean(np.ones((0, 2)))


def test_repeated_ngrams():
    assert repeated_ngrams([[1, 2, 3, 4]], n=2) == 0.0
    assert repeated_ngrams([[1, 2, 1, 2, 1]], n=2) == 0.5  # 12 21 12 21: two of four
    assert repeated_ngrams([[1], []], n=2) == 0.0
    assert repeated_ngrams([[5] * 9, list(range(9))], n=8) == 0.25
