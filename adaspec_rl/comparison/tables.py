"""Figures as files and tables: `results.json`, `results.csv`, and the console's table."""

import csv
import io
import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from adaspec_rl.comparison.figures import ComparisonFigures, MethodFigures, Results, as_json
from adaspec_rl.files import write_atomically

Row = dict[str, str | float | bool | None]


def write_results(results: Results, folder: Path) -> None:
    """Write `results.json` and `results.csv`, each atomically."""
    write_atomically(folder / "results.json", json.dumps(as_json(results), indent=2) + "\n")
    table = rows(results)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    write_atomically(folder / "results.csv", text.getvalue())


def rows(results: Results) -> list[Row]:
    """Plain numbers only: a row for each comparison, scope (`all` or a domain) and method."""
    return [
        {
            "mode": comparison.conditions.mode,
            "temperature": comparison.conditions.temperature,
            "domain": scope,
            "method": method,
            **_flat(figures),
        }
        for comparison in results.comparisons
        for scope, values in {"all": comparison.overall, **comparison.domains}.items()
        for method, figures in values.methods.items()
    ]


def _flat(figures: MethodFigures) -> Row:
    """Intervals as two numbers, parameters as JSON; curves are left out."""
    found: Row = {}
    for name, value in as_json(figures).items():
        if name.endswith("_ci95"):
            stem = name.removesuffix("_ci95")
            found[f"{stem}_low"], found[f"{stem}_high"] = value or (None, None)
        elif name == "parameters":
            found[name] = json.dumps(value)
        elif name != "name" and not isinstance(value, list):
            found[name] = value
    return found


def results_table(found: ComparisonFigures) -> Table:
    """A comparison as a console table. Up to three domains get a column of their own."""
    shown = found.domains if len(found.domains) <= 3 else {}
    conditions = found.conditions
    setting = f"temperature {conditions.temperature:g}, {conditions.mode}"
    if conditions.is_lossy:
        setting += f", {conditions.verification}"
    table = Table(
        title=Text(f"{conditions.pair.name}, {setting}", style="table.title"),
        caption="same: texts identical to autoregressive decoding's; * best fixed length in "
        "hindsight"
        + ("; by domain: speedup" if shown else "")
        + ("; lossy: total variation from the target, a token" if conditions.is_lossy else ""),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)
    for heading in ("speedup", "same", "vs best fixed (95%)", "MAT", "draft", *shown):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for name, figures in found.overall.methods.items():
        down, up = (100 * (bound - 1) for bound in figures.versus_best_fixed_ci95)
        gain = 100 * (figures.versus_best_fixed - 1)
        best = name == found.overall.best_fixed
        table.add_row(
            Text(name + (" *" if best else "") + _price(figures)),
            f"{figures.speedup:.2f}",
            f"{figures.identical:.0%}",
            "" if best else f"{gain:+.1f}% ({down:+.1f}, {up:+.1f})",
            f"{figures.mean_accepted_tokens:.2f}",
            f"{figures.mean_draft_length:.1f}",
            *(f"{scope.methods[name].speedup:.2f}" for scope in shown.values()),
            style="" if figures.identity.is_fixed else "bold",
        )
    return table


def _price(figures: MethodFigures) -> str:
    """The note beside the name of a method whose texts are not all the target's."""
    return f" (lossy, {figures.distance:.1%})" if figures.distance else ""
