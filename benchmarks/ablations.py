"""What each part is worth: `python benchmarks/ablations.py --seeds 5 --json FILE`.

The default training and variants with one change each, replayed on the same held-out prompts. The
changes are in the groups of features, the reward, how far ahead PPO looks, the actions, and the way
of learning. One recording serves all variants.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policy import Place, configured, interval
from report import finish
from rich.console import Console

from adaspec_rl.config import TrainConfig
from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import GROUPS
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.from_config import set_threads
from adaspec_rl.training.train import Task, learn

DEFAULT = "default"
VARIANTS: dict[str, list[str]] = {
    DEFAULT: [],
    "features: cost alone": ["env.features=[cost]"],
    **{
        f"features: with {group}": [f"env.features=[cost,context,lookup,{group}]"]
        for group in GROUPS
        if group not in ("cost", "context", "lookup")
    },
    "features: all": [f"env.features=[{','.join(GROUPS)}]"],
    "features: no lookup": ["env.features=[cost,context]"],
    "features: no context": ["env.features=[cost,lookup]"],
    "reward: ratio": ["env.reward=ratio"],
    "reward: accepted": ["env.reward=accepted"],
    "gamma 0.5": ["agent.gamma=0.5", "agent.gae_lambda=0.95"],
    "gamma 0.9": ["agent.gamma=0.9", "agent.gae_lambda=0.95"],
    "actions: lengths alone": ["env.actions=length"],
    "no warm start": ["agent.warm_start=null"],
    "regression alone": ["agent=hindsight"],
}


def varied(config: TrainConfig, task: Task) -> Task:
    """`task` with the actions and the observation that `config` asks for."""
    env, drafters = config.env, len(task.pair.drafters)
    actions = action_list(env.actions, env.max_length, drafters, env.thresholds)
    spec = pair_observation(task.pair, env.features, env.max_length)
    return replace(task, actions=tuple(actions), spec=spec)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--prompts", type=int, help="held out, a domain; all by default")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(None)
    console = Console()
    place = Place.of(options.overrides, options.prompts, console)
    task, held = place.task, place.held
    found: dict[str, dict[str, Any]] = {}
    for name in options.variants:
        changed = configured([*options.overrides, *VARIANTS[name]])
        own = varied(changed, task)
        speedups = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                made = learn(replace(changed, seed=seed), own, Path(folder), console)
                speedups.append(held.speedup(made.actor, own))
        mean, low, high = interval(speedups)
        found[name] = {
            "change": VARIANTS[name],
            "mean": mean,
            "ci95": [low, high],
            "seeds": speedups,
        }
        console.print(f"{name}: {mean:.3f} x ({low:.3f} to {high:.3f})")
    figures = {name.replace(" ", "_"): item["mean"] for name, item in found.items()}
    details = {"best_fixed": held.best_fixed, "oracle": held.oracle, "variants": found}
    finish(figures, options.json, details={"details": details})


if __name__ == "__main__":
    main()
