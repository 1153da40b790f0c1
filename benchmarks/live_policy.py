"""Policies and fixed draft lengths, decoding live, one text at a time.

    python benchmarks/live_policy.py [--shape S --drafter-shape S] [--policy FOLDER] [--json PATH]

Measures decoding costs (or reads `--costs`, from live_costs.py), records training prompts, and
decodes held-out prompts greedily with every method in turn. Policies: a tabular policy, solved on
the recording; `learned`, fitted to the recording if gymnasium and Hydra are installed (otherwise
the JSON says why not); and with `--policy` a bundle trained for this very pair. Figures: the
speedup of each method over autoregressive decoding, tokens over seconds; `identical_share`, texts
equal to the autoregressive ones; and `tie_share`, texts that differ from them only by rounding.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from live_costs import MAX_LENGTH, measured, pair_arguments, pair_from
from report import finish
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adaspec_rl.comparison.benchmark import Record, run_benchmark
from adaspec_rl.comparison.identity import AUTOREGRESSIVE
from adaspec_rl.comparison.losslessness import compare_texts
from adaspec_rl.control.action import action_list
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.baselines.markov import Markov
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.control.observation import GROUPS
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.prompts import EncodedPrompt, balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import NGRAM, Pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.markov_solver import solve
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.training.bundle import load_bundle

LENGTHS = (1, 2, 3, 4, 6, 8)
STREAMS = 64


def prompts_of(pair: Pair, split: str, per_domain: int) -> list[EncodedPrompt]:
    chosen = balanced(embedded_prompts(split), per_domain)
    return [EncodedPrompt(prompt, pair.encode(prompt.text)) for prompt in chosen]


def learned(pair: Pair, trace: Trace, profile: CostProfile, steps: int) -> LearnedPolicy:
    """A policy fitted to all outcomes of the recording.

    Raises:
        ImportError: a package that the fit needs is not installed.
    """
    from adaspec_rl.config import AgentConfig
    from adaspec_rl.envs.vector import ReplayGame
    from adaspec_rl.training.hindsight import fit_hindsight
    from adaspec_rl.training.judge import fixed_speedups

    actions = tuple(action_list("length_threshold", MAX_LENGTH, len(pair.drafters)))
    spec = pair_observation(pair, GROUPS, MAX_LENGTH)
    points = [profile.contexts()]
    game = ReplayGame(
        ReplayTables(trace, actions), spec, points, policy=[profile.policy], streams=STREAMS
    )
    game.streams.rates[:] = fixed_speedups(trace, points, MAX_LENGTH).clip(min=1.0)
    config = AgentConfig(
        name="hindsight", total_steps=steps, learning_rate=3e-3, n_epochs=8, hidden=[64, 64]
    )
    return LearnedPolicy(fit_hindsight(game, config, seed=0), actions, spec)


def speeds(records: Sequence[Record]) -> dict[str, float]:
    """Tokens per second of each method: sum over sum."""
    tokens: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for item in records:
        tokens[item.method] = tokens.get(item.method, 0) + len(item.generation.tokens)
        seconds[item.method] = seconds.get(item.method, 0.0) + item.generation.seconds
    return {method: tokens[method] / seconds[method] for method in tokens}


def show(found: dict[str, float]) -> None:
    table = Table(title="Live, tokens a second", title_justify="left")
    for name in ("method", "tokens/s", "speedup"):
        table.add_column(name, justify="right")
    for method, speed in found.items():
        table.add_row(method, f"{speed:.1f}", f"{speed / found[AUTOREGRESSIVE]:.3f}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair_arguments(parser)
    parser.add_argument("--costs", type=Path, help="what live_costs.py wrote; measured without it")
    parser.add_argument("--policy", type=Path, help="a bundle for this pair")
    parser.add_argument("--train-prompts", type=int, default=8, help="to record, a domain")
    parser.add_argument("--prompts", type=int, default=3, help="held out, a domain")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="fixed ones")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--fit-steps", type=int, default=100_000, help="states to fit to")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = pair_from(options)
    if options.costs:
        profile = CostProfile.from_dict(json.loads(options.costs.read_text())["profile"])
    else:
        limit = options.max_new_tokens
        profile = measured(pair, contexts=[128], batch_sizes=[1], seconds=20, max_new_tokens=limit)
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=options.max_new_tokens,
        max_length=MAX_LENGTH,
    )
    training = prompts_of(pair, "train", options.train_prompts)
    with tempfile.TemporaryDirectory() as folder, Progress() as shown:
        task = shown.add_task("recording")
        trace, survival = record(
            pair,
            recording,
            [item.ids for item in training],
            [item.prompt.domain for item in training],
            Path(folder),
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    controllers: list[Controller] = [FixedLength(0)]
    for number, name in enumerate(("draft", NGRAM)):
        controllers += [
            FixedLength(length, number, f"{name}_{length}") for length in options.lengths
        ]
    controllers.append(Markov(solve(trace, profile), MAX_LENGTH))
    left_out: dict[str, str] = {}
    try:
        controllers.append(learned(pair, trace, profile, options.fit_steps))
    except ImportError as error:
        left_out["learned"] = f"skipped: {error}"
        print(f"learned policy {left_out['learned']}")
    if options.policy:
        bundle = load_bundle(options.policy)
        bundle.check_pair(pair)
        controllers.append(bundle.guarded())
    session = pair.session(
        max_new_tokens=options.max_new_tokens, sampling=Sampling(), survival=survival
    )
    held_out = prompts_of(pair, "test", options.prompts)
    with Progress() as shown:
        task = shown.add_task("decoding")
        records = run_benchmark(
            session,
            controllers,
            held_out,
            cost=profile.at().features(),
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
    found = speeds(records)
    show(found)
    texts = compare_texts(records, {item.prompt.id: item.ids for item in held_out}, pair.target)
    figures = {
        f"speedup_{method}": speed / found[AUTOREGRESSIVE]
        for method, speed in found.items()
        if method != AUTOREGRESSIVE
    }
    figures["identical_share"] = texts.identical / texts.compared
    figures["tie_share"] = texts.ties / texts.compared
    details = {
        "pair": pair.name,
        "tokens_per_second": found,
        "prompts": len(held_out),
        "left_out": left_out,
        "profile": profile.to_dict(),
    }
    finish(figures, options.json, device=pair.target.device, details=details)


if __name__ == "__main__":
    main()
