"""Real acceptance at real cost without real weights: a small Llama in a big one's shape.

    python -m adaspec_rl.pairs.inflate --source tiny:target --shape llama8b --out FOLDER

The big model computes the small model's function, so it writes the same text. It also reads and
multiplies every weight of its own shape, so it costs as much as the real model:

* The hidden state is the small one's, then zeros. RMSNorm over h' channels instead of h divides by
  a smaller mean; norm weights scaled by sqrt(h / h') and an epsilon scaled by h / h' undo this.
* Extra heads, feed-forward channels and layers have random weights, and zero output projections.
* A head of d' dimensions keeps rotary pair i of d at pair i d' / d, where the same theta gives the
  same frequency. Queries are 0 in the other dimensions and scaled by sqrt(d' / d), since
  attention divides by sqrt(d'). Query heads stay with their own key-value head.
* The original layers are spread evenly, so that an early exit keeps its share of the layers.
* Rows that pad the vocabulary must never be chosen. One channel of the hidden state is a constant,
  too small to count in the mean square, and only the last norm lets it through. Padding rows weigh
  it with a huge negative number, so the probabilities of padding are exactly 0.

The result is exact in float32 up to rounding. In bf16, scales that are not powers of two round the
weights again.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.files import write_atomically
from adaspec_rl.pairs.sources import checkpoint_of

Tensors = Iterator[tuple[str, torch.Tensor]]

CONSTANT = 2.0**-16  # the constant channel; all of this is exact in bf16
PADDING = -(2.0**34)  # its weight in padding rows: logits near -2^18 sqrt(h') / |hidden|
NOISE = 0.03  # extra weights are uniform within this
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's size, with the names of its `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    tie_word_embeddings: bool
    max_position_embeddings: int

    @property
    def groups(self) -> int:
        """Query heads that share a key-value head."""
        return self.num_attention_heads // self.num_key_value_heads

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the checkpoint, in order."""
        hidden, inner, dim = self.hidden_size, self.intermediate_size, self.head_dim
        layer = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (self.num_attention_heads * dim, hidden),
            "self_attn.k_proj": (self.num_key_value_heads * dim, hidden),
            "self_attn.v_proj": (self.num_key_value_heads * dim, hidden),
            "self_attn.o_proj": (hidden, self.num_attention_heads * dim),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, hidden)
        }
        for index in range(self.num_hidden_layers):
            for name, shape in layer.items():
                shapes[f"model.layers.{index}.{name}.weight"] = shape
        shapes["model.norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["lm_head.weight"] = (self.vocab_size, hidden)
        return shapes

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())


SHAPES = {
    "llama8b": Shape(128256, 4096, 14336, 32, 32, 8, 128, False, 131072),  # Llama-3.1-8B
    "llama1b": Shape(128256, 2048, 8192, 16, 32, 8, 64, True, 131072),  # Llama-3.2-1B
    "test": Shape(4224, 320, 768, 16, 16, 4, 64, False, 2048),
}


