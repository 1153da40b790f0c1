"""Stops at NaN or infinite logits, without slowing a GPU down."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

NOWHERE = 1 << 40  # in place of a bad logit's position if there is none


class FiniteCheck:
    """Watches the logits of one model.

    On the CPU a bad forward raises at once. On CUDA, reading a value would stall the queue, so the
    first bad position is kept on the device until somebody reads it.

    Attributes:
        pending: that position, a scalar that `check` understands; None on the CPU.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name = name
        self._watches = True
        self.pending: torch.Tensor | None = None
        if device.type != "cpu":
            self.pending = torch.full((), NOWHERE, dtype=torch.long, device=device)

    def watch(self, logits: torch.Tensor, positions: torch.Tensor) -> None:
        """Check float32 `logits` `[B, K, V]`, whose rows stand at `positions` `[B, K]`.

        Raises:
            FloatingPointError: on the CPU, if a logit is NaN or infinite.
        """
        if self.pending is not None:  # also while it is deferred: a graph captured now stays
            bad = torch.where(logits.isfinite().all(-1), NOWHERE, positions)  # [B, K]
            torch.minimum(self.pending, bad.amin(), out=self.pending)
        elif self._watches:
            bad = positions[~logits.isfinite().all(-1)]
            if len(bad):
                self._fail(int(bad.min()))

    def check(self, found: int | None = None) -> None:
        """Raise the error that `watch` deferred.

        Args:
            found: the value of `pending`; None: read it, which waits for the device.

        Raises:
            FloatingPointError: a forward since the last check gave a NaN or infinite logit.
        """
        if self.pending is None:
            return
        position = int(self.pending) if found is None else found
        if position != NOWHERE:
            self.pending.fill_(NOWHERE)
            self._fail(position)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise no errors meanwhile: the caller checks each row's logits itself."""
        before, self._watches = self._watches, False
        known = None if self.pending is None else self.pending.clone()
        try:
            yield
        finally:
            self._watches = before
            if self.pending is not None and known is not None:
                self.pending.copy_(known)

    def _fail(self, position: int) -> None:
        raise not_finite(self.name, position)


def not_finite(name: str, position: int) -> FloatingPointError:
    """The error for NaN or infinite logits of the model `name` at `position`."""
    return FloatingPointError(
        f"{name}: NaN or infinite logits at position {position}: its weights are damaged, "
        "or too large for model.dtype (float32 and bfloat16 hold the largest numbers)"
    )
