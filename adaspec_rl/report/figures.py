"""The report's static pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaspec_rl.files import new_file
from adaspec_rl.report.plots import BEST, FIXED, LEARNED

SHADES = ("OrRd", "PuBu", "Greens", "YlOrBr")  # by drafter
BUCKET = 8  # generated tokens to a point of the draft length


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def report_figures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `draft_length.png`, `acceptance_by_depth.png`, `policy_map*.png`: those with data.

    The curves are of the first comparison that has them. Returns what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for key, draw in (
        ("draft_length_by_position", _draft_length),
        ("acceptance_by_depth", _acceptance),
    ):
        for comparison in report.get("comparisons") or []:
            curves = {n: m[key] for n, m in _drafting(comparison).items() if m.get(key)}
            if curves:
                path = folder / f"{key.removesuffix('_by_position')}.png"
                figure = Figure(figsize=(4.8, 3.2), layout="constrained")
                draw(figure.subplots(), curves, comparison.get("best_fixed"))
                figure.suptitle(f"temperature {comparison['temperature']:g}", fontsize=10)
                with new_file(path) as fresh:
                    figure.savefig(fresh, dpi=150, format="png")
                written.append(path)
                break
    return written + _policy_maps(report.get("comparisons") or [], folder)


def _policy_maps(comparisons: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """`policy_map.png` or, where several temperatures have a policy each, one for each of them."""
    maps = {
        f"{item['temperature']:g}": item["policy_map"]
        for item in comparisons
        if (item.get("policy_map") or {}).get("drafted")
    }
    alike = all(policy == next(iter(maps.values())) for policy in maps.values())
    names = {"": next(iter(maps))} if maps and alike else {f"-t{name}": name for name in maps}
    return [
        _policy_map(maps[name], folder / f"policy_map{ending}.png")
        for ending, name in names.items()
    ]


def _drafting(comparison: Mapping[str, Any]) -> dict[str, Any]:
    return {n: m for n, m in comparison["methods"].items() if n != "autoregressive"}


def _draft_length(axes: Axes, curves: Mapping[str, Any], best: str | None) -> None:
    for name, means in curves.items():
        known = [(BUCKET * (n + 0.5), mean) for n, mean in enumerate(means) if mean is not None]
        axes.plot(*zip(*known), **_look(name, best))
    _finish(axes, "generated tokens", "mean draft length")


def _acceptance(axes: Axes, curves: Mapping[str, Any], best: str | None) -> None:
    for name, counts in curves.items():
        known = [(n, a / r) for n, (r, a) in enumerate(counts, start=1) if r]
        if known:
            axes.plot(*zip(*known), marker="o", ms=3, **_look(name, best))
    axes.set_ylim(0, 1)
    _finish(axes, "depth in the draft", "accepted, of those reached")


def _policy_map(policy: Mapping[str, Any], path: Path) -> Path:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    x, y, drafted = policy["x"], policy["y"], policy["drafted"]
    if len(x) == 1:  # nothing changes along it
        axes.bar(y, [row[0] for row in drafted], width=0.8 / len(y), color=LEARNED)
        _finish(axes, policy["y_name"], "tokens drafted", legend=False)
    else:
        used = sorted({number for number in policy["drafter"] if number is not None})
        most = max(max(row) for row in drafted)
        for number in used:
            others = np.array([other != number for other in policy["drafter"]])
            tokens = np.ma.masked_array(drafted, np.broadcast_to(others, np.shape(drafted)))
            shade = {"cmap": SHADES[number % len(SHADES)], "vmin": 0, "vmax": most}
            image = axes.pcolormesh(x, y, tokens, shading="nearest", **shade)
            by = f" by {_named(policy, number)}" if len(used) > 1 else ""
            figure.colorbar(image, label=f"tokens drafted{by}", pad=0.01)
        _finish(axes, policy["x_name"], policy["y_name"], legend=False)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")
    return path


def _named(policy: Mapping[str, Any], number: int) -> str:
    names = policy["drafters"]
    return str(names[number]) if number < len(names) else f"drafter {number}"


def _look(name: str, best: str | None) -> dict[str, Any]:
    if name == "learned":
        return {"color": LEARNED, "lw": 2, "label": name, "zorder": 3}
    if name == best:
        return {"color": BEST, "lw": 1.5, "label": f"best fixed ({name[6:]})"}
    if name == "oracle":
        return {"color": "#333", "lw": 1.2, "ls": "--", "label": name}
    return {"color": FIXED, "lw": 0.8, "label": "others"}


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles))
        axes.legend(once.values(), once.keys(), fontsize=7, frameon=False)
