"""Verification of many texts' drafts at once."""

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.sampling import best
from adaspec_rl.decoding.verification.contract import Verification
from adaspec_rl.decoding.verification.coupled import Coupled
from adaspec_rl.decoding.verification.greedy import Greedy
from adaspec_rl.engine.cpu.build import loaded


@dataclass(frozen=True, slots=True)
class Unverified:
    """A text's draft and what the target says about it."""

    rule: Verification  # the text's own
    draft: Draft | None
    logits: torch.Tensor  # [k + 1, V] float32, the target's
    position: int  # of the first drafted token


@dataclass(frozen=True, slots=True)
class Verified:
    """How much of a draft is accepted."""

    accepted: int  # drafted tokens
    proposed: list[int]  # the whole draft, then the token that follows the accepted part


def verify_rows(rows: Sequence[Unverified]) -> list[Verified]:
    """`Verification.verify` for each text, with one copy from the device where rules allow it."""
    if all(type(row.rule) is Greedy for row in rows):
        return _agreements(rows, 1.0, None)
    coupled = [row.rule for row in rows if type(row.rule) is Coupled]
    samplings = {rule.sampling for rule in coupled}
    if len(coupled) < len(rows) or len(samplings) > 1 or any(one.truncates for one in samplings):
        return [_alone(row) for row in rows]
    noise = [
        values
        for row, rule in zip(rows, coupled)
        for values in rule.noise.rows(range(row.position, row.position + len(row.logits)))
    ]
    return _agreements(rows, coupled[0].sampling.divisor, noise)


def _alone(row: Unverified) -> Verified:
    """Verify one text by its own rule."""
    draft, logits = row.draft, row.logits
    tokens = torch.empty(0, dtype=torch.long, device=logits.device)
    drawn = None
    if draft is not None:
        tokens = draft.tokens
        if row.rule.needs_log_probs:
            drawn = draft.all_log_probs(logits.shape[-1])
    accepted, token = row.rule.verify(logits, tokens, drawn, row.position)
    found = torch.cat([accepted.view(1), tokens, token.view(1)]).tolist()
    return Verified(found[0], found[1:])


def _agreements(
    rows: Sequence[Unverified], temperature: float, noise: Sequence[torch.Tensor] | None
) -> list[Verified]:
    """Accept what agrees with the picks whose logit / `temperature` + noise is largest.

    Args:
        noise: `[V]` for each row of logits, text after text; None: none.
    """
    if not rows:
        return []
    here = rows[0].logits.device.type == "cpu" and rows[0].logits.dtype == torch.float32
    if here and (library := loaded()) is not None:
        return _compiled_agreements(library, rows, temperature, noise)
    scores = torch.cat([row.logits for row in rows])
    if noise is not None:
        scores = scores / temperature + torch.stack([*noise])
    drafts = [row.draft.tokens for row in rows if row.draft is not None]
    found = iter(torch.cat([best(scores)[:, 0], *drafts]).tolist())
    picks = [list(itertools.islice(found, len(row.logits))) for row in rows]
    tokens = [list(itertools.islice(found, len(row.logits) - 1)) for row in rows]
    verified = []
    for chosen, drafted in zip(picks, tokens):
        agree = (pick == token for pick, token in zip(chosen, drafted))
        accepted = sum(itertools.takewhile(bool, agree))
        verified.append(Verified(accepted, [*drafted, chosen[accepted]]))
    return verified


def _compiled_agreements(
    library: ctypes.CDLL,
    rows: Sequence[Unverified],
    temperature: float,
    noise: Sequence[torch.Tensor] | None,
) -> list[Verified]:
    drafts = [[] if row.draft is None else row.draft.tokens.tolist() for row in rows]
    logits = [row.logits.contiguous() for row in rows]
    count, integer, pointer = len(rows), ctypes.c_int64, ctypes.c_void_p
    lengths = (integer * count)(*map(len, drafts))
    tokens = [token for draft in drafts for token in draft]
    accepted, after = (integer * count)(), (integer * count)()
    _agreements_of(library)(
        count,
        (pointer * count)(*(part.data_ptr() for part in logits)),
        logits[0].shape[1],
        temperature,
        noise and (pointer * len(noise))(*(part.data_ptr() for part in noise)),
        (integer * len(tokens))(*tokens),
        lengths,
        torch.get_num_threads(),
        accepted,
        after,
    )
    return [Verified(n, [*draft, token]) for n, draft, token in zip(accepted, drafts, after)]


@functools.cache
def _agreements_of(library: ctypes.CDLL) -> Callable[..., None]:
    """`agreements` of verification.cpp."""
    found = library.agreements
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.argtypes = [
        integer,
        pointer,
        integer,
        ctypes.c_float,
        *[pointer] * 3,
        integer,
        *[pointer] * 2,
    ]
    found.restype = None
    return found
