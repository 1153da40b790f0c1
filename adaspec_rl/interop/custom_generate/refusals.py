"""Refuses unsupported options of `generate`, in one sentence each."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

_WITHOUT = "generate without custom_generate"
_KNOWN = (
    "attention_mask",
    "position_ids",
    "use_cache",
    "logits_to_keep",
    "cache",
    "token_type_ids",
)


def refuse(
    model: PreTrainedModel,
    config: GenerationConfig,
    input_ids: torch.Tensor,
    given: Mapping[str, Any],
) -> None:
    """Refuse options that are unsupported here or would differ from `generate`.

    Raises:
        ValueError: names the option and says what to do.
    """
    if model.config.is_encoder_decoder:
        _no("an encoder-decoder model", "expected a decoder-only language model")
    for wanted, what in _modes(config):
        if wanted:
            _no(what, f"expected greedy decoding or sampling; else {_WITHOUT}")
    if config.use_cache is False:
        _no("use_cache=False", "drop it: drafts are verified over a key-value cache")
    if config.cache_implementation not in (None, "dynamic"):
        _no(f"cache_implementation={config.cache_implementation!r}", f"drop it, or {_WITHOUT}")
    if getattr(given.get("cache"), "_is_user_defined", False):
        _no("a cache of your own", f"drop it, or {_WITHOUT}")
    if config.output_attentions or config.output_hidden_states:
        _no("output_attentions and output_hidden_states", f"drop them, or {_WITHOUT}")
    other = [name for name, value in given.items() if value is not None and name not in _KNOWN]
    if other:
        _no(f"the model input {other[0]}", f"expected input_ids alone; else {_WITHOUT}")
    if input_ids.shape[1] == 0:
        _no("an empty prompt", "expected at least 1 token")
    _refuse_mask(given.get("attention_mask"), given.get("position_ids"))


def _modes(config: GenerationConfig) -> list[tuple[Any, str]]:
    return [
        ((config.num_beams or 1) > 1, "beam search"),
        (config.penalty_alpha, "contrastive search"),
        (config.dola_layers, "DoLa decoding"),
        (config.constraints or config.force_words_ids, "constrained beams"),
        (config.prompt_lookup_num_tokens, "prompt_lookup_num_tokens"),
        (config.assistant_early_exit, "assistant_early_exit"),
    ]


def _refuse_mask(mask: torch.Tensor | None, positions: torch.Tensor | None) -> None:
    if mask is None and positions is not None:
        mask = torch.ones_like(positions)
    if mask is None:
        return
    if mask.dim() != 2 or bool((mask.diff(dim=1) < 0).any()) or not bool(mask[:, -1].all()):
        _no("an attention mask with gaps", "pad prompts on the left (padding_side='left')")
    if positions is not None:
        usual = (mask.long().cumsum(1) - 1).clamp_min(0)
        if bool(((positions != usual) & (mask > 0)).any()):
            _no("position_ids of your own", f"drop them, or {_WITHOUT}")


def _no(what: str, instead: str) -> None:
    raise ValueError(f"custom_generate=adaspec_rl.interop.generate cannot do {what}: {instead}")
