"""From a configuration to the objects that it names; both scripts begin here."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from adaspec_rl.config import (
    CONF,
    Config,
    CostConfig,
    EngineConfig,
    EnvConfig,
    ModelConfig,
)
from adaspec_rl.console import duration, progress, say
from adaspec_rl.control.action import branching
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.verification import Rule
from adaspec_rl.decoding.verification.lossy import Fuzzy, Judge, Tolerance, TopK, Typical
from adaspec_rl.decoding.verification.lossy.judge_file import load_judge
from adaspec_rl.engine.device import device_named
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.tensor_parallel import follow
from adaspec_rl.engine.transformers_model import TransformersModel
from adaspec_rl.pairs.drafter_names import EXIT
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from adaspec_rl.recording.workers import RayWorkers
from adaspec_rl.replay.tree_shapes import BUDGETS


def set_threads(threads: int | None) -> None:
    """Set the threads of CPU kernels: as configured, else `OMP_NUM_THREADS`, else one per core."""
    if threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or os.cpu_count() or 1)


def pair_from(config: ModelConfig, engine: EngineConfig) -> Pair:
    """Load the configured pair; `device=auto` is CUDA if there is a GPU."""
    device = device_named(config.device)
    if config.memory == "offload" and torch.device(device).type == "cpu":
        raise ValueError(
            "model.memory=offload moves draft models from a GPU to host memory, but model.device "
            f"is {device}: set model.memory=shared"
        )
    return load_pair(
        config.name,
        config.target,
        [drafter_source(config, name) for name in config.drafters],
        load_options_from(config, engine),
        shape=config.shape,
        drafter_shape=config.drafter_shape,
        memory=config.memory,
        memory_limit=config.memory_limit,
        idle_rounds=config.idle_rounds,
    )


def follow_from(config: ModelConfig, engine: EngineConfig) -> None:
    """Compute this process's share of the configured target until the first process ends."""
    model = load_model(checkpoint_of(config.target).source, load_options_from(config, engine))
    assert isinstance(model, TransformersModel)
    follow(model)


def load_options_from(config: ModelConfig, engine: EngineConfig) -> LoadOptions:
    """How the configured models are loaded."""
    return LoadOptions(
        dtype=config.dtype,
        device=device_named(config.device),
        device_map=config.device_map,
        tensor_parallel=config.tensor_parallel,
        engine=engine.name,
        kernels=engine.kernels,
        quantize=config.quantize,
        compile=engine.compile,
    )


def drafter_source(config: ModelConfig, name: str) -> str:
    """The source, for `load_pair`, of the drafter that `model.drafters` calls `name`.

    Raises:
        ValueError: `name` is `draft`, and no draft model is configured.
    """
    if name == "draft":
        if config.drafter is None:
            raise ValueError(
                "model.drafters names draft, but model.drafter is not set: add "
                "model.drafter=PATH_OR_HUB_ID, or leave draft out (model.drafters=[ngram])"
            )
        return config.drafter
    if name == EXIT and config.exit_layer is not None:
        return f"{EXIT}:{config.exit_layer}"
    return config.specialists.get(name, name)


def sampling_from(config: EnvConfig) -> Sampling:
    """How the target's tokens are chosen."""
    return Sampling(config.temperature, config.top_k, config.top_p)


def verification_from(config: EnvConfig) -> Rule:
    """The verification rule: an exact rule's name, or a lossy rule with its settings.

    Raises:
        ValueError: there is no such judge.
    """
    lossy = config.lossy
    match config.verification:
        case TopK.name:
            return TopK(lossy.k)
        case Typical.name:
            return Typical(lossy.epsilon, lossy.delta)
        case Fuzzy.name:
            return Fuzzy(lossy.lenience)
        case Tolerance.name:
            return Tolerance(lossy.window, lossy.entropy)
        case Judge.name:
            assert lossy.judge is not None
            return load_judge(Path(lossy.judge)).at(lossy.threshold)
    return config.verification


def recording_from(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    console: Console,
    heads: Sequence[Survival] | None = None,
    *,
    ranks: bool = False,
) -> tuple[Trace, list[Survival]]:
    """Record `prompts`, or load their recording; shows progress and time left.

    The recording is greedy or coupled, whatever rule decodes: texts under rejection sampling and
    lossy rules depend on the drafts, so exact coupling stands in for them. Survival is fitted to
    the scores that sessions of the sampling rule see, and to the acceptance of exact verification.
    `heads` are survival estimates to use instead of fitted ones; `ranks` records token ranks, which
    token trees need.
    """
    rejects = config.env.verification == "rejection" and config.env.temperature > 0
    recording = Recording(
        pair=pair.fingerprint,
        sampling=sampling_from(config.env),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=config.env.max_new_tokens,
        max_length=config.env.max_length,
        survival=config.control.survival,
        serves="rejection" if rejects else "coupled",
        seed=config.seed,
        shard=config.replay.shard,
    )
    with ExitStack() as stack:

        def ray_workers(fingerprint: str) -> RayWorkers:
            pool = RayWorkers(
                lambda: pair_from(config.model, config.engine),
                recording,
                fingerprint,
                count=config.replay.workers,
                device=device_named(config.model.device),
            )
            return stack.enter_context(pool)

        update = stack.enter_context(progress(console, "recording"))
        return record(
            pair,
            recording,
            [item.ids for item in prompts],
            [item.prompt.domain for item in prompts],
            Path(config.replay.cache),
            heads=heads,
            ranks=ranks,
            workers=ray_workers if config.replay.workers > 1 else None,
            progress=update,
        )


def saved_profile_from(config: CostConfig) -> CostProfile | None:
    """The cost profile in a file; None if costs are to be measured.

    A relative path starts at the working directory or, for named profiles, at `CONF`.
    """
    if config.source == "measured":
        return None
    assert config.path is not None
    path = Path(config.path)
    named = CONF / path
    return CostProfile.load(named if named.is_file() and not path.is_file() else path)


def measured_profile_from(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    survival: Sequence[Survival] | None,
    spec: ObservationSpec,
    console: Console,
) -> CostProfile:
    """Measure decoding costs here, with progress."""
    session = pair.session(
        max_new_tokens=config.env.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=verification_from(config.env),
        survival=survival,
    )
    limit = config.cost.seconds
    if limit is not None:
        say(console, f"measuring costs: up to {duration(limit)}")
    with progress(console, "measuring costs") as update:
        return measure(
            session,
            [item.ids for item in prompts],
            max_length=config.env.max_length,
            samples=config.cost.samples,
            seconds=limit,
            contexts=config.cost.contexts,
            batch_sizes=config.cost.batch_sizes,
            nodes=max(BUDGETS) if branching(config.env.actions) else 0,
            spec=spec,
            progress=lambda share: update(share, 1.0),
            note=lambda text: say(console, text),
        )
