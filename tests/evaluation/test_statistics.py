import numpy as np
import pytest

from adaspec_rl.evaluation.statistics import (
    repeated_ngrams,
    speedup,
    speedup_interval,
    throughput,
)


def test_throughput_is_a_ratio_of_sums():
    tokens, seconds = np.array([10.0, 90.0]), np.array([10.0, 10.0])
    assert throughput(tokens, seconds) == 5.0  # the mean of ratios would also be 5 only by luck
    assert throughput(tokens, np.array([1.0, 19.0])) == 5.0
    assert speedup(tokens, seconds, tokens, 2 * seconds) == 2.0


def test_the_interval_is_paired():
    rng = np.random.default_rng(0)
    tokens = rng.uniform(10, 1000, size=50)
    seconds = tokens / rng.uniform(50, 500, size=50)  # prompts differ wildly
    low, high = speedup_interval(tokens, seconds / 1.5, tokens, seconds)
    assert low == pytest.approx(1.5) and high == pytest.approx(1.5)  # but the ratio never does


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        tokens = np.full(40, 100.0)
        base = rng.normal(1.0, 0.1, size=40)
        fast = base / (2.0 + rng.normal(0, 0.4, size=40))
        low, high = speedup_interval(tokens, fast, tokens, base, resamples=400, seed=trial)
        truth = 1 / np.mean(1 / (2.0 + np.random.default_rng(2).normal(0, 0.4, size=100_000)))
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_repeated_ngrams():
    assert repeated_ngrams([[1, 2, 3, 4]], n=2) == 0.0
    assert repeated_ngrams([[1, 2, 1, 2, 1]], n=2) == 0.5  # 12 21 12 21: two of four
    assert repeated_ngrams([[1], []], n=2) == 0.0
    assert repeated_ngrams([[5] * 9, list(range(9))], n=8) == 0.25
