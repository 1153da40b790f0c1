"""A copy of a model's weights in host memory, to bring to the device when needed."""

from typing import Any

import torch

from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.memory import place, slots, weight_bytes


class HostCopy:
    """Keeps a copy of a model's weights on the host and moves them off the device and back.

    While it is away, the model's weights are the host's: a forward on CUDA then fails with an
    error.

    Attributes:
        bytes: the bytes that a move to the device copies.
        here: whether the weights are on the device.
    """

    def __init__(self, model: LanguageModel, besides: Any = None) -> None:
        """Copy the weights of `model`, except tensors of `besides`, which never move.

        Raises:
            ValueError: the weights are quantised, so they are not plain tensors.
        """
        fixed = {place(getattr(owner, name)) for owner, name in slots(besides)}
        self.model = model
        self.bytes = weight_bytes(model.weights, besides)
        self.here = True
        self._slots = [
            (owner, name)
            for owner, name in slots(model.weights)
            if place(getattr(owner, name)) not in fixed
        ]
        tensors = [getattr(owner, name) for owner, name in self._slots]
        if any(type(tensor) is not torch.Tensor for tensor in tensors):
            raise ValueError(
                f"the weights of {model.name} are quantized and stay on the device: expected "
                "quantize=null, or model.memory=shared"
            )
        number = {where: n for n, where in enumerate(dict.fromkeys(map(place, tensors)))}
        self._numbers = [number[place(tensor)] for tensor in tensors]  # tied ones have one number
        self._host = [_on_host(tensors[self._numbers.index(n)]) for n in range(len(number))]
        self._coming: list[torch.Tensor] = []
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None

    def leave(self) -> None:
        """Free the model's memory on the device, including the cache and captured graphs."""
        self._put(self._host)
        self._coming = []
        self.here = False
        self.model.release()

    @property
    def coming(self) -> bool:
        """Whether the weights are on their way to the device."""
        return bool(self._coming)

    def fetch(self) -> None:
        """Start copying the weights to the device, in the background of its other work."""
        device = self.model.device
        if self._stream is None:
            self._coming = [tensor.clone() for tensor in self._host]
            return
        with torch.cuda.stream(self._stream):
            self._coming = [tensor.to(device, non_blocking=True) for tensor in self._host]
            self._copied = torch.cuda.Event()
            self._copied.record()
        for tensor in self._coming:  # made on one stream, used and freed on another
            tensor.record_stream(torch.cuda.current_stream(device))

    def arrive(self, wait: bool = False) -> bool:
        """Use the copy if it is complete. Returns whether the weights are on the device now."""
        if self._coming and self._copied is not None:
            if wait:
                self._copied.synchronize()
            elif not self._copied.query():
                return False
        if self._coming:
            self._put(self._coming)
            self._coming, self.here = [], True
        return self.here

    def _put(self, tensors: list[torch.Tensor]) -> None:
        for (owner, name), number in zip(self._slots, self._numbers):
            setattr(owner, name, tensors[number])
        self.model.weights_moved()


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor)
