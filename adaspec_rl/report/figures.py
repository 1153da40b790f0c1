"""The report's static pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaspec_rl.comparison.figures import MethodFigures, ScopeFigures
from adaspec_rl.comparison.identity import AUTOREGRESSIVE, ORACLE
from adaspec_rl.comparison.results import BUCKET
from adaspec_rl.files import new_file
from adaspec_rl.report.contents import ReportedComparison
from adaspec_rl.report.plots import BEST, FIXED, LEARNED
from adaspec_rl.report.policy_map import PolicyMap

SHADES = ("OrRd", "PuBu", "Greens", "YlOrBr")  # by drafter


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def report_figures(comparisons: Sequence[ReportedComparison], folder: Path) -> list[Path]:
    """Write `draft_length.png`, `acceptance_by_depth.png` and `policy_map*.png`.

    The curves are those of the first comparison. Returns the written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = comparisons[0].figures
    written = []
    for name, draw in (("draft_length", _draft_length), ("acceptance_by_depth", _acceptance)):
        figure = Figure(figsize=(4.8, 3.2), layout="constrained")
        draw(figure.subplots(), first.overall)
        figure.suptitle(f"temperature {first.conditions.temperature:g}", fontsize=10)
        written.append(_saved(figure, folder / f"{name}.png"))
    return written + _policy_maps(comparisons, folder)


def _saved(figure: Figure, path: Path) -> Path:
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")
    return path


def _policy_maps(comparisons: Sequence[ReportedComparison], folder: Path) -> list[Path]:
    """`policy_map.png`, or one picture per temperature if several temperatures have a policy."""
    maps = {
        f"{item.figures.conditions.temperature:g}": item.policy_map
        for item in comparisons
        if item.policy_map
    }
    alike = all(policy == next(iter(maps.values())) for policy in maps.values())
    names = {"": next(iter(maps))} if maps and alike else {f"-t{name}": name for name in maps}
    return [
        _policy_map(maps[name], folder / f"policy_map{ending}.png")
        for ending, name in names.items()
    ]


def _drafting(scope: ScopeFigures) -> list[MethodFigures]:
    """Methods whose drafts are shown; of the bounds, the oracle."""
    hidden = {name for name, item in scope.methods.items() if item.identity.kind == "bound"}
    hidden |= {AUTOREGRESSIVE}
    return [item for name, item in scope.methods.items() if name not in hidden - {ORACLE}]


def _draft_length(axes: Axes, scope: ScopeFigures) -> None:
    for method in _drafting(scope):
        means = method.draft_length_by_position
        points = [(BUCKET * (n + 0.5), mean) for n, mean in enumerate(means)]
        _curve(axes, points, method, scope.best_fixed)
    _finish(axes, "generated tokens", "mean draft length")


def _acceptance(axes: Axes, scope: ScopeFigures) -> None:
    for method in _drafting(scope):
        counts = enumerate(method.acceptance_by_depth, start=1)
        points = [(depth, accepted / reached) for depth, (reached, accepted) in counts if reached]
        _curve(axes, points, method, scope.best_fixed, marker="o")
    axes.set_ylim(0, 1)
    _finish(axes, "depth in the draft", "accepted, of those reached")


def _curve(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    method: MethodFigures,
    best_fixed: str,
    marker: str | None = None,
) -> None:
    identity = method.identity
    colour, width, line, label = FIXED, 0.8, "-", "others"
    if identity.kind == "learned":
        colour, width, label = LEARNED, 2, identity.label
    elif identity.name == best_fixed:
        colour, width, label = BEST, 1.5, f"{identity.label} (best fixed)"
    elif identity.kind == "bound":
        colour, width, line, label = "#333", 1.2, "--", identity.label
    x, y = [point[0] for point in points], [point[1] for point in points]
    on_top = 3 if identity.kind == "learned" else 2
    axes.plot(
        x, y, color=colour, lw=width, ls=line, label=label, marker=marker, ms=3, zorder=on_top
    )


def _policy_map(policy: PolicyMap, path: Path) -> Path:
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    axes = figure.subplots()
    x, y, drafted = policy.x, policy.y, policy.drafted
    if len(x) == 1:  # the policy does not depend on x
        axes.bar(y, [row[0] for row in drafted], width=0.8 / len(y), color=LEARNED)
        _finish(axes, policy.y_name, "tokens drafted", legend=False)
    else:
        used = sorted({number for number in policy.drafter if number is not None})
        most = max(max(row) for row in drafted)
        for number in used:
            others = np.array([other != number for other in policy.drafter])
            tokens = np.ma.masked_array(drafted, np.broadcast_to(others, np.shape(drafted)))
            shade = SHADES[number % len(SHADES)]
            image = axes.pcolormesh(x, y, tokens, shading="nearest", cmap=shade, vmin=0, vmax=most)
            by = f" by {_named(policy, number)}" if len(used) > 1 else ""
            figure.colorbar(image, label=f"tokens drafted{by}", pad=0.01)
        _finish(axes, policy.x_name, policy.y_name, legend=False)
    return _saved(figure, path)


def _named(policy: PolicyMap, number: int) -> str:
    names = policy.drafters
    return str(names[number]) if number < len(names) else f"drafter {number}"


def _finish(axes: Axes, x: str, y: str, legend: bool = True) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles))
        axes.legend(once.values(), once.keys(), fontsize=7, frameon=False)
