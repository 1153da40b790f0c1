"""The device that a name stands for on this machine."""

import torch


def device_named(name: str) -> str:
    """`cpu`, `cuda` or `cuda:N` unchanged; `auto` is CUDA if there is a GPU.

    Raises:
        ValueError: there is no such GPU here.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= gpus:
        raise ValueError(
            f"model.device={name} is not here, torch finds {gpus} CUDA devices: set "
            "model.device=cpu, or auto to use a GPU where there is one"
        )
    return name
