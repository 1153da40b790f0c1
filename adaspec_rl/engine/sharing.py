"""Drafters that share their target's embedding and output matrix, or some of its rows.

Such a checkpoint holds only the drafter's layers and its last norm. Its `config.json` is an
ordinary one with one key more, `adaspec_drafter`:

    {"reads_hidden": bool, "output_tokens": R or null, "shares": true}

Where the output is trimmed (FR-Spec, arXiv:2502.14856), `output_tokens` int32 [R] says, ascending,
which tokens its rows stand for. A drafter that reads the target's hidden state (after EAGLE,
arXiv:2401.15077) also holds `feature_norm.weight` [hidden] and `feature.weight` [hidden, hidden]:
before the layers, `feature.weight @ rmsnorm(feature; feature_norm.weight)` joins each embedding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from adaspec_rl import strict_json
from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.config_keys import SHARING
from adaspec_rl.engine.cpu.packing import PackedWeights, pack
from adaspec_rl.engine.device_weights import read_weights, trimmed_head
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.quantization import quantize_matrix
from adaspec_rl.engine.weights import Weights, tensors_in

OUTPUT, _NORM, _FEATURE = "output_tokens", "feature_norm.weight", "feature.weight"


@dataclass(frozen=True, slots=True)
class Sharing:
    """The content of a configuration's `adaspec_drafter`."""

    reads_hidden: Any  # bool
    output_tokens: Any  # int or None
    shares: Any  # True

    def __post_init__(self) -> None:
        for name, kinds in (("reads_hidden", [bool]), ("output_tokens", [int, type(None)])):
            if type(getattr(self, name)) not in kinds:
                expected = "true or false" if kinds == [bool] else "an integer or null"
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")
        if self.shares is not True:
            raise ValueError(f"shares is {self.shares!r}: expected true")


def shares(config: Mapping[str, Any]) -> bool:
    """Whether the `config.json` belongs to a drafter without embedding and output matrix."""
    return config.get(SHARING) is not None


def load_sharing(
    checkpoint: Checkpoint,
    target: LanguageModel,
    *,
    name: str,
    quantize: str | None = None,
    compile: bool = False,
) -> LeanModel:
    """Load a drafter with its target's embedding, number format and kernels.

    Args:
        quantize: as for `load_model`; applies to the drafter's own weights.

    Raises:
        ValueError: the folder is damaged or belongs to another target.
    """
    if not isinstance(target, LeanModel):
        raise ValueError(
            f"{name} shares the embedding of its target, which needs the lean engine, but "
            f"{target.name} runs in transformers: leave {name} out of model.drafters"
        )
    config = checkpoint.config()
    said: Sharing = strict_json.typed(Sharing, config[SHARING], f"{name}: {SHARING}")
    plain = {key: value for key, value in config.items() if key != SHARING}
    architecture = Architecture.from_config(plain)
    _check_fit(architecture, target.architecture, name, target.name)
    extra = _extra_tensors(checkpoint, said, architecture, name)
    own = read_weights(
        replace(architecture, vocab_size=1, tied=True),  # its embedding comes from the target
        _layer_tensors(checkpoint, architecture.hidden_size),
        dtype=target.dtype,
        device=target.device,
        kernels="compiled" if isinstance(target.weights, PackedWeights) else "torch",
        quantize=quantize,
    )
    ids = extra.get(OUTPUT)
    if isinstance(own, PackedWeights):
        assert isinstance(target.weights, PackedWeights)
        _join_packed(own, target.weights, ids, extra)
    else:
        assert isinstance(target.weights, Weights)
        _join(own, target.weights, ids, extra, quantize)
    own.output_tokens = None if ids is None else ids.to(target.device)
    architecture = replace(architecture, reads_features=said.reads_hidden)
    return LeanModel(architecture, own, name, compile=compile)


def _check_fit(own: Architecture, target: Architecture, name: str, target_name: str) -> None:
    for what in ("hidden_size", "vocab_size"):
        found, expected = getattr(own, what), getattr(target, what)
        if found != expected:
            raise ValueError(
                f"{name} does not fit {target_name}, whose embedding it shares: its {what} is "
                f"{found}, expected {expected}"
            )


def _extra_tensors(
    checkpoint: Checkpoint, said: Sharing, own: Architecture, name: str
) -> dict[str, torch.Tensor]:
    """What ordinary checkpoints lack: `output_tokens` as int64, and the weights for features."""
    expected: dict[str, list[int]] = {}
    if said.output_tokens is not None:
        expected[OUTPUT] = [said.output_tokens]
    if said.reads_hidden:
        expected |= {_NORM: [own.hidden_size], _FEATURE: [own.hidden_size] * 2}
    found = dict(tensors_in(checkpoint.weight_files(), _is_extra))
    shapes = {key: list(tensor.shape) for key, tensor in found.items()}
    if shapes != expected:
        raise ValueError(f"{name} holds {shapes or 'no such tensors'}: expected {expected}")
    ids = found.get(OUTPUT)
    if ids is not None:
        ids = found[OUTPUT] = ids.long()
        if not len(ids) or ids[0] < 0 or ids[-1] >= own.vocab_size or (ids.diff() <= 0).any():
            raise ValueError(
                f"{name} has output_tokens that are not ascending ids from 0 to "
                f"{own.vocab_size - 1}: distil it anew"
            )
    return found


def _is_extra(name: str) -> bool:
    return name in (OUTPUT, _NORM, _FEATURE)


def _layer_tensors(checkpoint: Checkpoint, hidden: int) -> Iterator[tuple[str, torch.Tensor]]:
    yield "model.embed_tokens.weight", torch.zeros(1, hidden)
    yield from tensors_in(checkpoint.weight_files(), lambda name: not _is_extra(name))


def _join_packed(
    own: PackedWeights,
    target: PackedWeights,
    ids: torch.Tensor | None,
    extra: Mapping[str, torch.Tensor],
) -> None:
    own.embedding = target.embedding
    own.head = target.head if ids is None else trimmed_head(target, ids)
    if _FEATURE in extra:
        precision = own.layers[0].output.precision
        feature = extra[_FEATURE].to(own.dtype)
        own.feature = pack(feature, None, precision)
        own.feature_norm = extra[_NORM].to(own.dtype).float()


def _join(
    own: Weights,
    target: Weights,
    ids: torch.Tensor | None,
    extra: Mapping[str, torch.Tensor],
    quantize: str | None,
) -> None:
    device, dtype = own.norm.device, own.norm.dtype
    own.embedding = target.embedding
    own.head = target.head if ids is None else trimmed_head(target, ids, quantize)
    if _FEATURE in extra:
        feature = extra[_FEATURE].to(device, dtype)
        own.feature = feature if quantize is None else quantize_matrix(feature, quantize)
        own.feature_norm = extra[_NORM].to(device, dtype)
