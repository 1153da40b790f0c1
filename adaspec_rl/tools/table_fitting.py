"""A trigram table's parameters, fitted on texts that the table has not seen."""

from collections.abc import Iterable, Iterator

import numpy as np

from adaspec_rl.decoding.suffix_automaton import Suffix, SuffixAutomaton
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.tools.distillation.teacher_texts import TeacherText

LENGTHS = 8  # of matches, each with its own weight; longer matches count as this
STEPS = 50
UNSEEN = 1e-3  # probability of a token that is not among a row's candidates
SHARPNESSES = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)


def fit_repetition(table: TrigramTable, texts: Iterable[TeacherText]) -> np.ndarray:
    """Weights `[LENGTHS]` for `TrigramTable`, by expectation and maximisation.

    They are the maximum-likelihood weights of a mixture of two predictions of each token: the
    table's, and the token that followed the last occurrence of the text's end.
    """
    found = np.array([row for text in texts for row in _repeated(table, text)]).reshape(-1, 3)
    lengths, repeats, chances = found[:, 0].astype(np.int64), found[:, 1], found[:, 2]
    counts = np.bincount(lengths, minlength=LENGTHS)
    weights = np.full(LENGTHS, 0.5)
    for _ in range(STEPS):
        repeated = weights[lengths] * repeats
        share = repeated / (repeated + (1 - weights[lengths]) * chances)
        # A prior: one more match of each length that was half right.
        weights = (np.bincount(lengths, share, LENGTHS) + 0.5) / (counts + 1)
    return weights


def fit_sharpness(table: TrigramTable, texts: Iterable[TeacherText]) -> float:
    """The exponent with which most of the table's drafts are accepted at the texts' temperatures.

    Acceptance is the probability that both distributions share (arXiv:2211.17192); greedy texts do
    not count.
    """
    shared = np.zeros(len(SHARPNESSES))
    for text in texts:
        if text.temperature:
            for place, previous, last, suffix in _walked(text):
                candidates = table.after(previous, last, suffix)
                ids = text.choice_ids[place - text.prompt_length]
                known = text.choice_log_probs[place - text.prompt_length].astype(np.float64)
                target = dict(zip(ids.tolist(), _powers(known, 1 / text.temperature)))
                own = np.array([target.get(token, 0.0) for token in candidates.tokens.tolist()])
                for n, sharpness in enumerate(SHARPNESSES):
                    weights = _powers(candidates.log_probs, sharpness / text.temperature)
                    shared[n] += np.minimum(own, weights).sum()
    return SHARPNESSES[int(shared.argmax())]


def _walked(text: TeacherText) -> Iterator[tuple[int, int, int, Suffix]]:
    """Each place in an answer, the two tokens before it, and the suffix of the text before it."""
    tokens = text.tokens.tolist()
    first = max(2, text.prompt_length)
    known = SuffixAutomaton(tokens[:first])
    for place in range(first, len(tokens)):
        yield place, tokens[place - 2], tokens[place - 1], known.suffix()
        known.append(tokens[place])


def _repeated(table: TrigramTable, text: TeacherText) -> Iterator[tuple[int, bool, float]]:
    """For each token with a match: match length - 1, whether it was right, the table's chance."""
    for place, previous, last, suffix in _walked(text):
        if suffix.guess is not None:
            token, usual = text.tokens[place], table.usual(previous, last)
            chance = float(np.exp(usual.log_probs[usual.tokens == token]).sum())
            yield min(suffix.match, LENGTHS) - 1, suffix.guess == token, max(chance, UNSEEN)


def _powers(log_probs: np.ndarray, exponent: float) -> np.ndarray:
    """Probabilities to a power, normalised again."""
    weights = np.exp(exponent * (log_probs - log_probs.max()))
    return weights / weights.sum()
