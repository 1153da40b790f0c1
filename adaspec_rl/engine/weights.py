"""Loads checkpoint tensors in the layout of the forward pass, without holding two copies."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from adaspec_rl.engine.architecture import Architecture

logger = logging.getLogger(__name__)
_ROWS = 4096  # rows of a matrix that are compared at a time


@dataclass(slots=True)
class LayerWeights:
    """One layer. Queries, keys and values are one matrix; so are gate and up.

    The dimensions of each query and key head are interleaved: (0, d/2, 1, d/2 + 1, ...), so that
    each pair that RoPE rotates is one complex number.
    """

    attention_norm: torch.Tensor  # [hidden]
    qkv: torch.Tensor  # [(heads + 2 kv_heads) head_dim, hidden]
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_dim]
    output: torch.Tensor  # [hidden, heads head_dim]
    output_bias: torch.Tensor | None
    mlp_norm: torch.Tensor  # [hidden]
    gate_up: torch.Tensor  # [2 intermediate, hidden]
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor  # [hidden, intermediate]
    down_bias: torch.Tensor | None


@dataclass(slots=True)
class Weights:
    """A whole model. If embedding and output matrix are tied, `head` is the embedding itself."""

    embedding: torch.Tensor  # [vocab, hidden]
    layers: list[LayerWeights]
    norm: torch.Tensor  # [hidden]
    head: torch.Tensor  # [outputs, hidden]
    output_tokens: torch.Tensor | None = None  # [outputs] int64, ascending; None: all of the vocab
    feature_norm: torch.Tensor | None = None  # [hidden], of a model that reads features
    feature: torch.Tensor | None = None  # [hidden, hidden], likewise


def matrices_of(weights: Weights) -> list[torch.Tensor]:
    """Every matrix that a forward pass multiplies by, the head last."""
    layers = [(w.qkv, w.output, w.gate_up, w.down) for w in weights.layers]
    features = [] if weights.feature is None else [weights.feature]
    return [*features, *chain.from_iterable(layers), weights.head]


class StoredMatrix:
    """A matrix of a safetensors file, read a few rows at a time.

    The file is reopened for each part, so that the parts read before do not stay in memory.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with safe_open(path, framework="pt") as file:
            known = file.get_slice(name)
            self.shape = torch.Size(known.get_shape())
            self.nbytes = self.shape.numel() * known[:1].element_size()

    def __len__(self) -> int:
        return self.shape[0]

    def split(self, rows: int) -> Iterator[torch.Tensor]:
        """The whole matrix, `rows` rows at a time."""
        for start in range(0, len(self), rows):
            with safe_open(self._path, framework="pt") as file:
                yield file.get_slice(self._name)[start : start + rows]

    def whole(self) -> torch.Tensor:
        """The whole matrix, memory-mapped."""
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(self._name)


Stored = torch.Tensor | StoredMatrix


def stored_in(files: Iterable[Path]) -> Iterator[tuple[str, Stored]]:
    """Like `tensors_in`, but embedding and output matrix can be read a few rows at a time."""
    for path in files:
        with safe_open(path, framework="pt") as file:
            outer = sorted(filter(_is_outer, file.keys()))
        yield from ((name, StoredMatrix(path, name)) for name in outer)
        yield from tensors_in([path], lambda name: not _is_outer(name))


def _is_outer(name: str) -> bool:
    return name.removeprefix("model.") == "embed_tokens.weight" or name == HEAD


