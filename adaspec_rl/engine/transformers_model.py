"""Any causal language model of transformers, through its own forward pass: slower, but general."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from adaspec_rl.engine.finite_check import FiniteCheck
from adaspec_rl.engine.memory import out_of_memory
from adaspec_rl.engine.prefill import check_room, columns, default_chunk

_CONTEXT_KEYS = ("max_position_embeddings", "seq_length", "max_seq_len", "max_sequence_length")
# Layers whose caches can forget their last tokens. Recurrent states cannot.
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class TransformersModel:
    """A `LanguageModel` whose rows all have the same length.

    The cache keeps every token of every layer, even with sliding windows (which the masks enforce),
    so that a rollback is always possible.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        name: str,
        *,
        context_length: int | None = None,
        prefill_chunk: int | None = None,
    ) -> None:
        """`context_length` defaults to the configuration's; `prefill_chunk` counts all rows.

        Raises:
            ValueError: see `check_support`.
        """
        limit = check_support(model.config, type(model), name, context_length)
        self.name = name
        self.vocab_size = int(model.config.get_text_config().vocab_size)
        self.context_length = limit
        self.device = model.device
        dtype = str(model.dtype).removeprefix("torch.")
        self.execution = f"transformers, {dtype}, {self.device.type}"
        model.eval()
        for config in (model.config, model.config.get_text_config()):
            config.return_dict = True  # whatever the checkpoint says
        self._model = self.weights = model
        self._chunk = prefill_chunk or default_chunk(self.device)
        self._cache_name = cache_name(type(model))
        self._cuts_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._finite = FiniteCheck(name, self.device)
        self.output_tokens = None
        self._length = self.resets = 0
        self.reset()

    @property
    def lengths(self) -> torch.Tensor:
        return torch.full((self._batch,), self._length, dtype=torch.long)

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        self.reset(len(tokens))
        return self.extend(tokens, keep=1)[:, -1]

    @torch.inference_mode()
    def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        batch, width = tokens.shape
        check_room(self.name, tokens, self._batch, self._length, self.context_length)
        keep = width if keep is None else min(keep, width)
        tokens = tokens.to(self.device)
        parts: list[torch.Tensor] = []
        try:
            most = columns(self._chunk, batch)
            for start in range(0, width, most):
                stop = min(start + most, width)
                wanted = max(0, stop - max(start, width - keep))  # logits kept of this chunk
                logits = self._forward(tokens[:, start:stop], max(wanted, 1))
                if wanted:
                    parts.append(logits)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(self.name, error) from error
        logits = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        first = self._length - keep
        positions = torch.arange(first, self._length, device=self.device)
        self._finite.watch(logits, positions.expand(batch, keep))
        return logits

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], *, keep: int | None = None
    ) -> torch.Tensor:
        """Refuse: transformers cannot read trees.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.name} runs through transformers, which reads no token trees: draft chains, or "
            "take a model of the lean engine"
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

    def rollback(self, lengths: torch.Tensor | int) -> None:
        wanted = lengths if isinstance(lengths, int) else _common(self.name, lengths)
        if not 0 <= wanted <= self._length:
            raise ValueError(
                f"{self.name} cannot roll back to {wanted} tokens: expected 0 to {self._length}"
            )
        if wanted == 0:
            self._cache = DynamicCache()
        elif wanted < self._length:
            self._cache.crop(wanted - self._length)
        self._length = wanted

    def reset(self, batch: int = 1, length: int = 0) -> None:
        self.resets += 1
        self._batch, self._length = batch, 0
        self._cache = DynamicCache()  # built without a config: every layer keeps every token

    def release(self) -> None:
        self.reset()  # the cache holds nothing until it is used

    def weights_moved(self) -> None:
        pass  # the module looks its tensors up in every forward

    @property
    def pending(self) -> torch.Tensor | None:
        return self._finite.pending

    def check(self, found: int | None = None) -> None:
        self._finite.check(found)

    def _forward(self, tokens: torch.Tensor, keep: int) -> torch.Tensor:
        options: dict[str, Any] = {self._cache_name: self._cache}
        if self._cuts_logits:
            options["logits_to_keep"] = keep
        output = self._model(input_ids=tokens, use_cache=True, **options)
        self._length += tokens.shape[1]
        logits: torch.Tensor = output.logits[:, -keep:]
        return logits.to(self.device, torch.float32)


def check_support(
    config: PreTrainedConfig, model_class: type, name: str, context_length: int | None = None
) -> int:
    """The most tokens in a row of such a model: `context_length` if it is given.

    Raises:
        ValueError: the model keeps a recurrent state or no cache, or its context length is unknown.
    """
    text: Any = config.get_text_config()
    layer_types = set(getattr(text, "layer_types", None) or ())
    recurrent = sorted(layer_types - _ATTENTION)
    if recurrent or getattr(model_class, "_is_stateful", False):
        raise ValueError(
            f"{name} ({text.model_type}) keeps a recurrent state"
            f"{f' ({recurrent[0]})' if recurrent else ''}, which cannot be rolled back: "
            "expected a model with attention layers only"
        )
    if not cache_name(model_class):
        raise ValueError(
            f"{name} ({text.model_type}) has no key-value cache in transformers: expected a model "
            "that reads a text step by step"
        )
    limits = (context_length, *(getattr(text, key, None) for key in _CONTEXT_KEYS))
    limit = next((limit for limit in limits if limit), None)
    if limit is None:
        raise ValueError(
            f"the configuration of {name} does not say how many tokens the model reads: add "
            '"max_position_embeddings", the length it was trained on, to its config.json'
        )
    return int(limit)


def cache_name(model_class: type) -> str:
    """The name of the cache argument in the model's forward; it changes in transformers 5.40."""
    accepted = inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]
    return next((name for name in ("cache", "past_key_values") if name in accepted), "")


def _common(name: str, lengths: torch.Tensor) -> int:
    values = set(lengths.tolist())
    if len(values) > 1:
        raise ValueError(
            f"{name} runs through transformers, where all rows have one length: got a rollback to "
            f"{lengths.tolist()}"
        )
    return int(values.pop())
