"""From a configuration to the objects it names; both scripts begin here."""

import os
from pathlib import Path

import torch

from adaspec_rl.config import DataConfig, EngineConfig, EnvConfig, ModelConfig
from adaspec_rl.data.prompts import (
    SPLITS,
    EncodedPrompt,
    balanced,
    embedded_prompts,
    jsonl_prompts,
)
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import Pair, load_pair


def set_threads(threads: int | None) -> None:
    """Threads of torch's CPU kernels: as configured, else one a core."""
    torch.set_num_threads(threads or os.cpu_count() or 1)


def pair_from(config: ModelConfig, engine: EngineConfig) -> Pair:
    """Load the configured pair; `device=auto` is CUDA where there is one."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_pair(
        config.name,
        config.target,
        [config.drafter],
        dtype=config.dtype,
        device=device,
        device_map=config.device_map,
        engine=engine.name,
        compile=engine.compile,
        quantize=config.quantize,
        shape=config.shape,
        drafter_shape=config.drafter_shape,
    )


def prompts_from(
    config: DataConfig, split: str, pair: Pair, per_domain: int | None = None
) -> list[EncodedPrompt]:
    """The prompts of a split, domains in turn, checked against the pair's context.

    Raises:
        ValueError: a prompt is empty or does not fit; says which.
    """
    assert split in SPLITS
    if config.source == "embedded":
        prompts = embedded_prompts(split)
    elif config.source == "jsonl":
        if config.path is None:
            raise ValueError("data.path is not set: add data.path=FILE")
        prompts = jsonl_prompts(Path(config.path), split, config.test_share)
    else:
        raise ValueError(f"unknown data.source {config.source!r}: expected embedded or jsonl")
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
                f"{pair.target.name} holds {room}: shorten it"
            )
    return encoded


def sampling_from(config: EnvConfig) -> Sampling:
    """How the target's tokens are chosen."""
    return Sampling(config.temperature, config.top_k, config.top_p)
