"""How far drafts are right: by drafter, kind of text, temperature and depth.

    python benchmarks/acceptance.py --data spec_bench.jsonl --target smollm2 \\
        --drafters smollm2:draft ngram smollm2:table [--prompts 5] [--json PATH]

At every position of the target's texts (temperature 0 or coupled sampling), all drafters draft up
to `--length` tokens. The table has the share of positions at which the first token is right. The
JSON has, for each drafter, temperature and kind of text (`all`: all texts), the shares at which the
first 1, 2, ... tokens are right. All prompts of the file are used, so name a file that no model was
trained on. Figures: `DRAFTER_T_first`, over all texts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report import finish
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.prompts import balanced, jsonl_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace

ALL = "all"


def survival(trace: Trace, drafter: int, domain: str) -> list[float]:
    """The shares of positions at which the first 1, 2, ... drafted tokens are the text's own."""
    of_text = np.array([domain in (ALL, own) for own in trace.domains])
    rows = np.repeat(of_text, np.diff(trace.starts))
    accepted = trace.drafters[drafter].accepted[rows]
    return [float((accepted >= depth).mean()) for depth in range(1, trace.max_length + 1)]


def recorded(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    domains: Sequence[str],
    temperature: float,
    *,
    length: int,
    max_new_tokens: int,
) -> Trace:
    """All drafters' drafts at every position of the target's answers."""
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(temperature),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=max_new_tokens,
        max_length=length,
        survival="product",
    )
    with tempfile.TemporaryDirectory() as folder, Progress() as bar:
        task = bar.add_task(f"temperature {temperature:g}")
        trace, _ = record(
            pair,
            recording,
            prompts,
            domains,
            Path(folder),
            progress=lambda done, total: bar.update(task, completed=100 * done / total),
        )
    return trace


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", default="smollm2")
    parser.add_argument("--drafters", nargs="+", default=["smollm2:draft", "ngram"])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.0, 0.8])
    parser.add_argument("--prompts", type=int, default=5, help="of each kind")
    parser.add_argument("--max-prompt-tokens", type=int, default=1024)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--length", type=int, default=8)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = load_pair(
        "acceptance", options.target, options.drafters, LoadOptions(dtype=options.dtype)
    )
    asked = as_asked(jsonl_prompts(options.data, "test", 1.0), "auto", pair.tokenizer)
    encoded = [encode(pair.tokenizer, prompt) for prompt in asked]
    short = {
        item.prompt: item.ids for item in encoded if len(item.ids) <= options.max_prompt_tokens
    }
    chosen = balanced(list(short), options.prompts)
    domains = [prompt.domain for prompt in chosen]
    figures: dict[str, float] = {}
    shares: dict[str, dict[str, dict[str, list[float]]]] = {}
    for temperature in options.temperatures:
        trace = recorded(
            pair,
            [short[prompt] for prompt in chosen],
            domains,
            temperature,
            length=options.length,
            max_new_tokens=options.max_new_tokens,
        )
        key = f"{temperature:g}"
        for number, drafter in enumerate(pair.drafters):
            found = {d: survival(trace, number, d) for d in [*sorted(set(domains)), ALL]}
            shares.setdefault(drafter.name, {})[key] = found
            figures[f"{drafter.name}_{key}_first"] = found[ALL][0]
    table = Table("kind", *(f"{name} t {t}" for name, by in shares.items() for t in by))
    for domain in [*sorted(set(domains)), ALL]:
        firsts = (found[domain][0] for by in shares.values() for found in by.values())
        table.add_row(domain, *(f"{share:.0%}" for share in firsts))
    Console(width=max(80, 16 * len(table.columns))).print(table)
    finish(figures, options.json, details={"texts": len(chosen), "shares_by_depth": shares})


if __name__ == "__main__":
    main()
