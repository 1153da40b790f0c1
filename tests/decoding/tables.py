"""Trigram tables written by hand, for tests."""

from collections.abc import Mapping, Sequence

import numpy as np

from adaspec_rl.decoding.trigrams import UNIT, TrigramTable


def table_of(
    rows: Mapping[tuple[int, ...], Mapping[int, float]],
    vocab_size: int,
    repetition: Sequence[float] = (),
    sharpness: float = 1.0,
) -> TrigramTable:
    """Candidates with probabilities after `()`, after `(b,)` and after `(a, b)`."""
    pairs = sorted((key for key in rows if len(key) == 2), key=lambda key: key[::-1])
    order = [(), *((b,) for b in range(vocab_size)), *pairs]
    ranked = [sorted(rows.get(key, {}).items(), key=lambda item: -item[1]) for key in order]
    entries = [item for row in ranked for item in row]
    probs = np.array([prob for _, prob in entries])
    return TrigramTable(
        sizes=np.array([len(row) for row in ranked], dtype=np.uint8),
        tokens=np.array([token for token, _ in entries], dtype=np.uint16),
        surprises=np.rint(-np.log(probs) / UNIT).clip(0, 255).astype(np.uint8),
        counts=np.bincount([b for _, b in pairs], minlength=vocab_size).astype(np.uint16),
        before=np.array([a for a, _ in pairs], dtype=np.uint16),
        repetition=np.array(repetition, dtype=np.float32),
        sharpness=np.float32([sharpness]),
        vocabulary="toys",
    )


def small_table(repetition: Sequence[float] = ()) -> TrigramTable:
    """Of four tokens."""
    rows = {(): {1: 0.5, 3: 0.5}, (1,): {0: 1.0}, (0, 1): {2: 0.75, 3: 0.25}}
    return table_of(rows, 4, repetition)


def random_table(vocab_size: int, seed: int, repetition: Sequence[float] = ()) -> TrigramTable:
    """Some rows, of some tokens."""
    rng = np.random.default_rng(seed)
    contexts = [(a, b) for a in range(vocab_size) for b in range(vocab_size) if (a + b) % 3]
    rows = {(): dict(enumerate(rng.dirichlet(np.ones(vocab_size))))}
    for context in [*contexts, *((b,) for b in range(0, vocab_size, 2))]:
        chosen = rng.permutation(vocab_size)[: rng.integers(1, vocab_size)]
        rows[context] = dict(zip(chosen.tolist(), rng.dirichlet(np.ones(len(chosen)))))
    return table_of(rows, vocab_size, repetition)