class Inflation:
    """One source model on its way into one shape."""

    def __init__(self, config: Mapping[str, Any], shape: Shape) -> None:
        """`config` is the source's `config.json`.

        Raises:
            ValueError: the source is not a plain Llama, or does not fit into the shape.
        """
        _check(config, shape)
        self.shape = shape
        self.source = _shape_of(config)
        padded = shape.vocab_size > self.source.vocab_size
        self._constant = CONSTANT if padded else 0.0
        old, new = self.source.hidden_size, shape.hidden_size
        self._norm_scale = math.sqrt(old / new)
        epsilon = config["rms_norm_eps"] * old / new
        self.config = {**config, **asdict(shape), "rms_norm_eps": epsilon}

    def tensors(
        self,
        source: Mapping[str, torch.Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int = 0,
    ) -> Tensors:
        """Yield the big model's names and tensors one by one, from the small model's named tensors.

        Raises:
            ValueError: `dtype` is neither float32 nor bfloat16; other types lack the range.
        """
        if dtype not in DTYPES.values():
            raise ValueError(f"inflation needs one of the dtypes {', '.join(DTYPES)}, got {dtype}")
        generator = torch.Generator(device).manual_seed(seed)
        count, total = self.source.num_hidden_layers, self.shape.num_hidden_layers
        origin = {index * total // count: index for index in range(count)}
        for name, size in self.shape.tensor_shapes().items():
            tensor = torch.empty(size, dtype=dtype, device=device)
            tensor.uniform_(-NOISE, NOISE, generator=generator)
            if name.startswith("model.layers."):
                layer, part = name.removeprefix("model.layers.").split(".", 1)
                index = origin.get(int(layer))
                old = None if index is None else source[f"model.layers.{index}.{part}"].to(device)
                self._fill_layer(part.removesuffix(".weight"), tensor, old)
            elif name == "model.norm.weight":
                self._fill_norm(tensor, source[name].to(device), constant=1.0)
            else:
                head = name == "lm_head.weight"
                tied = self.source.tie_word_embeddings
                old = source["model.embed_tokens.weight" if tied or not head else name].to(device)
                self._fill_vocabulary(tensor, old, head)
            yield name, tensor

    def _fill_vocabulary(self, tensor: torch.Tensor, old: torch.Tensor, head: bool) -> None:
        count, width = old.shape
        if not head:
            tensor[:count, width:] = 0
        tensor[:count, :width] = old
        if self._constant:
            tensor[:count, width] = 0 if head else self._constant
            if head or self.shape.tie_word_embeddings:
                tensor[count:, width] = PADDING

    def _fill_norm(self, tensor: torch.Tensor, old: torch.Tensor, constant: float) -> None:
        tensor[: len(old)] = old.float() * self._norm_scale
        if self._constant:
            tensor[len(old)] = constant

    def _fill_layer(self, part: str, tensor: torch.Tensor, old: torch.Tensor | None) -> None:
        """Fill one tensor of a layer; `old` is None in a layer that the source lacks."""
        projects_out = part in ("self_attn.o_proj", "mlp.down_proj")
        if projects_out:
            tensor.zero_()
        if part.endswith("layernorm"):
            width = self.source.hidden_size
            same = tensor.new_ones(width) if old is None else old
            self._fill_norm(tensor, same, constant=0.0)
        elif old is not None and part.startswith("self_attn"):
            self._fill_attention(part, tensor, old)
        elif old is not None:
            tensor[: old.shape[0], : old.shape[1]] = old

    def _fill_attention(self, part: str, tensor: torch.Tensor, old: torch.Tensor) -> None:
        dim, width = self.source.head_dim, self.source.hidden_size
        if part == "self_attn.o_proj":  # [hidden, heads * dim]
            new = tensor.unflatten(1, (-1, self.shape.head_dim))
            for head, part_of_old in enumerate(old.unflatten(1, (-1, dim)).unbind(1)):
                new[:width, self._query_head(head), :dim] = part_of_old
            return
        new = tensor.unflatten(0, (-1, self.shape.head_dim))  # [heads, d', hidden']
        rotary = self._rotary_dimensions().to(tensor.device)
        for head, rows in enumerate(old.unflatten(0, (-1, dim)).unbind(0)):  # [d, hidden]
            if part == "self_attn.q_proj":
                place = new[self._query_head(head)]
                unused = torch.ones(len(place), dtype=torch.bool, device=tensor.device)
                unused[rotary] = False
                place[unused] = 0
                scale = math.sqrt(self.shape.head_dim / dim)
                place[rotary, :width] = (rows.float() * scale).to(place.dtype)
            elif part == "self_attn.k_proj":
                for copy in self._key_value_heads(head):
                    new[copy][rotary, :width] = rows.to(new.dtype)
            else:
                for copy in self._key_value_heads(head):
                    new[copy, :dim, :width] = rows

    def _rotary_dimensions(self) -> torch.Tensor:
        """The new place of each of the `d` dimensions of a head; RoPE pairs i with i + d / 2."""
        pairs = torch.arange(self.source.head_dim // 2)
        stride = self.shape.head_dim // self.source.head_dim
        return torch.cat([pairs * stride, pairs * stride + self.shape.head_dim // 2])

    def _key_value_heads(self, head: int) -> range:
        """An old key-value head's new places: several if one cannot serve all its query heads."""
        copies = _copies(self.source, self.shape)
        return range(head * copies, (head + 1) * copies)

    def _query_head(self, head: int) -> int:
        group, member = divmod(head, self.source.groups)
        copy, place = divmod(member, self.shape.groups)
        return self._key_value_heads(group)[copy] * self.shape.groups + place


def _copies(source: Shape, shape: Shape) -> int:
    return -(-source.groups // shape.groups)


def _shape_of(config: Mapping[str, Any]) -> Shape:
    heads = config["num_attention_heads"]
    known = {name: config[name] for name in Shape.__dataclass_fields__ if config.get(name)}
    known.setdefault("head_dim", config["hidden_size"] // heads)
    known.setdefault("num_key_value_heads", heads)
    known.setdefault("tie_word_embeddings", False)
    return Shape(**known)


def _check(config: Mapping[str, Any], shape: Shape) -> None:
    if config.get("model_type") != "llama":
        raise ValueError(f"inflation needs a Llama, got model_type={config.get('model_type')!r}")
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ValueError(f"inflation does not support {key}=true")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):  # others depend on a pair's index
        raise ValueError(f"inflation does not support rope_type={kind!r}")
    source = _shape_of(config)
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"):
        if getattr(source, key) > getattr(shape, key):
            raise ValueError(
                f"{key}={getattr(source, key)} of the source does not fit: the shape has "
                f"{getattr(shape, key)}"
            )
    if shape.vocab_size > source.vocab_size and shape.hidden_size == source.hidden_size:
        raise ValueError("a padded vocabulary needs a larger hidden_size, for a constant channel")
    if shape.head_dim % source.head_dim:
        raise ValueError(
            f"head_dim={shape.head_dim} is no multiple of the source's {source.head_dim}: rotary "
            "frequencies would differ"
        )
    needed = source.num_key_value_heads * _copies(source, shape)
    if needed > shape.num_key_value_heads:
        raise ValueError(
            f"the source needs num_key_value_heads={needed}: the shape has "
            f"{shape.num_key_value_heads}"
        )


def shape_named(name: str) -> Shape:
    """One of `SHAPES`.

    Raises:
        ValueError: there is no shape of that name.
    """
    if name not in SHAPES:
        raise ValueError(f"unknown shape {name!r}: expected one of {', '.join(SHAPES)}")
    return SHAPES[name]


def load_inflated(
    checkpoint: Checkpoint, shape: str, *, dtype: torch.dtype, device: torch.device, name: str
) -> LeanModel:
    """The checkpoint in a bigger shape, built on the device without a second copy.

    Raises:
        ValueError: unknown shape, or the checkpoint cannot be inflated to it.
    """
    inflation = Inflation(checkpoint.config(), shape_named(shape))
    source = dict(tensors_in(checkpoint.weight_files()))
    tensors = inflation.tensors(source, dtype=dtype, device=device)
    name = f"{name} inflated to {shape}"
    return LeanModel.from_tensors(inflation.config, tensors, name, dtype=dtype, device=device)


def write_inflated(
    checkpoint: Checkpoint,
    shape: Shape,
    folder: Path,
    *,
    dtype: torch.dtype,
    shard_bytes: int = 4 << 30,
) -> None:
    """Write a Hugging Face folder with tokenizer, one shard in memory at a time."""
    inflation = Inflation(checkpoint.config(), shape)
    source = dict(tensors_in(checkpoint.weight_files()))
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(shape, dtype.itemsize, shard_bytes)
    tensors = inflation.tensors(source, dtype=dtype, device=torch.device("cpu"))
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        places |= dict.fromkeys(names, file)
        save_file(dict(next(tensors) for _ in names), folder / file, metadata={"format": "pt"})
    size = shape.parameters * dtype.itemsize
    index = {"metadata": {"total_size": size}, "weight_map": places}
    _write_json(folder / "model.safetensors.index.json", index)
    checkpoint.tokenizer().save_pretrained(folder)
    kind = next(name for name, value in DTYPES.items() if value is dtype)
    _write_json(folder / "config.json", {**inflation.config, "dtype": kind})


def _shards(shape: Shape, itemsize: int, limit: int) -> list[list[str]]:
    """Tensor names by file, in order, each file at most `limit` bytes or one tensor."""
    shards: list[list[str]] = []
    room = 0
    for name, size in shape.tensor_shapes().items():
        needed = math.prod(size) * itemsize
        if not shards or needed > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= needed
    return shards


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Command line: inflate one checkpoint into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="tiny:NAME, a folder or a hub id")
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    options = parser.parse_args(arguments)
    shape = SHAPES[options.shape]
    checkpoint = checkpoint_of(options.source)
    write_inflated(checkpoint, shape, options.out, dtype=DTYPES[options.dtype])
    print(f"{options.out}: {options.source} inflated to {options.shape}, {shape.parameters:,}")


if __name__ == "__main__":
    main()
