"""The signals of whole drafts, whatever their drafter knows."""

import numpy as np
import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.picks import signals_of
from adaspec_rl.decoding.signals import SIGNALS, draft_signals

NO_SIGNALS = np.zeros((0, len(SIGNALS)), dtype=np.float32)


def signals_on_device(draft: Draft) -> torch.Tensor | None:
    """Signals `[k, 4]` float32 on the draft's device; None: the host knows them, or nobody."""
    if draft.logits is None:
        return None
    read = draft.logits, draft.places, draft.log_probs, draft.scores
    return draft_signals(*read, normalised=draft.normalised)


def chain_signals(draft: Draft | None) -> np.ndarray:
    """Signals `[k, 4]` float32 on the host; zeros if the drafter has no probabilities."""
    if not draft:
        return NO_SIGNALS
    found = signals_on_device(draft)
    return host_signals(draft) if found is None else found.float().cpu().numpy()


def host_signals(draft: Draft) -> np.ndarray:
    """The signals of a draft without logits, `[k, 4]` float32."""
    if draft.picks:
        return signals_of(draft.picks)
    return np.zeros((len(draft), len(SIGNALS)), dtype=np.float32)
