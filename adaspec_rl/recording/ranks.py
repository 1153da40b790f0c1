"""Ranks of the text's own tokens among a drafter's choices: all that replaying a tree needs.

Under greedy or coupled verification, the accepted path of a tree is its longest path that spells
the text. The rank of each of the text's tokens among the drafter's choices (under coupling, by
perturbed score), given the text before it, tells which path that is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.compiled_automaton import suffix_automaton
from adaspec_rl.decoding.drafters import (
    Drafter,
    DraftModel,
    EarlyExit,
    HiddenStateDrafter,
    TableDrafter,
    summon,
)
from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.trigrams import NONE
from adaspec_rl.decoding.verification import Verification, weigh_rows
from adaspec_rl.recording.texts import Text
from adaspec_rl.recording.trunk import Trunk, len_of, side_by_side

BEYOND = 255  # not a choice of this drafter, or one of a higher rank, or the text has ended


@torch.inference_mode()
def ranks_everywhere(
    drafter: Drafter,
    texts: Sequence[Text],
    rules: Sequence[Verification],
    depth: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[np.ndarray]:
    """Ranks `[G, depth]` uint8 of the tokens that follow each position of every text.

    Entry `[g, d]` is the rank of token `g + d` in a tree that begins at position `g`; 0 is the
    drafter's first choice. `rules[b]` scores the choices in text `b`.

    Raises:
        ValueError: a drafter that reads hidden states has no room for branches in its context, or
            the drafter has no choices to rank (a lookup).
    """
    summon(drafter)
    if isinstance(drafter, HiddenStateDrafter):
        return _ranks_on_branches(drafter, texts, rules, depth, progress)
    each = 1 / len(texts)
    found = []
    for n, (text, rule) in enumerate(zip(texts, rules)):
        if isinstance(drafter, TableDrafter):
            found.append(_table_ranks(drafter, text, rule, depth))
        elif isinstance(drafter, DraftModel | EarlyExit):
            found.append(spread(_ranks_after_text(drafter, text, rule), depth))
        else:
            raise ValueError(f"the drafter {drafter.name} has no choices to rank")
        part_of(progress, n * each, each)(1.0)
    return found


def ranks_of(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Ranks `[...]` uint8 of the entries `places` `[...]` in `scores` `[..., C]`, largest first.

    Of equal scores, the one of the lower place comes first. Entries without a chance (-inf) and
    ranks too large for a byte are `BEYOND`.
    """
    where = places[..., None]
    own = scores.gather(-1, where)
    before = torch.arange(scores.shape[-1], device=scores.device) < where
    rank = (scores > own).sum(-1) + ((scores == own) & before).sum(-1)
    rank = rank.masked_fill(own[..., 0] == -torch.inf, BEYOND)
    return rank.clamp_max(BEYOND).to(torch.uint8)


def spread(ranks: np.ndarray, depth: int) -> np.ndarray:
    """Ranks `[G, depth]` of a drafter that reads only the text, from each token's rank `[G]`."""
    beyond = np.full(depth, BEYOND, dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([ranks, beyond]), depth)
    return windows[: len(ranks)].copy()


def chain_ranks(accepted: np.ndarray, depth: int) -> np.ndarray:
    """Ranks `[M, depth]` of a drafter with one choice, given its `accepted` tokens `[M]`."""
    return np.where(np.arange(depth) < accepted[:, None], 0, BEYOND).astype(np.uint8)


def _ranks_after_text(
    drafter: DraftModel | EarlyExit, text: Text, rule: Verification
) -> np.ndarray:
    """Each token's rank given the text before it, `[G]`; `BEYOND` if that fills the context."""
    whole = torch.from_numpy(np.concatenate([text.prompt, text.tokens]).astype(np.int64))
    read = min(len(whole) - 1, drafter.context_length)
    first = len(text.prompt)
    found = np.full(len(text.tokens), BEYOND, dtype=np.uint8)
    count = read - first + 1  # tokens whose past has been read
    if count < 1:
        return found
    model, tokens = drafter.model, drafter.readable(whole[None, :read].to(drafter.model.device))
    model.reset()
    if isinstance(drafter, EarlyExit):
        logits = drafter.model.forward(tokens, keep=count, layers=drafter.layers)
    else:
        logits = model.extend(tokens, keep=count)
    logits = drafter.fit(logits[0])  # [count, C]
    ids = drafter.output_tokens
    scores = rule.weigh(logits, range(first, first + count), ids)[1]
    wanted = whole[first : first + count].to(scores.device)
    found[:count] = _ranks_among(scores, wanted, ids).cpu().numpy()
    model.check()
    model.reset()
    return found


