"""How far to trust what followed the last time, fitted on texts that the table has not seen."""

from collections.abc import Iterable

import numpy as np

from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.trigrams import TrigramTable

LENGTHS = 8  # of matches that are told apart; longer ones count as this
STEPS = 50
UNSEEN = 1e-3  # probability of a token that is not among a row's candidates


def fit_repetition(table: TrigramTable, texts: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Weights `[LENGTHS]` for `TrigramTable`, by expectation and maximisation.

    They are the likeliest ones to mix two sources of a text's tokens with: `table`, and what
    followed the last occurrence of the text's end. `texts` are token ids and the prompt's length.
    """
    lengths, repeats, chances = (np.concatenate(parts) for parts in zip(*_seen(table, texts)))
    counts = np.bincount(lengths, minlength=LENGTHS)
    weights = np.full(LENGTHS, 0.5)
    for _ in range(STEPS):
        repeated = weights[lengths] * repeats
        share = repeated / (repeated + (1 - weights[lengths]) * chances)
        # As if one more match of each length had been half right.
        weights = (np.bincount(lengths, share, LENGTHS) + 0.5) / (counts + 1)
    return weights


def _seen(
    table: TrigramTable, texts: Iterable[tuple[np.ndarray, int]]
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By text, of each answer's token with a match: its length - 1, whether it led here, chance."""
    for text, prompt in texts:
        tokens = text.tolist()
        known = SuffixAutomaton(tokens[:prompt])
        found = []
        for place in range(max(2, prompt), len(tokens)):
            suffix, token = known.suffix(), tokens[place]
            if suffix.guess is not None:
                usual = table.usual(tokens[place - 2], tokens[place - 1])
                chance = np.exp(usual.log_probs[usual.tokens == token]).sum()
                length = min(suffix.match, LENGTHS) - 1
                found.append((length, suffix.guess == token, max(chance, UNSEEN)))
            known.append(token)
        columns = np.array(found, dtype=np.float64).reshape(-1, 3).T
        yield columns[0].astype(np.int64), columns[1], columns[2]
