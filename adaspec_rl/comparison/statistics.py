"""Figures of a comparison: ratios of sums and aggregates over tasks, with bootstrap intervals."""

from collections.abc import Callable, Sequence

import numpy as np


def throughput(tokens: np.ndarray, seconds: np.ndarray) -> float:
    """Tokens a second over all prompts: a ratio of sums."""
    return float(tokens.sum() / seconds.sum())


def paired_ratio(
    tokens: np.ndarray, seconds: np.ndarray, other_tokens: np.ndarray, other_seconds: np.ndarray
) -> float:
    """A method's throughput divided by another's; against autoregressive decoding, the speedup.

    All arrays are `[prompts]` and paired: number i of each belongs to the same prompt.

    Raises:
        ValueError: there are no prompts, or the arrays differ in length.
    """
    return float(_ratios(_paired(tokens, seconds, other_tokens, other_seconds).sum(axis=0)))


def paired_ratio_interval(
    tokens: np.ndarray,
    seconds: np.ndarray,
    other_tokens: np.ndarray,
    other_seconds: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of `paired_ratio`; prompts are resampled, both methods together.

    A seed draws the same prompts for all methods, so that their intervals can be compared.
    """
    sums = _paired(tokens, seconds, other_tokens, other_seconds)  # [prompts, 4]
    counts = _resampled_counts(len(sums), resamples, seed)  # [resamples, prompts]
    return _percentile_interval(_ratios(counts @ sums), level)


def mean_interval(
    values: np.ndarray, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of `[prompts]`; prompts are resampled."""
    if values.ndim != 1 or not values.size:
        raise ValueError(f"expected values of shape [prompts], got {list(values.shape)}")
    counts = _resampled_counts(len(values), resamples, seed)
    return _percentile_interval(counts @ values / len(values), level)


def probability_of_improvement(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> float:
    """P(X > Y) + P(X = Y) / 2, the mean over tasks (Agarwal et al., arXiv:2108.13264).

    Within a task, every score of `x` is compared with every score of `y`, without pairing: this is
    the Mann-Whitney statistic divided by its maximum. For `[runs, tasks]` scores, pass the
    transpose.

    Args:
        x: one array of scores (higher is better) for each task, such as the throughput on each
            prompt of a domain.
        y: the other method's scores, with the tasks in the same order; numbers of scores may
            differ.

        Raises:
            ValueError: there is no task, the numbers of tasks differ, or a task has no scores.
    """
    if len(x) != len(y) or not len(x):
        raise ValueError(f"expected as many tasks of both methods, got {len(x)} and {len(y)}")
    return float(np.mean([_probability_greater(ours, theirs) for ours, theirs in zip(x, y)]))


def _probability_greater(x: np.ndarray, y: np.ndarray) -> float:
    if not len(x) or not len(y):
        raise ValueError(f"a task needs scores of both methods, got {len(x)} and {len(y)}")
    ordered = np.sort(y)
    below = np.searchsorted(ordered, x, side="left")  # [x]: scores of y that are lower
    not_above = np.searchsorted(ordered, x, side="right")
    return float(np.mean(below + not_above)) / (2 * len(y))


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all scores, `[runs, tasks]` pooled (arXiv:2108.13264).

    A quarter of the scores, rounded down, is cut at either end.
    """
    if not scores.size:
        raise ValueError("expected at least one score, got none")
    cut = scores.size // 4
    return float(np.sort(scores, axis=None)[cut : scores.size - cut].mean())


def stratified_bootstrap_interval(
    scores: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic over training runs (arXiv:2108.13264).

    Runs are resampled within each task, independently; the tasks stay as they are. So the interval
    says how far the statistic would move with other training seeds, not with other prompts.

    Args:
        scores: `[runs, tasks]`.
        statistic: a function of scores `[runs, tasks]`, such as `interquartile_mean`.
    """
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"expected scores of shape [runs, tasks], got {list(scores.shape)}")
    runs, tasks = scores.shape
    chosen = np.random.default_rng(seed).integers(runs, size=(resamples, runs, tasks))
    drawn = scores[chosen, np.arange(tasks)]  # [resamples, runs, tasks]
    return _percentile_interval(np.array([statistic(one) for one in drawn]), level)


def _paired(*arrays: np.ndarray) -> np.ndarray:
    """`[prompts, arrays]` from arrays of `[prompts]`."""
    shapes = [list(np.shape(array)) for array in arrays]
    if len(shapes[0]) != 1 or shapes[0] == [0] or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"expected arrays of one shape [prompts], got {shapes}")
    return np.column_stack(arrays)


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Ratio of two throughputs from `[..., 4]`: tokens, seconds, other tokens, other seconds."""
    return (sums[..., 0] / sums[..., 1]) / (sums[..., 2] / sums[..., 3])


def _resampled_counts(size: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `size` items is drawn in each resample, `[resamples, size]`."""
    chosen = np.random.default_rng(seed).integers(size, size=(resamples, size))
    chosen += size * np.arange(resamples)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=resamples * size)
    return counts.reshape(resamples, size).astype(np.float64)


def _percentile_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def repeated_ngrams(texts: Sequence[Sequence[int]], n: int = 8) -> float:
    """Share of the n-grams of token ids that occurred earlier in the same text."""
    repeated = total = 0
    for tokens in texts:
        seen = set()
        for start in range(len(tokens) - n + 1):
            gram = tuple(tokens[start : start + n])
            repeated += gram in seen
            seen.add(gram)
            total += 1
    return repeated / total if total else 0.0
