"""How good the embedded pair is: `python -m adaspec_rl.tools.acceptance`.

Prints, for each domain's held-out prompts, each drafter's acceptance rate and how much of the
target's text repeats itself.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from adaspec_rl.comparison.statistics import repeated_ngrams
from adaspec_rl.config_limits import COUNT, LENGTH, TEMPERATURE, TOKENS
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import Generation, generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.corpus import DOMAINS
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.files import write_atomically
from adaspec_rl.limits import option
from adaspec_rl.pairs.pair import Pair, load_pair


def acceptance(
    pair: Pair, *, temperature: float, prompts: int | None, max_new_tokens: int, length: int
) -> dict[str, dict[str, float]]:
    """Figures by domain: each drafter's acceptance rate, `repetition`, mean `tokens` per text."""
    session = pair.session(max_new_tokens=max_new_tokens, sampling=Sampling(temperature))
    chosen = balanced(embedded_prompts("test"), prompts)
    unused = CostFeatures(0.0, 0.0, 0.0)
    figures: dict[str, dict[str, float]] = {}
    for domain in DOMAINS:
        texts = [pair.encode(prompt.text) for prompt in chosen if prompt.domain == domain]
        for number, drafter in enumerate(pair.drafters):
            controller = FixedLength(length, number)
            made = [generate(session, controller, ids, cost=unused) for ids in texts]
            row = figures.setdefault(domain, {})
            row[drafter.name] = acceptance_rate(made)
            row["repetition"] = repeated_ngrams([item.tokens for item in made])
            row["tokens"] = sum(len(item.tokens) for item in made) / len(made)
    return figures


def acceptance_rate(made: Sequence[Generation]) -> float:
    """Accepted tokens over drafted positions reached."""
    rounds = [played for item in made for played in item.rounds]
    return sum(played.accepted for played in rounds) / sum(played.reached for played in rounds)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, prog="adaspec_rl.tools.acceptance")
    parser.add_argument("--target", default="tiny:target")
    parser.add_argument("--drafters", nargs="+", default=["tiny:draft", "tiny:code"])
    parser.add_argument("--temperatures", nargs="+", type=option(TEMPERATURE), default=[0.0, 0.8])
    parser.add_argument("--prompts", type=option(COUNT), help="a domain; all by default")
    parser.add_argument("--max-new-tokens", type=option(TOKENS), default=128)
    parser.add_argument("--length", type=option(LENGTH), default=4, help="draft length")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    pair = load_pair("pair", options.target, options.drafters)
    console, results = Console(), {}
    for temperature in options.temperatures:
        figures = acceptance(
            pair,
            temperature=temperature,
            prompts=options.prompts,
            max_new_tokens=options.max_new_tokens,
            length=options.length,
        )
        results[f"{temperature:g}"] = figures
        table = Table("domain", title=f"temperature {temperature:g}")
        for name in next(iter(figures.values())):
            table.add_column(Text(name))
        for domain, row in figures.items():
            table.add_row(domain, *(f"{v:.0f}" if v > 1 else f"{v:.1%}" for v in row.values()))
        console.print(table)
    if options.json:
        write_atomically(options.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
