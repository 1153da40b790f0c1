"""Tokens a second of whole decoders in one run: ours, transformers and llama.cpp.

    python benchmarks/versus_peers.py [--data FILE] [--policy FOLDER ...] [--json PATH]
    python benchmarks/versus_peers.py --target tiny:target --drafters tiny:draft ngram

Each way of decoding (plain, a lookup, a draft model, a policy) is judged at its fastest setting on
the file's training prompts, found in the same run. All ways then take turns on the held-out
prompts, in random order. Each prompt counts with the median of its passes, each way with tokens
over seconds, with and without the reading of prompts. All use the same number of threads and the
same token ids. The table also has the bytes of weights and caches that a token had to read, and
their share of the memory bandwidth that was measured in the same run.

llama.cpp (`pip install "adaspec_rl[peers]"`; where it is missing, the run says so and goes on) runs
a target that is a GGUF file, and the same weights rewritten as Q8_0, F16 and BF16: its 4 bits
compare to our int4, Q8_0 to int8, and the faster of F16 and BF16 to bfloat16.

Figures: `WAY_PRECISION_vs_ENGINE_WAY` for each of our ways, decoding alone, against each way of a
peer in the same precision; `identical_PRECISION`, our texts that equal our plain ones (at
temperature 0, and with a policy, which samples coupled). The JSON
also says which texts of all ways agree. Where scikit-learn is installed, transformers adapts its
confidence threshold as it goes; the JSON says whether it was.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bandwidth import memory_bandwidth
from decoder_ours import Ours
from decoder_transformers import Theirs
from decoders import Method, Timing, measure, tuned
from report import finish
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig
from transformers.utils import is_sklearn_available, logging

from adaspec_rl.data.conversations import unanswered
from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.prompts import balanced, embedded_prompts, jsonl_prompts
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.sharing import shares
from adaspec_rl.pairs.drafter_names import is_free
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.pairs.smollm2 import smollm2
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.training.bundle import PolicyBundle, load_bundle

ENGINES = ("transformers", "llama.cpp")
PRECISIONS = ("float32", "bfloat16", "int8", "int4")
BESIDES_QUANTIZED = "bfloat16"  # the cache's type with int8 and int4 weights
WIDTH = 120  # columns of the table, also if the output is not a terminal
SPARE = 16  # tokens of context for a draft at the end of a text


def pairs_of(options: argparse.Namespace, unavailable: dict[str, str]) -> dict[str, Pair]:
    """Our pair in each precision that the engine offers here."""
    found = {}
    for precision in options.precisions:
        quantize = precision if precision.startswith("int") else None
        try:
            found[precision] = load_pair(
                "pair",
                options.target,
                options.drafters,
                LoadOptions(dtype=cache_type(precision), quantize=quantize),
            )
        except ValueError as error:
            unavailable[f"ours {precision}"] = str(error)
    return found


def cache_type(precision: str) -> str:
    return BESIDES_QUANTIZED if precision.startswith("int") else precision


def policies_of(options: argparse.Namespace, pairs: dict[str, Pair]) -> dict[str, PolicyBundle]:
    """Each policy, by the precision that it was trained for.

    Raises:
        ValueError: a policy was trained for none of these pairs.
    """
    found: dict[str, PolicyBundle] = {}
    for folder in options.policy:
        bundle = load_bundle(folder)
        of = [name for name, pair in pairs.items() if pair.fingerprint == bundle.fingerprint]
        if not of:
            bundle.check_pair(next(iter(pairs.values())))
        found |= dict.fromkeys(of, bundle)
    return found


def prompts_of(options: argparse.Namespace, pair: Pair) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the prompts to tune on, and of those to compare on."""
    found = []
    for split, count in (("train", options.tune_prompts), ("test", options.prompts)):
        read = jsonl_prompts(options.data, split) if options.data else embedded_prompts(split)
        asked = as_asked(read, "auto", pair.tokenizer, warn=False)
        first = [prompt for prompt in asked if unanswered(prompt.turns) is None]
        ids = [encode(pair.tokenizer, prompt).ids for prompt in balanced(first, None)]
        short = [prompt for prompt in ids if len(prompt) <= options.max_prompt_tokens]
        if not short:
            raise ValueError(
                f"all {len(ids)} prompts are longer than --max-prompt-tokens="
                f"{options.max_prompt_tokens}: the shortest has {min(map(len, ids))} tokens"
            )
        found.append(short[:count])
    return found[0], found[1]