def _ranks_among(
    scores: torch.Tensor, tokens: torch.Tensor, ids: torch.Tensor | None
) -> torch.Tensor:
    """Ranks of `tokens` `[...]` by `scores` `[..., C]` of all tokens, or of the ascending `ids`."""
    if ids is None:
        return ranks_of(scores, tokens)
    places = torch.searchsorted(ids, tokens.contiguous()).clamp_max(len(ids) - 1)
    return ranks_of(scores, places).masked_fill(ids[places] != tokens, BEYOND)


def _ranks_on_branches(
    drafter: HiddenStateDrafter,
    texts: Sequence[Text],
    rules: Sequence[Verification],
    depth: int,
    progress: Callable[[float], None],
) -> list[np.ndarray]:
    """Ranks for a drafter that reads its own hidden states, from branches that spell the text."""
    longest = max(map(len_of, texts))
    if longest + depth > drafter.context_length:
        raise ValueError(
            f"texts of {longest} tokens leave {drafter.name}, whose context holds "
            f"{drafter.context_length}, no room for trees of depth {depth}: record shorter texts "
            "(data.max_prompt_tokens, env.max_new_tokens)"
        )
    found = [np.full((len(text.tokens), depth), BEYOND, dtype=np.uint8) for text in texts]
    done = 0
    for part in side_by_side(drafter, texts):
        own = [texts[b] for b in part]
        trunk = Trunk(drafter, drafter.model, own)
        most = max(len(text.tokens) for text in own)
        size = trunk.block_of(depth)
        for start in range(0, most, size):
            _follow(trunk, own, [rules[b] for b in part], start, size, [found[b] for b in part])
            progress((done + len(part) * min(1.0, (start + size) / most)) / len(texts))
        trunk.model.check()
        done += len(part)
    return found


def _follow(
    trunk: Trunk,
    texts: Sequence[Text],
    rules: Sequence[Verification],
    start: int,
    size: int,
    found: Sequence[np.ndarray],
) -> None:
    """Write to `found` the ranks on branches that read the texts, from `size` positions on."""
    depth, ids = found[0].shape[1], trunk.drafter.output_tokens
    nodes = [range(start, min(start + size, len(text.tokens))) for text in texts]
    ahead = torch.zeros(len(texts), size + depth, dtype=torch.long)  # [B, W + depth]
    for row, text in zip(ahead, texts):
        own = text.tokens[start : start + size + depth].astype(np.int64)
        row[: len(own)] = torch.from_numpy(own)
    width = max(map(len, nodes))

    def choose(level: int, places: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        scores = weigh_rows(rules, logits, places.tolist(), ids)[1]
        tokens = ahead[:, level : level + width].to(scores.device)
        ranks = _ranks_among(scores, tokens, ids).cpu().numpy()
        for b, row in enumerate(nodes):
            known = min(len(row), len(texts[b].tokens) - start - level)
            if known > 0:
                found[b][start : start + known, level] = ranks[b, :known]
        return tokens

    trunk.grow(nodes, depth, choose)


def _table_ranks(drafter: TableDrafter, text: Text, rule: Verification, depth: int) -> np.ndarray:
    """Ranks for a table, whose lists also depend on what occurred before the draft began."""
    found = np.full((len(text.tokens), depth), BEYOND, dtype=np.uint8)
    tokens = text.tokens.tolist()
    automaton = suffix_automaton(text.prompt.tolist())
    for g in range(len(tokens)):
        suffix, position = automaton.suffix(), len(automaton)
        last = automaton.tokens[-1]
        previous = automaton.tokens[-2] if position > 1 else NONE
        for d, token in enumerate(tokens[g : g + depth]):
            pick = rule.pick(drafter.table.after(previous, last, suffix), position + d)
            found[g, d] = rank = _rank_in(pick, token)
            if rank == BEYOND:
                break  # nothing after it is ever drafted
            previous, last = last, token
            suffix.append(token)
        automaton.append(tokens[g])
    return found


def _rank_in(pick: Pick, token: int) -> int:
    """The rank of `token` among the tokens that a pick was made from."""
    order = (-pick.scores).argsort(kind="stable")
    (place,) = np.nonzero(pick.candidates.tokens[order] == token)
    return min(int(place[0]), BEYOND) if len(place) else BEYOND
