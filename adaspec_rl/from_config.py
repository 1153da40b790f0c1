"""From a configuration to the objects it names; both scripts begin here."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.console import Console

from adaspec_rl.config import (
    Config,
    CostConfig,
    DataConfig,
    EngineConfig,
    EnvConfig,
    ModelConfig,
)
from adaspec_rl.console import progress
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.data.hub import hub_prompts
from adaspec_rl.data.prompts import (
    SPLITS,
    EncodedPrompt,
    Prompt,
    balanced,
    embedded_prompts,
    gsm8k_prompts,
    jsonl_prompts,
    short_prompts,
)
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.pairs.pair import EXIT, Pair, load_pair
from adaspec_rl.replay.cluster import RayWorkers
from adaspec_rl.replay.cost_measurement import measure
from adaspec_rl.replay.cost_profile import CostProfile
from adaspec_rl.replay.recorder import Recording, record
from adaspec_rl.replay.trace import Trace

PROJECT = Path(__file__).parents[1]  # where named cost profiles are relative to


def set_threads(threads: int | None) -> None:
    """Threads of torch's CPU kernels: as configured, else one a core."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def pair_from(config: ModelConfig, engine: EngineConfig) -> Pair:
    """Load the configured pair; `device=auto` is CUDA where there is one."""
    device = device_of(config)
    if config.memory == "offload" and torch.device(device).type == "cpu":
        raise ValueError(
            "model.memory=offload moves draft models from a GPU to host memory, but model.device "
            f"is {device}: set model.memory=shared"
        )
    return load_pair(
        config.name,
        config.target,
        [drafter_source(config, name) for name in config.drafters],
        dtype=config.dtype,
        device=device,
        device_map=config.device_map,
        engine=engine.name,
        compile=engine.compile,
        quantize=config.quantize,
        shape=config.shape,
        drafter_shape=config.drafter_shape,
        memory=config.memory,
        memory_limit=config.memory_limit,
        idle_rounds=config.idle_rounds,
    )


def drafter_source(config: ModelConfig, name: str) -> str:
    """What `load_pair` calls the drafter that `model.drafters` calls `name`."""
    if name == "draft":
        return config.drafter
    if name == EXIT and config.exit_layer is not None:
        return f"{EXIT}:{config.exit_layer}"
    return config.specialists.get(name, name)


def prompts_from(
    config: DataConfig, split: str, pair: Pair, per_domain: int | None = None
) -> list[EncodedPrompt]:
    """The prompts of a split, domains in turn, checked against the pair's context.

    Those longer than `data.max_prompt_tokens` are left out, with a logged warning.

    Raises:
        ValueError: a prompt is empty or does not fit; says which.
    """
    assert split in SPLITS
    prompts = _prompts_of(config, split)
    if config.max_prompt_tokens is not None:
        prompts = short_prompts(prompts, pair.encode, config.max_prompt_tokens)
    limit = config.train_prompts if split == "train" else config.test_prompts
    counts = [count for count in (limit, per_domain) if count is not None]
    chosen = balanced(prompts, min(counts) if counts else None)
    encoded = [EncodedPrompt(prompt, pair.encode(prompt.text)) for prompt in chosen]
    room = pair.target.context_length
    for item in encoded:
        if not item.prompt.text:
            raise ValueError(f"prompt {item.prompt.id} is empty: remove it or give it a text")
        if len(item.ids) >= room:
            raise ValueError(
                f"prompt {item.prompt.id} has {len(item.ids)} tokens but the context of "
                f"{pair.target.name} holds {room}: shorten it, or leave such prompts out with "
                "data.max_prompt_tokens=N"
            )
    return encoded


def _prompts_of(config: DataConfig, split: str) -> list[Prompt]:
    """The split's prompts from the configured source."""
    share, template = config.test_share, config.template
    if config.source == "embedded":
        return embedded_prompts(split)
    if config.source in ("jsonl", "gsm8k"):
        if config.path is None:
            raise ValueError("data.path is not set: add data.path=FILE")
        read = {"jsonl": jsonl_prompts, "gsm8k": gsm8k_prompts}[config.source]
        return read(Path(config.path), split, share, template)
    if config.source == "hub":
        if config.name is None:
            raise ValueError("data.name is not set: add data.name=OWNER/NAME")
        return hub_prompts(
            config.name,
            split,
            share,
            template,
            config=config.config,
            hub_split=config.split,
            column=config.column,
            domain_column=config.domain_column,
        )
    raise ValueError(
        f"unknown data.source {config.source!r}: expected embedded, jsonl, gsm8k or hub"
    )


def sampling_from(config: EnvConfig) -> Sampling:
    """How the target's tokens are chosen."""
    return Sampling(config.temperature, config.top_k, config.top_p)


def device_of(config: ModelConfig) -> str:
    """The configured device; `auto` is CUDA where there is one."""
    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def recording_from(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    console: Console,
    heads: Sequence[Survival] | None = None,
) -> tuple[Trace, list[Survival]]:
    """Record `prompts`, or load what was recorded; with progress and time left.

    The recording is greedy or coupled, whatever rule decodes: under rejection sampling texts would
    depend on the drafts. `heads` are survival estimates to use in place of fitted ones.
    """
    recording = Recording(
        pair=pair.fingerprint,
        sampling=sampling_from(config.env),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=config.env.max_new_tokens,
        max_length=config.env.max_length,
        survival=config.control.survival,
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
                device=device_of(config.model),
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
            workers=ray_workers if config.replay.workers > 1 else None,
            progress=update,
        )


def saved_profile_from(config: CostConfig) -> CostProfile | None:
    """The cost profile that a file holds; None where it is to be measured.

    A relative path is one from the working directory or, for named profiles, the project's folder.
    """
    if config.source == "measured":
        return None
    if config.source != "file":
        raise ValueError(f"unknown cost.source {config.source!r}: expected measured or file")
    if not config.path:
        raise ValueError("cost.path is not set: add cost.path=FILE")
    path = Path(config.path)
    named = PROJECT / path
    return CostProfile.load(named if named.is_file() and not path.is_file() else path)


def measured_profile_from(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    survival: Sequence[Survival] | None,
    spec: ObservationSpec,
    console: Console,
) -> CostProfile:
    """What decoding costs here, measured with progress."""
    session = pair.session(
        max_new_tokens=config.env.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=config.env.verification,
        survival=survival,
    )
    with progress(console, "measuring costs") as update:
        return measure(
            session,
            [item.ids for item in prompts],
            max_length=config.env.max_length,
            samples=config.cost.samples,
            contexts=config.cost.contexts,
            batch_sizes=config.cost.batch_sizes,
            spec=spec,
            progress=lambda share: update(share, 1.0),
        )
