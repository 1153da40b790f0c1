"""How fast the engine runs one model, and what a round costs beyond its forward passes.

    python benchmarks/engine.py [--target T --drafter D | --inflated] [--json PATH]

Everything that is compared is interleaved, call by call; figures are ratios of medians.

Figures on the CPU: `cpu_draft_forward_vs_transformers`, `cpu_target_forward_vs_transformers` (ours
÷ theirs, width 1). On CUDA: `bandwidth_fraction` (bytes that a fallback round must move ÷ its time
÷ the measured copy bandwidth), `autoregressive_vs_eager_generate` (tokens a second, ours ÷ theirs).
On both: `round_overhead` (share of a drafting round outside its forward passes, each synchronised),
`fallback_vs_autoregressive` (a fallback with a drafter loaded ÷ a step without any).
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from forwards import (
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
from rich.progress import track
from rounds import LENGTHS, draft_model, show_overhead, time_fallbacks, time_overhead
from transformers import PreTrainedModel
from transformers.utils import logging

from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.pairs.pair import Pair, dtype_named, load_pair

CONTEXTS = {"cpu": (64, 256, 1024), "cuda": (256, 2048, 8192, 30000)}
REFERENCE_CONTEXT = 256  # what the figures are taken at: near that of the embedded prompts


def compare_forwards(
    role: str, pair: Pair, model: LanguageModel, reference: PreTrainedModel, repeats: int
) -> dict[int, dict[tuple[str, int], float]]:
    """Median milliseconds by context, then by (engine, width); prints a table."""
    kind = model.device.type
    contenders: dict[str, Forward] = {"ours": OurForward(model), "eager": EagerForward(reference)}
    if kind == "cuda":
        contenders["compiled"] = CompiledForward(reference, reduce_overhead)
    room = min(model.context_length, reference.config.max_position_embeddings)
    contexts = [size for size in CONTEXTS[kind] if size + max(WIDTHS) <= room]
    stream = token_stream(pair, max(contexts) + max(WIDTHS))
    with torch.no_grad():
        medians = {
            context: time_forwards(contenders, stream, context, repeats)
            for context in track(contexts, f"{role} forwards")
        }
    show_forwards(f"{model.name} ({role})", contexts, medians)
    return medians


def copy_bandwidth(device: torch.device, size: int = 4 << 30) -> float:
    """Bytes a second of the fastest of some large copies, reads and writes both counted."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize(device)
        best = max(best, 2 * size / (start.elapsed_time(end) / 1000))
    return best


def bytes_of_step(model: PreTrainedModel, context: float) -> float:
    """Bytes that one autoregressive step must read: all matrices, and the keys and values."""
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight
    output = model.get_output_embeddings().weight
    if embedding is not output:
        parameters -= embedding.nbytes  # one row of it is read
    config = model.config
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim
    return parameters + context * values * embedding.element_size()


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="tiny:target", help="tiny:NAME or a folder")
    parser.add_argument("--drafter", default="tiny:draft")
    parser.add_argument("--inflated", action="store_true", help="run both in bigger shapes")
    parser.add_argument("--shape", default="llama8b", help="the target's, if inflated")
    parser.add_argument("--drafter-shape", default="llama1b", help="likewise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=20, help="of each forward")
    parser.add_argument("--prompts", type=int, default=4, help="a domain, for whole rounds")
    parser.add_argument("--fallbacks", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(os.cpu_count() or 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = torch.device(options.device)
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    shape, drafter_shape = (
        (options.shape, options.drafter_shape) if options.inflated else (None, None)
    )
    pair = load_pair(
        "pair",
        options.target,
        [options.drafter],
        dtype=dtype,
        device=options.device,
        shape=shape,
        drafter_shape=drafter_shape,
    )
    chosen = balanced(embedded_prompts("test"), options.prompts)
    prompts = [pair.encode(prompt.text) for prompt in chosen]
    figures: dict[str, float] = {}
    milliseconds: dict[str, Any] = {}
    overhead = time_overhead(pair, prompts)
    fallback, plain = time_fallbacks(pair, prompts[0], options.fallbacks)
    for role, source, size, model in (
        ("draft", options.drafter, drafter_shape, draft_model(pair)),
        ("target", options.target, shape, pair.target),
    ):
        reference = reference_model(source, size, dtype_named(dtype), device)
        medians = compare_forwards(role, pair, model, reference, options.repeats)
        milliseconds[role] = {
            context: {f"{name}, width {width}": ms for (name, width), ms in rows.items()}
            for context, rows in medians.items()
        }
        if device.type == "cpu":
            at = medians[min(medians, key=lambda context: abs(context - REFERENCE_CONTEXT))]
            figures[f"cpu_{role}_forward_vs_transformers"] = at["ours", 1] / at["eager", 1]
    show_overhead(overhead)
    figures["round_overhead"] = statistics.mean(overhead[length].share for length in LENGTHS)
    figures["fallback_vs_autoregressive"] = statistics.median(
        idle / without for idle, without in zip(fallback, plain)
    )
    if device.type == "cuda":
        bandwidth = copy_bandwidth(device)
        moved = bytes_of_step(reference, len(prompts[0]) + options.fallbacks / 2)
        used = moved / statistics.median(fallback)
        print(f"{moved / 1e9:.2f} GB a step: {used / 1e9:.0f} of {bandwidth / 1e9:.0f} GB/s")
        figures["bandwidth_fraction"] = used / bandwidth
        figures["autoregressive_vs_eager_generate"] = against_generate(
            pair, reference, prompts, count=128
        )
    rounds = {length: asdict(found) for length, found in overhead.items()}
    details = {"pair": pair.name, "forward_ms": milliseconds, "rounds": rounds}
    finish(figures, options.json, device=device, details=details)


if __name__ == "__main__":
    main()
