"""The noise is what Philox's authors publish, the same everywhere, and Gumbel."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch

from adaspec_rl.decoding import noise
from adaspec_rl.decoding.noise import GumbelNoise, gumbel, gumbel_of, noise_table, philox4x32, words
from adaspec_rl.engine.cpu import build

CPU = torch.device("cpu")
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = 0xFFFFFFFF
KNOWN = [  # of Random123's kat_vectors: rounds, counter, key, words
    (7, (0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (ONES,) * 4, (ONES,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, *PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    (10, (0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, *PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("rounds, counter, key, expected", KNOWN)
def test_philox_gives_the_published_words(rounds, counter, key, expected):
    arrays = [np.array([word], dtype=np.uint64) for word in counter]
    tensors = [torch.tensor([word]) for word in counter]
    for form in (counter, arrays, tensors):
        assert np.ravel(philox4x32(form, key, rounds)).tolist() == list(expected)


def noise_of_word(word: int) -> float:
    """The noise that a random word stands for, written out."""
    odd = word | 1
    odd -= odd >> 31 << 32
    share = float(np.float32(odd)) / 2**32
    return -math.log(-math.log1p(-share) if share > 0 else -math.log(-share))


def test_noise_is_that_of_its_word_of_philox():
    seed, positions, vocab_size = (3 << 32) + 17, range(5, 8), 103
    found = gumbel(seed, positions, vocab_size)
    for row, position in enumerate(positions):
        for token in range(vocab_size):
            word = philox4x32((token // 4, position, 0, 0), (17, 3))[token % 4]
            assert float(found[row, token]) == pytest.approx(noise_of_word(word), abs=2e-6)


@pytest.mark.parametrize("vocab_size", [1, 7, 4096, 40_001])
def test_arrays_tensors_and_the_compiled_kernel_give_the_same_bits(vocab_size, monkeypatch):
    seed, positions = (5 << 32) + 11, range(1000, 1011)
    wanted = gumbel_of(words(seed, positions, vocab_size, CPU))
    monkeypatch.setattr(noise, "loaded", lambda: None)
    assert torch.equal(gumbel(seed, positions, vocab_size), wanted)
    if build.compiled("auto"):
        monkeypatch.setattr(noise, "loaded", build.library)
        assert torch.equal(gumbel(seed, positions, vocab_size), wanted)


def test_negative_seeds_have_noise_of_their_own():
    wanted = gumbel_of(words(-3, range(2), 50, CPU))
    assert not torch.equal(wanted, gumbel(3, range(2), 50))
    assert torch.equal(gumbel(-3, range(2), 50), wanted)


def test_the_table_has_the_same_bits_on_every_machine():
    digest = hashlib.sha256(b"".join(part.tobytes() for part in noise_table()))
    assert digest.hexdigest()[:16] == "e4c7c3d4a371b191"


def test_the_logarithm_is_accurate_in_both_tails():
    generator = np.random.default_rng(0)
    odd = [1, 3, 2**31 - 1]
    for power in range(1, 31):
        odd += (generator.integers(2**power, 2 ** (power + 1), 2000) | 1).tolist()
    odd += [2**32 - number for number in odd]
    found = gumbel_of(torch.tensor(odd)).double().numpy()
    exact = np.array([noise_of_word(word) for word in odd])
    error = np.abs(found - exact)
    assert exact.max() > 22 and exact.min() < -3
    assert error.max() < 1.1e-6
    assert error[np.abs(exact) < 4].max() < 4e-7
    order = np.argsort(exact, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


@pytest.mark.parametrize("vocab_size", [8, 400, 5000, 70_000])
def test_any_order_of_evaluation_gives_the_same_noise(vocab_size):
    whole = gumbel(7, range(400), vocab_size) if vocab_size < 1000 else None
    lookup = GumbelNoise(7, vocab_size, CPU)
    for positions in (range(60, 69), range(3, 4), [70, 3, 64], range(0), [399, 0], range(60, 69)):
        expected = [gumbel(7, range(place, place + 1), vocab_size)[0] for place in positions]
        found = lookup.at(positions)
        assert found.shape == (len(positions), vocab_size)
        assert all(torch.equal(row, wanted) for row, wanted in zip(found, expected))
        if whole is not None:
            assert torch.equal(found, whole[list(positions)])
        values = torch.randn(len(positions), vocab_size)
        wanted = values + found
        lookup.add_to(values, positions)
        assert torch.equal(values, wanted)


@pytest.mark.parametrize("vocab_size", [4096, 49_152])
def test_what_is_kept_has_a_bound(vocab_size):
    lookup = GumbelNoise(0, vocab_size, CPU)
    kept = []
    for position in range(0, 600, 3):
        lookup.at(range(position, position + 3))
        kept.append(lookup.kept)
    assert 32 <= max(kept) <= 300 and kept[-1] == max(kept)
    assert max(kept) * vocab_size * 4 < 8 * 2**20


STREAMS = {  # 256 rows of 1,024 words whose neighbours, in both directions, are as they say
    "tokens and positions": lambda: words(5, range(256), 1024, CPU),
    "positions and tokens": lambda: words(5, range(1024), 256, CPU).T,
    "seeds": lambda: torch.cat([words(seed, range(1), 1024, CPU) for seed in range(256)]),
    "high seeds": lambda: torch.cat([words(n << 32, range(1), 1024, CPU) for n in range(256)]),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_words_look_uniform_and_independent(kind):
    found = STREAMS[kind]().numpy()

    def z(values, values_below):  # of chi-squared against equal shares
        counts = np.bincount(values.reshape(-1), minlength=values_below)
        expected = values.size / values_below
        freedom = values_below - 1
        return (((counts - expected) ** 2).sum() / expected - freedom) / math.sqrt(2 * freedom)

    for shift in (0, 8, 16, 24):
        assert abs(z(found >> shift & 255, 256)) < 5
    for axis, apart, shift in itertools.product((0, 1), (1, 2, 4), (0, 28)):
        part = found >> shift & 15
        one = np.take(part, range(part.shape[axis] - apart), axis)
        other = np.take(part, range(apart, part.shape[axis]), axis)
        assert abs(z(one * 16 + other, 256)) < 5
    bits = (found.reshape(-1, 1)[: 1 << 15] >> np.arange(32) & 1) * 2.0 - 1
    between = bits.T @ bits / len(bits) - np.eye(32)
    assert np.abs(bits.mean(0)).max() < 5 / math.sqrt(len(bits))
    assert np.abs(between).max() < 5 / math.sqrt(len(bits))
    assert found.size - len(np.unique(found)) < 30  # by chance, 8 of 2^18 are drawn again


def test_noise_is_gumbel():
    found = np.sort(gumbel(7, range(500), 400).numpy().reshape(-1).astype(np.float64))
    assert found.mean() == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert found.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    share = np.exp(-np.exp(-found))
    distance = np.abs(share - (np.arange(len(share)) + 0.5) / len(share)).max()
    assert distance < 1.95 / math.sqrt(len(share))  # Kolmogorov-Smirnov, 0.1%
