"""From the configuration to encoded prompts."""

from pathlib import Path

from rich.console import Console

from adaspec_rl.config import Config, DataConfig
from adaspec_rl.data.conversations import unanswered
from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.hub import hub_prompts
from adaspec_rl.data.prompts import (
    SPLITS,
    EncodedPrompt,
    Prompt,
    balanced,
    check_ids,
    embedded_prompts,
    gsm8k_prompts,
    jsonl_prompts,
    short_prompts,
)
from adaspec_rl.pairs.pair import Pair


def prompts_from(
    config: Config, split: str, pair: Pair, console: Console, per_domain: int | None = None
) -> list[EncodedPrompt]:
    """The prompts of a split, domains in turn, checked against the pair's context.

    Those longer than `data.max_prompt_tokens` are left out, with a logged warning.

    Raises:
        ValueError: a prompt is empty or does not fit; says which.
    """
    assert split in SPLITS
    data, tokenizer = config.data, pair.tokenizer
    prompts = as_asked(_prompts_of(data, split), data.chat, tokenizer)
    check_ids(prompts, data.path or data.name or data.source)
    prompts = [prompt for prompt in prompts if unanswered(prompt.turns) is None]
    if data.max_prompt_tokens is not None:
        prompts = short_prompts(
            prompts, lambda prompt: encode(tokenizer, prompt).ids, data.max_prompt_tokens
        )
    limit = data.train_prompts if split == "train" else data.test_prompts
    counts = [count for count in (limit, per_domain) if count is not None]
    chosen = balanced(prompts, min(counts) if counts else None)
    encoded = [encode(tokenizer, prompt) for prompt in chosen]
    room = pair.target.context_length
    for item in encoded:
        if not item.prompt.text or not item.ids:
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
