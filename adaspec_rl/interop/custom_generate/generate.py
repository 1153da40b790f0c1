"""`model.generate(..., custom_generate=adaspec_rl.interop.generate)`: the same text, sooner."""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.generation.streamers import BaseStreamer

from adaspec_rl.control.controller import Controller
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.interop.custom_generate.output import SpeculativeOutput, Streaming, gathered
from adaspec_rl.interop.custom_generate.prepared import DraftModels, prepare, source_of
from adaspec_rl.interop.custom_generate.processing import has_eos
from adaspec_rl.interop.custom_generate.refusals import refuse
from adaspec_rl.interop.custom_generate.texts import Wanted, write
from adaspec_rl.pairs.sources import checkpoint_of

_SEEDS = 1 << 62


def generate(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    policy: str | Path | Controller | None = None,
    draft_model: DraftModels | Sequence[DraftModels] | None = None,
    weights: str = "shared",
    stop_strings: str | list[str] | None = None,
    streamer: BaseStreamer | None = None,
    **inputs: Any,
) -> torch.Tensor | SpeculativeOutput:
    """The function that transformers calls after its own preparation.

    Greedy texts are those of `generate`, up to ties between logits. Sampled texts have the same
    distribution as `generate`'s and depend on `torch.manual_seed`, but are other draws. Processors
    and criteria are called for each row by itself, at each position once and in order.

    Args:
        policy: a policy bundle's folder or hub id; None: a bandit that learns online. Both are
            guarded: where speculation does not pay, decoding is plain. A controller is used without
            a guard.
        draft_model: a loaded model, a folder, a hub id, or a name such as `smollm2:draft`, or
            several of them. An n-gram lookup, `ngram`, is added as the last drafter unless it is
            among them.
        weights: `shared` runs in the model's own memory, in the lean engine if it supports the
            architecture, else in transformers' own forward. `transformers` always takes the latter.
            `packed` makes a second copy for the compiled decoder, on CPUs several times as fast.
        stop_strings: as in `generate`, with the tokenizer in the model's folder.

    Returns: tokens `[B, n]`, or with `return_dict_in_generate` a `SpeculativeOutput`.

    Raises:
        ValueError: an option is unsupported here.
    """
    refuse(model, generation_config, input_ids, inputs)
    found = _of_caller()
    streamer = streamer or found.get("streamer")
    drafters = _listed(draft_model if draft_model is not None else found.get("assistant_model"))
    criteria = StoppingCriteriaList(stopping_criteria)
    if stop_strings is not None:
        criteria.append(StopStringCriteria(_tokenizer(model), stop_strings))
    # This comes first because it draws seeds, and preparing may draw random numbers, too.
    wanted = _wanted(
        model.device,
        input_ids,
        inputs.get("attention_mask"),
        generation_config,
        logits_processor,
        criteria,
    )
    prepared = prepare(model, drafters, weights)
    limit = prepared.target.context_length
    if wanted.max_length > limit:
        raise ValueError(
            f"the context of {prepared.target.name} holds {limit} tokens, but max_length is "
            f"{wanted.max_length}: lower max_new_tokens or shorten the prompt"
        )
    streaming = Streaming(streamer, len(wanted.prompts))
    written = write(prepared, prepared.policy(policy), wanted, streaming)
    streaming.end(_padding(generation_config))
    return gathered(
        input_ids, written, generation_config, _padding(generation_config), prepared.memory
    )


