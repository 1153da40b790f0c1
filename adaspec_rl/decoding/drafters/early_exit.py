"""The target's own first layers as drafter (LayerSkip, arXiv:2404.16710)."""

from collections.abc import Callable, Sequence

import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters.branching import ModelChoices, grown
from adaspec_rl.decoding.drafters.drafter import Stop, draft_at_once, draft_by_forwards
from adaspec_rl.decoding.drafters.tree_reader import TreeReader
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.verification import Verification
from adaspec_rl.engine.lean_model import LeanModel


class EarlyExit:
    """Runs the first layers of the target, then its final norm and output matrix.

    It shares the target's weights and, for these layers, its KV cache. So it needs no memory of its
    own and never has to catch up. Verification overwrites what it writes to the cache.
    """

    needs_hidden = False
    output_tokens: torch.Tensor | None = None

    def __init__(self, target: LeanModel, layers: int) -> None:
        """Exit after `layers` layers.

        Raises:
            ValueError: `layers` is below 1, or not below the target's number of layers.
        """
        depth = target.architecture.layers
        if not 0 < layers < depth:
            raise ValueError(
                f"an early exit of {target.name} must lie after layer 1 to {depth - 1} of its "
                f"{depth}, got {layers}"
            )
        self.name = f"early_exit:{layers}"
        self.model = target
        self.layers = layers
        self.context_length = target.context_length
        self.vocab_size = target.vocab_size
        self.starts = 0

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        self.model.prepare(length, layers=self.layers, progress=progress)

    def start(self) -> None:
        self.starts += 1
        self.model.reset()

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        n, last = len(sequence), self._last(sequence)
        positions = range(n, n + length)
        draft = None
        if stop is None:
            draft = draft_at_once(
                self.model, last[None], positions, rule, self.vocab_size, layers=self.layers
            )
        if draft is None:
            draft = draft_by_forwards(self._logits, last, n, length, rule, stop)
        self.model.rollback(n - 1)
        return draft

    def branch(
        self, sequence: TokenSequence, shape: TreeShape | TreeGrowth, rule: Verification
    ) -> TokenTree:
        n, last = len(sequence), self._last(sequence)
        reader = TreeReader(self, last[None], layers=self.layers)
        choices = ModelChoices(reader, rule, n, self.vocab_size)
        tree = grown(choices, shape, drawn=rule.needs_log_probs)
        self.model.rollback(n - 1)
        return tree

    def _last(self, sequence: TokenSequence) -> torch.Tensor:
        """The last token, `[1]`; all before it are in the cache."""
        n, held, text = len(sequence), int(self.model.lengths[0]), sequence.on_device
        if held < n - 1:  # never while decoding: there the target has read all but the last token
            self.model.extend(text[None, held : n - 1], keep=0)
        return text[n - 1 :]

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.forward(tokens, keep=1, layers=self.layers)[0, 0]

    def keep(self, length: int) -> None:
        pass  # the session keeps the target's cache

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        pass

    def rest(self) -> None:
        pass

    def readable(self, tokens: torch.Tensor) -> torch.Tensor:
        """`tokens` unchanged: the vocabulary is the target's own."""
        return tokens

    def fit(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` unchanged, for the same reason."""
        return logits
