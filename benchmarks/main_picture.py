"""The README's picture: `python benchmarks/main_picture.py RESULTS PICTURE`.

`RESULTS` is what `main_table.py --json` wrote. On the left, the speed of decoders as multiples of
plain decoding on this engine; on the right, the speedup by domain of the policy, of the best single
setting and of the oracle. Whiskers are 95% intervals over prompts.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BITS = {"bfloat16": "16 bits", "float32": "32 bits", "int4": "4 bits"}
NAMES = {"hindsight": "regression", "markov": "Markov solver", "sglang_tiers": "SGLang's tiers"}
OURS, LEARNED, BEST, BOUND, PEER = "#9aa7b4", "#d1495b", "#30638e", "#e3d5b8", "#c9ced6"


class Bar(NamedTuple):
    """A decoder's speed, in multiples of plain decoding."""

    label: str
    speedup: float
    interval: tuple[float, float]
    colour: str


def of(method: Mapping[str, Any], label: str, colour: str) -> Bar:
    low, high = method["speedup_ci95"]
    return Bar(label, method["speedup"], (low, high), colour)


def of_peer(name: str, peer: Mapping[str, Any]) -> Bar:
    """Its speed is the inverse of how far plain decoding is ahead of it."""
    ahead = peer["autoregressive_ahead"]
    low, high = (1 / bound for bound in reversed(ahead["ci95"]))
    for precision, bits in BITS.items():
        name = name.replace(precision, bits)
    label = f"{name} ({peer['setting']})" if peer["setting"] else name
    return Bar(label, 1 / ahead["ratio"], (low, high), PEER)


def setting(method: Mapping[str, Any]) -> str:
    """A fixed drafter and length; a pair's only or first drafter has no name of its own."""
    length, drafter = method["length"], method["drafter"]
    return f"{drafter}, {length} tokens" if drafter else method["label"]


def bars(results: Mapping[str, Any]) -> list[Bar]:
    """Other engines, then this one's methods, the slowest first in each group."""
    comparison = results["comparisons"][0]
    methods, best = comparison["methods"], comparison["best_fixed"]
    rules = [one for one in methods.values() if one["kind"] == "adaptive"]
    known = [one for one in rules if one["source"] != "another policy"]
    fastest = max(known, key=lambda one: one["speedup"])
    label = NAMES.get(fastest["name"], fastest["label"])
    peers = [of_peer(name, peer) for name, peer in results["peers"].items()]
    own = [
        of(methods["autoregressive"], "plain decoding", OURS),
        of(methods[best], f"best single in hindsight ({setting(methods[best])})", BEST),
        of(fastest, f"best other controller ({label})", OURS),
        of(methods["learned"], "learned policy", LEARNED),
        of(methods["best_by_domain"], "best of each category in hindsight", BOUND),
        *(
            of(methods[name], label, BOUND)
            for name, label in (
                ("foreseeable", "all that can be foreseen"),
                ("oracle", "oracle, which knows the text"),
            )
            if name in methods
        ),
    ]
    return [*sorted(peers, key=lambda bar: bar.speedup), *sorted(own, key=lambda bar: bar.speedup)]


def draw_bars(axes: Axes, shown: list[Bar]) -> None:
    for row, bar in enumerate(shown):
        below, above = bar.speedup - bar.interval[0], bar.interval[1] - bar.speedup
        axes.barh(row, bar.speedup, color=bar.colour, height=0.72)
        if above > 0:
            axes.errorbar(bar.speedup, row, xerr=[[below], [above]], ecolor="#333", lw=1)
        axes.annotate(
            f"{bar.speedup:.2f} ×", (bar.interval[1], row), (4, 0),
            textcoords="offset points", va="center", fontsize=8,
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )  # fmt: skip
    axes.axvline(1.0, color="#333", lw=0.8, ls=":")
    axes.set_yticks(range(len(shown)), [bar.label for bar in shown])
    axes.set_xlim(0, 1.12 * max(bar.interval[1] for bar in shown))
    axes.invert_yaxis()
    axes.set_xlabel("speed, in multiples of plain decoding")


def draw_domains(axes: Axes, comparison: Mapping[str, Any]) -> None:
    best = comparison["best_fixed"]
    domains = sorted(
        comparison["domains"].items(), key=lambda item: item[1]["methods"]["learned"]["speedup"]
    )
    for row, (_, scope) in enumerate(domains):
        ends = [scope["methods"][name]["speedup"] for name in (best, "learned", "oracle")]
        axes.plot([1.0, max(ends)], [row, row], color="#d8d8d8", lw=1, zorder=1)
    for name, label, colour, marker in (
        (best, "best single", BEST, "s"),
        ("oracle", "oracle", "#333", "|"),
        ("learned", "learned", LEARNED, "o"),
    ):
        speeds = [scope["methods"][name]["speedup"] for _, scope in domains]
        axes.scatter(speeds, range(len(domains)), c=colour, marker=marker, s=34, label=label)
    axes.axvline(1.0, color="#333", lw=0.8, ls=":")
    axes.set_yticks(range(len(domains)), [name.replace("_", " ") for name, _ in domains])
    axes.set_xlabel("by category")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw both panels."""
    comparison = results["comparisons"][0]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10.5, 4.4), layout="constrained", width_ratios=(1.35, 1)
    )
    draw_bars(left, bars(results))
    draw_domains(right, comparison)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{results['pair']['name']}, temperature {comparison['temperature']:g}, "
        f"{comparison['prompts']} prompts, {results['device']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw(json.loads(options.results.read_text(encoding="utf-8")), options.picture)


if __name__ == "__main__":
    main()
