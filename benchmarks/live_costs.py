"""Decoding costs of a pair by batch size and context, measured live.

    python benchmarks/live_costs.py [--shape S --drafter-shape S] [--json PATH]

Needs only torch and transformers, none of the packages for training. The JSON holds the profile.
Figures at every batch size and context: `autoregressive_ms`, `draft_share` (one drafted token ÷ an
autoregressive step) and `verification_8` (verifying 8 drafted tokens ÷ that step).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from report import finish
from rich.console import Console

from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.costs.table import cost_table
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import NGRAM, Pair, load_pair

MAX_LENGTH = 8


def measured(
    pair: Pair,
    *,
    contexts: Sequence[int],
    batch_sizes: Sequence[int],
    seconds: float,
    max_new_tokens: int,
) -> CostProfile:
    """The profile of greedy decoding."""
    session = pair.session(max_new_tokens=max_new_tokens, sampling=Sampling())
    prompts = [pair.encode(prompt.text) for prompt in balanced(embedded_prompts("train"), 2)]
    return measure(
        session,
        prompts,
        max_length=MAX_LENGTH,
        seconds=seconds,
        contexts=contexts,
        batch_sizes=batch_sizes,
        note=print,
    )


def pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the pair and its device."""
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--target", default="tiny:target", help="tiny:NAME or a folder")
    parser.add_argument("--drafter", default="tiny:draft")
    parser.add_argument("--shape", help="inflate the target to this: llama8b, llama1b, test")
    parser.add_argument("--drafter-shape", help="likewise")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")


def pair_from(options: argparse.Namespace) -> Pair:
    torch.set_num_threads(options.threads)
    return load_pair(
        "pair",
        options.target,
        [options.drafter, NGRAM],
        LoadOptions(dtype=options.dtype, device=options.device),
        shape=options.shape,
        drafter_shape=options.drafter_shape,
    )


def figures_of(profile: CostProfile) -> dict[str, float]:
    figures = {}
    for point in profile.points:
        place, step = f"batch{point.batch_size}_context{point.context}", point.autoregressive_step
        figures[f"autoregressive_ms_{place}"] = step * 1e3
        figures[f"draft_share_{place}"] = point.draft_step[0] / step
        figures[f"verification_8_{place}"] = point.verification[8] / step
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair_arguments(parser)
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60, help="that all of it may take")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = pair_from(options)
    profile = measured(
        pair,
        contexts=options.contexts,
        batch_sizes=options.batch_sizes,
        seconds=options.seconds,
        max_new_tokens=options.max_new_tokens,
    )
    Console().print(cost_table(profile))
    details = {"pair": pair.name, "profile": profile.to_dict()}
    finish(figures_of(profile), options.json, device=pair.target.device, details=details)


if __name__ == "__main__":
    main()
