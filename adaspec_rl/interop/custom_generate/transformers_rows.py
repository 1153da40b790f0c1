"""A loaded transformers model with its own forward, and rows of different lengths."""

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from adaspec_rl.engine.extension import Extended, Extension
from adaspec_rl.engine.prefill import columns, default_chunk
from adaspec_rl.engine.transformers_model import cache_name, check_support

_WASTE = 64  # most unused slots per row in the cache before it is tidied


class TransformersRows:
    """A `RowModel` on a given module, which it neither copies nor keeps alive.

    All rows read as many tokens as the widest row. A row's unused slots stay in the cache as holes
    that no query sees. When there are many holes, the rows are compacted to the right.
    """

    output_tokens: torch.Tensor | None = None
    pending: torch.Tensor | None = None

    def __init__(self, model: PreTrainedModel, name: str, context_length: int) -> None:
        check_support(model.config, type(model), name, context_length)
        text: Any = model.config.get_text_config()
        self._module = weakref.ref(model)
        self.name, self.context_length = name, context_length
        self.vocab_size = int(text.vocab_size)
        self.device = model.device
        self.weights = None  # the module's
        self.execution = f"transformers, {str(model.dtype).removeprefix('torch.')}"
        self._chunk = default_chunk(self.device)
        self._cache_name = cache_name(type(model))
        accepted = inspect.signature(model.forward).parameters
        self._cuts_logits = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        sliding = "sliding_attention" in (getattr(text, "layer_types", None) or ())
        window = getattr(text, "sliding_window", None)
        self._window: int | None = window if sliding or window else None
        self.resets = 0
        self.reset()

    @property
    def lengths(self) -> torch.Tensor:
        return torch.tensor([len(held) for held in self._held], dtype=torch.long)

    def reset(self, batch: int = 1, length: int = 0) -> None:
        self.resets += 1
        self._cache = DynamicCache()  # without a configuration: every layer keeps every token
        self._slots = 0  # tokens of each row in the cache, holes included
        self._held: list[list[int]] = [[] for _ in range(batch)]  # slots of each row's tokens

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        self.reset(len(tokens))
        return self.extend(tokens, keep=1)[:, -1]

    def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        width = tokens.shape[1]
        keep = width if keep is None else min(keep, width)
        found = self.extend_rows([Extension(n, row, keep) for n, row in enumerate(tokens)])
        return torch.stack([part.logits for part in found])

    @torch.inference_mode()
    def extend_rows(self, extensions: Sequence[Extension]) -> list[Extended]:
        """As in `RowModel`; like transformers, this does not check that logits are finite."""
        parts: dict[int, list[torch.Tensor]] = {part.row: [] for part in extensions}
        rest, most = list(extensions), columns(self._chunk, len(self._held))
        while rest:
            pairs = [part.cut(min(part.width, most)) for part in rest]
            for part, logits in zip((first for first, _ in pairs), self._read(pairs)):
                parts[part.row].append(logits)
            rest = [later for _, later in pairs if later is not None]
        return [Extended(torch.cat(parts[part.row]), _NOTHING, True) for part in extensions]

    def _read(self, pairs: Sequence[tuple[Extension, Extension | None]]) -> list[torch.Tensor]:
        extensions = [first for first, _ in pairs]
        width = max(part.width for part in extensions)
        self._tidy(width)
        batch, first = len(self._held), self._slots
        tokens = torch.zeros(batch, width, dtype=torch.long, device=self.device)
        for part in extensions:
            tokens[part.row, : part.width] = part.tokens
        places: dict[str, torch.Tensor] = {}
        if batch > 1:
            seen = torch.zeros(batch, first + width, dtype=torch.long)
            seen[:, first:] = 1  # padding sees something, and real tokens do not see it
            for row, held in enumerate(self._held):
                seen[row, held] = 1
            places["attention_mask"] = seen.to(self.device)
        if batch > 1 and self._takes_positions:
            starts = self.lengths[:, None] + torch.arange(width)
            places["position_ids"] = starts.clamp_max(self.context_length - 1).to(self.device)
        wanted = [width - part.width + part.keep for part in extensions if part.keep]
        kept = max(wanted, default=1)
        logits = self._forward(tokens, kept, places)
        found = []
        for part in extensions:
            self._held[part.row] += range(first, first + part.width)
            end = kept - (width - part.width)
            found.append(logits[part.row, end - part.keep : end] if part.keep else logits[0, :0])
        return found

    def _forward(
        self, tokens: torch.Tensor, keep: int, places: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        module = self._module()
        assert module is not None
        options: dict[str, Any] = {self._cache_name: self._cache, **places}
        if self._cuts_logits:
            options["logits_to_keep"] = keep
        output = module(input_ids=tokens, use_cache=True, return_dict=True, **options)
        self._slots += tokens.shape[1]
        logits: torch.Tensor = output.logits[:, -keep:]
        return logits.to(self.device, torch.float32)

    def _tidy(self, width: int) -> None:
        """Drop unseen slots at the end; compact the rows if holes would do harm."""
        used = max((held[-1] + 1 for held in self._held if held), default=0)
        if used < self._slots:
            self._cache.crop(used - self._slots)
            self._slots = used
        longest = max(len(held) for held in self._held)
        crowded = self._slots - longest > max(_WASTE, longest // 2)
        # A sliding window counts slots, so holes in it would hide tokens.
        blind = self._window is not None and self._slots + width > self._window
        if crowded or (blind and self._holed):
            self._move_together(longest)

    @property
    def _holed(self) -> bool:
        return any(held and held[-1] - held[0] + 1 > len(held) for held in self._held) or any(
            held and held[-1] + 1 < self._slots for held in self._held
        )

    def _move_together(self, longest: int) -> None:
        order = torch.zeros(len(self._held), longest, dtype=torch.long)
        for row, held in enumerate(self._held):
            order[row, longest - len(held) :] = torch.tensor(held, dtype=torch.long)
            self._held[row] = list(range(longest - len(held), longest))
        index = order.to(self.device)[:, None, :, None]
        layers: Any = self._cache.layers
        for layer in layers:
            layer.keys = _gathered(layer.keys, index)
            layer.values = _gathered(layer.values, index)
        self._slots = longest

    def rollback_row(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of one row."""
        del self._held[row][length:]

    def free_row(self, row: int, *, erase: bool = False) -> None:
        """Forget a row's tokens."""
        self._held[row] = []

    def rollback(self, lengths: torch.Tensor | int) -> None:
        wanted = [lengths] * len(self._held) if isinstance(lengths, int) else lengths.tolist()
        for row, length in enumerate(wanted):
            self.rollback_row(row, length)

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], *, keep: int | None = None
    ) -> torch.Tensor:
        """Refused.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.name} runs through transformers, which reads no token trees: take a policy "
            "that drafts chains, or a model of the lean engine"
        )

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        assert not nodes, "there are no trees"
        self.rollback(length)

    def prepare(
        self,
        length: int,
        *,
        layers: int | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        pass

    def release(self) -> None:
        self.reset()

    def weights_moved(self) -> None:
        pass

    def check(self, found: int | None = None) -> None:
        pass


_NOTHING = torch.zeros(0, 0)  # there are no hidden states


def _gathered(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values` `[B, heads, L, D]` at the slots `index` `[B, 1, L', 1]`."""
    batch, heads, _, size = values.shape
    return values.gather(2, index.expand(batch, heads, -1, size))
