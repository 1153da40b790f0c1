"""Stopping at logits that are NaN or infinite, without slowing a GPU down."""

import torch

_NONE = torch.iinfo(torch.int64).max  # no bad position seen


class FiniteCheck:
    """Watches the logits of one model.

    On the CPU a bad forward raises at once. On CUDA reading a value would stall the queue, so the
    first bad position is kept on the device until `check` reads it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._deferred = device.type != "cpu"
        self.first_bad = torch.full((), _NONE, dtype=torch.long, device=device)

    def watch(self, logits: torch.Tensor, positions: torch.Tensor) -> None:
        """Look at float32 `logits` `[B, K, V]` whose rows stand at `positions` `[B, K]`.

        Raises:
            FloatingPointError: on the CPU, if a logit is NaN or infinite.
        """
        if self._deferred:
            bad = torch.where(logits.isfinite().all(-1), _NONE, positions)  # [B, K]
            torch.minimum(self.first_bad, bad.amin(), out=self.first_bad)
        else:
            bad = positions[~logits.isfinite().all(-1)]
            if len(bad):
                self._fail(int(bad.min()))

    def check(self) -> None:
        """Raise what `watch` deferred. Synchronises with the device.

        Raises:
            FloatingPointError: some forward since the last check made a NaN or infinite logit.
        """
        if self._deferred:
            position = int(self.first_bad)
            if position != _NONE:
                self.first_bad.fill_(_NONE)
                self._fail(position)

    def _fail(self, position: int) -> None:
        raise FloatingPointError(
            f"{self.name}: NaN or infinite logits at position {position}: its weights are damaged, "
            "or too large for model.dtype (float32 and bfloat16 hold the largest numbers)"
        )
