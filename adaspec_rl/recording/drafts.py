"""What a drafter would draft at every position of a text, to every depth.

Where a draft's first token is the text's own, the rest of the draft is what the drafter drafts at
the next position. Only positions whose first token is wrong need their own branch. These branches
are drafted side by side: after one pass over the text, each depth is one batch of nodes, which see
the text up to their own position and their own ancestors. A drafter that reads the target's hidden
states knows more at the next position than it did when it drafted that token, so all its positions
need their own branch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.compiled_automaton import suffix_automaton
from adaspec_rl.decoding.drafters import (
    Drafter,
    DraftModel,
    EarlyExit,
    HiddenStateDrafter,
    summon,
)
from adaspec_rl.decoding.picks import signals_of
from adaspec_rl.decoding.signals import SIGNALS, draft_signals
from adaspec_rl.decoding.stopping import agreement
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Verification, best, weigh_rows
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.recording.texts import Text
from adaspec_rl.recording.trunk import (
    Trunk,
    features_before,
    len_of,
    padded_tokens,
    side_by_side,
)


@dataclass(slots=True)
class Drafts:
    """Drafts of up to `K` tokens at each of a text's `G` positions.

    A draft at position `g` follows the prompt and the first `g` generated tokens. Beyond the end of
    a draft (such as when the drafter's context is full), `tokens` are -1.
    """

    tokens: np.ndarray  # [G, K] int32
    signals: np.ndarray  # [G, K, 4] float32, in the order of `decoding.signals.SIGNALS`

    @classmethod
    def empty(cls, count: int, depth: int) -> "Drafts":
        """No drafts yet."""
        return cls(
            np.full((count, depth), -1, dtype=np.int32),
            np.zeros((count, depth, len(SIGNALS)), dtype=np.float32),
        )

    def first(self) -> "Drafts":
        """The first token of each draft."""
        return Drafts(self.tokens[:, :1], self.signals[:, :1])

    def accepted(self, text: Text) -> np.ndarray:
        """How many leading drafted tokens are the text's own, at each position, `[G]` int32."""
        count, depth = self.tokens.shape
        beyond = np.full(depth, -2, dtype=np.int32)  # equal to no drafted token
        own = np.lib.stride_tricks.sliding_window_view(np.concatenate([text.tokens, beyond]), depth)
        return (self.tokens == own[:count]).cumprod(axis=1).sum(axis=1, dtype=np.int32)

    def evidence(self, text: Text, match: bool = True) -> Evidence:
        """The evidence on every drafted token, `[G * K]`; `match=False` skips the lookups."""
        tokens = np.maximum(self.tokens, 0)  # any token will do where there is none
        committed = np.concatenate([text.prompt[-1:], text.tokens[:-1]])
        unknown = np.zeros(tokens.size)
        lengths, agrees = _agreements(text, self.tokens) if match else (unknown, unknown)
        return Evidence(
            token=tokens.reshape(-1),
            previous=np.column_stack([committed, tokens[:, :-1]]).reshape(-1),
            log_prob=self.signals[..., 0].reshape(-1),
            choice_margin=self.signals[..., 3].reshape(-1),
            match=lengths,
            agrees=agrees,
        )

    def survivals(self, text: Text, survival: Survival) -> np.ndarray:
        """Estimated chance that all tokens of a draft up to each one survive, `[G, K]` float32."""
        chances = survival(self.evidence(text, survival.needs_match)).reshape(self.tokens.shape)
        return np.cumprod(chances, axis=1).astype(np.float32)


@torch.inference_mode()
def draft_everywhere(
    drafter: Drafter,
    texts: Sequence[Text],
    rules: Sequence[Verification],
    max_length: int,
    progress: Callable[[float], None] = lambda share: None,
    *,
    noise: bool = True,
) -> list[Drafts]:
    """Drafts of every text; `rules[b]` chooses the tokens of text `b`.

    `noise=False` leaves coupling's noise out of the signal `choice_margin`, as rejection sampling
    has no such noise. (A token that coupling accepts with chance a is accepted by rejection
    sampling with chance a or more.) Drafters without a `LeanModel`, or whose context a text fills,
    draft position by position. `progress` is told the share that is done, many times per text.
    """
    summon(drafter)
    longest = max(map(len_of, texts))
    if (
        not isinstance(drafter, DraftModel | EarlyExit)
        or not isinstance(drafter.model, LeanModel)
        or longest + max_length > drafter.context_length
    ):
        each = 1 / len(texts)
        return [
            draft_one_by_one(
                drafter, text, rule, max_length, part_of(progress, n * each, each), noise=noise
            )
            for n, (text, rule) in enumerate(zip(texts, rules))
        ]
    found: dict[int, Drafts] = {}
    done = 0
    for part in side_by_side(drafter, texts):
        own = [texts[b] for b in part], [rules[b] for b in part]
        tree = _Tree(drafter, drafter.model, *own, noise=noise)
        within = part_of(progress, done / len(texts), len(part) / len(texts))
        found |= zip(part, tree.drafts(max_length, within))
        done += len(part)
    return [found[b] for b in range(len(texts))]


@torch.inference_mode()
def draft_one_by_one(
    drafter: Drafter,
    text: Text,
    rule: Verification,
    max_length: int,
    progress: Callable[[float], None] = lambda share: None,
    *,
    noise: bool = True,
) -> Drafts:
    """Drafts of one text by any drafter, position by position as in decoding: slower."""
    device = drafter.model.device if drafter.model else torch.device("cpu")
    count, start = len(text.tokens), len(text.prompt)
    sequence = TokenSequence(text.prompt.tolist(), device, room=start + count)
    if isinstance(drafter, HiddenStateDrafter):
        sequence.features = features_before(drafter.target, padded_tokens([text], start + count))[0]
    found = Drafts.empty(count, max_length)
    drafter.start()
    for g in range(count):
        n = start + g
        length = min(max_length, drafter.context_length - n + 1)
        if length < 1:
            break
        draft = drafter.propose(sequence, length, rule)
        drafter.keep(n)
        sequence.extend([int(text.tokens[g])])
        length = len(draft)  # nothing where a lookup finds nothing
        found.tokens[g, :length] = draft.tokens.cpu().numpy()
        if draft.picks:
            found.signals[g, :length] = signals_of(draft.picks, noise)
        elif draft.logits is not None:
            scores = draft.scores if noise else draft.log_probs
            signals = draft_signals(
                draft.logits, draft.places, draft.log_probs, scores, normalised=draft.normalised
            )
            found.signals[g, :length] = signals.cpu().numpy()
        progress((g + 1) / count)
    if drafter.model:
        drafter.model.check()
    return found


class _Tree:
    """Drafts of several texts, made side by side."""

    def __init__(
        self,
        drafter: DraftModel | EarlyExit,
        model: LeanModel,
        texts: Sequence[Text],
        rules: Sequence[Verification],
        *,
        noise: bool,
    ) -> None:
        self.noise = noise  # coupling's, in margins
        self.texts, self.rules = texts, rules
        self.trunk = Trunk(drafter, model, texts)

    def drafts(self, max_length: int, progress: Callable[[float], None]) -> list[Drafts]:
        """Draft up to `max_length` tokens at every position of every text."""
        trunk = self.trunk
        found = [Drafts.empty(len(text.tokens), max_length) for text in self.texts]
        longest = max(len(text.tokens) for text in self.texts)
        own = [list(range(len(text.tokens))) for text in self.texts]
        if not trunk.reads_hidden:
            for first in range(0, longest, trunk.block):
                everywhere = range(first, first + trunk.block)
                self._grow([_within(everywhere, drafts) for drafts in found], 1, found)
                progress(min(1.0, (first + trunk.block) / longest) / (1 + max_length))
            own = [_own_ways(text, drafts) for text, drafts in zip(self.texts, found)]
        size = trunk.block_of(max_length)
        most = max(map(len, own))
        for first in range(0, most, size):
            self._grow([ways[first : first + size] for ways in own], max_length, found)
            progress((1 + min(1.0, (first + size) / most) * max_length) / (1 + max_length))
        for ways, drafts in zip(own, found):
            _inherit(drafts, set(ways))
        trunk.model.check()
        return found

    def _grow(
        self, nodes: Sequence[Sequence[int]], max_length: int, found: Sequence[Drafts]
    ) -> None:
        """Draft at `nodes[b]`, positions of text `b`, and write it to `found[b]`."""
        ids = self.trunk.drafter.output_tokens

        def choose(depth: int, places: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            log_probs, scores = weigh_rows(self.rules, logits, places.tolist(), ids)
            chosen = best(scores)[..., 0]
            tokens = chosen if ids is None else ids[chosen]
            weighed = scores if self.noise else log_probs
            signals = draft_signals(logits, chosen, log_probs, weighed).cpu().numpy()
            on_host = tokens.cpu().numpy()
            for b, row in enumerate(nodes):
                found[b].tokens[row, depth] = on_host[b, : len(row)]
                found[b].signals[row, depth] = signals[b, : len(row)]
            return tokens

        self.trunk.grow(nodes, max_length, choose)


def _within(places: range, drafts: Drafts) -> list[int]:
    """The `places` that lie in the text."""
    return [place for place in places if place < len(drafts.tokens)]


def _own_ways(text: Text, drafts: Drafts) -> list[int]:
    """Positions that need their own branch: their first token is wrong, or there is none."""
    leaves = drafts.tokens[:, 0] != text.tokens
    leaves[-1:] = True
    return np.flatnonzero(leaves).tolist()


def _inherit(drafts: Drafts, own: set[int]) -> None:
    """Let every position outside `own` continue with the draft of the next position."""
    for g in range(len(drafts.tokens) - 2, -1, -1):
        if g not in own:
            drafts.tokens[g, 1:] = drafts.tokens[g + 1, :-1]
            drafts.signals[g, 1:] = drafts.signals[g + 1, :-1]


def _agreements(text: Text, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`decoding.stopping.agreement` at every position, `[G * K]` each."""
    committed = suffix_automaton(text.prompt.tolist())
    match: list[int] = []
    agrees: list[bool] = []
    for drafted, token in zip(tokens.tolist(), text.tokens.tolist()):
        found = agreement(committed, drafted)
        match += found[0]
        agrees += found[1]
        committed.extend([token])
    return np.array(match), np.array(agrees)
