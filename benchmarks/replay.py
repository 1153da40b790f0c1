"""How fast recordings are made and replayed: `python benchmarks/replay.py --json FILE`.

Figures: steps a second of bare replay at 1,024 streams, and with PPO learning; outcomes a second of
recording and of stepping the live environment; and whether replayed rounds equal live rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report import finish

from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import GROUPS, ObservationSpec
from adaspec_rl.data.prompts import EncodedPrompt, balanced, embedded_prompts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.envs.live import make_live_env
from adaspec_rl.envs.replay import nominal_costs
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.from_config import set_threads
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.replay.streams import ReplayTables

EVERY_KIND = ["tiny:draft", "tiny:code", "early_exit:3", "ngram"]
STREAMS = 1024


def recorded(
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    temperature: float,
    options: argparse.Namespace,
    heads: Sequence[Survival] | None = None,
) -> tuple[Trace, list[Survival], float]:
    """A fresh recording and the seconds it took, fitted survival heads included."""
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(temperature),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=options.max_new_tokens,
        max_length=options.max_length,
    )
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        trace, survival = record(
            pair,
            recording,
            [item.ids for item in prompts],
            [item.prompt.domain for item in prompts],
            Path(folder),
            heads=heads,
        )
        return trace, survival, time.perf_counter() - began


def live_steps_per_second(
    pair: Pair, prompts: Sequence[EncodedPrompt], actions: Sequence[Action], steps: int
) -> float:
    """Random actions in the live environment; each step yields one outcome."""
    env = make_live_env(
        pair,
        prompts,
        actions=actions,
        max_length=max(action.length for action in actions),
        profile=nominal_costs(len(pair.drafters), max(action.length for action in actions)),
    )
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    began = time.perf_counter()
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(int(rng.integers(len(actions))))
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - began)


def game(tables: ReplayTables, features: Sequence[str], streams: int) -> ReplayGame:
    """Replayed streams under nominal costs."""
    trace = tables.trace
    spec = ObservationSpec(tuple(features), trace.max_length, drafters=len(trace.drafters))
    profile = nominal_costs(len(trace.drafters), trace.max_length)
    return ReplayGame(tables, spec, [profile.points], policy=[0.0], streams=streams)


def replay_steps_per_second(tables: ReplayTables, steps: int) -> float:
    """Random actions, all features, rewards and restarts of ended texts included."""
    streams = game(tables, GROUPS, STREAMS)
    actions = np.random.default_rng(0).integers(len(tables.actions), size=(steps, STREAMS))
    streams.reset()
    for row in actions[:20]:
        streams.step(row)
    began = time.perf_counter()
    for row in actions:
        streams.step(row)
    return steps * STREAMS / (time.perf_counter() - began)


def learning_steps_per_second(tables: ReplayTables, steps: int) -> float:
    """The default agent on the default features."""
    from adaspec_rl.config import AgentConfig
    from adaspec_rl.envs.stable_baselines import AdaSpecVecEnv
    from adaspec_rl.training.ppo import new_ppo

    env = AdaSpecVecEnv(game(tables, ("history", "cost"), 512))
    agent = new_ppo(env, AgentConfig(hidden=[64, 64]), seed=0)
    agent.learn(16_384)
    before, began = agent.num_timesteps, time.perf_counter()
    agent.learn(steps, reset_num_timesteps=False)
    return (agent.num_timesteps - before) / (time.perf_counter() - began)


def differing_rounds(
    pair: Pair, trace: Trace, survival: Sequence[Survival], temperature: float, tokens: int
) -> tuple[int, int]:
    """How many rounds of random actions differ between live and replay, and how many there are."""
    live = pair.session(
        max_new_tokens=tokens,
        sampling=Sampling(temperature),
        verification="coupled",
        survival=survival,
    )
    replay = ReplaySession(trace, nominal_costs(len(pair.drafters), trace.max_length))
    choices = action_list("length_threshold", trace.max_length, len(pair.drafters))
    rng = np.random.default_rng(1)
    differing = total = 0
    for text in trace.texts:
        prompt = text.prompt.tolist()
        live.start(prompt, text.seed, signals=False)
        replay.start(prompt, text.seed)
        while live.finished is None:
            action = choices[int(rng.integers(len(choices)))]
            played, expected = live.step(action), replay.step(action)
            total += 1
            same = (
                played.drafted,
                played.accepted,
                played.tokens,
                played.rejected,
                live.finished,
            ) == (
                expected.drafted,
                expected.accepted,
                expected.tokens,
                expected.rejected,
                replay.finished,
            )
            if not same:
                differing += 1
                break  # from here on, live and replay are at different positions
    return differing, total


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=67, help="recorded, a domain")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=12)
    parser.add_argument("--drafters", nargs="+", default=EVERY_KIND)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    set_threads(None)
    pair = load_pair("tiny", "tiny:target", options.drafters)
    chosen = balanced(embedded_prompts("train"), options.prompts)
    prompts = [EncodedPrompt(prompt, pair.encode(prompt.text)) for prompt in chosen]
    actions = action_list("length_threshold", options.max_length, len(pair.drafters))
    figures: dict[str, float] = {}
    recording, live = [], []
    for temperature in (0.0, 0.8):
        trace, survival, seconds = recorded(pair, prompts, temperature, options)
        outcomes = int(trace.starts[-1]) * len(actions)
        # Fitting judges each shard with a head of the other shards. Decoding has a single head, so
        # the prompts are recorded again with it.
        same_heads, _, _ = recorded(pair, prompts, temperature, options, survival)
        differing, total = differing_rounds(
            pair, same_heads, survival, temperature, options.max_new_tokens
        )
        t = f"t{temperature:g}"
        figures[f"rounds_compared_{t}"] = total
        figures[f"rounds_differing_{t}"] = differing
        figures[f"outcomes_per_second_{t}"] = outcomes / seconds
        recording.append(outcomes / seconds)
        live.append(live_steps_per_second(pair, prompts, actions, 400))
        figures[f"live_steps_per_second_{t}"] = live[-1]
    tables = ReplayTables(trace, actions)
    figures["env_steps_per_second"] = statistics.median(
        replay_steps_per_second(tables, 400) for _ in range(options.repeats)
    )
    figures["learning_steps_per_second"] = statistics.median(
        learning_steps_per_second(tables, 200_000) for _ in range(options.repeats)
    )
    figures["outcomes_vs_live"] = statistics.median(
        made / stepped for made, stepped in zip(recording, live)
    )
    details = {"prompts": len(prompts), "actions": len(actions), "streams": STREAMS}
    finish(figures, options.json, details=details)


if __name__ == "__main__":
    main()
