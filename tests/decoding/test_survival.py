import numpy as np
import pytest
import torch

from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.signals import draft_signals
from adaspec_rl.decoding.survival import MARGINS, Evidence, ProductSurvival, SurvivalHead
from adaspec_rl.decoding.verification import LARGEST_MARGIN, new_verification
from tests.recording.recordings import random_head

VOCAB = 30


def evidence(count: int = 200, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    return Evidence(
        token=rng.integers(0, VOCAB, count),
        previous=rng.integers(0, VOCAB, count),
        log_prob=-rng.exponential(scale=3, size=count),
        choice_margin=rng.exponential(scale=5, size=count) - 1,  # below 0: not the first choice
        match=rng.integers(0, 12, count),
        agrees=rng.integers(0, 2, count),
    )


def one_by_one(estimate, seen: Evidence) -> list[float]:
    columns = (seen.token, seen.previous, seen.log_prob, seen.choice_margin, seen.match)
    rows = zip(*(column.tolist() for column in columns), seen.agrees.astype(bool).tolist())
    return [estimate.one(*row) for row in rows]


def test_the_product_takes_the_drafter_at_its_word():
    seen = evidence()
    assert np.allclose(ProductSurvival()(seen), np.exp(seen.log_prob))
    assert np.allclose(one_by_one(ProductSurvival(), seen), np.exp(seen.log_prob))


@pytest.mark.parametrize("log_probs", [True, False])
def test_a_head_gives_the_same_chances_one_by_one_and_after_a_round_trip(log_probs):
    seen, made = evidence(), random_head(VOCAB, log_probs=log_probs)
    chances = made(seen)
    assert ((chances > 0) & (chances < 1)).all()
    assert made.needs_log_prob == log_probs
    assert np.allclose(one_by_one(made, seen), chances, rtol=1e-12)
    assert (SurvivalHead.from_tensors(made.tensors())(seen) == chances).all()


def test_confidence_counts_without_jumps():
    """A rounding error in a margin or log-probability moves the estimate as little."""
    seen, made = evidence(), random_head(VOCAB)
    nudged = Evidence(
        seen.token,
        seen.previous,
        seen.log_prob - 1e-6,
        np.round(seen.choice_margin) + 1e-6,  # across a knot
        seen.match,
        seen.agrees,
    )
    level = Evidence(
        seen.token,
        seen.previous,
        seen.log_prob,
        np.round(seen.choice_margin) - 1e-6,
        seen.match,
        seen.agrees,
    )
    assert np.abs(made(nudged) - made(level)).max() < 1e-3


def test_a_token_without_rivals_gets_the_chance_of_a_large_margin():
    """Top-k and top-p may leave a single token, whose margin has no limit."""
    seen, made = evidence(), random_head(VOCAB)
    alone, sure = (
        Evidence(seen.token, seen.previous, seen.log_prob, margins, seen.match, seen.agrees)
        for margins in (np.full(200, np.inf), np.full(200, MARGINS[-1]))
    )
    assert np.allclose(one_by_one(made, alone), made(sure), rtol=1e-12)
    assert np.allclose(made(alone), made(sure))


@pytest.mark.parametrize("rows", [2, 40])  # few are read in NumPy
def test_a_token_without_rivals_has_a_finite_margin(rows):
    sampling = Sampling(0.8, top_k=1)
    rule = new_verification("coupled", sampling, 0, VOCAB, torch.device("cpu"))
    logits = torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(0))
    log_probs, scores = rule.weigh(logits, range(rows))
    tokens = scores.argmax(-1)
    signals = draft_signals(logits, tokens, log_probs, scores)
    assert signals.isfinite().all() and (signals[:, 3] == LARGEST_MARGIN).all()
    assert rule.propose(logits[0], 0).weighed() == (int(tokens[0]), LARGEST_MARGIN)


def test_damaged_heads_are_refused():
    tensors = random_head(VOCAB).tensors()
    with pytest.raises(ValueError, match="lacks surprise"):
        SurvivalHead.from_tensors({k: v for k, v in tensors.items() if k != "surprise"})
    for name in tensors:
        with pytest.raises(ValueError, match="fit it anew"):
            SurvivalHead.from_tensors({**tensors, name: tensors[name][:-1]})
        for value in (np.nan, np.inf, 1e4):
            if len(tensors[name]):
                odd = np.full_like(tensors[name], value)
                with pytest.raises(ValueError, match=f"head's {name} has float32 numbers of up to"):
                    SurvivalHead.from_tensors({**tensors, name: odd})
        with pytest.raises(ValueError, match=f"head's {name} has float64 numbers"):
            SurvivalHead.from_tensors({**tensors, name: tensors[name].astype(np.float64)})