def llama_methods(
    options: argparse.Namespace,
    pair: Pair,
    context: int,
    folder: Path,
    unavailable: dict[str, str],
) -> Iterator[Method]:
    """llama.cpp's methods, for the file and its rewritten versions."""
    path = smollm2() if options.target == "smollm2" else Path(options.target)
    if path.suffix != ".gguf":
        unavailable["llama.cpp"] = f"{options.target} is no GGUF file"
        return
    try:
        from decoder_llama_cpp import PRECISIONS as COMPARABLE
        from decoder_llama_cpp import LlamaCpp, kind_of, rewritten
    except ImportError as error:
        unavailable["llama.cpp"] = f'{error}: pip install "adaspec_rl[peers]"'
        return
    config = AutoConfig.from_pretrained(checkpoint_of(options.target).source)
    own = kind_of(path)
    kinds = [kind for kind, ours in COMPARABLE.items() if ours in options.precisions]
    files = [path, *(rewritten(path, kind, folder) for kind in kinds if kind != own)]
    for file in files:
        peer = LlamaCpp(
            file,
            config,
            context=context,
            threads=torch.get_num_threads(),
            eos_ids=pair.eos_ids,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
        )
        if peer.precision in options.precisions:
            yield from peer.methods()


def figures_of(
    methods: Sequence[Method], timings: Sequence[Timing], lossless: bool
) -> dict[str, float]:
    """Ratios of speeds and, if drafts must not change texts, shares of equal texts."""
    pairs = list(zip(methods, timings))
    figures: dict[str, float] = {}
    for method, timing in pairs:
        if method.engine != "ours":
            continue
        for peer, theirs in pairs:
            if peer.engine != "ours" and peer.precision == method.precision and theirs.speed:
                name = f"{method.way}_{method.precision}_vs_{peer.engine}_{peer.way}"
                figures[slug(name)] = timing.speed / theirs.speed
    ours = dict.fromkeys(method.precision for method in methods if method.engine == "ours")
    for precision in ours if lossless else ():
        own = [t for m, t in pairs if m.engine == "ours" and m.precision == precision]
        plain, *others = own
        same = [a == b for other in others for a, b in zip(other.texts, plain.texts)]
        if same:
            figures[f"identical_{precision}"] = sum(same) / len(same)
    return figures


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def agreement(timings: dict[str, Timing]) -> dict[str, dict[str, int]]:
    """For every two families, the number of prompts with equal texts."""
    return {
        a: {b: sum(x == y for x, y in zip(one.texts, two.texts)) for b, two in timings.items()}
        for a, one in timings.items()
    }


