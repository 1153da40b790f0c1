"""Forward passes of one model, ours and transformers', timed side by side."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    StaticCache,
)

from adaspec_rl.data.encoding import encode_text
from adaspec_rl.data.prompts import embedded_prompts
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.weights import tensors_in
from adaspec_rl.pairs.inflate import Inflation, shape_named
from adaspec_rl.pairs.sources import checkpoint_of

WIDTHS = range(1, 18)
COMPILED = "compiled"  # prefix of compiled forwards' names
COMPILED_WIDTHS = (1, 2, 4, 8, 16)  # each costs a compilation


class Forward(Protocol):
    """A forward pass that can be repeated at the same context."""

    def start(self, context: torch.Tensor) -> None:
        """Read `context` `[1, L]`."""
        ...

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of `tokens` `[1, W]` after the context, `[1, W, V]`."""
        ...

    def undo(self, width: int) -> None:
        """Forget the last `width` tokens."""
        ...


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection in this block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class OurForward:
    """The engine's forward at a fixed context."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def start(self, context: torch.Tensor) -> None:
        self.model.prefill(context)
        self.length = context.shape[1]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.extend(tokens)

    def undo(self, width: int) -> None:
        self.model.rollback(self.length)


class EagerForward:
    """transformers' forward with its default cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def start(self, context: torch.Tensor) -> None:
        self.cache = DynamicCache()
        self.model(context, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(tokens, past_key_values=self.cache, use_cache=True).logits

    def undo(self, width: int) -> None:
        self.cache.crop(-width)


class CompiledForward:
    """transformers' forward with its static cache, through torch.compile."""

    def __init__(self, model: PreTrainedModel, compiler: Callable[..., Any]) -> None:
        self.model = model
        self.compiled = compiler(model.forward)

    def start(self, context: torch.Tensor) -> None:
        self.length = context.shape[1]
        room = self.length + max(WIDTHS)
        self.cache = StaticCache(config=self.model.config, max_cache_len=room)
        self.model(context, past_key_values=self.cache, use_cache=True, logits_to_keep=1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.compiled(tokens, past_key_values=self.cache, use_cache=True).logits

    def undo(self, width: int) -> None:
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(self.length)


def reduce_overhead(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, mode="reduce-overhead", fullgraph=True, dynamic=False)


def reference_model(
    source: str, shape: str | None, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """transformers' own model of a source, inflated in the same way."""
    checkpoint = checkpoint_of(source)
    if shape is None:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.source, dtype=dtype, trust_remote_code=False
        )
        return model.to(device).eval()
    inflation = Inflation(checkpoint.config(), shape_named(shape))
    values = {key: value for key, value in inflation.config.items() if key != "model_type"}
    with device:
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **values), dtype=dtype
        )
    places = model.state_dict()
    weights = dict(tensors_in(checkpoint.weight_files()))
    for name, tensor in inflation.tensors(weights, dtype=dtype, device=device):
        places[name].copy_(tensor)
    return model.eval()


def token_stream(source: str, length: int, device: torch.device) -> torch.Tensor:
    """`length` tokens of real text, `[1, length]`."""
    tokenizer = checkpoint_of(source).tokenizer()
    ids: list[int] = []
    for prompt in embedded_prompts("train"):
        ids += encode_text(tokenizer, prompt.text)
        if len(ids) >= length:
            break
    while len(ids) < length:
        ids += ids
    return torch.tensor([ids[:length]], device=device)


def time_forwards(
    forwards: dict[str, Forward],
    tokens: torch.Tensor,
    context: int,
    repeats: int,
    widths: Sequence[int] = WIDTHS,
) -> dict[str, dict[int, float]]:
    """Median milliseconds by name and width after `context` tokens, interleaved.

    Each timed call follows an uncounted call of the same kind, which leaves the caches in the state
    that a decoding step finds after the step before.
    """
    device = tokens.device
    samples: dict[str, dict[int, list[float]]] = {name: {} for name in forwards}
    for forward in forwards.values():
        forward.start(tokens[:, :context])
    names = list(forwards)
    for repeat in range(-2, repeats):  # the first two warm up, capture and compile
        for width in widths:
            turn = (repeat + width) % len(names)
            for name in (*names[turn:], *names[:turn]):
                if name.startswith(COMPILED) and width not in COMPILED_WIDTHS:
                    continue
                read = tokens[:, context : context + width]
                forwards[name](read)
                forwards[name].undo(width)
                synchronize(device)
                began = time.perf_counter()
                forwards[name](read)
                synchronize(device)
                seconds = time.perf_counter() - began
                forwards[name].undo(width)
                if repeat >= 0:
                    samples[name].setdefault(width, []).append(seconds * 1000)
    return {
        name: {width: statistics.median(found) for width, found in sorted(by_width.items())}
        for name, by_width in samples.items()
    }


def show_forwards(title: str, medians: dict[str, dict[int, float]]) -> None:
    """A table of milliseconds, and beside each its ratio to one token."""
    table = Table(title=f"{title}: ms a forward (÷ one token's)", title_justify="left")
    table.add_column("width", justify="right")
    for name in medians:
        table.add_column(name, justify="right", no_wrap=True)
    for width in sorted({width for found in medians.values() for width in found}):
        cells = [
            f"{found[width]:.3f} ({found[width] / found[min(found)]:.2f})" if width in found else ""
            for found in medians.values()
        ]
        table.add_row(str(width), *cells)
    Console(width=max(Console().width, 20 * (1 + len(medians)))).print(table)
