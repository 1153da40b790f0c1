"""Texts side by side in a drafter's cache, and branches that grow from their positions."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from adaspec_rl.decoding.drafters import DraftModel, EarlyExit, HiddenStateDrafter
from adaspec_rl.decoding.drafters.hidden_state import target_states
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.recording.texts import Text

NODES = 256  # positions drafted side by side, over all texts: fewer make products narrow
BLOCKS = (16, 64)  # the fewest and the most for one text: more make attention long
LOGITS = 1 << 24  # values of logits held at a time

# A function of a depth, the place in its text of each node's next token `[B, W]`, and the
# logits there `[B, W, C]`, that returns the tokens to read next `[B, W]`.
Choose = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


class Trunk:
    """Texts that a drafter has read, side by side.

    Texts are padded at their ends to one length `T - 1` (the last token is never read), so that
    node `w` of a block stands in the same slot of every row.

    Attributes:
        starts: tokens of each text's prompt.
        block: nodes of one text that `grow` should be given at a time.
        reads_hidden: whether the drafter reads hidden states, the target's or its own.
    """

    def __init__(
        self, drafter: DraftModel | EarlyExit, model: LeanModel, texts: Sequence[Text]
    ) -> None:
        self.drafter, self.model = drafter, model
        self.starts = [len(text.prompt) for text in texts]
        self._length = max(len_of(text) for text in texts) - 1
        fewest, most = BLOCKS
        self.block = max(fewest, min(most, NODES // len(texts)))
        padded = padded_tokens(texts, self._length).to(model.device)
        read: Callable[..., torch.Tensor] = model.extend
        self._forward: Callable[..., torch.Tensor] = model.forward
        self._hidden: torch.Tensor | None = None  # [B, T - 1, hidden], if the drafter reads them
        if isinstance(drafter, HiddenStateDrafter):
            read = partial(model.extend, features=features_before(drafter.target, padded))
        elif isinstance(drafter, EarlyExit):
            read = self._forward = partial(model.forward, layers=drafter.layers)
        model.reset(len(texts))
        self._logits = read(drafter.readable(padded))  # [B, T - 1, C]
        if drafter.needs_hidden:
            self._hidden = model.last_hidden

    @property
    def reads_hidden(self) -> bool:
        return self._hidden is not None

    def block_of(self, depth: int) -> int:
        """Nodes of one text that fit in the context, if `depth` tokens grow from each."""
        room = (self.model.context_length - self._length) // max(1, depth - 1)
        return max(1, min(self.block, room))

    def grow(self, nodes: Sequence[Sequence[int]], depth: int, choose: Choose) -> None:
        """Grow `depth` tokens after `nodes[b]`, positions of text `b`.

        Rows with fewer nodes than the widest also grow at position 0; that result is not used.
        """
        width = max(map(len, nodes))
        padded = [[*row, *[0] * (width - len(row))] for row in nodes]
        first = torch.tensor(padded) + torch.tensor(self.starts)[:, None]  # [B, W]
        before = torch.arange(len(first))[:, None], first - 1
        logits = self._logits[before]
        hidden = None if self._hidden is None else self._hidden[before]
        mask = torch.arange(self._length) < first[..., None]  # [B, W, T - 1]
        own = torch.eye(width, dtype=torch.bool).expand(len(first), -1, -1)
        for level in range(depth):
            tokens = choose(level, first + level, self.drafter.fit(logits))
            if level + 1 < depth:
                mask = torch.cat([mask, own], dim=-1)
                tokens = self.drafter.readable(tokens)
                more = {} if hidden is None else {"features": hidden}
                logits = self._forward(tokens, positions=first + level, mask=mask, **more)
                hidden = None if hidden is None else self.model.last_hidden
        self.model.rollback(self._length)


def side_by_side(drafter: DraftModel | EarlyExit, texts: Sequence[Text]) -> list[list[int]]:
    """Numbers of the texts that each `Trunk` should hold, similar texts together.

    Side by side, texts take as long as the one with the most branches, so they are sorted by how
    sure the target was.
    """
    longest = max(map(len_of, texts))
    ids = drafter.output_tokens
    outputs = drafter.vocab_size if ids is None else len(ids)
    if isinstance(drafter, HiddenStateDrafter):
        outputs += drafter.target.architecture.hidden_size
    rows = max(1, LOGITS // (longest * outputs))
    order = sorted(range(len(texts)), key=lambda b: float(np.mean(texts[b].target_entropy)))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def len_of(text: Text) -> int:
    """Tokens of a text, prompt included."""
    return len(text.prompt) + len(text.tokens)


def padded_tokens(texts: Sequence[Text], length: int) -> torch.Tensor:
    """The first `length` tokens of each text `[B, length]`, zeros after its end."""
    padded = torch.zeros(len(texts), length, dtype=torch.long)
    for b, text in enumerate(texts):
        whole = np.concatenate([text.prompt, text.tokens])[:length]
        padded[b, : len(whole)] = torch.from_numpy(whole.astype(np.int64))
    return padded


def features_before(target: LeanModel, tokens: torch.Tensor) -> torch.Tensor:
    """The target's states before each of `tokens` `[B, T]`, `[B, T, hidden]`."""
    return F.pad(target_states(target, tokens)[:, :-1], (0, 0, 1, 0))
