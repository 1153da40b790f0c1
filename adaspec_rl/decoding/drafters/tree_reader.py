"""Reads a token tree into a drafter's model."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


class ReadsTokens(Protocol):
    """What a `TreeReader` needs from a drafter."""

    @property
    def model(self) -> LanguageModel: ...

    def readable(self, tokens: torch.Tensor) -> torch.Tensor: ...

    def fit(self, logits: torch.Tensor) -> torch.Tensor: ...


class TreeReader:
    """Reads the unread text, and then a tree, into a drafter's model.

    Attributes:
        features: `[1, n, hidden]` of the unread text, if the model reads features. For a node of
            the tree, the model's own hidden state at the node's parent stands in for them.
    """

    def __init__(
        self, drafter: ReadsTokens, unread: torch.Tensor, layers: int | None = None
    ) -> None:
        """`unread` is `[1, n]`; `layers` as in `LeanModel.forward`."""
        self._drafter, self._unread, self._layers = drafter, unread, layers
        self.features: torch.Tensor | None = None
        self._order: dict[int, int] = {}  # by node that was read: its number in reading order
        self._hidden: dict[int, torch.Tensor] = {}  # by node, [hidden]

    def __call__(
        self, nodes: Sequence[int], tokens: Sequence[int], parents: Sequence[int]
    ) -> torch.Tensor:
        if nodes == [-1]:
            return self._read_text()
        for node in nodes:
            self._order[node] = len(self._order)
        more: dict[str, Any] = {} if self._layers is None else {"layers": self._layers}
        if self.features is not None:
            more["features"] = torch.stack([self._hidden[parents[node]] for node in nodes])[None]
        read = torch.tensor([[tokens[node] for node in nodes]], device=self._unread.device)
        above = [-1 if parents[node] < 0 else self._order[parents[node]] for node in self._order]
        model = self._drafter.model
        logits = model.extend_tree(self._drafter.readable(read), above, **more)[0]
        self._remember(nodes)
        return self._drafter.fit(logits)

    def read(self, nodes: Sequence[int]) -> list[int]:
        """The nodes of a path that were read, as numbers in reading order."""
        return [self._order[node] for node in nodes if node in self._order]

    def renumber(self, nodes: Sequence[int]) -> None:
        """Keep only these nodes, numbered 0, 1, 2, ...; no more nodes are read after this."""
        order = enumerate(nodes)
        self._order = {new: self._order[old] for new, old in order if old in self._order}

    def _read_text(self) -> torch.Tensor:
        unread, model = self._drafter.readable(self._unread), self._drafter.model
        if self._layers is not None:
            assert isinstance(model, LeanModel)
            logits = model.forward(unread, keep=1, layers=self._layers)
        elif self.features is not None:
            assert isinstance(model, LeanModel)
            logits = model.extend(unread, keep=1, features=self.features)
        else:
            logits = model.extend(unread, keep=1)
        self._remember([-1])
        return self._drafter.fit(logits[0])

    def _remember(self, nodes: Sequence[int]) -> None:
        if self.features is not None:
            assert isinstance(self._drafter.model, LeanModel)
            hidden = self._drafter.model.last_hidden
            assert hidden is not None
            self._hidden |= dict(zip(nodes, hidden[0, -len(nodes) :]))
