"""Pictures of serving: throughput and latency over load."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from adaspec_rl.files import new_file

PANELS = {
    "tokens_per_second": "tokens a second",
    "goodput": "good requests a second",
    "to_first_p95": "first token, p95, s",
    "per_token_p95": "a further token, p95, s",
}


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def load_plot(points: Sequence[Mapping[str, Any]], device: str, path: Path) -> None:
    """A panel for each of `PANELS`, over requests per second; one line per controller.

    Args:
        points: by rate, `{"rate": …, "controllers": {name: figures}}`.
    """
    figure = Figure(figsize=(3.2 * len(PANELS), 3.4), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    rates = [point["rate"] for point in points]
    for axis, (name, title) in zip(axes, PANELS.items()):
        for controller in points[0]["controllers"]:
            values = [point["controllers"][controller][name] for point in points]
            axis.plot(rates, values, marker="o", ms=3, label=controller)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("requests a second", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=6, frameon=False)
    figure.suptitle(device, fontsize=9)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")