def show(methods: Sequence[Method], timings: Sequence[Timing], bandwidth: float) -> None:
    table = Table(
        title=f"Tokens a second with memory at {bandwidth / 1e9:.1f} GB/s; texts that are those of "
        "plain decoding, and of transformers in float32",
        title_justify="left",
    )
    table.add_column("way", no_wrap=True)
    table.add_column("best setting", no_wrap=True)
    names = ("decoding", "whole", "MB a token", "share", "as its plain", "as float32")
    for name in names:
        table.add_column(name, justify="right")
    plain = {(m.engine, m.precision): t for m, t in zip(methods, timings) if m.way == "plain"}
    reference = plain.get(("transformers", "float32"))
    for method, timing in zip(methods, timings):
        others = (plain[method.engine, method.precision], reference)
        same = [
            "" if other is None else str(sum(a == b for a, b in zip(timing.texts, other.texts)))
            for other in others
        ]
        table.add_row(
            method.family,
            method.setting,
            f"{timing.speed:.1f}",
            f"{timing.whole_speed:.1f}",
            f"{timing.token_bytes / 1e6:.1f}",
            f"{timing.bytes_per_second / bandwidth:.0%}",
            *(f"{count}/{len(timing.texts)}" if count else "" for count in same),
        )
    Console(width=max(Console().width, WIDTH)).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="smollm2", help="also: a GGUF file, tiny:target")
    parser.add_argument("--drafters", nargs="+", default=["ngram"], help="a draft model first")
    parser.add_argument("--data", type=Path, help="JSON lines; the embedded prompts by default")
    parser.add_argument("--prompts", type=int, default=6, help="held out")
    parser.add_argument("--tune-prompts", type=int, default=2, help="to find the best settings on")
    parser.add_argument("--max-prompt-tokens", type=int, default=384)
    parser.add_argument("--max-new-tokens", type=int, default=100)
    parser.add_argument("--passes", type=int, default=3, help="of each prompt")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument(
        "--policy",
        type=Path,
        nargs="+",
        default=[],
        help="bundles for this target and these drafters",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def methods_of(
    options: argparse.Namespace,
    pairs: dict[str, Pair],
    policies: dict[str, PolicyBundle],
    context: int,
    folder: Path,
    unavailable: dict[str, str],
) -> list[Method]:
    """Every way at every setting; `context` is the most tokens of a text."""
    limits: dict[str, Any] = {
        "max_new_tokens": options.max_new_tokens,
        "temperature": options.temperature,
    }
    rule = "coupled" if policies else "rejection"
    methods: list[Method] = []
    for precision, pair in pairs.items():
        policy = policies.get(precision)
        numbers = cache_type(precision)
        ours = Ours(
            pair, precision, numbers, options.target, verification=rule, policy=policy, **limits
        )
        methods += ours.methods()
    pair = next(iter(pairs.values()))
    return [*methods, *peers_of(options, pair, context, folder, unavailable)]


def peers_of(
    options: argparse.Namespace,
    pair: Pair,
    context: int,
    folder: Path,
    unavailable: dict[str, str],
) -> list[Method]:
    """Every way of the other engines at every setting; files are rewritten to `folder`."""
    methods: list[Method] = []
    limits = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature}
    whole = (name for name in options.drafters if not is_free(name))
    drafter = next((name for name in whole if not shares(checkpoint_of(name).config())), None)
    for precision in options.precisions if "transformers" in options.engines else ():
        if not precision.startswith("int"):
            methods += Theirs(options.target, drafter, precision, **limits).methods()
    if "llama.cpp" in options.engines:
        methods += llama_methods(options, pair, context, folder, unavailable)
    return methods


def way(method: Method, timing: Timing, bandwidth: float) -> dict[str, Any]:
    return {
        "setting": method.setting,
        "tokens_per_second": timing.speed,
        "tokens_per_second_whole": timing.whole_speed,
        "bytes_per_token": timing.token_bytes,
        "bandwidth_share": timing.bytes_per_second / bandwidth,
        "same_text_every_pass": timing.steady,
    }


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    unavailable: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = pairs_of(options, unavailable)
        policies = policies_of(options, pairs)
        training, held_out = prompts_of(options, next(iter(pairs.values())))
        longest = max(map(len, training + held_out)) + options.max_new_tokens + SPARE
        methods = methods_of(options, pairs, policies, longest, Path(folder), unavailable)
        for what, why in unavailable.items():
            print(f"without {what}: {why}")
        bandwidth = memory_bandwidth(torch.device("cpu"))
        chosen = tuned(methods, training)
        timings = measure(chosen, held_out, options.passes, "comparing")
    show(chosen, timings, bandwidth)
    played = list(zip(chosen, timings))
    details: dict[str, Any] = {
        "memory_gb_per_second": bandwidth / 1e9,
        "ways": {m.family: way(m, t, bandwidth) for m, t in played},
        "prompts": len(held_out),
        "equal_texts": agreement({m.family: t for m, t in played}),
        "unavailable": unavailable,
        "scikit_learn": is_sklearn_available(),
    }
    if any(method.engine == "llama.cpp" for method in chosen):
        from decoder_llama_cpp import system

        details["llama_cpp"] = {"version": version("llama-cpp-python"), "system": system()}
    lossless = not options.temperature or bool(policies)  # with a policy, sampling is coupled
    finish(figures_of(chosen, timings, lossless), options.json, details=details)


if __name__ == "__main__":
    main()
