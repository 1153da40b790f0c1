"""What a drafter would draft at every position of a text, to every depth.

Where its first token is the text's own, the rest is what it drafts at the next position. Only where
it is not are drafts a way of their own. Those run side by side: after one pass over the text, each
depth is one batch of nodes that see the text up to their own position and their own ancestors,
nothing else. A drafter that reads the target's hidden states knows more at the next position than
it did when it drafted that token: all its drafts are ways of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from adaspec_rl.console import part_of
from adaspec_rl.decoding.drafters import (
    Drafter,
    DraftModel,
    EarlyExit,
    HiddenStateDrafter,
    summon,
)
from adaspec_rl.decoding.drafters.hidden_state import target_states
from adaspec_rl.decoding.picks import signals_of
from adaspec_rl.decoding.signals import SIGNALS, draft_signals
from adaspec_rl.decoding.stopping import agreement
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Verification, best, weigh_rows
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.recording.texts import Text

NODES = 256  # positions drafted side by side, all texts together: fewer make products narrow
BLOCKS = (16, 64)  # the fewest and the most of one text: more make attention long
LOGITS = 1 << 24  # values of logits held at a time


@dataclass(slots=True)
class Drafts:
    """Drafts of up to `K` tokens at each of a text's `G` positions.

    A draft at position `g` follows the prompt and the first `g` generated tokens. Where it cannot
    be longer (the drafter's context is full), `tokens` are -1.
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
        """Leading drafted tokens that are the text's own, at each position, `[G]` int32."""
        count, depth = self.tokens.shape
        beyond = np.full(depth, -2, dtype=np.int32)  # equal to no drafted token
        own = np.lib.stride_tricks.sliding_window_view(np.concatenate([text.tokens, beyond]), depth)
        return (self.tokens == own[:count]).cumprod(axis=1).sum(axis=1, dtype=np.int32)

    def evidence(self, text: Text, match: bool = True) -> Evidence:
        """What is known of every drafted token, `[G * K]`; `match=False` spares the lookups."""
        tokens = np.maximum(self.tokens, 0)  # where there is none, any will do
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
    knows none. (A token that coupling accepts with a chance a, rejection accepts with a or more.)
    Drafters that run no `LeanModel`, or whose context a text fills, go position by position.
    `progress` is told what share is done, many times a text.
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
    ids = drafter.output_tokens
    outputs = drafter.vocab_size if ids is None else len(ids)
    if isinstance(drafter, HiddenStateDrafter):
        outputs += drafter.target.architecture.hidden_size
    rows = max(1, LOGITS // (longest * outputs))
    # Side by side, texts take as long as the one with most ways of its own: put like with like.
    order = sorted(range(len(texts)), key=lambda b: float(np.mean(texts[b].target_entropy)))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        own = [texts[b] for b in part], [rules[b] for b in part]
        tree = _Tree(drafter, drafter.model, *own, noise=noise)
        within = part_of(progress, start / len(texts), len(part) / len(texts))
        found |= zip(part, tree.drafts(max_length, within))
    return [found[b] for b in range(len(texts))]


def len_of(text: Text) -> int:
    """Tokens of a text, prompt included."""
    return len(text.prompt) + len(text.tokens)


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
    """The same for any drafter, position by position: slower, as decoding itself would do it."""
    device = drafter.model.device if drafter.model else torch.device("cpu")
    count, start = len(text.tokens), len(text.prompt)
    sequence = TokenSequence(text.prompt.tolist(), device, room=start + count)
    if isinstance(drafter, HiddenStateDrafter):
        sequence.features = _features(drafter.target, _padded([text], start + count))[0]
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


def _padded(texts: Sequence[Text], length: int) -> torch.Tensor:
    """The first `length` tokens of each text `[B, length]`, zeros after its end."""
    padded = torch.zeros(len(texts), length, dtype=torch.long)
    for b, text in enumerate(texts):
        whole = np.concatenate([text.prompt, text.tokens])[:length]
        padded[b, : len(whole)] = torch.from_numpy(whole.astype(np.int64))
    return padded


def _features(target: LeanModel, tokens: torch.Tensor) -> torch.Tensor:
    """What the target knew before each of `tokens` `[B, T]`, `[B, T, hidden]`."""
    return F.pad(target_states(target, tokens)[:, :-1], (0, 0, 1, 0))


class _Tree:
    """Texts side by side in a drafter's cache, from whose positions drafts grow.

    Texts are padded at their ends to one length `T - 1` (the last token is never read), so that
    node `w` of a block stands in the same slot of every row.
    """

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
        self.drafter, self.model, self.texts, self.rules = drafter, model, texts, rules
        self.starts = [len(text.prompt) for text in texts]
        self.trunk = max(len_of(text) for text in texts) - 1
        padded = _padded(texts, self.trunk).to(model.device)
        read: Callable[..., torch.Tensor] = model.extend
        self._forward: Callable[..., torch.Tensor] = model.forward
        self.hidden: torch.Tensor | None = None  # [B, T - 1, hidden], of a drafter that reads them
        if isinstance(drafter, HiddenStateDrafter):
            read = partial(model.extend, features=_features(drafter.target, padded))
        elif isinstance(drafter, EarlyExit):
            read = self._forward = partial(model.forward, layers=drafter.layers)
        model.reset(len(texts))
        self.logits = read(drafter.readable(padded))  # [B, T - 1, C]
        if drafter.needs_hidden:
            self.hidden = model.last_hidden

    def drafts(self, max_length: int, progress: Callable[[float], None]) -> list[Drafts]:
        """Of every text, up to `max_length` tokens."""
        found = [Drafts.empty(len(text.tokens), max_length) for text in self.texts]
        longest = max(len(text.tokens) for text in self.texts)
        fewest, most = BLOCKS
        block = max(fewest, min(most, NODES // len(self.texts)))
        own = [list(range(len(text.tokens))) for text in self.texts]
        if self.hidden is None:
            for first in range(0, longest, block):
                everywhere = range(first, first + block)
                self._grow([_within(everywhere, drafts) for drafts in found], 1, found)
                progress(min(1.0, (first + block) / longest) / (1 + max_length))
            own = [_own_ways(text, drafts) for text, drafts in zip(self.texts, found)]
        room = (self.model.context_length - self.trunk) // max(1, max_length - 1)
        size = max(1, min(block, room))
        most = max(map(len, own))
        for first in range(0, most, size):
            self._grow([ways[first : first + size] for ways in own], max_length, found)
            progress((1 + min(1.0, (first + size) / most) * max_length) / (1 + max_length))
        for ways, drafts in zip(own, found):
            _inherit(drafts, set(ways))
        self.model.check()
        return found

    def _grow(
        self, nodes: Sequence[Sequence[int]], max_length: int, found: Sequence[Drafts]
    ) -> None:
        """Draft at `nodes[b]`, positions of text `b`, and write it to `found[b]`."""
        width = max(map(len, nodes))
        padded = [[*row, *[0] * (width - len(row))] for row in nodes]  # drafted in vain
        first = torch.tensor(padded) + torch.tensor(self.starts)[:, None]  # [B, W]
        before = torch.arange(len(first))[:, None], first - 1
        logits, ids = self.logits[before], self.drafter.output_tokens
        hidden = None if self.hidden is None else self.hidden[before]
        mask = torch.arange(self.trunk) < first[..., None]  # [B, W, T - 1]
        own = torch.eye(width, dtype=torch.bool).expand(len(first), -1, -1)
        for depth in range(max_length):
            logits = self.drafter.fit(logits)
            log_probs, scores = weigh_rows(self.rules, logits, (first + depth).tolist(), ids)
            places = best(scores)[..., 0]
            tokens = places if ids is None else ids[places]
            weighed = scores if self.noise else log_probs
            signals = draft_signals(logits, places, log_probs, weighed).cpu().numpy()
            chosen = tokens.cpu().numpy()
            for b, row in enumerate(nodes):
                found[b].tokens[row, depth] = chosen[b, : len(row)]
                found[b].signals[row, depth] = signals[b, : len(row)]
            if depth + 1 < max_length:
                mask = torch.cat([mask, own], dim=-1)
                tokens = self.drafter.readable(tokens)
                more = {} if hidden is None else {"features": hidden}
                logits = self._forward(tokens, positions=first + depth, mask=mask, **more)
                hidden = None if hidden is None else self.model.last_hidden
        self.model.rollback(self.trunk)


def _within(places: range, drafts: Drafts) -> list[int]:
    """Those of `places` that the text has."""
    return [place for place in places if place < len(drafts.tokens)]


def _own_ways(text: Text, drafts: Drafts) -> list[int]:
    """Positions whose draft is not the next one's: its first token is another, or there is none."""
    leaves = drafts.tokens[:, 0] != text.tokens
    leaves[-1:] = True
    return np.flatnonzero(leaves).tolist()


def _inherit(drafts: Drafts, own: set[int]) -> None:
    """Let all positions but `own` go on as the next position does."""
    for g in range(len(drafts.tokens) - 2, -1, -1):
        if g not in own:
            drafts.tokens[g, 1:] = drafts.tokens[g + 1, :-1]
            drafts.signals[g, 1:] = drafts.signals[g + 1, :-1]


def _agreements(text: Text, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`decoding.stopping.agreement` at every position, `[G * K]` each."""
    committed = SuffixAutomaton(text.prompt.tolist())
    match: list[int] = []
    agrees: list[bool] = []
    for drafted, token in zip(tokens.tolist(), text.tokens.tolist()):
        found = agreement(committed, drafted)
        match += found[0]
        agrees += found[1]
        committed.extend([token])
    return np.array(match), np.array(agrees)
