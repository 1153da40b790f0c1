"""Gains and costs of lossy verification: accuracy against speed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaspec_rl.comparison.accuracy import pareto_front
from adaspec_rl.files import new_file

EXACT, FRONT = "#30638e", "#333"
COLOURS = ("#d1495b", "#edae49", "#66a182", "#8d5a97", "#00798c", "#9aa7b4")
PANELS = {
    "accuracy": "problems solved",
    "same_answer": "answers that are plain decoding's",
    "log_likelihood": "log-likelihood by the target, nats a token",
}


@rc_context({"text.parse_math": False})  # names are no formulas
def accuracy_plot(methods: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """Each method's accuracy over its speedup, with 95% intervals and the Pareto front.

    Args:
        methods: by name: `speedup`, `accuracy`, `same_answer`, `log_likelihood`, intervals under
            `NAME_ci95` where there are any, and `rule`, None for exact ones.
    """
    figure = Figure(figsize=(4.6 * len(PANELS), 4.4), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        _panel(axes, methods, key)
        axes.set_xlabel("speedup over plain decoding", fontsize=9)
        axes.set_ylabel(label, fontsize=9)
    figure.axes[-1].legend(fontsize=7, frameon=False, loc="lower left")
    figure.suptitle(title, fontsize=10)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=130, format="png")


def _panel(axes: Axes, methods: Mapping[str, Mapping[str, Any]], key: str) -> None:
    rules = list(dict.fromkeys(m["rule"] for m in methods.values() if m["rule"]))
    shown: set[str | None] = set()
    for name, figures in methods.items():
        rule = figures["rule"]
        label = None if rule in shown else f"{rule} (lossy)" if rule else "lossless"
        shown.add(rule)
        colour = COLOURS[rules.index(rule) % len(COLOURS)] if rule else EXACT
        axes.errorbar(
            figures["speedup"],
            figures[key],
            xerr=_bars(figures, "speedup"),
            yerr=_bars(figures, key),
            fmt="o" if rule else "s",
            color=colour,
            ms=4,
            lw=0.8,
            label=label,
        )
        short = name.split(" ", 1)[-1] if rule else name
        axes.annotate(
            short, (figures["speedup"], figures[key]), xytext=(4, 3), fontsize=6,
            textcoords="offset points", color=colour,
        )  # fmt: skip
    front = pareto_front({name: (m["speedup"], m[key]) for name, m in methods.items()})
    axes.plot(
        [methods[name]["speedup"] for name in front],
        [methods[name][key] for name in front],
        color=FRONT,
        lw=0.8,
        ls="--",
        label="Pareto front",
        zorder=0,
    )
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(figures: Mapping[str, Any], key: str) -> list[list[float]] | None:
    """How far the interval reaches below and above the figure, as matplotlib expects it."""
    interval = figures.get(f"{key}_ci95")
    if interval is None:
        return None
    value, (low, high) = figures[key], interval
    return [[max(0.0, value - low)], [max(0.0, high - value)]]
