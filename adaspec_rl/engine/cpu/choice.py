"""Which number format is fastest on a CPU, and how the CPU multiplies in it."""

import functools
import json
import logging
import time

import numpy as np
import torch

from adaspec_rl import strict_json
from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.cpu.build import compiled, library
from adaspec_rl.engine.cpu.decoder import CpuDecoder
from adaspec_rl.engine.cpu.packing import PackedWeights, Packer
from adaspec_rl.engine.kv_cache import KVCache
from adaspec_rl.engine.machine import cache_folder, processor
from adaspec_rl.engine.rope import Rope
from adaspec_rl.engine.weights import empty_weights
from adaspec_rl.files import write_atomically

WIDTHS = (1, 4, 12)  # tokens of a plain step, of a short and of a long verification
MARGIN = 0.9  # bfloat16 pairs are chosen below this share of the time of float32 products
WAYS = {  # the format, and whether bfloat16 uses the processor's instruction for pairs
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "bfloat16 pairs": (torch.bfloat16, True),
}
PASSES = 5
SAMPLE = Architecture(  # one layer of 100 MB in float32, more than caches hold
    family="llama",
    vocab_size=16,
    hidden_size=1024,
    intermediate_size=7168,
    heads=16,
    kv_heads=4,
    head_dim=64,
    context_length=64,
    norm_eps=1e-5,
    rope=Rope(),
    windows=(None,),
    tied=True,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
)

logger = logging.getLogger(__name__)


def fastest_dtype(kernels: str = "auto") -> torch.dtype:
    """bfloat16 if the compiled decoder is faster with it here, else float32.

    It halves the bytes that a token reads, also where the processor cannot multiply it and widens
    each weight first.
    """
    if not compiled(kernels):
        return torch.float32
    seconds = _measured()
    found, _ = WAYS[min(seconds, key=seconds.__getitem__)]
    logger.info("model.dtype=auto: %s is the fastest here", str(found).removeprefix("torch."))
    return found


def multiplies_pairs() -> bool:
    """Whether bfloat16 uses the processor's instruction for pairs of numbers.

    Otherwise weights are widened and multiplied as float32, which rounds differently.
    """
    seconds = _measured()
    return seconds.get("bfloat16 pairs", np.inf) < MARGIN * seconds["bfloat16"]


@functools.cache
def _measured() -> dict[str, float]:
    """Seconds on one layer for each way in which this processor can multiply.

    This is measured once per machine, in a second, and kept in the user's cache folder, so that a
    machine always chooses the same.
    """
    path = cache_folder() / "cpu" / "multiplications.json"
    key = f"{processor()}, {torch.get_num_threads()} threads"
    try:
        known = strict_json.typed(dict[str, dict[str, float]], strict_json.read(path, str(path)))
    except (ValueError, OSError):
        known = {}
    able = library().multiplies_bfloat16()
    ways = {way: how for way, how in WAYS.items() if able or how != WAYS["bfloat16 pairs"]}
    if set(known.get(key, ())) != set(ways):
        known[key] = {way: _seconds(dtype, pairs) for way, (dtype, pairs) in ways.items()}
        try:
            write_atomically(path, json.dumps(known, indent=2, sort_keys=True) + "\n")
        except ValueError as error:  # a read-only home
            logger.info("the choice of multiplications is not kept: %s", error)
    return known[key]


def _seconds(dtype: torch.dtype, pairs: bool) -> float:
    weights = empty_weights(SAMPLE, dtype, torch.device("cpu"))
    for layer in weights.layers:
        for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down):
            matrix.fill_(0.01)
    for vector in (weights.embedding, weights.norm, weights.layers[0].attention_norm):
        vector.fill_(1.0)
    weights.layers[0].mlp_norm.fill_(1.0)
    packer = Packer(dtype)
    packed = PackedWeights(
        embedding=packer.embedding(weights.embedding, tied=False),
        layers=[packer.layer(layer) for layer in weights.layers],
        norm=weights.norm.float(),
        head=packer.head(weights.head),
        dtype=dtype,
    )
    decoder = CpuDecoder(SAMPLE, packed, pairs=pairs)
    cpu = torch.device("cpu")
    cache = KVCache(SAMPLE, dtype=dtype, device=cpu, context_length=SAMPLE.context_length)
    rope = SAMPLE.rope.table(cache.capacity, SAMPLE.head_dim, cpu)
    total = 0.0
    for width in WIDTHS:
        tokens = torch.zeros(1, width, dtype=torch.long)
        times = []
        for _ in range(PASSES):
            began = time.perf_counter()
            decoder.run(tokens, cache, rope, keep=1, layers=1)
            times.append(time.perf_counter() - began)
        total += min(times)
    return total
