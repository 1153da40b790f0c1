"""How long the accepted part of a draft is."""

import ctypes
import functools
from collections.abc import Callable, Sequence

import torch

from adaspec_rl.decoding.sampling import best
from adaspec_rl.engine.cpu.build import loaded


def row(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` for a scalar tensor `index`, without a host synchronisation."""
    if values.device.type == "cpu":  # a view: a row of logits is long
        return values[int(index)]
    return values.index_select(0, index.view(1))[0]


def leading(kept: torch.Tensor) -> torch.Tensor:
    """How many leading entries of a boolean `[k]` are true."""
    return kept.long().cumprod(0).sum()


def chosen_agreement(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float = 1.0,
    noise: Sequence[torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`agreement` with the picks whose logit / `temperature` + noise is largest, the first on ties.

    Args:
        logits: `[k + 1, V]` float32.
        noise: `[V]` for each row; None: none.
    """
    here = logits.device.type == "cpu" and logits.dtype == torch.float32
    compiled = loaded() if here else None
    if compiled is None:
        if noise is not None:
            logits = logits / temperature + torch.stack([*noise])
        return agreement(best(logits)[:, 0], tokens)
    rows, drafted, token = (
        logits.contiguous(),
        tokens.contiguous(),
        torch.empty((), dtype=torch.long),
    )
    pointers = None
    if noise is not None:
        pointers = (ctypes.c_void_p * len(noise))(*(row.data_ptr() for row in noise))
    accepted = _compiled_agreement(compiled)(
        rows.data_ptr(),
        rows.shape[1],
        temperature,
        pointers,
        drafted.data_ptr(),
        len(drafted),
        token.data_ptr(),
    )
    return torch.tensor(accepted), token


@functools.cache
def _compiled_agreement(library: ctypes.CDLL) -> Callable[..., int]:
    """`agreement` of verification.cpp."""
    found = library.agreement
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.argtypes = [pointer, integer, ctypes.c_float, pointer, pointer, integer, pointer]
    found.restype = integer
    return found


def agreement(picks: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many leading entries of `tokens` `[k]` and `picks` `[k + 1]` agree, and the next pick."""
    if picks.device.type == "cpu":  # few calls: after a forward pass their code is out of cache
        found, drafted = picks.tolist(), tokens.tolist()
        accepted = next((n for n, (a, b) in enumerate(zip(found, drafted)) if a != b), len(drafted))
        return torch.tensor(accepted), picks[accepted]
    kept = leading(picks[:-1] == tokens)
    return kept, row(picks, kept)