def tensors_in(
    files: Iterable[Path], wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors `wanted`, layer by layer, memory-mapped from safetensors files.

    A file is reopened for each tensor, so that the tensors read before do not stay in memory.
    """
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = sorted(filter(wanted, file.keys()), key=_layer_number)
        for name in names:
            with safe_open(path, framework="pt") as file:
                yield name, file.get_tensor(name)


def _layer_number(name: str) -> int:
    return int(match[1]) if (match := _LAYER.search(name)) else -1


class Packing(Protocol):
    """Converts weights to another form, one by one; the result replaces the weights."""

    def embedding(self, matrix: Stored, *, tied: bool) -> Any:
        """The embedding, as in the checkpoint; `tied`: it is also the output matrix."""
        ...

    def head(self, matrix: Stored) -> Any:
        """The output matrix, as in the checkpoint."""
        ...

    def layer(self, w: LayerWeights) -> Any:
        """A layer; its memory is reused for the next one."""
        ...


def load_weights(
    architecture: Architecture,
    tensors: Iterable[tuple[str, Stored]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    packing: Packing | None = None,
) -> Weights:
    """Copy named checkpoint tensors into place on the device.

    A tied checkpoint whose output matrix differs from its embedding keeps both.

    Args:
        packing: packs weights as soon as they are complete. Memory for a layer is allocated when
            its first tensor arrives.

    Raises:
        ValueError: names a tensor that is missing, comes twice, has the wrong shape, or is unknown.
    """
    known = {
        name: place.shape
        for name, place in _places(architecture, empty_weights(architecture, dtype, _META))
    }
    weights = empty_weights(architecture, dtype, _META if packing else device, layers=False)
    weights.norm = torch.empty_like(weights.norm, device=device)
    places = dict(_outer_places(architecture, weights))
    missing = set(known)
    unfinished: dict[int, tuple[LayerWeights, set[str]]] = {}
    spare: list[LayerWeights] = []  # memory of layers that have been packed
    spare_head: Stored | None = None  # of a tied checkpoint; not in memory
    for name, tensor in tensors:
        if packing is None and isinstance(tensor, StoredMatrix):
            tensor = tensor.whole()
        name = name if name.startswith(("model.", "lm_head.")) else f"model.{name}"
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if architecture.tied and name == HEAD:
            spare_head = tensor
            continue
        if name not in known:
            raise ValueError(f"the checkpoint holds {name}, which {architecture.family} lacks")
        if name not in missing:
            raise ValueError(f"the checkpoint holds {name} twice")
        _check_shape(name, tensor, known[name])
        missing.discard(name)
        if packing and name in (EMBEDDING, HEAD):
            _pack_outer(weights, name, tensor, packing, architecture.tied)
            continue
        number = int(match[1]) if (match := _LAYER.search(name)) else None
        if number is not None and number not in unfinished:
            layer = spare.pop() if spare else empty_layer(architecture, dtype, device)
            own = dict(_layer_places(architecture, layer, number))
            unfinished[number] = layer, set(own)
            places |= own
        assert isinstance(tensor, torch.Tensor)
        places.pop(name).fill(tensor)
        if number is not None:
            layer, wanted = unfinished[number]
            wanted.discard(name)
            if not wanted:
                weights.layers[number] = packing.layer(layer) if packing else layer
                if packing:
                    spare.append(layer)
                del unfinished[number]
    if spare_head is not None:
        _check_shape(HEAD, spare_head, known[EMBEDDING])
        if EMBEDDING in missing:
            missing.discard(EMBEDDING)
            if packing:
                _pack_outer(weights, EMBEDDING, spare_head, packing, True)
            else:
                assert isinstance(spare_head, torch.Tensor)
                places[EMBEDDING].fill(spare_head)
        else:
            _untie(weights, spare_head, packing)
    if missing:
        raise ValueError(f"the checkpoint lacks {len(missing)} tensors, first {min(missing)}")
    return weights


_META = torch.device("meta")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def _check_shape(name: str, tensor: Stored, expected: torch.Size) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {list(tensor.shape)}: expected {list(expected)}")


def _pack_outer(weights: Weights, name: str, tensor: Stored, packing: Packing, tied: bool) -> None:
    if name == HEAD:
        weights.head = packing.head(tensor)
        return
    weights.embedding = packing.embedding(tensor, tied=tied)
    if tied:
        weights.head = weights.embedding


def _untie(weights: Weights, head: Stored, packing: Packing | None) -> None:
    """Give a tied model its own head if the checkpoint's head differs from the embedding.

    Packed matrices are compared in packed form.
    """
    embedding: Any = weights.embedding
    packed: Any = None
    if isinstance(head, StoredMatrix) or packing is not None:
        assert packing is not None
        packed = packing.head(head)
        same = embedding.same(packed)
    else:
        same = all(
            torch.equal(theirs.to(ours), ours)
            for theirs, ours in zip(head.split(_ROWS), embedding.split(_ROWS))
        )
    if same:
        return
    logger.warning(
        "tie_word_embeddings=true, but the checkpoint holds an lm_head.weight that differs from "
        "the embedding: both are used, as they are"
    )
    if packed is None:
        assert isinstance(head, torch.Tensor)
        packed = torch.empty_like(embedding).copy_(head)
    weights.head = packed


@dataclass(slots=True)
class _Place:
    """Where a checkpoint tensor goes: rows of a fused matrix, possibly interleaved by head."""

    view: torch.Tensor
    heads: int | None = None  # interleave the rows of this many heads
    shared: bool = False  # one head's vector applies to all heads

    @property
    def shape(self) -> torch.Size:
        return self.view.shape[1:] if self.shared else self.view.shape

    def fill(self, tensor: torch.Tensor) -> None:
        if self.heads is not None:
            halves = tensor.unflatten(0, (self.heads, 2, -1))  # [heads, 2, d/2, ...]
            self.view.unflatten(0, (self.heads, -1, 2)).copy_(halves.transpose(1, 2))
        elif self.shared:
            self.view.unflatten(1, (-1, 2)).copy_(tensor.unflatten(0, (2, -1)).T)
        else:
            self.view.copy_(tensor)


def empty_weights(
    a: Architecture, dtype: torch.dtype, device: torch.device, *, layers: bool = True
) -> Weights:
    """Uninitialised memory for the weights; without `layers`, the layers are None."""

    def new(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    embedding = new(a.vocab_size, a.hidden_size)
    return Weights(
        embedding=embedding,
        layers=[empty_layer(a, dtype, device) if layers else None for _ in range(a.layers)],  # type: ignore[misc]
        norm=new(a.hidden_size),
        head=embedding if a.tied else new(a.vocab_size, a.hidden_size),
    )


def empty_layer(a: Architecture, dtype: torch.dtype, device: torch.device) -> LayerWeights:
    """Uninitialised memory for one layer."""

    def new(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    def bias(wanted: bool, size: int) -> torch.Tensor | None:
        return new(size) if wanted else None

    qkv = (a.heads + 2 * a.kv_heads) * a.head_dim
    return LayerWeights(
        attention_norm=new(a.hidden_size),
        qkv=new(qkv, a.hidden_size),
        qkv_bias=bias(a.qkv_bias, qkv),
        qk_norm=new(a.heads + a.kv_heads, a.head_dim) if a.qk_norm else None,
        output=new(a.hidden_size, a.heads * a.head_dim),
        output_bias=bias(a.output_bias, a.hidden_size),
        mlp_norm=new(a.hidden_size),
        gate_up=new(2 * a.intermediate_size, a.hidden_size),
        gate_up_bias=bias(a.mlp_bias, 2 * a.intermediate_size),
        down=new(a.hidden_size, a.intermediate_size),
        down_bias=bias(a.mlp_bias, a.hidden_size),
    )


def _places(a: Architecture, weights: Weights) -> Iterator[tuple[str, _Place]]:
    yield from _outer_places(a, weights)
    for index, layer in enumerate(weights.layers):
        yield from _layer_places(a, layer, index)


def _outer_places(a: Architecture, weights: Weights) -> Iterator[tuple[str, _Place]]:
    yield EMBEDDING, _Place(weights.embedding)
    yield "model.norm.weight", _Place(weights.norm)
    if not a.tied:
        yield HEAD, _Place(weights.head)


def _layer_places(a: Architecture, layer: LayerWeights, index: int) -> Iterator[tuple[str, _Place]]:
    prefix = f"model.layers.{index}"
    yield f"{prefix}.input_layernorm.weight", _Place(layer.attention_norm)
    yield f"{prefix}.post_attention_layernorm.weight", _Place(layer.mlp_norm)
    for kind, qkv, output, gate_up, down in (
        ("weight", layer.qkv, layer.output, layer.gate_up, layer.down),
        ("bias", layer.qkv_bias, layer.output_bias, layer.gate_up_bias, layer.down_bias),
    ):
        if qkv is not None:
            sizes = [a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.head_dim]
            query, key, value = qkv.split(sizes)
            yield f"{prefix}.self_attn.q_proj.{kind}", _Place(query, heads=a.heads)
            yield f"{prefix}.self_attn.k_proj.{kind}", _Place(key, heads=a.kv_heads)
            yield f"{prefix}.self_attn.v_proj.{kind}", _Place(value)
        if output is not None:
            yield f"{prefix}.self_attn.o_proj.{kind}", _Place(output)
        if gate_up is not None:
            gate, up = gate_up.chunk(2)
            yield f"{prefix}.mlp.gate_proj.{kind}", _Place(gate)
            yield f"{prefix}.mlp.up_proj.{kind}", _Place(up)
        if down is not None:
            yield f"{prefix}.mlp.down_proj.{kind}", _Place(down)
    if layer.qk_norm is not None:
        query, key = layer.qk_norm.split([a.heads, a.kv_heads])
        yield f"{prefix}.self_attn.q_norm.weight", _Place(query, shared=True)
        yield f"{prefix}.self_attn.k_norm.weight", _Place(key, shared=True)
