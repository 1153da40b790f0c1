"""The time to choose tokens: noise, top-k and top-p, one random draw.

    python benchmarks/sampling.py [--vocabularies 4096 49152 151936] [--json PATH]

Median microseconds per row on the CPU with one thread, for random logits that fall like those of
language models. `sorted` (top-p by sorting the whole vocabulary) and `race` (a draw with one random
number per token) show what is avoided. Figures are named `<what>_<vocabulary>_us`.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from report import finish
from rich.progress import track

from adaspec_rl.decoding.noise import gumbel, gumbel_in_arrays
from adaspec_rl.decoding.sampling import Sampling, sample, truncated, warp_logits
from adaspec_rl.engine.cpu.build import compiled

WIDTH = 8  # rows per call


def cases(vocab_size: int) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Name, rows, and what is timed."""
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(WIDTH, vocab_size, generator=generator).argsort(-1)
    noise = torch.randn(WIDTH, vocab_size, generator=generator)
    logits = (1.5 * noise - 1.5 * torch.arange(1, vocab_size + 1).log()).gather(-1, order)
    probs = logits.softmax(-1)
    for rows in (1, WIDTH):
        if compiled("auto"):
            yield f"noise_{rows}_compiled", rows, lambda n=rows: gumbel(1, range(n), vocab_size)
        yield f"noise_{rows}", rows, lambda n=rows: gumbel_in_arrays(1, range(n), vocab_size)
        part, weights = logits[:rows], probs[:rows]
        for name, sampling in {
            "temperature": Sampling(0.8),
            "top_k": Sampling(0.8, top_k=50),
            "top_p": Sampling(0.8, top_p=0.95),
            "top_k_top_p": Sampling(0.8, top_k=50, top_p=0.95),
        }.items():
            yield f"{name}_{rows}", rows, lambda x=part, s=sampling: warp_logits(x, s)
        yield f"top_p_{rows}_sorted", rows, lambda x=part: truncated(x / 0.8, None, 0.95)
        yield f"draw_{rows}", rows, lambda w=weights: sample(w, generator)
        yield (
            f"draw_{rows}_race",
            rows,
            lambda w=weights: (w / torch.empty_like(w).exponential_(generator=generator)).argmax(
                -1
            ),
        )


def seconds(call: Callable[[], object], least: float = 0.2) -> float:
    """The median time of at least three calls that take `least` seconds in all."""
    call()
    times: list[float] = []
    while len(times) < 3 or math.fsum(times) < least:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096, 49_152, 151_936])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for vocab_size in options.vocabularies:
        for name, rows, call in track(list(cases(vocab_size)), f"vocabulary {vocab_size}"):
            figures[f"{name}_{vocab_size}_us"] = 1e6 * seconds(call) / rows
    finish(figures, options.json)


if __name__ == "__main__":
    main()
