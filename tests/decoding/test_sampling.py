import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.sampling import Sampling, sample, truncated, warp_logits
from tests.device import DEVICE, stand_in


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Top-k, then the fewest tokens whose mass reaches top-p, lower ids first; written out."""
    scaled = (logits / sampling.temperature).astype(np.float64)
    kept = np.argsort(-scaled, kind="stable")[: sampling.top_k or None]
    probs = np.exp(scaled - scaled.max())
    probs /= probs[kept].sum()
    nucleus, mass = [], 0.0
    for token in kept:
        if mass >= sampling.top_p:
            break
        nucleus.append(token)
        mass += probs[token]
    result = np.zeros_like(probs)
    result[nucleus] = probs[nucleus]
    return result / result.sum()


def warped(logits: np.ndarray, sampling: Sampling) -> list[torch.Tensor]:
    """As CPUs do it, and as other devices do, where something is left out."""
    top_k = sampling.top_k if 0 < sampling.top_k < logits.shape[-1] else None
    tensor = torch.from_numpy(logits)
    found = [warp_logits(tensor, sampling)]
    if top_k or sampling.top_p < 1:
        found.append(truncated(tensor / sampling.temperature, top_k, sampling.top_p))
    return found


settings_drawn = st.builds(
    Sampling, st.floats(0.2, 2.0), st.integers(0, 40), st.sampled_from([0.1, 0.51, 0.9, 0.999, 1.0])
)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 30), settings_drawn)
def test_probabilities_follow_the_definition(seed, vocab_size, sampling):
    logits = np.random.default_rng(seed).normal(size=vocab_size) * 2
    expected = reference(logits, sampling)
    for found in warped(logits, sampling):
        np.testing.assert_allclose(found.softmax(-1).numpy(), expected, atol=1e-9)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 30), settings_drawn)
def test_of_equal_logits_those_of_lower_ids_are_kept(seed, vocab_size, sampling):
    """Masses such as a half and 0.1 never meet exactly here, so that rounding decides nothing."""
    logits = np.random.default_rng(seed).integers(-2, 2, vocab_size).astype(np.float32)
    sampling = Sampling(1.0, sampling.top_k, min(1.0, sampling.top_p + 1e-4))
    expected = reference(logits, sampling) > 0
    for found in warped(logits, sampling):
        np.testing.assert_array_equal(found.isfinite().numpy(), expected)


@pytest.mark.parametrize("top_k, top_p", [(50, 1), (0, 0.95), (0, 0.1), (50, 0.9), (0, 0.9999)])
def test_large_vocabularies_are_cut_like_small_ones(top_k, top_p):
    generator = np.random.default_rng(0)
    logits = -1.5 * np.log(np.arange(1, 49_153)) + generator.normal(size=(2, 3, 49_152))
    logits = np.round(generator.permuted(logits, axis=-1), 2).astype(np.float32)  # many are equal
    sampling = Sampling(0.8, top_k, top_p)
    found = warped(logits, sampling)
    assert torch.equal(*found)
    for index in np.ndindex(2, 3) if top_p != 0.9999 else ():  # beyond, rounding decides
        kept = reference(logits[index], sampling) > 0
        np.testing.assert_array_equal(found[0][index].isfinite().numpy(), kept)


def test_flat_and_certain_distributions_are_cut():
    flat, certain = np.zeros(1000, np.float32), np.zeros(1000, np.float32)
    certain[7] = 200
    for found in warped(flat, Sampling(1.0, top_p=0.2505)):
        assert found.isfinite().nonzero().flatten().tolist() == list(range(251))
    for found in warped(certain, Sampling(1.0, top_p=0.9)):
        assert found.isfinite().nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("top_k, top_p", [(0, 1.0), (4, 1.0), (0, 0.8), (4, 0.8)])
def test_on_a_device_the_same_is_kept_and_the_host_never_waits(top_k, top_p):
    sampling = Sampling(0.8, top_k, top_p)
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0)).mul(2).round()
    with stand_in() as device:
        there = logits.to(DEVICE)
        noise = GumbelNoise(1, 20, DEVICE)
        device.waits.clear()
        warped_there = warp_logits(there, sampling)
        sample(warped_there.softmax(-1), torch.Generator())
        scores = warped_there.clone()
        noise.add_to(scores, range(5, 8))
        assert not device.waits
        found, scored = warped_there.cpu(), scores.cpu()
    expected = warp_logits(logits, sampling)
    assert torch.equal(found, expected)
    assert torch.equal(scored, expected + GumbelNoise(1, 20, torch.device("cpu")).at(range(5, 8)))


def test_samples_follow_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    drawn = sample(weights.expand(40_000, 4), generator)
    shares = torch.bincount(drawn, minlength=4) / 40_000
    assert torch.allclose(shares, weights / 8, atol=0.01)


def test_what_weighs_nothing_is_never_sampled():
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(5000, 7)
    weights[:, [2, 5]] = 1e-30
    assert set(sample(weights, generator).tolist()) == {2, 5}


@pytest.mark.parametrize("values", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        Sampling(1.0, **values)