def generate_with(
    model: PreTrainedModel,
    *,
    policy: str | Path | Controller | None = None,
    draft_model: DraftModels | Sequence[DraftModels] | None = None,
    weights: str = "shared",
    tokenizer: PreTrainedTokenizerBase | None = None,
    stop_strings: str | list[str] | None = None,
    generation_config: GenerationConfig | None = None,
    stopping_criteria: Sequence[Any] | None = None,
    streamer: BaseStreamer | None = None,
    assistant_model: PreTrainedModel | None = None,
    **arguments: Any,
) -> torch.Tensor | SpeculativeOutput:
    """`model.generate(**arguments)` through `generate`, with `stop_strings` and any `tokenizer`.

    Transformers passes these to a folder with `custom_generate/generate.py`, but not to a callable.
    """
    criteria = list(stopping_criteria or [])
    if generation_config is not None and generation_config.stop_strings is not None:
        stop_strings = stop_strings or generation_config.stop_strings
        generation_config = GenerationConfig.from_dict(
            {**generation_config.to_dict(), "stop_strings": None}
        )
    if stop_strings is not None:
        criteria.append(StopStringCriteria(tokenizer or _tokenizer(model), stop_strings))
    by_us = partial(
        generate,
        policy=policy,
        draft_model=draft_model if draft_model is not None else assistant_model,
        weights=weights,
        streamer=streamer,
    )
    by_transformers: Any = model.generate
    made: torch.Tensor | SpeculativeOutput = by_transformers(
        custom_generate=by_us,
        generation_config=generation_config,
        stopping_criteria=StoppingCriteriaList(criteria),
        streamer=streamer,
        **arguments,
    )
    return made


def checkpoint(source: str) -> str:
    """The folder of `tiny:target`, `smollm2` or a GGUF file, for `from_pretrained`.

    Raises:
        ValueError: there is no such model.
    """
    found = checkpoint_of(source)
    return str(found.folder) if found.local else found.source


def _wanted(
    device: torch.device,
    input_ids: torch.Tensor,
    mask: torch.Tensor | None,
    config: GenerationConfig,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
) -> Wanted:
    rows = len(input_ids)
    lengths = [input_ids.shape[1]] * rows if mask is None else mask.sum(1).tolist()
    prompts = [row[len(row) - n :].tolist() for row, n in zip(input_ids, lengths)]
    sampling, seeds = Sampling(), [0] * rows
    if config.do_sample:
        sampling = _drafters_sampling(config)
        first = int(torch.randint(_SEEDS, ()))
        seeds = [first + row for row in range(rows)]
    wants = bool(config.return_dict_in_generate)
    return Wanted(
        prompts=prompts,
        padded=input_ids.to(device),
        max_length=config.max_length,
        sampling=sampling,
        seeds=seeds,
        processors=processors,
        criteria=criteria,
        goes_on=rows > 1 and not has_eos(criteria),
        keep_scores=wants and bool(config.output_scores),
        keep_logits=wants and bool(config.output_logits),
    )


def _drafters_sampling(config: GenerationConfig) -> Sampling:
    """How drafters choose tokens: with the target's temperature, top-k and top-p."""
    return Sampling(
        temperature=config.temperature or 1.0,
        top_k=config.top_k or 0,
        top_p=config.top_p or 1.0,
    )


def _listed(given: DraftModels | Sequence[DraftModels] | None) -> list[DraftModels]:
    if given is None:
        return []
    return [given] if isinstance(given, str | Path | PreTrainedModel) else list(given)


def _padding(config: GenerationConfig) -> int:
    token = getattr(config, "_pad_token_tensor", None)
    return 0 if token is None else int(token.reshape(-1)[0])


def _tokenizer(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    try:
        return checkpoint_of(source_of(model)).tokenizer()
    except ValueError as error:
        raise ValueError(
            f"stop_strings need the model's tokenizer, which its folder lacks ({error}): pass "
            "stopping_criteria=[StopStringCriteria(tokenizer, stop_strings)]"
        ) from None


def _of_caller() -> dict[str, Any]:
    """Arguments of the current call of `model.generate` that it does not pass to callables.

    Up to 5.24, transformers drops `streamer` and `assistant_model`. A streamer that never ends
    keeps its reader waiting forever.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame = inspect.currentframe()
    for _ in range(4):
        frame = None if frame is None else frame.f_back
        if frame is not None and frame.f_code is code:
            return {name: frame.f_locals.get(name) for name in ("streamer", "assistant_model")}
    return {}
