"""What every model does with its input tokens before it runs them."""

import torch


def default_chunk(device: torch.device) -> int:
    """The most tokens in one forward pass, all rows together; longer inputs are split."""
    return 512 if device.type == "cpu" else 2048


def columns(chunk: int, batch: int) -> int:
    """How many tokens of each of `batch` rows fit in a forward pass of `chunk` tokens."""
    return max(1, chunk // batch)


def check_room(name: str, tokens: torch.Tensor, batch: int, length: int, limit: int) -> None:
    """Refuse `tokens` `[B, W]` that do not fit `batch` rows, the longest with `length` tokens.

    Raises:
        ValueError: wrong shape, no tokens, or the rows would outgrow the context.
    """
    if tokens.dim() != 2 or len(tokens) != batch or tokens.shape[1] == 0:
        raise ValueError(
            f"{name} got tokens of shape {list(tokens.shape)}: expected [{batch}, at least 1]"
        )
    if length + tokens.shape[1] > limit:
        raise ValueError(
            f"the context of {name} holds {limit} tokens: {length} are in it and {tokens.shape[1]} "
            "more do not fit"
        )
