"""How fast the engine runs models, and what a round costs beyond its forward passes.

    python benchmarks/engine.py [--target T --drafter D | --inflated] [--others M ...] [--json PATH]

All compared calls are interleaved; figures are ratios of medians at the first context. For each
model (`target`, `draft`, others by name) and precision (on the CPU, each of `--precisions` that the
engine offers here):

`MODEL_PRECISION_step_ms` (a forward of one token), `_bandwidth_share` (bytes of stored weights and
cache ÷ its time ÷ the memory bandwidth measured in the same run; models that fit into the
processor's cache can exceed 1), `_width8` and `_worst_of_2_to_8` (the time of 8 tokens, and the
longest time of 2 to 8 tokens, ÷ one token's), `_vs_transformers` (ours ÷ theirs in the same type,
one token), `_vs_torch_kernels` (with `--torch-kernels`: ours with the compiled kernels ÷ ours
without).

For the pair: `round_overhead` (share of a drafting round outside its forward passes, each
synchronised), `fallback_vs_autoregressive` (a fallback with a drafter loaded ÷ a step without a
drafter); on CUDA also `bandwidth_fraction` (bytes that a fallback round must move ÷ its time ÷ the
measured copy bandwidth) and `autoregressive_vs_eager_generate` (tokens a second, ours ÷ theirs).
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from bandwidth import cached_token, memory_bandwidth, step_weights
from forwards import (
    COMPILED,
    WIDTHS,
    CompiledForward,
    EagerForward,
    Forward,
    OurForward,
    reduce_overhead,
    reference_model,
    show_forwards,
    synchronize,
    time_forwards,
    token_stream,
)
from report import finish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rounds import FALLBACKS, LENGTHS, draft_model, show_overhead, time_fallbacks, time_overhead
from transformers import PreTrainedModel
from transformers.utils import logging

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.load_options import LoadOptions, dtype_named
from adaspec_rl.engine.loading import load_model
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.pairs.sources import checkpoint_of

TORCH = "torch kernels"
CONTEXTS = {"cpu": [128, 1024], "cuda": [256, 2048, 8192, 30000]}
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
BESIDES_QUANTIZED = "bfloat16"  # the cache's type with int8 and int4 weights


def loaded(
    source: str, precisions: Sequence[str], kernels: str = "auto"
) -> tuple[dict[str, LanguageModel], dict[str, str]]:
    """The model in each available precision, and the reasons why others are unavailable here."""
    found: dict[str, LanguageModel] = {}
    lacking: dict[str, str] = {}
    for precision in precisions:
        quantize = precision if precision.startswith("int") else None
        try:
            found[precision] = load_model(
                checkpoint_of(source).source,
                LoadOptions(
                    dtype=dtype_named(BESIDES_QUANTIZED if quantize else precision),
                    quantize=quantize,
                    kernels=kernels,
                ),
                name=source,
            )
        except ValueError as error:
            lacking[precision] = str(error)
    return found, lacking


class Contest:
    """One model in several precisions against transformers', forward by forward."""

    def __init__(
        self,
        role: str,
        source: str,
        models: Mapping[str, LanguageModel],
        shape: str | None = None,
        *,
        former: Mapping[str, LanguageModel] = MappingProxyType({}),
        compiled: bool = False,
    ) -> None:
        """`models` are ours by precision, `former` the same without the compiled kernels.

        Args:
            compiled: also run transformers' model through torch.compile.
        """
        self.role, self.source, self.models = role, source, models
        self.former, self.compiled = former, compiled
        self.device = next(iter(models.values())).device
        self.references = {
            precision: reference_model(source, shape, dtype_named(precision), self.device)
            for precision in models
            if not precision.startswith("int")
        }
        self.config = next(iter(self.references.values())).config

    def forwards(self) -> dict[str, Forward]:
        made: dict[str, Forward] = {}
        for precision, model in self.models.items():
            made[f"ours {precision}"] = OurForward(model)
        for precision, model in self.former.items():
            made[f"{TORCH} {precision}"] = OurForward(model)
        for precision, reference in self.references.items():
            made[f"transformers {precision}"] = EagerForward(reference)
            if self.compiled:
                made[f"{COMPILED} {precision}"] = CompiledForward(reference, reduce_overhead)
        return made

    def run(self, contexts: Sequence[int], repeats: int) -> dict[int, dict[str, dict[int, float]]]:
        """Median milliseconds by context, contender and width; prints a table for each context."""
        room = min(model.context_length for model in self.models.values()) - max(WIDTHS)
        kept = [context for context in contexts if context <= room]
        stream = token_stream(self.source, max(kept) + max(WIDTHS), self.device)
        forwards, found = self.forwards(), {}
        with torch.no_grad():
            for context in track(kept, f"{self.role} forwards"):
                found[context] = time_forwards(forwards, stream, context, repeats)
        for context, medians in found.items():
            show_forwards(f"{self.source} after {context} tokens", medians)
        return found

    def step_bytes(self, precision: str, context: int) -> int:
        """Bytes that one of our steps must read: weights as stored, and the cache."""
        kind = dtype_named(BESIDES_QUANTIZED if precision.startswith("int") else precision)
        weights = step_weights(self.models[precision])
        return weights + context * cached_token(self.config, kind.itemsize)

    def figures(
        self, medians: Mapping[str, Mapping[int, float]], context: int, bandwidth: float
    ) -> dict[str, float]:
        table = Table(
            title=f"{self.source}: one token after {context}, at {bandwidth / 1e9:.1f} GB/s",
            title_justify="left",
        )
        names = ("precision", "ms", "MB", "share", "8 tokens", "2-8", "÷ theirs", "÷ torch")
        for name in names:
            table.add_column(name, justify="right")
        found: dict[str, float] = {}
        for precision in self.models:
            ms = medians[f"ours {precision}"]
            size = self.step_bytes(precision, context)
            values: dict[str, float | None] = {
                "step_ms": ms[1],
                "bandwidth_share": size / (ms[1] / 1000) / bandwidth,
                "width8": ms[8] / ms[1],
                "worst_of_2_to_8": max(ms[width] for width in range(2, 9)) / ms[1],
                "vs_transformers": _ratio(ms, medians.get(f"transformers {precision}")),
                "vs_torch_kernels": _ratio(ms, medians.get(f"{TORCH} {precision}")),
            }
            cells = ["" if value is None else f"{value:.3f}" for value in values.values()]
            table.add_row(precision, cells[0], f"{size / 1e6:.1f}", *cells[1:])
            for name, value in values.items():
                if value is not None:
                    found[f"{self.role}_{precision}_{name}"] = value
        Console().print(table)
        return found


