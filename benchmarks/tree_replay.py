"""From which price of a verified token on trees and pairs of drafters pay, in replay.

    python benchmarks/tree_replay.py --measure PROFILE [OVERRIDES]
    python benchmarks/tree_replay.py --profile PROFILE --temperatures 0 0.8 --json FILE [OVERRIDES]
    python benchmarks/tree_replay.py --plot FILE FILE --out docs/tree_gain.png

The first command measures decoding costs here, including trees. The second records training and
held-out prompts. At the measured costs and at several prices of one more verified token, it replays
on the held-out prompts: a policy with all actions and one with chains alone; the best fixed tree,
the best two drafters together and the best fixed chain, each chosen on the training prompts; and
Hedge over all drafters' chains. `learned` is the policy of the first two that is faster on a fifth
of the training prompts, from which neither has learned. Gains have 95% intervals over prompts.

A price is a share of a plain step. One more node in a level costs a draft model the same share of
its own step, and a table a whole step; all other costs are as measured. OVERRIDES are settings of
`train_policy.py`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from policy import configured
from report import finish
from rich.console import Console

from adaspec_rl.config import TrainConfig
from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.from_config import measured_profile_from, pair_from, recording_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.hedge import hedge
from adaspec_rl.replay.oracle import fixed_steps, lengths_of
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, play_all
from adaspec_rl.replay.tree_shapes import tree_families
from adaspec_rl.training.hindsight import fit_hindsight
from adaspec_rl.training.judge import deciding

PRICES = (0.001, 0.01, 0.03, 0.1)  # of one more verified token, in plain steps
FEATURES = ("cost", "context", "lookup")
RESAMPLES = 2000
BATCH = 512  # states of one update
WITHHELD = 5  # one in so many training prompts is not learned from


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--train-prompts", type=int, default=24, help="of a domain")
    parser.add_argument("--test-prompts", type=int, default=16, help="of a domain")
    parser.add_argument(
        "--test-data", type=Path, help="held-out prompts, if in a file of their own"
    )
    parser.add_argument(
        "--steps", type=int, default=60_000, help="states that a policy learns from"
    )
    parser.add_argument("--plot", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    set_threads(None if options.measure else 1)
    if options.plot:
        plot(options.plot, options.out)
        return
    config, console = configured(["env.actions=all", *options.overrides]), Console()
    pair = pair_from(config.model, config.engine)
    if options.measure:
        prompts = prompts_from(config, "train", pair, console, 2)
        spec = pair_observation(pair, FEATURES, config.env.max_length, trees=True)
        measured_profile_from(config, pair, prompts, None, spec, console).save(options.measure)
        return
    profile, figures, details = CostProfile.load(options.profile), {}, {"curves": {}}
    for temperature in options.temperatures:
        env = replace(config.env, temperature=temperature)
        texts = Texts.of(replace(config, env=env), pair, options, console)
        curve = []
        for item in priced(profile, [drafter.model is not None for drafter in pair.drafters]):
            curve.append(compared(texts, item, options.steps))
            console.print(curve[-1])
        details["curves"][f"t{temperature:g}"] = curve
        own = curve[0]
        for name in ("learned_over_chains", "all_over_chains", "pairs_over_one"):
            figures[f"{name}_t{temperature:g}"] = own[name][0]
    finish(figures, options.json, details=details)


@dataclass(frozen=True, slots=True)
class Texts:
    """Recordings with ranks: to learn from, to choose between policies on, and held out."""

    learned: Trace
    withheld: Trace
    held_out: Trace
    max_length: int
    vocab_size: int

    @classmethod
    def of(
        cls, config: TrainConfig, pair: Pair, options: argparse.Namespace, console: Console
    ) -> "Texts":
        """Recorded under `config`, or found as they were."""
        training = prompts_from(config, "train", pair, console, options.train_prompts)
        trained, heads = recording_from(config, pair, training, console, ranks=True)
        if options.test_data:
            data = replace(config.data, path=str(options.test_data), test_share=1.0)
            config = replace(config, data=data)
        prompts = prompts_from(config, "test", pair, console, options.test_prompts)
        held_out, _ = recording_from(config, pair, prompts, console, heads=heads, ranks=True)
        texts = range(len(trained.texts))
        learned = trained.select([n for n in texts if n % WITHHELD])
        withheld = trained.select([n for n in texts if not n % WITHHELD])
        return cls(learned, withheld, held_out, config.env.max_length, pair.target.vocab_size)


def priced(profile: CostProfile, models: Sequence[bool]) -> list[tuple[float | None, CostProfile]]:
    """The profile as measured, and with other prices; `models` says which drafters run one."""

    def at(point: RoundCosts, price: float) -> RoundCosts:
        base, step = point.verification[0], price * point.autoregressive_step
        return replace(
            point,
            verification=tuple(base + step * n for n in range(point.max_length + 1)),
            tree_verification=tuple(base + step * n for n in range(point.max_nodes + 1)),
            levels=tuple(
                tuple(first * (1 + rise * more) for more in range(point.max_nodes))
                for first, rise in zip(point.draft_step, (price if m else 1.0 for m in models))
            ),
        )

    return [
        (None, profile),
        *(
            (price, replace(profile, points=tuple(at(point, price) for point in profile.points)))
            for price in PRICES
        ),
    ]


def compared(texts: Texts, item: tuple[float | None, CostProfile], states: int) -> dict[str, Any]:
    """What each way to decode reaches on the held-out texts under a profile."""
    price, profile = item
    costs, count = profile.at(), len(texts.learned.drafters)
    trees = tree_families(texts.learned, costs)
    actions = action_list("all", texts.max_length, count, trees=trees)
    chains = [action for action in actions if not action.branches]
    kinds = {
        "chain": [action for action in chains if not action.stops],
        "tree": [FALLBACK, *(action for action in actions if action.tree is not None)],
        "pair": [FALLBACK, *(action for action in actions if action.also)],
    }
    steps: dict[str, np.ndarray] = {}  # [N] of each held-out text
    chosen: dict[str, str] = {}
    for name, candidates in kinds.items():
        best = candidates[int(fixed_steps(texts.learned, candidates, profile).sum(axis=1).argmin())]
        steps[name] = fixed_steps(texts.held_out, [best], profile)[0]
        chosen[name] = str(best)
    steps["hedge"] = hedge(texts.held_out, lengths_of(texts.held_out), profile)
    tried, used = {}, {}
    for name, known in (("learned_all", actions), ("learned_chains", chains)):
        steps[name], tried[name], used[name] = learned(texts, known, profile, states)
    chosen["learned"] = min(tried, key=lambda name: tried[name])
    steps["learned"] = steps[chosen["learned"]]
    tokens = np.diff(texts.held_out.starts)
    rises = costs.tree_verification
    return {
        "price": price,
        "node_steps": (rises[-1] - rises[0]) / (len(rises) - 1) / costs.autoregressive_step,
        "speedup": {name: float(tokens.sum() / value.sum()) for name, value in steps.items()},
        "chosen": chosen,
        "share_of_rounds": used["learned_all"],
        "learned_over_chains": gain(steps["learned"], steps["learned_chains"]),
        "all_over_chains": gain(steps["learned_all"], steps["learned_chains"]),
        "learned_over_tree": gain(steps["learned"], steps["tree"]),
        "tree_over_chain": gain(steps["tree"], steps["chain"]),
        "pairs_over_one": gain(steps["pair"], steps["chain"]),
        "learned_over_hedge": gain(steps["learned"], steps["hedge"]),
    }


def learned(
    texts: Texts, actions: Sequence[Action], profile: CostProfile, states: int
) -> tuple[np.ndarray, float, dict[str, float]]:
    """A policy with `actions`: steps `[N]` of held-out texts, of all withheld ones, its kinds."""
    branches = any(action.branches for action in actions)
    drafters = texts.learned.drafters
    foreseen = sum(drafter.foreseen for drafter in drafters)
    spec = ObservationSpec(
        FEATURES, texts.max_length, texts.vocab_size, len(drafters), branches, foreseen
    )
    points, policy = [profile.contexts()], [profile.policy]
    tables = ReplayTables(texts.learned, actions)
    game = ReplayGame(tables, spec, points, policy=policy, streams=256)
    best = fixed_steps(texts.learned, lengths_of(texts.learned), profile).sum(axis=1).min()
    game.streams.rates[:] = max(1.0, texts.learned.starts[-1] / best)
    agent = configured(
        [f"agent.total_steps={states}", "agent=hindsight", f"agent.batch_size={BATCH}"]
    ).agent
    decide = deciding(fit_hindsight(game, agent, 0))

    def streams_of(trace: Trace) -> ReplayStreams:
        own = ReplayTables(trace, actions)
        return ReplayStreams(own, spec, points, policy=policy, streams=len(trace.texts))

    kinds = np.array([kind_of(action) for action in actions])
    rounds: dict[str, int] = dict.fromkeys(("plain", "chain", "tree", "pair"), 0)

    def counted(observation: np.ndarray) -> np.ndarray:
        made = decide(observation)
        for kind, count in zip(*np.unique(kinds[made], return_counts=True)):
            rounds[str(kind)] += int(count)
        return made

    totals = play_all(streams_of(texts.held_out), counted)
    share = {kind: count / sum(rounds.values()) for kind, count in rounds.items()}
    tried = play_all(streams_of(texts.withheld), decide)
    return totals.steps, float(tried.steps.sum()), share


def kind_of(action: Action) -> str:
    """What a round of an action verifies."""
    if action.branches:
        return "tree" if action.tree else "pair"
    return "chain" if action.length else "plain"


def gain(steps: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """How much faster, with a 95% interval over texts (paired bootstrap)."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(steps), size=(RESAMPLES, len(steps)))
    found = others[rows].sum(axis=1) / steps[rows].sum(axis=1) - 1
    low, high = np.quantile(found, [0.025, 0.975])
    return float(others.sum() / steps.sum() - 1), float(low), float(high)


def plot(files: Sequence[Path], out: Path) -> None:
    """What trees and pairs gain over chains alone, by the price of a verified token."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for path in files:
        found = json.loads(path.read_text())
        for name, curve in found["curves"].items():
            points = sorted(curve[1:], key=lambda point: point["price"])
            prices = [point["price"] for point in points]
            middle, low, high = (
                [100 * point["learned_over_chains"][n] for point in points] for n in range(3)
            )
            label = f"{path.stem.removeprefix('tree_replay_')}, temperature {name[1:]}"
            (line,) = axes.plot(prices, middle, marker="o", label=label)
            axes.fill_between(prices, low, high, alpha=0.15, color=line.get_color())
            own = curve[0]
            here = 100 * own["learned_over_chains"][0]
            axes.plot([own["node_steps"]], [here], marker="*", ms=12, color=line.get_color())
    axes.axhline(0, color="grey", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("price of one more verified token, in plain steps (star: as measured here)")
    axes.set_ylabel("gain of trees and pairs over chains alone, %")
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
