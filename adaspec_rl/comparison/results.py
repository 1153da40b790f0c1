"""From records to `results.json`, `results.csv` and the table."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from adaspec_rl.comparison.benchmark import AUTOREGRESSIVE, Record
from adaspec_rl.comparison.losslessness import Losslessness
from adaspec_rl.comparison.memory import memory_figures
from adaspec_rl.comparison.statistics import (
    paired_ratio,
    paired_ratio_interval,
    probability_of_improvement,
    repeated_ngrams,
    throughput,
)
from adaspec_rl.decoding.round import Round
from adaspec_rl.files import write_atomically

SCHEMA = 4
BUCKET = 8  # generated tokens, by which draft lengths over time are averaged
LEARNED, ORACLE = "learned", "oracle"


def method_figures(
    records: Sequence[Record],
    base: Sequence[Record],
    fixed: Sequence[Record] | None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of one method against the autoregressive records of the same prompts.

    `fixed` are the records of the best fixed length, None where there is none.
    """
    own, plain = _sums(records), _sums(base)
    rounds = [played for record in records for played in record.generation.rounds]
    reached = sum(played.reached for played in rounds)
    accepted = sum(played.accepted for played in rounds)
    bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
    figures: dict[str, Any] = {
        "tokens_per_second": throughput(*own),
        "speedup": paired_ratio(*own, *plain),
        "speedup_ci95": list(paired_ratio_interval(*own, *plain, **bootstrap)),
        "identical": _identical(records, base),
        "distance": sum(played.distance for played in rounds) / max(1.0, float(own[0].sum())),
        "mean_accepted_tokens": sum(len(played.tokens) for played in rounds) / len(rounds),
        "acceptance_rate": accepted / reached if reached else None,
        "mean_draft_length": sum(played.drafted for played in rounds) / len(rounds),
        "controller_share": sum(r.generation.controller_seconds for r in records)
        / float(own[1].sum()),
        **memory_figures([record.memory for record in records]),
    }
    if fixed:
        best = _sums(fixed)
        figures["versus_best_fixed"] = paired_ratio(*own, *best)
        figures["versus_best_fixed_ci95"] = list(paired_ratio_interval(*own, *best, **bootstrap))
        figures["probability_of_improvement"] = probability_of_improvement(
            _by_domain(records), _by_domain(fixed)
        )
    figures["draft_length_by_position"] = _draft_lengths(records)
    figures["acceptance_by_depth"] = _acceptance_by_depth(rounds)
    return figures