def _ratio(ours: Mapping[int, float], theirs: Mapping[int, float] | None) -> float | None:
    return None if theirs is None else ours[1] / theirs[1]


def against_generate(
    pair: Pair, model: PreTrainedModel, prompts: Sequence[list[int]], count: int
) -> float:
    """Tokens a second of autoregressive decoding, ours ÷ eager `generate`'s, interleaved."""
    session = pair.session(max_new_tokens=count, sampling=Sampling())
    cost = CostFeatures(0.0, 0.0, 0.0)

    def ours(prompt: list[int]) -> int:
        return len(generate(session, FixedLength(0), prompt, cost=cost).tokens)

    def theirs(prompt: list[int]) -> int:
        tokens = torch.tensor([prompt], device=pair.target.device)
        mask = torch.ones_like(tokens)
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=count, do_sample=False)
        return made.shape[1] - len(prompt)

    runs = {"ours": ours, "theirs": theirs}
    tokens, seconds = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0.0)
    for run in runs.values():
        run(prompts[0])
    for number, prompt in enumerate(track(prompts, "whole generations")):
        for name in sorted(runs, reverse=bool(number % 2)):
            synchronize(pair.target.device)
            began = time.perf_counter()
            tokens[name] += runs[name](prompt)
            synchronize(pair.target.device)
            seconds[name] += time.perf_counter() - began
    return (tokens["ours"] / seconds["ours"]) / (tokens["theirs"] / seconds["theirs"])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="tiny:target", help="tiny:NAME, a folder or a file")
    parser.add_argument("--drafter", default="tiny:draft")
    parser.add_argument(
        "--others", nargs="*", default=[], help="more models, forwards alone: smollm2, a folder"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--inflated", action="store_true", help="run the pair in bigger shapes")
    parser.add_argument("--shape", default="llama8b", help="the target's, if inflated")
    parser.add_argument("--drafter-shape", default="llama1b", help="likewise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", help="the pair's: float32 on the CPU, bfloat16 on a GPU")
    parser.add_argument(
        "--torch-kernels", action="store_true", help="also ours without the compiled kernels"
    )
    parser.add_argument(
        "--compiled", action="store_true", help="also transformers through torch.compile: minutes"
    )
    parser.add_argument("--contexts", type=int, nargs="+", help="tokens before each forward")
    parser.add_argument("--repeats", type=int, default=20, help="of each forward")
    parser.add_argument("--prompts", type=int, default=4, help="a domain, for whole rounds")
    parser.add_argument("--fallbacks", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.dtype = options.dtype or ("float32" if options.device == "cpu" else "bfloat16")
    return options


def pair_of(options: argparse.Namespace) -> Pair:
    inflated = options.inflated
    return load_pair(
        "pair",
        options.target,
        [options.drafter],
        LoadOptions(dtype=options.dtype, device=options.device),
        shape=options.shape if inflated else None,
        drafter_shape=options.drafter_shape if inflated else None,
    )


def contests(
    options: argparse.Namespace, pair: Pair, unavailable: dict[str, dict[str, str]]
) -> Iterator[Contest]:
    """Contests of the pair's models and of the others, loaded one at a time."""
    shape, drafter_shape = (
        (options.shape, options.drafter_shape) if options.inflated else (None, None)
    )
    roles = {"draft": (options.drafter, drafter_shape), "target": (options.target, shape)}
    roles |= {source.replace(":", "_"): (source, None) for source in options.others}
    own = {"draft": draft_model(pair), "target": pair.target}
    on_cpu = pair.target.device.type == "cpu"
    for role, (source, size) in roles.items():
        if role in own and not (on_cpu and size is None):
            models: dict[str, LanguageModel] = {options.dtype: own[role]}
        else:
            models, unavailable[role] = loaded(source, options.precisions)
        former: dict[str, LanguageModel] = {}
        if options.torch_kernels and on_cpu and size is None:
            plain = [name for name in models if not name.startswith("int")]
            former, _ = loaded(source, plain, "torch")
        yield Contest(role, source, models, size, former=former, compiled=options.compiled)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.device(options.device)
    pair = pair_of(options)
    chosen = balanced(embedded_prompts("test"), options.prompts)
    prompts = [pair.encode(prompt.text) for prompt in chosen]
    bandwidth = memory_bandwidth(device)
    figures = {"memory_gb_per_second": bandwidth / 1e9}
    milliseconds: dict[str, Any] = {}
    unavailable: dict[str, dict[str, str]] = {}
    overhead = time_overhead(pair, prompts)
    show_overhead(overhead)
    fallback, plain = time_fallbacks(pair, prompts[0], options.fallbacks)
    figures["round_overhead"] = statistics.mean(overhead[length].share for length in LENGTHS)
    figures["fallback_vs_autoregressive"] = statistics.median(
        idle / without for idle, without in zip(fallback, plain)
    )
    for contest in contests(options, pair, unavailable):
        medians = contest.run(options.contexts or CONTEXTS[device.type], options.repeats)
        context = next(iter(medians))
        figures |= contest.figures(medians[context], context, bandwidth)
        milliseconds[contest.role] = medians
        if contest.role == "target" and device.type == "cuda":
            moved = contest.step_bytes(options.dtype, len(prompts[0]) + FALLBACKS // 2)
            used = moved / statistics.median(fallback)
            print(f"{moved / 1e9:.2f} GB a step: {used / 1e9:.0f} of {bandwidth / 1e9:.0f} GB/s")
            figures["bandwidth_fraction"] = used / bandwidth
            figures["autoregressive_vs_eager_generate"] = against_generate(
                pair, contest.references[options.dtype], prompts, count=128
            )
    details = {
        "pair": pair.name,
        "forward_ms": milliseconds,
        "unavailable": unavailable,
        "rounds": {length: asdict(found) for length, found in overhead.items()},
    }
    finish(figures, options.json, device=device, details=details)


if __name__ == "__main__":
    main()
