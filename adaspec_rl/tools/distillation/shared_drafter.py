"""A drafter in training that uses its target's embedding and output matrix.

Its layers are ordinary Llama layers. With `reads_hidden` it also reads the target's last hidden
state at the position before (EAGLE, arXiv:2401.15077). Beyond the last verified token it reads its
own state instead, and training runs such steps, too (EAGLE-3's training-time test,
arXiv:2503.01840).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from adaspec_rl.engine.architecture import Architecture

KeysValues = tuple[torch.Tensor, torch.Tensor]  # [B, kv heads, L, D] each
FEATURE_NORM, FEATURE = "feature_norm.weight", "feature.weight"
NORM, EMBEDDING, HEAD = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of packed texts, `[B, L]`."""

    tokens: torch.Tensor  # int64
    features: torch.Tensor | None  # [B, L, hidden]: what the target's head read before each token
    texts: torch.Tensor  # int64, the number of a token's text in the window
    places: torch.Tensor  # int64, a token's position in its text

    def to(self, device: torch.device | str) -> "Batch":
        features = None if self.features is None else self.features.to(device)
        tokens, texts, places = (x.to(device) for x in (self.tokens, self.texts, self.places))
        return Batch(tokens, features, texts, places)


class SharedDrafter(nn.Module):
    """Trainable layers between the target's embedding and rows of its head, both frozen."""

    embedding: torch.Tensor  # [V, hidden]
    head: torch.Tensor  # [R, hidden]
    rope: torch.Tensor  # [context, D / 2] complex64

    def __init__(
        self,
        architecture: Architecture,
        tensors: Mapping[str, torch.Tensor],
        embedding: torch.Tensor,
        head: torch.Tensor,
        *,
        reads_hidden: bool,
    ) -> None:
        """`tensors` by their names in a checkpoint; `head` has the rows of the possible outputs."""
        super().__init__()
        self.architecture = architecture
        self.reads_hidden = reads_hidden
        # Names of parameters may not hold dots.
        self.names = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            self.register_parameter(self.names[name], nn.Parameter(tensor.float().clone()))
        self.register_buffer("embedding", embedding, persistent=False)
        self.register_buffer("head", head, persistent=False)
        a = architecture
        table = a.rope.table(a.context_length, a.head_dim, embedding.device)
        self.register_buffer("rope", table, persistent=False)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors for a checkpoint, by name."""
        return {name: self.tensor(name).detach() for name in self.names}

    def forward(self, batch: Batch, steps: int) -> list[torch.Tensor]:
        """Normalised states `[B, L, hidden]` of each step.

        Step 0 reads the target's hidden states. Step `s` has, at each position, the drafter's state
        after it has drafted the `s` tokens before, all equal to the text's. Without `reads_hidden`,
        all steps are the same.
        """
        embedded = F.embedding(batch.tokens, self.embedding)
        rope = self.rope[batch.places][:, None]  # [B, 1, L, D / 2]
        seen = causal(batch.texts)
        layers = range(self.architecture.layers)
        caches: list[list[KeysValues]] = [[] for _ in layers]
        features, states = batch.features, []
        for _ in range(steps if self.reads_hidden else 1):
            x = embedded
            if self.reads_hidden:
                assert features is not None
                x = x + F.linear(self.norm(features, FEATURE_NORM), self.tensor(FEATURE))
            for number in layers:
                collected = self.mixed(number, x, rope, seen, caches[number])
                x = x + self.product(collected, f"model.layers.{number}.self_attn.o_proj")
                inner = self.gated(number, x)
                x = x + self.product(inner, f"model.layers.{number}.mlp.down_proj")
            states.append(self.norm(x, NORM))
            features = F.pad(states[-1], (0, 0, 1, -1))  # of the position before
        return states if self.reads_hidden else states * steps

    def mixed(
        self,
        layer: int,
        x: torch.Tensor,
        rope: torch.Tensor,
        seen: torch.Tensor,
        cache: list[KeysValues],
    ) -> torch.Tensor:
        """Attention's output for `x` `[B, L, hidden]`; appends keys and values to `cache`."""
        a, name = self.architecture, f"model.layers.{layer}.self_attn."
        inner = self.norm(x, f"model.layers.{layer}.input_layernorm.weight")
        queries = self._heads(inner, f"{name}q", a.heads, rope)
        keys = self._heads(inner, f"{name}k", a.kv_heads, rope)
        cache.append((keys, self._heads(inner, f"{name}v", a.kv_heads, None)))
        return attend(queries, cache, seen).transpose(1, 2).flatten(2)

    def gated(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """The MLP's inner channels, `[B, L, intermediate]`."""
        name = f"model.layers.{layer}.mlp."
        inner = self.norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate = F.silu(self.product(inner, f"{name}gate_proj"))
        return gate * self.product(inner, f"{name}up_proj")

    def _heads(
        self, x: torch.Tensor, name: str, heads: int, rope: torch.Tensor | None
    ) -> torch.Tensor:
        """`[B, heads, L, D]`, normalised if the architecture does so, and rotated by `rope`."""
        x = self.product(x, f"{name}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
        if rope is None:
            return x
        if self.architecture.qk_norm:
            x = self.norm(x, f"{name}_norm.weight")
        first, second = x.chunk(2, -1)
        cos, sin = rope.real, rope.imag
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def product(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """`x` times the matrix of that name, plus its bias if there is one."""
        bias = self.tensor(f"{name}.bias") if f"{name}.bias" in self.names else None
        return F.linear(x, self.tensor(f"{name}.weight"), bias)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """`x` scaled to a mean square of 1, times the vector of that name."""
        return F.rms_norm(x, x.shape[-1:], self.tensor(name), self.architecture.norm_eps)

    def tensor(self, name: str) -> nn.Parameter:
        """The trainable tensor of that name in a checkpoint."""
        return self.get_parameter(self.names[name])


def causal(texts: torch.Tensor) -> torch.Tensor:
    """`[B, 1, L, L]` bool: each token sees itself and those before it in its own text."""
    same = texts[:, :, None] == texts[:, None]
    return same.tril()[:, None]


def attend(queries: torch.Tensor, cache: Sequence[KeysValues], seen: torch.Tensor) -> torch.Tensor:
    """Attention of the last step in `cache`, `[B, heads, L, D]`.

    At step `s`, the token at `i` attends to step 0's keys for all tokens up to `i - s`, and to step
    `t`'s key for token `i - s + t`, for each `t` from 1 to `s`.
    """
    keys, values = cache[0]
    step, length = len(cache) - 1, queries.shape[2]
    if step == 0:
        return F.scaled_dot_product_attention(queries, keys, values, seen, enable_gqa=True)
    groups = queries.shape[1] // keys.shape[1]
    queries = queries.unflatten(1, (-1, groups)) / queries.shape[-1] ** 0.5  # [B, kv, g, L, D]
    allowed = F.pad(seen, (0, 0, step, -step))[:, None]  # row i is row i - step
    scores = queries @ keys[:, :, None].transpose(-1, -2)
    # A row that sees nothing in step 0 still has its own step's key.
    scores = scores.masked_fill(~allowed, -torch.inf)
    shifted = [
        tuple(F.pad(part, (0, 0, step - number, number - step))[:, :, None] for part in pair)
        for number, pair in enumerate(cache[1:], 1)
    ]
    own = [(queries * key).sum(-1, keepdim=True) for key, _ in shifted]
    weights = torch.cat([scores, *own], dim=-1).softmax(-1)
    mixed = weights[..., :length] @ values[:, :, None]
    for number, (_, value) in enumerate(shifted):
        mixed = mixed + weights[..., length + number, None] * value
    return mixed.flatten(1, 2)