def _sums(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.array([len(record.generation.tokens) for record in records], dtype=np.float64)
    return tokens, np.array([record.generation.seconds for record in records])


def _identical(records: Sequence[Record], base: Sequence[Record]) -> float:
    """Share of texts that are the autoregressive ones, token for token."""
    same = [a.generation.tokens == b.generation.tokens for a, b in zip(records, base)]
    return sum(same) / len(same)


def _by_domain(records: Sequence[Record]) -> list[np.ndarray]:
    """Tokens a second of each prompt, by domain."""
    found: dict[str, list[float]] = {}
    for record in records:
        made = record.generation
        found.setdefault(record.domain, []).append(len(made.tokens) / made.seconds)
    return [np.array(values) for values in found.values()]


def _draft_lengths(records: Sequence[Record]) -> list[float]:
    """Mean tokens drafted in rounds that begin in the first `BUCKET` tokens, the next, …"""
    sums: list[list[int]] = []
    for record in records:
        made = 0
        for played in record.generation.rounds:
            while len(sums) <= made // BUCKET:
                sums.append([0, 0])
            sums[made // BUCKET][0] += played.drafted
            sums[made // BUCKET][1] += 1
            made += len(played.tokens)
    return [total / count if count else 0.0 for total, count in sums]


def _acceptance_by_depth(rounds: Sequence[Round]) -> list[list[int]]:
    """`[reached, accepted]` of the first drafted tokens, the second ones, …"""
    depth = max((played.drafted for played in rounds), default=0)
    found = [[0, 0] for _ in range(depth)]
    for played in rounds:
        for d in range(played.reached):
            found[d][0] += 1
            found[d][1] += d < played.accepted
    return found


def compare_methods(
    records: Sequence[Record],
    order: Sequence[str],
    about: Mapping[str, Mapping[str, Any]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`methods` (in the given order), `best_fixed`, `oracle` and `repetition` of some records.

    Where a learned policy takes part, each method's `learned_ahead` is that policy's throughput
    over the method's. `about` says of each method what is not in its records: its source, its
    parameters.
    """
    by_method: dict[str, list[Record]] = {method: [] for method in order}
    for record in records:
        by_method[record.method].append(record)
    base = by_method[AUTOREGRESSIVE]
    prompts = [record.prompt for record in base]
    for method, items in by_method.items():
        assert [record.prompt for record in items] == prompts, f"{method} is not paired"
    rates = {name: throughput(*_sums(items)) for name, items in by_method.items()}
    best = max(filter(_is_fixed, order), key=lambda name: rates[name])
    methods = {
        method: {
            **method_figures(items, base, by_method[best], resamples=resamples, seed=seed),
            **about.get(method, {}),
        }
        for method, items in by_method.items()
    }
    if LEARNED in by_method:
        own = _sums(by_method[LEARNED])
        for method, items in by_method.items():
            other = _sums(items)
            methods[method]["learned_ahead"] = paired_ratio(*own, *other)
            methods[method]["learned_ahead_ci95"] = list(
                paired_ratio_interval(*own, *other, resamples=resamples, seed=seed)
            )
    oracle = methods.get(ORACLE, {}).get("speedup")
    if oracle is not None:
        lead = oracle - methods[best]["speedup"]
        for figures in methods.values():
            gained = figures["speedup"] - methods[best]["speedup"]
            figures["gap_closed"] = gained / lead if lead > 0 else None
    return {
        "methods": methods,
        "best_fixed": best,
        "oracle": None if oracle is None else {"speedup": oracle},
        "repetition": repeated_ngrams([record.generation.tokens for record in base]),
    }


def _is_fixed(name: str) -> bool:
    return name == AUTOREGRESSIVE or name.startswith("fixed_")


def assemble(
    records: Sequence[Record],
    *,
    lossless: Losslessness | None,
    recorded: Losslessness | None = None,
    context: Mapping[str, Any],
    about: Mapping[str, Mapping[str, Any]] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """One comparison: everything of a mode and temperature.

    `context` holds pair, mode, temperature and the like. `lossless` is None where texts may differ
    by right (rejection sampling keeps the distribution, not the text), as is `recorded`, and where
    no text was recorded.
    """
    domains = sorted({record.domain for record in records})
    order = [record.method for record in records if record.prompt == records[0].prompt]
    known: Mapping[str, Mapping[str, Any]] = about or {}
    bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
    return {
        **context,
        **compare_methods(records, order, known, **bootstrap),
        "domains": {
            domain: compare_methods(
                [record for record in records if record.domain == domain], order, {}, **bootstrap
            )
            for domain in domains
        },
        "lossless": asdict(lossless) if lossless else None,
        "recorded": asdict(recorded) if recorded else None,
    }


def write_results(results: Mapping[str, Any], folder: Path) -> None:
    """Write `results.json` and `results.csv`, each atomically.

    The table has a row for each comparison, domain and method, of plain numbers only.
    """
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    table = rows(results)
    columns = list(dict.fromkeys(name for row in table for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns)
    writer.writeheader()
    writer.writerows(table)
    write_atomically(folder / "results.csv", text.getvalue())


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each comparison, domain and method."""
    return [
        {
            "mode": comparison["mode"],
            "temperature": comparison["temperature"],
            "domain": scope,
            "method": method,
            **_flat(figures),
        }
        for comparison in results["comparisons"]
        for scope, values in {"all": comparison, **comparison["domains"]}.items()
        for method, figures in values["methods"].items()
    ]


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The plain numbers, intervals as two of them; parameters as JSON."""
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if name.endswith("_ci95"):
            stem = name.removesuffix("_ci95")
            found[f"{stem}_low"], found[f"{stem}_high"] = value
        elif name == "parameters":
            found[name] = json.dumps(value)
        elif not isinstance(value, (list, dict)):
            found[name] = value
    return found


def _price(figures: Mapping[str, Any]) -> str:
    """What stands beside the name of a method whose texts are not all the target's."""
    distance = figures.get("distance")
    return f" (lossy, {distance:.1%})" if distance else ""


def results_table(results: Mapping[str, Any]) -> Table:
    """A comparison for people. Up to three domains get a column of their own."""
    domains = list(results["domains"]) if len(results["domains"]) <= 3 else []
    setting = f"temperature {results['temperature']:g}, {results['mode']}"
    lossy = results.get("verification", "").startswith("lossy.")
    if lossy:
        setting += f", {results['verification']}"
    table = Table(
        title=Text(f"{results['pair']['name']}, {setting}", style="table.title"),
        caption="same: texts identical to autoregressive decoding's; * best fixed length in "
        "hindsight"
        + ("; by domain: speedup" if domains else "")
        + ("; lossy: total variation from the target, a token" if lossy else ""),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    for heading in ("speedup", "same", "vs best fixed (95%)", "MAT", "draft", *domains):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for method, figures in results["methods"].items():
        down, up = (100 * (bound - 1) for bound in figures["versus_best_fixed_ci95"])
        gain = 100 * (figures["versus_best_fixed"] - 1)
        best = method == results["best_fixed"]
        table.add_row(
            Text(method + (" *" if best else "") + _price(figures)),
            f"{figures['speedup']:.2f}",
            f"{figures['identical']:.0%}",
            "" if best else f"{gain:+.1f}% ({down:+.1f}, {up:+.1f})",
            f"{figures['mean_accepted_tokens']:.2f}",
            f"{figures['mean_draft_length']:.1f}",
            *(
                f"{results['domains'][domain]['methods'][method]['speedup']:.2f}"
                for domain in domains
            ),
            style="" if _is_fixed(method) else "bold",
        )
    return table
