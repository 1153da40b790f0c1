"""What a drafter would draft at every position of a text, to every depth.

The positions of a text run side by side: after one pass over the text itself, each depth is one
batch of nodes that see the text up to their own position and their own ancestors, nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from adaspec_rl.decoding.drafters import Drafter, DraftModel, EarlyExit, summon
from adaspec_rl.decoding.signals import SIGNALS, draft_signals
from adaspec_rl.decoding.stopping import agreement
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.decoding.survival import Evidence, Survival
from adaspec_rl.decoding.verification import Greedy, Verification
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.replay.texts import Text

BLOCK = 16  # positions drafted side by side: more would make attention long
LOGITS = 1 << 26  # values of logits held at a time


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
) -> list[Drafts]:
    """Drafts of every text; `rules[b]` chooses the tokens of text `b`.

    Drafters that run no `LeanModel`, or whose context a text fills, go position by position.
    """
    summon(drafter)
    longest = max(map(len_of, texts))
    if (
        isinstance(drafter, DraftModel | EarlyExit)
        and isinstance(drafter.model, LeanModel)
        and longest + max_length <= drafter.context_length
    ):
        rows = max(1, LOGITS // (longest * drafter.vocab_size))
        parts = [slice(start, start + rows) for start in range(0, len(texts), rows)]
        return [
            drafts
            for part in parts
            for drafts in _by_tree(drafter, drafter.model, texts[part], rules[part], max_length)
        ]
    return [draft_one_by_one(drafter, text, rule, max_length) for text, rule in zip(texts, rules)]


def len_of(text: Text) -> int:
    """Tokens of a text, prompt included."""
    return len(text.prompt) + len(text.tokens)


@torch.inference_mode()
def draft_one_by_one(drafter: Drafter, text: Text, rule: Verification, max_length: int) -> Drafts:
    """The same for any drafter, position by position: slower, as decoding itself would do it."""
    whole = torch.tensor(np.concatenate([text.prompt, text.tokens]), dtype=torch.long)
    count, start = len(text.tokens), len(text.prompt)
    found = Drafts.empty(count, max_length)
    drafter.start()
    for g in range(count):
        n = start + g
        length = min(max_length, drafter.context_length - n + 1)
        if length < 1:
            break
        draft = drafter.propose(whole[:n], length, rule)
        drafter.keep(n)
        length = len(draft)  # nothing where a lookup finds nothing
        found.tokens[g, :length] = draft.tokens.cpu().numpy()
        if draft.logits is not None:
            signals = draft_signals(draft.logits, draft.tokens, draft.log_probs, draft.scores)
            found.signals[g, :length] = signals.cpu().numpy()
    return found


def _by_tree(
    drafter: DraftModel | EarlyExit,
    model: LeanModel,
    texts: Sequence[Text],
    rules: Sequence[Verification],
    max_length: int,
) -> list[Drafts]:
    tree = _Tree(drafter, model, texts, rules)
    found = [Drafts.empty(len(text.tokens), max_length) for text in texts]
    for block in tree.blocks(max_length):
        for depth, (tokens, signals) in enumerate(tree.grow(block, max_length)):
            chosen, known = tokens.cpu().numpy(), signals.cpu().numpy()
            for b, drafts in enumerate(found):
                width = len(drafts.tokens[block])  # 0 where the text has ended
                drafts.tokens[block, depth] = chosen[b, :width]
                drafts.signals[block, depth] = known[b, :width]
    return found


class _Tree:
    """Texts side by side in a drafter's cache, from whose positions drafts grow.

    Texts are padded at their ends to one length `T - 1` (the last token is never read), so that
    node `g` of a block stands in the same slot of every row.
    """

    def __init__(
        self,
        drafter: DraftModel | EarlyExit,
        model: LeanModel,
        texts: Sequence[Text],
        rules: Sequence[Verification],
    ) -> None:
        self.drafter, self.model, self.rules = drafter, model, rules
        self.starts = torch.tensor([len(text.prompt) for text in texts])  # [B]
        self.count = max(len(text.tokens) for text in texts)
        self.trunk = max(len_of(text) for text in texts) - 1
        padded = torch.zeros(len(texts), self.trunk, dtype=torch.long)
        for b, text in enumerate(texts):
            whole = np.concatenate([text.prompt, text.tokens])[:-1]
            padded[b, : len(whole)] = torch.from_numpy(whole.astype(np.int64))
        model.reset(len(texts))
        read = model.extend
        self._forward = model.forward
        if isinstance(drafter, EarlyExit):
            read = self._forward = partial(model.forward, layers=drafter.layers)
        self.logits = read(padded.to(model.device))  # [B, T - 1, V]

    def blocks(self, max_length: int) -> Iterator[slice]:
        """Ranges of positions whose drafts fit the model's context together."""
        room = (self.model.context_length - self.trunk) // max(1, max_length - 1)
        size = max(1, min(BLOCK, room))
        for first in range(0, self.count, size):
            yield slice(first, min(first + size, self.count))

    def grow(self, block: slice, max_length: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each depth: the block's drafted tokens `[B, W]` and signals `[B, W, 4]`."""
        first = self.starts[:, None] + torch.arange(block.start, block.stop)  # [B, W]
        first = first.clamp_max(self.trunk)  # of texts that have ended: drafted in vain
        rows = torch.arange(len(first))[:, None]
        logits = self.logits[rows, first - 1]
        trunk = torch.arange(self.trunk) < first[..., None]  # [B, W, T - 1]
        own = torch.eye(block.stop - block.start, dtype=torch.bool).expand(len(first), -1, -1)
        mask = trunk
        for depth in range(max_length):
            logits = self.drafter.fit(logits)
            log_probs, scores = self._weighed(logits, block.start + depth)
            tokens = scores.argmax(-1)
            yield tokens, draft_signals(logits, tokens, log_probs, scores)
            if depth + 1 == max_length:
                break
            mask = torch.cat([mask, own], dim=-1)
            logits = self._forward(tokens, positions=first + depth, mask=mask)
        self.model.rollback(self.trunk)

    def _weighed(self, logits: torch.Tensor, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What row `b`'s rule weighs at its positions `start + offset …`, `[B, W, V]` both."""
        if all(isinstance(rule, Greedy) for rule in self.rules):
            return logits, logits
        starts = self.starts.tolist()
        found = [rule.weigh(logits[b], starts[b] + offset) for b, rule in enumerate(self.rules)]
        log_probs, scores = zip(*found)
        return torch.stack(log_probs), torch.stack(scores)


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
