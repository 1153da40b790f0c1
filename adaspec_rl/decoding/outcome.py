"""What the host learns about a round of one text, in one transfer from the device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.draft_signals import NO_SIGNALS, host_signals, signals_on_device
from adaspec_rl.decoding.signals import target_signals
from adaspec_rl.decoding.verification import row


@dataclass(frozen=True, slots=True)
class Outcome:
    """A round's outcome, on the host."""

    pending: list[int]  # the report of each model that is watched for errors
    accepted: int  # drafted tokens
    proposed: list[int]  # the drafted tokens, then the token that verification adds
    target: Sequence[float]  # entropy and top probability where that token comes from; or zeros
    signals: np.ndarray  # [k, 4], of the drafted tokens; or [0, 4]


def outcome_of(
    draft: Draft | None,
    logits: torch.Tensor,
    accepted: torch.Tensor,
    token: torch.Tensor,
    *,
    pending: Sequence[torch.Tensor],
    signals: bool,
) -> Outcome:
    """Read a round's outcome.

    Args:
        logits: the target's, `[k + 1, V]`.
        accepted: how much of the draft was accepted, a scalar.
        token: the token after that, a scalar.
        pending: the reports of models, scalars.
        signals: whether signals are wanted.
    """
    drafted = [] if draft is None else [draft.tokens]
    parts = [*pending, accepted, *drafted, token]
    integers = len(parts)
    if signals:
        parts.append(target_signals(row(logits, accepted)))
        if draft and (known := signals_on_device(draft)) is not None:
            parts.append(known)
    found = on_host(parts)
    values = [value for part in found[:integers] for value in part.view(-1).tolist()]
    count = len(pending)
    return Outcome(
        pending=values[:count],
        accepted=values[count],
        proposed=values[count + 1 :],
        target=found[integers].tolist() if signals else (0.0, 0.0),
        signals=_signals(draft, found[integers + 1 :]) if signals and draft else NO_SIGNALS,
    )


def _signals(draft: Draft, found: Sequence[torch.Tensor]) -> np.ndarray:
    return found[0].numpy() if found else host_signals(draft)


def on_host(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same values on the host, after one copy, for which the host waits once."""
    if parts[0].device.type == "cpu":
        return parts
    whole = torch.cat([part.reshape(-1).double() for part in parts]).cpu()
    pieces = whole.split([part.numel() for part in parts])
    return [piece.to(part.dtype).view(part.shape) for piece, part in zip(pieces, parts)]
