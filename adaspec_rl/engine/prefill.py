"""What every model does with the tokens it is given before it runs them."""

import torch


def default_chunk(device: torch.device) -> int:
    """The most tokens that one forward pass reads, all rows together; longer inputs are cut."""
    return 512 if device.type == "cpu" else 2048


def columns(chunk: int, batch: int) -> int:
    """The tokens of each of `batch` rows that a forward pass of `chunk` tokens reads."""
    return max(1, chunk // batch)


def check_room(name: str, tokens: torch.Tensor, batch: int, length: int, limit: int) -> None:
    """Refuse `tokens` `[B, W]` that do not follow `batch` rows of which the longest is `length`.

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
