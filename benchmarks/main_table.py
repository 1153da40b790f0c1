"""The main table in one run: training seeds, every controller, the bounds, and other engines.

    python benchmarks/main_table.py --folder FOLDER --peers transformers llama.cpp \
        --train OVERRIDE ... --judge OVERRIDE ... [--json FILE]

Trains a policy with each seed, as `train_policy.py` with `--train` would; a seed whose policy is in
`--folder` already is not trained again. Then compares, as `evaluate.py` with `--judge` would: seed
0 is `learned`, the others are `learned_1`, `learned_2`, … After each prompt the best modes of the
peers in each of `--precisions`, found on one training prompt of each domain, decode it as well:
after all of ours, in random order.

Figures: `learned_speedup`, the mean over the seeds, and `learned_ahead_of_WAY` for each peer's way:
the first seed's tokens a second over the peer's, reading the prompt included.
"""

import argparse
import gc
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from decoders import Made, Method, tuned
from policy import composed, configured, interval
from report import finish
from rich.console import Console
from versus_peers import ENGINES, PRECISIONS, peers_of, slug

from adaspec_rl.comparison.compare import Comparison, compare, generations_file
from adaspec_rl.comparison.contestants import check_comparison
from adaspec_rl.comparison.figures import LIVE, as_json
from adaspec_rl.comparison.identity import AUTOREGRESSIVE, LEARNED
from adaspec_rl.comparison.statistics import paired_ratio, paired_ratio_interval
from adaspec_rl.config import EvaluateConfig
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.files import write_atomically
from adaspec_rl.from_config import pair_from, set_threads
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.report.conclusion import conclude
from adaspec_rl.training.bundle import PolicyBundle, load_bundle
from adaspec_rl.training.train import learn, prepare

SPARE = 16  # tokens of context for a draft at the end of a text


def policies(
    overrides: Sequence[str], seeds: int, folder: Path, pair: Pair, console: Console
) -> list[PolicyBundle]:
    """A policy of each training seed, from the folder or trained now, all on the same texts.

    Raises:
        ValueError: the folder's policies were trained with other overrides.
    """
    told = folder / "train.json"
    if not told.exists():
        write_atomically(told, json.dumps(list(overrides)) + "\n")
    elif json.loads(told.read_text(encoding="utf-8")) != list(overrides):
        raise ValueError(f"{told} has other overrides than --train: choose another --folder")
    folders = [folder / f"seed_{seed}" for seed in range(seeds)]
    missing = [seed for seed in range(seeds) if not (folders[seed] / "policy").exists()]
    if missing:
        costs = folder / "cost_profile.json"
        known = ["cost=file", f"cost.path={costs}"] if costs.exists() else []
        config = configured([*overrides, *known])
        task = prepare(config, pair, console)
        task.profile.save(costs)
        for seed in missing:
            learn(replace(config, seed=seed), task, folders[seed], console)
    return [load_bundle(own / "policy") for own in folders]


@dataclass(frozen=True, slots=True)
class Peers:
    """Other engines' ways to decode, and what they made of the prompts so far."""

    methods: list[Method]
    made: list[list[Made]]  # of each prompt, by method
    unavailable: dict[str, str]

    @classmethod
    def best(
        cls,
        options: argparse.Namespace,
        config: EvaluateConfig,
        pair: Pair,
        folder: Path,
        tried_on: Sequence[EncodedPrompt],
        longest: int,
    ) -> "Peers":
        """Each way at the setting that is fastest on the prompts `tried_on`."""
        unavailable: dict[str, str] = {}
        wanted = argparse.Namespace(
            engines=options.peers,
            precisions=options.precisions,
            target=config.model.target,
            drafters=[config.model.drafter] if "draft" in config.model.drafters else [],
            max_new_tokens=config.evaluation.max_new_tokens,
            temperature=config.env.temperature,
        )
        found = peers_of(wanted, pair, longest, folder, unavailable)
        return cls(tuned(found, [item.ids for item in tried_on]), [], unavailable)

    def decode(self, item: EncodedPrompt, seed: int) -> None:
        """Decode one prompt in every way."""
        order = np.random.default_rng((seed, 1)).permutation(len(self.methods)).tolist()
        made: dict[int, Made] = {}
        for index in order:
            gc.collect(0)
            gc.disable()
            try:
                made[index] = self.methods[index].run(item.ids, seed)
            finally:
                gc.enable()
        self.made.append([made[index] for index in range(len(self.methods))])

    def against(self, ours: dict[str, np.ndarray]) -> dict[str, Any]:
        """Each way beside ours; `ours` has tokens and seconds `[prompts, 2]` by method."""
        found = {}
        for number, method in enumerate(self.methods):
            made = [prompt[number] for prompt in self.made]
            tokens = np.array([len(one.tokens) for one in made], dtype=np.float64)
            seconds = np.array([one.seconds for one in made])
            found[method.family] = {
                "setting": method.setting,
                "tokens_per_second": float(tokens.sum() / seconds.sum()),
                **{
                    f"{name}_ahead": _ratio(*ours[name].T, tokens, seconds)
                    for name in (LEARNED, AUTOREGRESSIVE)
                },
            }
        return found


