"""From records to `results.json`, `results.csv` and the table."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from adaspec_rl.evaluation.benchmark import AUTOREGRESSIVE, Record
from adaspec_rl.evaluation.losslessness import Losslessness
from adaspec_rl.evaluation.statistics import (
    repeated_ngrams,
    speedup,
    speedup_interval,
    throughput,
)

SCHEMA = 1


def method_figures(
    records: Sequence[Record], base: Sequence[Record], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """The figures of one method against the autoregressive records of the same prompts."""
    tokens, seconds = _sums(records)
    base_tokens, base_seconds = _sums(base)
    rounds = [round_ for record in records for round_ in record.generation.rounds]
    reached = sum(round_.reached for round_ in rounds)
    accepted = sum(round_.accepted for round_ in rounds)
    low, high = speedup_interval(
        tokens, seconds, base_tokens, base_seconds, resamples=resamples, seed=seed
    )
    return {
        "tokens_per_second": throughput(tokens, seconds),
        "speedup": speedup(tokens, seconds, base_tokens, base_seconds),
        "speedup_ci95": [low, high],
        "mean_accepted_tokens": sum(len(round_.tokens) for round_ in rounds) / len(rounds),
        "acceptance_rate": accepted / reached if reached else None,
        "mean_draft_length": sum(round_.drafted for round_ in rounds) / len(rounds),
        "controller_share": sum(r.generation.controller_seconds for r in records)
        / float(seconds.sum()),
    }


def _sums(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([len(record.generation.tokens) for record in records], dtype=np.float64)
    return tokens, np.array([record.generation.seconds for record in records])


def compare_methods(
    records: Sequence[Record], order: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """`methods` (in the given order), `best_fixed` and `repetition` of one set of records."""
    by_method: dict[str, list[Record]] = {method: [] for method in order}
    for record in records:
        by_method[record.method].append(record)
    base = by_method[AUTOREGRESSIVE]
    prompts = [record.prompt for record in base]
    for method, items in by_method.items():
        assert [record.prompt for record in items] == prompts, f"{method} is not paired"
    methods = {
        method: method_figures(items, base, resamples=resamples, seed=seed)
        for method, items in by_method.items()
    }
    fixed = {name: figures["speedup"] for name, figures in methods.items() if _is_fixed(name)}
    return {
        "methods": methods,
        "best_fixed": max(fixed, key=lambda name: fixed[name]) if fixed else None,
        "repetition": repeated_ngrams([record.generation.tokens for record in base]),
    }


def _is_fixed(name: str) -> bool:
    return name == AUTOREGRESSIVE or name.startswith("fixed_")


def assemble(
    records: Sequence[Record],
    *,
    lossless: Losslessness | None,
    context: Mapping[str, Any],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of `results.json`.

    `context` holds pair, device, versions, seed, temperature and the like. `lossless` is None where
    texts may differ by right (rejection sampling keeps the distribution, not the text).
    """
    domains = sorted({record.domain for record in records})
    order = list(dict.fromkeys(record.method for record in records))
    return {
        "schema": SCHEMA,
        **context,
        **compare_methods(records, order, resamples=resamples, seed=seed),
        "domains": {
            domain: compare_methods(
                [record for record in records if record.domain == domain],
                order,
                resamples=resamples,
                seed=seed,
            )
            for domain in domains
        },
        "lossless": asdict(lossless) if lossless else None,
    }


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """Write `results.json` and `results.csv` (a row per domain and method), each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.json", json.dumps(results, indent=2) + "\n")
    scopes = {"all": results, **results["domains"]}
    rows = [
        {"domain": scope, "method": method, **_flat(figures)}
        for scope, values in scopes.items()
        for method, figures in values["methods"].items()
    ]
    temporary = folder / "results.csv.partial"
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, folder / "results.csv")


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    low, high = figures["speedup_ci95"]
    rest = {name: value for name, value in figures.items() if name != "speedup_ci95"}
    return {**rest, "speedup_low": low, "speedup_high": high}


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    os.replace(temporary, path)


def results_table(results: Mapping[str, Any]) -> Table:
    """The comparison for people. Up to three domains get a column of their own."""
    domains = list(results["domains"]) if len(results["domains"]) <= 3 else []
    table = Table(
        title=f"{results['pair']['name']}, temperature {results['temperature']:g}",
        caption="* best fixed length in hindsight" + ("; by domain: speedup" if domains else ""),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    for heading in ("tok/s", "speedup", "95%", "MAT", "accept", "draft", *domains):
        table.add_column(heading, justify="right", no_wrap=True)
    for method, figures in results["methods"].items():
        low, high = figures["speedup_ci95"]
        rate = figures["acceptance_rate"]
        table.add_row(
            method + (" *" if method == results["best_fixed"] else ""),
            f"{figures['tokens_per_second']:.0f}",
            f"{figures['speedup']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{figures['mean_accepted_tokens']:.2f}",
            "" if rate is None else f"{rate:.0%}",
            f"{figures['mean_draft_length']:.1f}",
            *(
                f"{results['domains'][domain]['methods'][method]['speedup']:.2f}"
                for domain in domains
            ),
            style="" if _is_fixed(method) else "bold",
        )
    return table
