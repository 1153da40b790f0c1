import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.sampling import GumbelNoise, Sampling, gumbel, logits_to_log_probs, sample


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Top-k, then the smallest set of tokens whose mass reaches top-p, written out."""
    scaled = logits / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = list(order[: sampling.top_k] if sampling.top_k else order)
    probs = np.exp(scaled - scaled.max())
    probs[[i for i in order if i not in kept]] = 0
    probs /= probs.sum()
    nucleus, mass = [], 0.0
    for token in kept:
        if mass >= sampling.top_p:
            break
        nucleus.append(token)
        mass += probs[token]
    result = np.zeros_like(probs)
    result[nucleus] = probs[nucleus]
    return result / result.sum()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 2.0),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_probabilities_follow_the_definition(seed, temperature, top_k, top_p):
    logits = np.random.default_rng(seed).normal(size=10) * 2
    sampling = Sampling(temperature, top_k, top_p)
    found = logits_to_log_probs(torch.from_numpy(logits), sampling).exp().numpy()
    np.testing.assert_allclose(found, reference(logits, sampling), atol=1e-9)


def test_samples_follow_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    drawn = sample(weights.expand(40_000, 4), generator)
    shares = torch.bincount(drawn, minlength=4) / 40_000
    assert torch.allclose(shares, weights / 8, atol=0.01)


def test_noise_is_gumbel_and_a_function_of_seed_position_and_token():
    noise = gumbel(7, torch.arange(500), 400)
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert float(noise.var()) == pytest.approx(np.pi**2 / 6, abs=0.03)
    flat = noise - noise.mean()
    assert abs(float((flat[1:] * flat[:-1]).mean())) < 0.02  # neighbours are uncorrelated
    assert abs(float((flat[:, 1:] * flat[:, :-1]).mean())) < 0.02
    assert not torch.equal(noise, gumbel(8, torch.arange(500), 400))
    lookup = GumbelNoise(7, 400, torch.device("cpu"))
    assert torch.equal(lookup.at(range(60, 69)), noise[60:69])  # across a block's border
    assert torch.equal(lookup.at(range(3, 4)), noise[3:4])
    assert torch.equal(lookup.at([70, 3, 64]), noise[[70, 3, 64]])


@pytest.mark.parametrize("values", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        Sampling(1.0, **values)
