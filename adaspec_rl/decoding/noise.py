"""Gumbel noise as a function of seed, position and token, from a counter-based generator.

Every step is integer arithmetic or a single correctly rounded float32 operation, so all CPUs and
GPUs compute the same bits, in any order of evaluation. There are three implementations: tensors on
any device, arrays on CPUs, and `engine/cpu/noise.cpp` where models run compiled.
"""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from adaspec_rl.engine.cpu.build import loaded

LOW = 0xFFFFFFFF  # the low 32 bits
MULTIPLIERS, INCREMENTS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
STEPS = 10  # bits of a mantissa that choose among a table's entries; 23 - STEPS interpolate
KEPT = 32  # at least this many positions are kept: more than two rounds read
KEPT_VALUES = 1 << 20  # and more, up to so many values, where the vocabulary is small
CHUNK = 1 << 15  # values that are computed at a time on CPUs, which keeps them in the cache
AHEAD = 16  # positions computed at a time on other devices, where calls cost most


class GumbelNoise:
    """Standard Gumbel noise, a pure function of (seed, position, token).

    Target and drafter see the same noise at the same position, so they tend to pick the same token
    wherever their distributions are similar: coupling without communication (arXiv:2408.07978). The
    noise of recently used positions is kept; for other positions it is computed again.
    """

    def __init__(self, seed: int, vocab_size: int, device: torch.device) -> None:
        self.seed, self.vocab_size, self.device = seed, vocab_size, device
        self._blocks: dict[int, torch.Tensor] = {}
        if device.type != "cpu":
            _table_on(device)  # now, as the copy makes the host wait
        self._block_size = max(1 if device.type == "cpu" else AHEAD, CHUNK // vocab_size)
        self._most = -(-max(KEPT, KEPT_VALUES // vocab_size) // self._block_size) + 1

    @property
    def kept(self) -> int:
        """Positions whose noise is held in memory."""
        return len(self._blocks) * self._block_size

    def at(self, positions: Sequence[int]) -> torch.Tensor:
        """Noise `[len(positions), V]` float32."""
        values = torch.zeros(len(positions), self.vocab_size, device=self.device)
        self.add_to(values, positions)
        return values

    def add_to(
        self, values: torch.Tensor, positions: Sequence[int], ids: torch.Tensor | None = None
    ) -> None:
        """Add the noise of `positions` to the rows of `values` `[len(positions), C]`.

        The columns are the whole vocabulary, or the tokens `ids` `[C]`.
        """
        size, done = self._block_size, 0
        while done < len(positions):
            index, offset = divmod(positions[done], size)
            count = min(size - offset, len(positions) - done) if type(positions) is range else 1
            noise = self._block(index)[offset : offset + count]
            values[done : done + count] += noise if ids is None else noise.index_select(1, ids)
            done += count

    def rows(self, positions: range) -> list[torch.Tensor]:
        """Noise `[V]` float32 of each position, which must not be changed."""
        found = []
        for position in positions:
            index, offset = divmod(position, self._block_size)
            found.append(self._block(index)[offset])
        return found

    def of(self, tokens: np.ndarray, position: int) -> np.ndarray:
        """Noise `[C]` float32 of some tokens at one position, on the host.

        On CPUs the position's noise is computed and kept for the target. On other devices the host
        computes the noise of these tokens itself, so that it does not wait for the device.
        """
        if self.device.type == "cpu":
            index, offset = divmod(position, self._block_size)
            return self._block(index)[offset].numpy()[tokens]
        return _gumbel_of_array(_words_of(self.seed, position, tokens))

    def _block(self, index: int) -> torch.Tensor:
        block = self._blocks.get(index)
        if block is None:
            start = index * self._block_size
            positions = range(start, start + self._block_size)
            block = gumbel(self.seed, positions, self.vocab_size, self.device)
            self._blocks[index] = block
            if len(self._blocks) > self._most:
                del self._blocks[next(iter(self._blocks))]
        return block


def gumbel(
    seed: int, positions: range, vocab_size: int, device: torch.device = torch.device("cpu")
) -> torch.Tensor:
    """Gumbel noise `[len(positions), vocab_size]` float32; positions from 0 to 2^32 - 1.

    Token t at position p uses word t % 4 of Philox4x32-10 with counter (t // 4, p, 0, 0) and key
    `seed`. The word's highest 31 bits are rounded to a float32, whose mantissa has 24 bits. The
    noise is at most 22.2 and at least -3.1, and within 2e-6 of the exact value for these bits.
    """
    if device.type != "cpu":
        return gumbel_of(words(seed, positions, vocab_size, device))
    if (compiled := loaded()) is not None and positions.step == 1:
        return _gumbel_compiled(compiled, seed, positions, vocab_size)
    return gumbel_in_arrays(seed, positions, vocab_size)


def _gumbel_compiled(
    compiled: ctypes.CDLL, seed: int, positions: range, vocab_size: int
) -> torch.Tensor:
    noise = torch.empty(len(positions), vocab_size)
    integers = (seed & 0xFFFFFFFFFFFFFFFF, positions.start, len(positions), vocab_size)
    compiled.gumbel(
        ctypes.c_uint64(integers[0]),
        *map(ctypes.c_int64, integers[1:]),
        *(ctypes.c_void_p(part.ctypes.data) for part in noise_table()),
        ctypes.c_int64(torch.get_num_threads()),
        ctypes.c_void_p(noise.data_ptr()),
    )
    return noise


def gumbel_in_arrays(seed: int, positions: range, vocab_size: int) -> torch.Tensor:
    """`gumbel` on CPUs without the compiled code."""
    found = np.empty((len(positions), vocab_size), dtype=np.float32)
    rows = max(1, CHUNK // vocab_size)
    for first in range(0, len(positions), rows):
        part = slice(first, first + rows)
        found[part] = _gumbel_of_array(_words_array(seed, positions[part], vocab_size))
    return torch.from_numpy(found)


def philox4x32(counter: Sequence[Any], key: tuple[int, int], rounds: int = 10) -> Sequence[Any]:
    """The four words of Philox4x32 (Salmon et al., 2011, doi:10.1145/2063384.2063405).

    `counter` has four words, each below 2^32: Python integers, NumPy uint64 arrays or int64
    tensors. They are broadcast as late as possible, so that what depends on only some of them is
    computed once.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = _high(p1) ^ c1 ^ k0, p1 & LOW, _high(p0) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + INCREMENTS[0]) & LOW, (k1 + INCREMENTS[1]) & LOW
    return c0, c1, c2, c3


def _high(product: Any) -> Any:
    # A product of 64 bits makes an int64 tensor negative, whose shift brings in ones.
    return (product >> 32) & LOW if isinstance(product, torch.Tensor) else product >> 32


def _key(seed: int) -> tuple[int, int]:
    return seed & LOW, seed >> 32 & LOW


def words(seed: int, positions: range, vocab_size: int, device: torch.device) -> torch.Tensor:
    """The random words `[len(positions), vocab_size]` int64 behind the noise."""
    quarters = torch.arange(-(-vocab_size // 4), device=device)
    places = torch.arange(positions.start, positions.stop, positions.step, device=device)[:, None]
    found = torch.broadcast_tensors(*philox4x32((quarters, places, 0, 0), _key(seed)))
    return torch.stack(found, dim=-1).flatten(1)[:, :vocab_size]


def _words_array(seed: int, positions: range, vocab_size: int) -> np.ndarray:
    """`words` as a uint32 array."""
    quarters = np.arange(-(-vocab_size // 4), dtype=np.uint64)
    places = np.array(positions, dtype=np.uint64)[:, None]
    found = np.empty((len(positions), len(quarters), 4), dtype=np.uint32)
    for lane, values in enumerate(philox4x32((quarters, places, 0, 0), _key(seed))):
        found[..., lane] = values
    return found.reshape(len(positions), -1)[:, :vocab_size]


def _words_of(seed: int, position: int, tokens: np.ndarray) -> np.ndarray:
    """The random words of some tokens at one position, `[C]` uint32."""
    wanted = tokens.astype(np.uint64)
    found = philox4x32((wanted >> np.uint64(2), np.uint64(position), 0, 0), _key(seed))
    return np.choose((wanted & np.uint64(3)).astype(np.intp), found).astype(np.uint32)


def gumbel_of(words: torch.Tensor) -> torch.Tensor:
    """Gumbel noise (float32) from random words below 2^32 (int64)."""
    odd = ((words | 1) ^ 0x80000000) - 0x80000000  # as a signed number of 32 bits
    bits = odd.to(torch.float32).view(torch.int32)
    entry = ((bits >> (23 - STEPS)) & 0x7FFFF).long()
    values, slopes = _table_on(words.device)
    return slopes[entry] * (bits & 0x1FFF).to(torch.float32) + values[entry]


def _gumbel_of_array(words: np.ndarray) -> np.ndarray:
    """`gumbel_of` for a uint32 array."""
    bits = (words | np.uint32(1)).view(np.int32).astype(np.float32).view(np.uint32)
    entry = (bits >> np.uint32(23 - STEPS)).astype(np.intp)
    bits &= np.uint32(0x1FFF)
    values, slopes = noise_table()
    noise = bits.astype(np.float32)
    noise *= np.take(slopes, entry)
    noise += np.take(values, entry)
    return noise


@cache
def noise_table() -> tuple[np.ndarray, np.ndarray]:
    """Noise, and its rise per unit of the mantissa, `[2^19]` float32, by a float32's high bits.

    A float32 c between 1 and 2^31 stands for the value that noise exceeds with probability c /
    2^32, and -c for the value that noise stays below with that probability. So both tails are
    finely resolved.
    """
    exponents, mantissas = np.arange(31.0), 1 + np.arange(0, 1, 2.0**-STEPS)
    points = np.append(np.ldexp(mantissas, exponents[:, None].astype(int)).reshape(-1), 2.0**31)
    share = points * 2.0**-32
    values, slopes = (np.zeros(1 << (9 + STEPS), dtype=np.float32) for _ in range(2))
    for sign, lower in ((0, _log1p(-share)), (1 << (8 + STEPS), _log(share))):
        noise = -_log(-lower)
        part = slice(sign + (127 << STEPS), sign + (127 << STEPS) + len(noise))
        values[part] = noise
        slopes[part][:-1] = np.diff(noise) / (1 << (23 - STEPS))
    return values, slopes


@cache
def _table_on(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    values, slopes = noise_table()
    return torch.from_numpy(values).to(device), torch.from_numpy(slopes).to(device)


def _log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of positive float64 numbers, by operations that round alike everywhere."""
    mantissa, exponent = np.frexp(x)
    return _log1p(mantissa - 1) + exponent * 0.6931471805599453


def _log1p(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of 1 + x for x from -0.5 to 0.5, likewise."""
    ratio = x / (2 + x)  # log((1 + r) / (1 - r)) = 2 (r + r^3 / 3 + r^5 / 5 + ...)
    square, total = ratio * ratio, np.zeros_like(ratio)
    for power in range(41, 0, -2):
        total = total * square + 1 / power
    return 2 * ratio * total
