"""First weights of a drafter, by least squares: this saves hundreds of training steps.

The drafter's state at a token should be the target's last hidden state there. Each matrix that adds
to the state is fitted in turn, given all matrices before it: the matrix of hidden states, each
layer's attention output, each layer's MLP. The rest of the layers stays as in the target, except
that the first channels of each MLP become linear. They let a layer replace the embedding by a
matrix product of it.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from adaspec_rl.tools.distillation.shared_drafter import (
    FEATURE,
    FEATURE_NORM,
    NORM,
    Batch,
    SharedDrafter,
    causal,
)

_SCALE = 2.0  # of the aim, in units of the embeddings' size
_GATE = 2.0  # of linear channels; silu(2) is 1.76
_RIDGE, _WIDE_RIDGE = 1e-3, 1e-2  # share of the mean square of the inputs

Pairs = Iterator[tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def start_by_least_squares(drafter: SharedDrafter, batches: Sequence[Batch]) -> None:
    """Set the weights of a `drafter` that reads hidden states.

    Args:
        batches: the data to fit, `[B, L]` each; some tens of thousands of tokens are enough.
    """
    aims = [_aim(drafter, batch) for batch in batches]
    states = [F.embedding(batch.tokens, drafter.embedding) for batch in batches]

    def step(name: str, inputs: Callable[[int], torch.Tensor], ridge: float) -> None:
        """Fit matrix `name` to the remaining error, and add its products to the states."""

        def pairs() -> Pairs:
            for number, (wanted, known) in enumerate(aims):
                missing = wanted - states[number]
                yield inputs(number)[known], missing[known]

        weight = _solution(pairs(), ridge)
        drafter.tensor(name).copy_(weight)
        for number in range(len(batches)):
            states[number] = states[number] + F.linear(inputs(number), weight)

    def features(number: int) -> torch.Tensor:
        found = batches[number].features
        assert found is not None
        return drafter.norm(found, FEATURE_NORM)

    step(FEATURE, features, _RIDGE)
    ropes = [drafter.rope[batch.places][:, None] for batch in batches]
    views = [causal(batch.texts) for batch in batches]
    for layer in range(drafter.architecture.layers):
        name = f"model.layers.{layer}."

        def collected(number: int, layer: int = layer) -> torch.Tensor:
            return drafter.mixed(layer, states[number], ropes[number], views[number], [])

        def inner(number: int, layer: int = layer) -> torch.Tensor:
            return drafter.gated(layer, states[number])

        step(f"{name}self_attn.o_proj.weight", collected, _WIDE_RIDGE)
        _open_linear_channels(drafter, name, [(states[n], aims[n][1]) for n in range(len(aims))])
        step(f"{name}mlp.down_proj.weight", inner, _RIDGE)


def _aim(drafter: SharedDrafter, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The state to aim at for each token, `[B, L, hidden]`, and where it is known."""
    assert batch.features is not None
    after = F.pad(batch.features[:, 1:], (0, 0, 0, 1)) / drafter.tensor(NORM)
    known = F.pad(batch.texts[:, 1:] == batch.texts[:, :-1], (0, 1))
    size = _SCALE * drafter.embedding.square().mean().sqrt()
    return size * F.rms_norm(after, after.shape[-1:], eps=1e-6), known


def _open_linear_channels(
    drafter: SharedDrafter, layer: str, states: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Give one channel per number of the state a gate that is nearly constant."""

    def pairs() -> Pairs:
        for state, known in states:
            found = drafter.norm(state, f"{layer}post_attention_layernorm.weight")[known]
            yield found, torch.ones(len(found), 1)

    size = drafter.architecture.hidden_size
    count = min(size, drafter.architecture.intermediate_size)
    drafter.tensor(f"{layer}mlp.gate_proj.weight")[:count] = _GATE * _solution(pairs(), _RIDGE)
    drafter.tensor(f"{layer}mlp.up_proj.weight")[:count] = torch.eye(size)[:count]


def _solution(pairs: Pairs, ridge: float) -> torch.Tensor:
    """The least-squares matrix `[outputs, inputs]` from inputs to outputs, `[N, ...]` each."""
    squares: torch.Tensor | float = 0.0
    products: torch.Tensor | float = 0.0
    for inputs, outputs in pairs:
        squares = squares + inputs.T @ inputs
        products = products + inputs.T @ outputs
    assert isinstance(squares, torch.Tensor) and isinstance(products, torch.Tensor)
    squares.diagonal().add_(ridge * squares.diagonal().mean())
    return torch.linalg.solve(squares, products).T
