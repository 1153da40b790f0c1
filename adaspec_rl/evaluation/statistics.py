"""Figures of a comparison: ratios of sums, and intervals from a paired bootstrap over prompts."""

from collections.abc import Sequence

import numpy as np


def throughput(tokens: np.ndarray, seconds: np.ndarray) -> float:
    """Tokens a second over all prompts: a ratio of sums."""
    return float(tokens.sum() / seconds.sum())


def speedup(
    tokens: np.ndarray, seconds: np.ndarray, base_tokens: np.ndarray, base_seconds: np.ndarray
) -> float:
    """How many times the throughput of the base; all arrays are `[prompts]`, paired."""
    return throughput(tokens, seconds) / throughput(base_tokens, base_seconds)


def speedup_interval(
    tokens: np.ndarray,
    seconds: np.ndarray,
    base_tokens: np.ndarray,
    base_seconds: np.ndarray,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the speedup; prompts are resampled, both methods together."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(tokens), size=(resamples, len(tokens)))
    sums = [
        array[chosen].sum(axis=1) for array in (tokens, seconds, base_tokens, base_seconds)
    ]  # each [resamples]
    ratios = (sums[0] / sums[1]) / (sums[2] / sums[3])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(ratios, [tail, 100 - tail])
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
