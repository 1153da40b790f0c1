"""The untrained draft model: some of the target's own layers, or a narrower model of its kind."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

LAYERS, FRESH = "layers", "fresh"
_LAYER = re.compile(r"^(model\.layers\.)(\d+)(?=\.)")
_WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True, slots=True)
class DraftPlan:
    """A draft model's configuration, and where its first weights come from."""

    config: PreTrainedConfig
    sources: Mapping[str, str] | None  # the target's tensor for each of its own; None: random
    dtype: torch.dtype  # of the weights on disk, as for the target


def plan_draft(target: PreTrainedConfig, *, init: str, layers: int, width: float) -> DraftPlan:
    """Plan a draft model of `target` with `layers` layers.

    Args:
        init: `fresh` is a random model of the same architecture; any other value takes some of the
            target's own layers, evenly spaced, with its embeddings, norm and head.
        width: `fresh` only: the share of the target's heads, hidden size and intermediate size.

    Raises:
        ValueError: the target has fewer layers, or its architecture cannot be cut this way.
    """
    depth = getattr(target, "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise ValueError(f"a {target.model_type} has no num_hidden_layers: expected a decoder")
    if layers > depth:
        raise ValueError(f"layers={layers} is more than the target has: expected at most {depth}")
    chosen = spread(depth, layers)
    changes: dict[str, Any] = {"num_hidden_layers": layers}
    if kinds := getattr(target, "layer_types", None):
        changes["layer_types"] = [kinds[index] for index in chosen]
    if init == FRESH:
        changes |= _narrowed(target, width)
    values = {**target.to_dict(), **changes}
    if values.pop("quantization_config", None) and init != FRESH:
        raise ValueError("the target is quantized: distil from its original weights")
    config = type(target).from_dict(values)
    sources = _sources(target, config, chosen) if init != FRESH else None
    dtype = target.dtype if isinstance(target.dtype, torch.dtype) else torch.float32
    return DraftPlan(config, sources, dtype)


def spread(depth: int, count: int) -> list[int]:
    """`count` of `depth` layers, evenly spaced from the first to the last."""
    return [index * (depth - 1) // max(1, count - 1) for index in range(count)]


def _sources(
    target: PreTrainedConfig, draft: PreTrainedConfig, chosen: Sequence[int]
) -> dict[str, str]:
    """For each tensor of the draft model, the target's tensor whose values it starts with."""
    theirs, mine = _shapes(target), _shapes(draft)
    if not any(_LAYER.match(name) for name in mine):
        raise ValueError(
            f"the layers of a {target.model_type} cannot be selected, as its weights are not named "
            "model.layers.N: use init=fresh, or a target such as Llama, Mistral, Qwen2 or Qwen3"
        )
    found = {}
    for name, shape in mine.items():
        source = _LAYER.sub(lambda match: f"{match[1]}{chosen[int(match[2])]}", name)
        if theirs.get(source) != shape:
            raise ValueError(
                f"layers {list(chosen)} of a {target.model_type} cannot be selected, as they "
                f"differ in kind ({source} is not what {name} should be): use init=fresh"
            )
        found[name] = source
    return found


def _shapes(config: PreTrainedConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in _model(config).state_dict().items()}


def _model(config: PreTrainedConfig) -> PreTrainedModel:
    # A copy: transformers writes the type of the weights into the configuration.
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False
    )
    return model


def _narrowed(target: PreTrainedConfig, width: float) -> dict[str, int]:
    """About `width` of the target's heads; sizes are multiples of the head dimension."""
    absent = [key for key in _WIDTHS if not isinstance(getattr(target, key, None), int)]
    if absent:
        raise ValueError(
            f"a {target.model_type} cannot be made narrower, as its configuration lacks "
            f"{', '.join(absent)}: expected a target such as Llama, Mistral, Qwen2 or Qwen3"
        )
    hidden, intermediate, all_heads, all_kv_heads = (getattr(target, key) for key in _WIDTHS)
    head_dim = getattr(target, "head_dim", None) or hidden // all_heads
    heads = max(1, round(width * all_heads))
    most = max(1, round(width * all_kv_heads))
    kv_heads = max(count for count in range(1, most + 1) if heads % count == 0)

    def share(size: int) -> int:
        return head_dim * max(1, round(size * heads / all_heads / head_dim))

    return dict(zip(_WIDTHS, (share(hidden), share(intermediate), heads, kv_heads)))
