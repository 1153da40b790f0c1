"""Copies numbers from the device to the host while the device continues."""

import torch


class Reading:
    """A copy that the device makes once it has computed `values`, without anybody waiting.

    Waiting for it later costs the device nothing if it was given more work in the meantime.
    """

    def __init__(self, values: torch.Tensor) -> None:
        """`values` `[n]` on a CUDA device."""
        self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._host.copy_(values, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record(torch.cuda.current_stream(values.device))

    def wait(self) -> list[float]:
        """The values, once they have arrived."""
        self._done.synchronize()
        found: list[float] = self._host.tolist()
        return found
