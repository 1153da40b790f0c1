"""Compares a checkpoint's first layers in the lean engine with transformers' own forward."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from adaspec_rl.engine.architecture import Architecture, UnsupportedError
from adaspec_rl.engine.checkpoint import first_sentence
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.weights import tensors_in

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_LAYERS = 2
_ROWS = 256  # of the vocabulary: a token's logits do not depend on unused tokens
_TOKENS = 12
_NOISE = 1e-4  # of the largest logit, in float32


def check_first_layers(config: Mapping[str, Any], files: list[Path], keys: list[str]) -> None:
    """Compare the lean engine's logits with transformers', in float32 on the CPU.

    Args:
        config: the contents of a `config.json` of a family that the lean engine runs.
        files: its safetensors files; only the first layers' tensors are read.
        keys: the keys of `config` that are in doubt.

    Raises:
        UnsupportedError: the logits differ by more than rounding, or transformers fails.
    """
    small = _first_layers(config)
    tensors = dict(_tensors(files, small))
    width = min(_TOKENS, Architecture.from_config(small).context_length)
    tokens = torch.arange(width)[None] % small["vocab_size"]
    ours = LeanModel.from_tensors(small, tensors.items(), "the first layers").extend(tokens)
    try:
        theirs = _transformers_logits(small, tensors, tokens)
    except Exception as error:  # any error of its code on keys that it does not expect
        raise UnsupportedError(
            f"with {', '.join(keys)} in the configuration, transformers' own forward fails "
            f"({first_sentence(error)})"
        ) from None
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference <= _NOISE:
        raise UnsupportedError(
            f"with {', '.join(keys)} in the configuration, the logits of the first "
            f"{small['num_hidden_layers']} layers differ from transformers' by {difference:.2g} of "
            f"the largest, expected at most {_NOISE:g}"
        )


def _first_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    architecture = Architecture.from_config(config)
    layers = min(_LAYERS, architecture.layers)
    small = {
        **config,
        "num_hidden_layers": layers,
        "vocab_size": min(_ROWS, architecture.vocab_size),
        "return_dict": True,
        "pad_token_id": None,  # it may lie beyond the rows that are left
    }
    if isinstance(types := config.get("layer_types"), list):
        small["layer_types"] = types[:layers]
    return small


def _tensors(files: list[Path], small: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of the layers and rows that `small` has, in float32."""

    def wanted(name: str) -> bool:
        layer = _LAYER.search(name)
        return layer is None or int(layer[1]) < small["num_hidden_layers"]

    for name, tensor in tensors_in(files, wanted):
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensor = tensor[: small["vocab_size"]]
        yield name, tensor.to(torch.float32, copy=True)


@torch.inference_mode()
def _transformers_logits(
    small: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], tokens: torch.Tensor
) -> torch.Tensor:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    values = {key: deepcopy(small[key]) for key in small if key != "model_type"}  # it edits them
    config = AutoConfig.for_model(small["model_type"], **values)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = model_class.from_pretrained(
        None,
        config=config,
        state_dict=dict(tensors),
        dtype=torch.float32,
        attn_implementation="eager",
    )
    logits: torch.Tensor = model.eval()(tokens, use_cache=False).logits
    return logits
