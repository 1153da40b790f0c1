"""From the configuration to encoded prompts."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from adaspec_rl.config import Config, DataConfig
from adaspec_rl.console import progress
from adaspec_rl.data.conversations import unanswered, with_answer
from adaspec_rl.data.encoding import as_asked, encode, encode_turns
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
from adaspec_rl.from_config import sampling_from
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.recording.answers import Answering, answers

logger = logging.getLogger(__name__)


def prompts_from(
    config: Config, split: str, pair: Pair, console: Console, per_domain: int | None = None
) -> list[EncodedPrompt]:
    """The prompts of a split, domains in turn, checked against the pair's context.

    Each user turn of a conversation is a prompt. If the data lack an answer between turns, the
    target writes it: with the settings of `env`, from the run's seed, with up to
    `env.max_new_tokens` tokens. Prompts longer than `data.max_prompt_tokens` are left out, with a
    logged warning.

    Raises:
        ValueError: a prompt is empty or does not fit; says which.
    """
    chosen = asked_prompts(config, split, pair, per_domain, warn=True)
    while any(unanswered(prompt.turns) for prompt in chosen):
        chosen = _short(_answered(chosen, config, pair, console), config, pair)
        _encoded(chosen, pair)
    return _encoded(chosen, pair)


def asked_prompts(
    config: Config,
    split: str,
    pair: Pair,
    per_domain: int | None = None,
    *,
    warn: bool = False,
) -> Sequence[Prompt]:
    """Like `prompts_from`, before the target writes the missing answers between turns.

    `warn` logs a warning about left-out prompts; it is off by default, lest warnings come twice.
    """
    assert split in SPLITS
    data = config.data
    prompts = as_asked(_prompts_of(data, split), data.chat, pair.tokenizer, warn=warn)
    check_ids(prompts, data.path or data.name or data.source)
    training = split == "train"
    limit, skip = (data.train_prompts, 0) if training else (data.test_prompts, data.test_skip)
    counts = [count for count in (limit, per_domain) if count is not None]
    kept = _short(prompts, config, pair, warn=warn)
    chosen = balanced(kept, min(counts) if counts else None, skip)
    gone = {prompt.domain for prompt in kept} - {prompt.domain for prompt in chosen}
    if gone and not chosen:
        raise ValueError(
            f"data.test_skip={skip} leaves out all {len(kept)} held-out prompts: set a lower number"
        )
    if gone and warn:
        logger.warning("data.test_skip=%d leaves out all of %s", skip, ", ".join(sorted(gone)))
    _encoded(chosen, pair)
    return chosen


def _short(
    prompts: Sequence[Prompt], config: Config, pair: Pair, *, warn: bool = True
) -> Sequence[Prompt]:
    """The prompts within `data.max_prompt_tokens`; missing answers count as empty."""
    longest = config.data.max_prompt_tokens
    if longest is None:
        return prompts
    return short_prompts(
        prompts, lambda prompt: encode(pair.tokenizer, prompt).ids, longest, warn=warn
    )


def _encoded(prompts: Sequence[Prompt], pair: Pair) -> list[EncodedPrompt]:
    """The prompts with their ids; refuses a prompt that is empty or does not fit."""
    room = pair.target.context_length
    encoded = [encode(pair.tokenizer, prompt) for prompt in prompts]
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


def _answered(
    prompts: Sequence[Prompt], config: Config, pair: Pair, console: Console
) -> list[Prompt]:
    """The prompts with each conversation's first missing answer inserted."""
    waiting = [unanswered(prompt.turns) for prompt in prompts]
    asked = list(dict.fromkeys(turns for turns in waiting if turns is not None))
    answering = Answering(
        pair=pair.fingerprint,
        sampling=sampling_from(config.env),
        eos_ids=pair.eos_ids,
        max_new_tokens=config.env.max_new_tokens,
        seed=config.seed,
    )
    with progress(console, "answers between turns") as update:
        made = answers(
            pair.target,
            answering,
            [encode_turns(pair.tokenizer, turns)[1] for turns in asked],
            Path(config.replay.cache),
            progress=update,
        )
    texts = [str(pair.tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in made]
    answer = dict(zip(asked, texts))
    return [
        prompt if turns is None else replace(prompt, turns=with_answer(prompt.turns, answer[turns]))
        for prompt, turns in zip(prompts, waiting)
    ]


def _prompts_of(config: DataConfig, split: str) -> list[Prompt]:
    """The split's prompts from the configured source."""
    share, template = config.test_share, config.template
    if config.source == "embedded":
        return embedded_prompts(split)
    if config.source in ("jsonl", "gsm8k"):
        assert config.path is not None
        read = {"jsonl": jsonl_prompts, "gsm8k": gsm8k_prompts}[config.source]
        return read(Path(config.path), split, share, template)
    assert config.source == "hub" and config.name is not None
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
