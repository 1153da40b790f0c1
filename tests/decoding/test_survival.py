import numpy as np
import pytest

from adaspec_rl.decoding.survival import Evidence, ProductSurvival, SurvivalHead, features


def evidence(count: int = 5, hidden: int = 3, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    return Evidence(
        log_prob=-rng.exponential(size=count),
        choice_margin=rng.exponential(size=count),
        match=rng.integers(0, 12, count).astype(float),
        agrees=rng.integers(0, 2, count).astype(float),
        hidden=rng.normal(size=(count, hidden)) if hidden else None,
    )


def head(hidden: int = 3, units: int = 4, seed: int = 1) -> SurvivalHead:
    rng = np.random.default_rng(seed)
    size = features(evidence(hidden=hidden)).shape[1]
    return SurvivalHead(
        rng.normal(size=(size, units)).astype(np.float32),
        rng.normal(size=units).astype(np.float32),
        rng.normal(size=units).astype(np.float32),
        0.25,
    )


def test_the_product_takes_the_drafter_at_its_word():
    seen = evidence(hidden=0)
    assert np.allclose(ProductSurvival()(seen), np.exp(seen.log_prob))


@pytest.mark.parametrize("hidden", [0, 3])
def test_a_head_gives_the_same_chances_one_by_one_and_after_a_round_trip(hidden):
    seen, made = evidence(hidden=hidden), head(hidden)
    chances = made(seen)
    assert ((chances > 0) & (chances < 1)).all()
    assert made.hidden_size == hidden
    single = []
    for n in range(5):
        state = None if seen.hidden is None else seen.hidden[n]
        margin = float(seen.choice_margin[n])
        single.append(made.one(margin, int(seen.match[n]), bool(seen.agrees[n]), state))
    assert np.allclose(single, chances, atol=1e-6)
    assert (SurvivalHead.from_tensors(made.tensors())(seen) == chances).all()


def test_damaged_heads_are_refused():
    tensors = head().tensors()
    with pytest.raises(ValueError, match="lacks output"):
        SurvivalHead.from_tensors({k: v for k, v in tensors.items() if k != "output"})
    with pytest.raises(ValueError, match="do not fit"):
        SurvivalHead.from_tensors({**tensors, "bias": tensors["bias"][:-1]})
