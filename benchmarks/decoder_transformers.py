"""transformers' `generate`: plain, with a draft model, and with prompt lookup."""

import copy
import time
from collections.abc import Iterator
from typing import Any

import torch
from bandwidth import cached_token, step_weights
from decoders import Made, Method, Run
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from adaspec_rl.engine.load_options import dtype_named
from adaspec_rl.pairs.sources import checkpoint_of

LENGTHS = (1, 2, 3, 4, 5, 6, 8)
LOOKUPS = (2, 4, 8, 10)


def assistant_settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings of the assistant's generation config: the default and tuned alternatives."""
    yield "default", {}
    for length in LENGTHS:
        yield f"length {length}", _settings(length, "constant", 0.0)
    for bar in (0.0, 0.4):  # 0.4 is transformers' default
        yield f"heuristic from 5, threshold {bar}", _settings(5, "heuristic", bar)
    for bar in (0.2, 0.4, 0.6, 0.8):
        yield f"up to 8, threshold {bar}", _settings(8, "constant", bar)


def _settings(count: int, schedule: str, threshold: float) -> dict[str, Any]:
    return {
        "num_assistant_tokens": count,
        "num_assistant_tokens_schedule": schedule,
        "assistant_confidence_threshold": threshold,
    }


class Counter:
    """Counts the forward passes of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.passes = 0
        model.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.passes += 1


class FirstTokens(BaseStreamer):
    """Records when the first new tokens came, and after how many passes."""

    def __init__(self, counters: list[Counter]) -> None:
        self._counters, self._calls = counters, 0

    def put(self, value: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:  # the first call brings the prompt
            self.at, self.count = time.perf_counter(), value.numel()
            self.passes = [counter.passes for counter in self._counters]

    def end(self) -> None:
        pass


class Theirs:
    """transformers' ways to decode with one model, and perhaps an assistant, in one type."""

    def __init__(
        self,
        target: str,
        drafter: str | None,
        dtype: str,
        *,
        max_new_tokens: int,
        temperature: float,
    ) -> None:
        self.dtype, self.max_new_tokens, self.temperature = dtype, max_new_tokens, temperature
        self.model = _loaded(target, dtype)
        self.assistant = _loaded(drafter, dtype) if drafter else None
        models = [self.model] + ([self.assistant] if self.assistant else [])
        self._counters = [Counter(model) for model in models]
        self._weights = [step_weights(model) for model in models]
        self._token = cached_token(self.model.config, dtype_named(dtype).itemsize)
        self._untouched = copy.deepcopy(self.assistant.generation_config if drafter else None)

    def methods(self) -> Iterator[Method]:
        yield self._method("plain", "", self._run())
        for count in LOOKUPS:
            options = {"prompt_lookup_num_tokens": count}
            yield self._method("lookup", f"{count} tokens", self._run(**options))
        if self.assistant:
            for setting, changes in assistant_settings():
                yield self._method("draft model", setting, self._assisted(changes))

    def _method(self, way: str, setting: str, run: Run) -> Method:
        return Method("transformers", self.dtype, way, setting, run)

    def _assisted(self, changes: dict[str, Any]) -> Run:
        plain = self._run(assistant_model=self.assistant)

        def run(prompt: list[int], seed: int) -> Made:
            # The heuristic schedule modifies the config, so each run gets a fresh copy.
            config = copy.deepcopy(self._untouched)
            config.update(**changes)
            self.assistant.generation_config = config
            return plain(prompt, seed)

        return run

    def _run(self, **options: Any) -> Run:
        sampling = (
            {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
            if self.temperature
            else {"do_sample": False}
        )

        def run(prompt: list[int], seed: int) -> Made:
            torch.manual_seed(seed)
            tokens = torch.tensor([prompt])
            first = FirstTokens(self._counters)
            began = time.perf_counter()
            made = self.model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=self.max_new_tokens,
                streamer=first,
                **sampling,
                **options,
            )[0, len(prompt) :].tolist()
            seconds = time.perf_counter() - began
            passes = [counter.passes - n for counter, n in zip(self._counters, first.passes)]
            read = sum(count * weights for count, weights in zip(passes, self._weights))
            read += passes[0] * self._token * (len(prompt) + len(made) / 2)
            return Made(made, first.count, first.at - began, seconds, read)

        return run


def _loaded(source: str, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        checkpoint_of(source).source, dtype=dtype_named(dtype), trust_remote_code=False
    ).eval()
