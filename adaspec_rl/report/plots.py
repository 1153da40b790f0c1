"""Pictures of a comparison."""

import math
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from adaspec_rl.comparison.figures import ComparisonFigures
from adaspec_rl.comparison.identity import MethodIdentity
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.files import new_file

ACROSS = 5  # panels in a row
FIXED, ADAPTIVE, LEARNED, BEST = "#9aa7b4", "#e8b298", "#d1495b", "#30638e"
BOUND = "#e3d5b8"


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def speedup_plot(found: ComparisonFigures, device: str, path: Path) -> None:
    """Bars of the speedup with 95% intervals, all prompts first, then each domain."""
    scopes = {"all prompts": found.overall, **found.domains}
    columns = min(len(scopes), ACROSS)
    rows = math.ceil(len(scopes) / columns)
    height = 1.0 + 0.17 * len(found.overall.methods)
    figure = Figure(figsize=(2.6 * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(scopes) :]:
        axis.remove()
    for axis, (scope, values) in zip(axes.flat, scopes.items()):
        methods = list(values.methods.values())
        speedups = [method.speedup for method in methods]
        below = [max(0.0, method.speedup - method.speedup_ci95[0]) for method in methods]
        above = [max(0.0, method.speedup_ci95[1] - method.speedup) for method in methods]
        colours = [_colour(method.identity, values.best_fixed) for method in methods]
        places = range(len(methods))
        axis.barh(places, speedups, color=colours, height=0.75)
        axis.errorbar(speedups, places, xerr=[below, above], fmt="none", ecolor="#333", lw=1)
        axis.axvline(1.0, color="#333", lw=0.8, ls=":")
        axis.set_title(scope, fontsize=10)
        axis.set_yticks(places, [method.identity.label for method in methods])
        axis.set_ylim(len(methods) - 0.4, -0.6)  # the first method on top
        axis.tick_params(labelsize=8, labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("speedup over plain decoding", fontsize=9)
    conditions = found.conditions
    title = f"{conditions.pair.name}, temperature {conditions.temperature:g}, {device}"
    figure.suptitle(title, fontsize=10)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def cost_plot(profile: CostProfile, path: Path) -> None:
    """The cost of a round by draft length, in plain steps; one line per measured point."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    lengths = range(profile.max_length + 1)
    for point in profile.points:
        unit = point.autoregressive_step
        axes.plot(
            lengths,
            [point.seconds(0, k) / unit if k == 0 or point.draft_step else 1.0 for k in lengths],
            marker="o",
            ms=3,
            label=f"batch {point.batch_size}, {point.context} tokens ({unit * 1e3:.2f} ms a step)",
        )
    axes.plot(lengths, [k + 1 for k in lengths], color="#333", lw=0.8, ls=":", label="break-even")
    axes.set_ylim(
        0,
        1.15 * max(p.seconds(0, lengths[-1]) / p.autoregressive_step for p in profile.points)
        if profile.drafters
        else None,
    )
    axes.set_xticks(lengths)
    axes.set_xlabel("draft length (break-even: all of it accepted)", fontsize=9)
    axes.set_ylabel("cost of a round, plain steps", fontsize=9)
    axes.legend(fontsize=7, frameon=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(profile.device, fontsize=10)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")


def _colour(method: MethodIdentity, best_fixed: str) -> str:
    if method.name == best_fixed:
        return BEST
    if method.is_fixed:
        return FIXED
    return {"learned": LEARNED, "bound": BOUND}.get(method.kind, ADAPTIVE)
