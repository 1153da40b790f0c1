"""An action for each row, or one for the batch? `python benchmarks/batch_learning.py --json FILE`.

Three ways to learn to decode many texts at once are replayed on the embedded pair's held-out
prompts, at the costs in a file (by default those modelled for an H200), all deciding every round:

* `plan`: regression. A network expects what each row's draft is worth, the cost model sets prices;
* `shared`: PPO in `adaspec/SpecDecodeBatch-v0`. For the whole batch, it chooses two factors on the
  plan's prices from a few features of the load; each episode has a load of its own;
* `per_row`: PPO on single texts at costs drawn at random (`env.cost=randomised`). It decides for
  each row from the row's own features and the costs of the batch.

Figures: `WAY_vs_plan_LOAD`, throughput over the plan's at the same load, mean over seeds.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from policy import Place, configured, interval
from report import finish
from rich.console import Console

from adaspec_rl.comparison.batch_contestants import AGENT, order_of
from adaspec_rl.config import CONF, AgentConfig
from adaspec_rl.control.batching.fixed import FixedForAll
from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.planned import PlannedBatch
from adaspec_rl.control.batching.rowwise import Rowwise
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.envs.batch import FACTORS, SpecDecodeBatchEnv
from adaspec_rl.from_config import set_threads
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.batch_replay import replay
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.training.batch_hindsight import fit_outlook
from adaspec_rl.training.ppo import new_ppo
from adaspec_rl.training.train import learn

GROUPS = ("history", "drafters", "context", "lookup")
NEUTRAL = np.full(2, FACTORS.index(1.0))  # leaves prices as they are
EPISODES = 4  # at each load
ROUNDS = 64  # of an episode

Decide = Callable[[np.ndarray], np.ndarray]


def throughput(env: SpecDecodeBatchEnv, rows: int, decide: Decide) -> float:
    """Tokens a second in episodes of `rows` rows; the same texts for every `decide`."""
    tokens = seconds = 0.0
    for seed in range(EPISODES):
        seen, _ = env.reset(seed=seed, options={"rows": rows})
        truncated = False
        while not truncated:
            seen, _, _, truncated, info = env.step(decide(seen))
            tokens, seconds = tokens + info["tokens"], seconds + info["seconds"]
    return tokens / seconds


def shared(env: SpecDecodeBatchEnv, config: AgentConfig, seed: int) -> Decide:
    """PPO's factors on the plan's prices."""
    agent = new_ppo(env, config, seed)
    agent.learn(config.total_steps)
    return lambda seen: agent.predict(seen, deterministic=True)[0]


def per_row(
    place: Place, trace: Trace, overrides: Sequence[str], seed: int, console: Console
) -> Any:
    """Makes the controller of a policy that decides for each row by itself."""
    features = f"env.features=[{','.join((*GROUPS, 'cost'))}]"
    config = configured([*overrides, "env.cost=randomised", features, f"seed={seed}"])
    spec = replace(place.task.spec, groups=(*GROUPS, "cost"))
    task = replace(place.task, trace=trace, spec=spec)
    with tempfile.TemporaryDirectory() as folder:
        actor = learn(config, task, Path(folder), console).actor
    return lambda: Rowwise(lambda: LearnedPolicy(actor, task.actions, spec))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    costs_file = CONF / "batch_cost" / "h200_modelled.json"
    parser.add_argument("--costs", type=Path, default=costs_file)
    parser.add_argument("--loads", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000, help="rounds that PPO plays")
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="as for train_policy.py")
    options = parser.parse_intermixed_args(arguments)
    set_threads(1)
    console = Console()
    place = Place.of(options.overrides, None, console)
    trace, costs = place.task.trace, BatchCosts.load(options.costs)
    learning, held_out = BatchTables(trace), BatchTables(place.held.trace)
    spec = ObservationSpec(GROUPS, trace.max_length, drafters=len(trace.drafters))
    outlook = fit_outlook(
        learning, spec, costs, AGENT, depth=trace.max_length, seed=0, sizes=options.loads
    )

    def env(tables: BatchTables, outlook: Outlook = outlook) -> SpecDecodeBatchEnv:
        return SpecDecodeBatchEnv(tables, costs, outlook, sizes=options.loads, rounds=ROUNDS)

    agent = AgentConfig(
        total_steps=options.steps, n_steps=1024, batch_size=256, gamma=0.9, hidden=[32, 32]
    )
    ratios: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        steer = shared(env(learning), agent, seed)
        alone = per_row(place, trace, options.overrides, seed, console)
        for rows in options.loads:
            here = env(held_out)
            steered = throughput(here, rows, steer) / throughput(here, rows, lambda _: NEUTRAL)
            ratios.setdefault(f"shared_vs_plan_{rows}", []).append(steered)
            order = order_of(place.held.trace, rows, 36, 0)
            plan, plain, each = (
                replay(held_out, costs, made, order, rows).throughput
                for made in (PlannedBatch(outlook, costs, longest=0), FixedForAll(0), alone())
            )
            ratios.setdefault(f"per_row_vs_plan_{rows}", []).append(each / plan)
            ratios.setdefault(f"plan_vs_plain_{rows}", []).append(plan / plain)
            console.print(
                f"seed {seed}, {rows} rows: plan {plan / plain:.3f} × plain; of the plan: shared "
                f"{steered:.3f}, per row {each / plan:.3f}"
            )
    found = {name: interval(values) for name, values in ratios.items()}
    figures = {name: mean for name, (mean, _, _) in found.items()}
    details = {"costs": costs.device, "ci95": {name: ends for name, (_, *ends) in found.items()}}
    finish(figures, options.json, details=details)


if __name__ == "__main__":
    main()