def _ratio(*sums: np.ndarray) -> dict[str, Any]:
    return {"ratio": paired_ratio(*sums), "ci95": list(paired_ratio_interval(*sums))}


def tokens_and_seconds(journal: Path) -> dict[str, np.ndarray]:
    """Tokens and seconds `[prompts, 2]` of each method, from a comparison's journal."""
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()[1:]]
    found: dict[str, list[tuple[int, float]]] = {}
    for row in (row for line in lines for row in line):
        found.setdefault(row["method"], []).append((len(row["tokens"]), row["seconds"]))
    return {name: np.array(rows) for name, rows in found.items()}


def seeds_of(comparison: Comparison, names: Sequence[str]) -> dict[str, Any]:
    """Speedups of the policies of all training seeds, with the mean and its interval over seeds."""
    own = [comparison.figures.overall.methods[name] for name in names]
    speedups, ahead = [one.speedup for one in own], [one.versus_best_fixed for one in own]
    found = {}
    for name, values in (("speedup", speedups), ("versus_best_fixed", ahead)):
        mean, low, high = interval(values)
        found[name] = {"mean": mean, "ci95": [low, high], "seeds": values}
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="of policies and results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=ENGINES, default=["transformers"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["bfloat16"])
    parser.add_argument("--train", nargs="*", default=[], help="overrides of train_policy.py")
    parser.add_argument("--judge", nargs="*", default=[], help="overrides of evaluate.py")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options, console = parse(), Console()
    config = composed("evaluate", ["controllers=all", *options.judge])
    journal = options.folder / generations_file(LIVE, f"{config.env.temperature:g}")
    if journal.exists():  # of which other engines' times are lost
        raise ValueError(f"{journal} holds a comparison already: delete it to begin anew")
    set_threads(config.threads)
    pair = pair_from(config.model, config.engine)
    check_comparison(config, pair)
    options.folder.mkdir(parents=True, exist_ok=True)
    bundles = policies(options.train, options.seeds, options.folder, pair, console)
    for bundle in bundles:
        bundle.check_pair(pair)
    names = [LEARNED, *(f"{LEARNED}_{seed}" for seed in range(1, options.seeds))]
    rivals = dict(zip(names[1:], bundles[1:]))
    config = replace(config, rivals=dict.fromkeys(rivals, str(options.folder)))
    training = configured(options.train)
    tried_on = prompts_from(training, "train", pair, console, 1)
    held_out = prompts_from(config, "test", pair, console, config.evaluation.prompts)
    longest = max(len(item.ids) for item in [*tried_on, *held_out])
    longest += config.evaluation.max_new_tokens + SPARE
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers.best(options, config, pair, Path(folder), tried_on, longest)
        comparison = compare(
            config,
            pair,
            bundles[0],
            options.folder,
            console,
            rivals=rivals,
            between=peers.decode,
        )
    results = as_json(conclude(config, pair, [comparison], options.folder))
    beside = peers.against(tokens_and_seconds(journal))
    seeds = seeds_of(comparison, names)
    figures = {"learned_speedup": seeds["speedup"]["mean"]} | {
        f"learned_ahead_of_{slug(way)}": found[f"{LEARNED}_ahead"]["ratio"]
        for way, found in beside.items()
    }
    del results["command"]
    details = {"peers": beside, "unavailable": peers.unavailable, "seeds": seeds}
    finish(figures, options.json, details={**results, **details})


if __name__ == "__main__":
    main()
