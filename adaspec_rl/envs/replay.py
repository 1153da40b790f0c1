"""The replayed environment of a pair: deterministic, with the same rounds as live decoding."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adaspec_rl.control.action import action_list, branching, most_nodes
from adaspec_rl.control.checks import check_between
from adaspec_rl.control.observation import GROUPS, ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.envs.spec_decode import SpecDecodeEnv
from adaspec_rl.envs.vector import AdaSpecVectorEnv, ReplayGame
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.replay.tree_shapes import BUDGETS, tree_families


def make_replay_env(
    trace: Trace | None = None,
    profile: CostProfile | None = None,
    *,
    actions: str | Sequence[Action] = "length",
    max_length: int | None = None,
    vocab_size: int = 4096,
    features: Sequence[str] = GROUPS,
    reward: str = "throughput",
    batch_size: int = 1,
    prompts: int = 2,
    temperature: float = 0.0,
) -> SpecDecodeEnv:
    """An environment over a recording.

    Without a `trace`, `prompts` training prompts of each embedded domain are recorded first, which
    takes a few seconds; without a `profile`, rounds have the `nominal_costs`.
    """
    branches = isinstance(actions, str) and branching(actions)
    trace = trace or small_recording(prompts, temperature, ranks=branches)
    longest, drafters = max_length or trace.max_length, len(trace.drafters)
    profile = profile or nominal_costs(drafters, longest, max(BUDGETS))
    if isinstance(actions, str):
        trees = tree_families(trace, profile.at(batch_size=batch_size)) if branches else None
        actions = action_list(actions, longest, drafters, trees=trees)
    return SpecDecodeEnv(
        ReplaySession(trace, profile, batch_size=batch_size),
        [text.prompt.tolist() for text in trace.texts],
        actions,
        ObservationSpec(
            tuple(features),
            longest,
            vocab_size,
            max(1, drafters),
            most_nodes(actions) > 0,
            sum(drafter.foreseen for drafter in trace.drafters),
        ),
        profile,
        reward=reward,
        batch_size=batch_size,
    )


def make_replay_vector_env(num_envs: int = 1, **settings: Any) -> AdaSpecVectorEnv:
    """`num_envs` texts side by side, natively batched; `settings` are those of `make_replay_env`.

    Raises:
        ValueError: a setting makes no sense.
    """
    check_between("num_envs", num_envs, 1)
    single = make_replay_env(**settings)
    assert isinstance(single.session, ReplaySession)
    game = ReplayGame(
        ReplayTables(single.session.trace, single.actions),
        single.features,
        [single.profile.contexts(single.batch_size)],
        policy=[single.profile.policy],
        streams=num_envs,
        reward=single.reward.kind,
    )
    return AdaSpecVectorEnv(game)


def nominal_costs(drafters: int, max_length: int, nodes: int = 0) -> CostProfile:
    """A made-up machine on which a drafted token costs a tenth of a plain step.

    `nodes` is the size of the largest token tree. In each level of a tree, the first node costs as
    much as a drafted token and each further node a tenth of that.
    """
    level = tuple(0.1 + 0.01 * more for more in range(nodes))
    costs = RoundCosts(
        context=128,
        batch_size=1,
        autoregressive_step=1.0,
        draft_step=(0.1,) * drafters,
        stopping_step=(0.01,) * drafters,
        verification=tuple(1.0 + 0.05 * drafted for drafted in range(max_length + 1)),
        overhead=(0.1,) * drafters,
        catch_up=(0.001,) * drafters,
        tree_verification=tuple(1.0 + 0.05 * n for n in range(nodes + 1)) if nodes else (),
        levels=(level,) * drafters if nodes else (),
    )
    return CostProfile("nominal", 0.02, (costs,))


def small_recording(prompts: int, temperature: float, *, ranks: bool = False) -> Trace:
    """Texts of the embedded pair after `prompts` training prompts of each domain."""
    pair = load_pair("tiny", "tiny:target", ["tiny:draft"])
    chosen = balanced(embedded_prompts("train"), prompts)
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(temperature),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=64,
        max_length=8,
        survival="product",
    )
    with tempfile.TemporaryDirectory() as folder:
        trace, _ = record(
            pair,
            recording,
            [pair.encode(prompt.text) for prompt in chosen],
            [prompt.domain for prompt in chosen],
            Path(folder),
            ranks=ranks,
        )
    return trace
