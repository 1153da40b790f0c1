"""Tokens a second of whole generations, ours against transformers' `generate`.

    python benchmarks/versus_transformers.py [--policy FOLDER] [--prompts N] [--json PATH]

Every method has a family of settings; each family is judged at the setting that was fastest on
training prompts, found in the same run. On the held-out prompts, all methods then play each prompt
in turn, the order rotating by one each time. Both sides hold float32 weights and use every core.

Figures: `autoregressive_vs_generate` and `fixed_vs_best_assisted` (our best fixed length against
the best way to use `assistant_model`), ratios of tokens a second, at temperature 0 and (`_t0.8`)
0.8; `identical_share`, our greedy texts that equal `generate`'s. With `--policy`, a trained one,
guarded, takes part at the temperature that it was trained at: `learned_vs_generate`, and
`learned_vs_best_mode` against the fastest of all modes of `generate`, prompt lookup included. Where
scikit-learn is installed, transformers adapts its confidence threshold as it goes; the JSON says
whether it was.
"""

import argparse
import copy
import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from report import finish
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import is_sklearn_available, logging

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import NGRAM, Pair, checkpoint_of, load_pair
from adaspec_rl.training.bundle import PolicyBundle, load_bundle

TEMPERATURES = (0.0, 0.8)
NO_COST = CostFeatures(0.0, 0.0, 0.0)
LENGTHS = (1, 2, 3, 4, 5, 6, 8)
LEARNED = "our learned policy"
ASSISTED = ("assisted default", "assisted constant", "assisted heuristic", "assisted threshold")

Run = Callable[[list[int], float, int], list[int]]  # prompt, temperature, seed -> new tokens


@dataclass(frozen=True, slots=True)
class Method:
    """One way to generate at one setting."""

    family: str
    setting: str
    run: Run


@dataclass(slots=True)
class Timing:
    """What a method did on some prompts."""

    texts: list[list[int]]
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Tokens a second: sum over sum."""
        return sum(map(len, self.texts)) / self.seconds


class Ours:
    """Fixed draft lengths through our engine, and a trained policy."""

    def __init__(self, pair: Pair, max_new_tokens: int, policy: PolicyBundle | None) -> None:
        self.policy = policy
        self.sessions = {
            temperature: pair.session(
                max_new_tokens=max_new_tokens,
                sampling=Sampling(temperature),
                verification="coupled" if policy else "rejection",
                survival=policy.survival if policy else None,
            )
            for temperature in TEMPERATURES
        }

    def method(self, family: str, setting: str, controller: Controller) -> Method:
        cost = self.policy.costs() if self.policy else NO_COST

        def run(prompt: list[int], temperature: float, seed: int) -> list[int]:
            session = self.sessions[temperature]
            return generate(session, controller, prompt, cost=cost, seed=seed).tokens

        return Method(family, setting, run)

    def methods(self, temperature: float) -> list[Method]:
        made = [self.method("our autoregressive", "", FixedLength(0))]
        for number, family in enumerate(("our fixed length", "our fixed lookup")):
            for length in LENGTHS:
                made.append(self.method(family, f"length {length}", FixedLength(length, number)))
        if self.policy and self.policy.training.get("temperature") == temperature:
            made.append(self.method(LEARNED, "", self.policy.guarded()))
        return made


class Theirs:
    """`generate` with and without help."""

    def __init__(self, target: str, drafter: str, max_new_tokens: int) -> None:
        self.model, self.assistant = (
            AutoModelForCausalLM.from_pretrained(
                checkpoint_of(name).source, dtype=torch.float32, trust_remote_code=False
            )
            for name in (target, drafter)
        )
        self.max_new_tokens = max_new_tokens
        self.untouched = copy.deepcopy(self.assistant.generation_config)

    def run(self, prompt: list[int], temperature: float, seed: int, **options: Any) -> list[int]:
        torch.manual_seed(seed)
        tokens = torch.tensor([prompt])
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0)
        made = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=self.max_new_tokens,
            **(sampling if temperature else {"do_sample": False}),
            **options,
        )
        return made[0, len(prompt) :].tolist()

    def assisted(self, family: str, setting: str, **changes: Any) -> Method:
        """`changes` are set on the assistant's generation config, where `generate` reads them."""

        def run(prompt: list[int], temperature: float, seed: int) -> list[int]:
            # The heuristic schedule writes what it learned back: begin afresh every time.
            config = copy.deepcopy(self.untouched)
            config.update(**changes)
            self.assistant.generation_config = config
            return self.run(prompt, temperature, seed, assistant_model=self.assistant)

        return Method(family, setting, run)

    def lookup(self, count: int) -> Method:
        def run(prompt: list[int], temperature: float, seed: int) -> list[int]:
            return self.run(prompt, temperature, seed, prompt_lookup_num_tokens=count)

        return Method("prompt lookup", f"{count} tokens", run)

    def methods(self) -> list[Method]:
        default, constant, heuristic, threshold = ASSISTED
        made = [Method("generate", "", self.run), self.assisted(default, "")]
        for length in LENGTHS:
            changes = {
                "num_assistant_tokens": length,
                "num_assistant_tokens_schedule": "constant",
                "assistant_confidence_threshold": 0.0,
            }
            made.append(self.assisted(constant, f"length {length}", **changes))
        for bar in (0.0, 0.4):  # 0.4 is transformers' default
            changes = {
                "num_assistant_tokens": 5,
                "num_assistant_tokens_schedule": "heuristic",
                "assistant_confidence_threshold": bar,
            }
            made.append(self.assisted(heuristic, f"from 5, threshold {bar}", **changes))
        for bar in (0.2, 0.4, 0.6, 0.8):
            changes = {
                "num_assistant_tokens": 8,
                "num_assistant_tokens_schedule": "constant",
                "assistant_confidence_threshold": bar,
            }
            made.append(self.assisted(threshold, f"up to 8, threshold {bar}", **changes))
        return made + [self.lookup(count) for count in (2, 4, 8)]


def measure(
    methods: Sequence[Method], prompts: Sequence[list[int]], temperature: float, what: str
) -> list[Timing]:
    """Every method on every prompt, interleaved, after an uncounted first prompt."""
    timings = [Timing([]) for _ in methods]
    for method in methods:
        method.run(prompts[0], temperature, 0)
    for number, prompt in enumerate(track(prompts, f"{what}, temperature {temperature:g}")):
        turn = number % len(methods)
        for index in (*range(turn, len(methods)), *range(turn)):
            gc.collect(0)
            gc.disable()
            began = time.perf_counter()
            try:
                text = methods[index].run(prompt, temperature, number)
            finally:
                gc.enable()
            timings[index].seconds += time.perf_counter() - began
            timings[index].texts.append(text)
    return timings


def tuned(
    methods: Sequence[Method], prompts: Sequence[list[int]], temperature: float
) -> list[Method]:
    """Each family's fastest setting on `prompts`."""
    families: dict[str, list[Method]] = {}
    for method in methods:
        families.setdefault(method.family, []).append(method)
    open_ = [method for family in families.values() if len(family) > 1 for method in family]
    timings = measure(open_, prompts, temperature, "tuning")
    speeds = {id(method): timing.speed for method, timing in zip(open_, timings)}
    return [max(family, key=lambda m: speeds.get(id(m), 0.0)) for family in families.values()]


def show(methods: Sequence[Method], timings: Sequence[Timing], temperature: float) -> None:
    table = Table(title=f"Temperature {temperature:g}", title_justify="left")
    table.add_column("method")
    table.add_column("best setting")
    for name in ("tokens/s", "against generate"):
        table.add_column(name, justify="right")
    base = next(t.speed for m, t in zip(methods, timings) if m.family == "generate")
    for method, timing in zip(methods, timings):
        ratio = f"{timing.speed / base:.2f}×"
        table.add_row(method.family, method.setting, f"{timing.speed:.1f}", ratio)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=6, help="held-out, a domain")
    parser.add_argument("--tune-prompts", type=int, default=2, help="training, a domain")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--target", default="tiny:target", help="tiny:NAME or a folder")
    parser.add_argument("--drafter", default="tiny:draft")
    parser.add_argument("--policy", type=Path, help="a bundle for these two and ngram")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    pair = load_pair("pair", options.target, [options.drafter, NGRAM])
    policy = load_bundle(options.policy) if options.policy else None
    if policy:
        policy.check_pair(pair)
    ours = Ours(pair, options.max_new_tokens, policy)
    theirs = Theirs(options.target, options.drafter, options.max_new_tokens)
    training, held_out = (
        [pair.encode(prompt.text) for prompt in balanced(embedded_prompts(split), count)]
        for split, count in (("train", options.tune_prompts), ("test", options.prompts))
    )
    figures: dict[str, float] = {}
    details: dict[str, dict[str, Any]] = {}
    for temperature in TEMPERATURES:
        methods = [*ours.methods(temperature), *theirs.methods()]
        chosen = tuned(methods, training, temperature)
        timings = measure(chosen, held_out, temperature, "comparing")
        show(chosen, timings, temperature)
        found = {method.family: timing for method, timing in zip(chosen, timings)}
        suffix = f"_t{temperature:g}" if temperature else ""
        plain, fixed = found["our autoregressive"], found["our fixed length"]
        figures[f"autoregressive_vs_generate{suffix}"] = plain.speed / found["generate"].speed
        best = max(found[family].speed for family in ASSISTED)
        figures[f"fixed_vs_best_assisted{suffix}"] = fixed.speed / best
        if LEARNED in found:
            speed = found[LEARNED].speed
            modes = [method.family for method in theirs.methods() if method.family != "generate"]
            figures[f"learned_vs_generate{suffix}"] = speed / found["generate"].speed
            figures[f"learned_vs_best_mode{suffix}"] = speed / max(found[m].speed for m in modes)
        if not temperature:
            pairs = [*zip(plain.texts, found["generate"].texts)]
            pairs += zip(fixed.texts, found["generate"].texts)
            figures["identical_share"] = sum(a == b for a, b in pairs) / len(pairs)
        details[f"temperature {temperature:g}"] = {
            method.family: {"setting": method.setting, "tokens_per_second": timing.speed}
            for method, timing in zip(chosen, timings)
        }
    finish(
        figures,
        options.json,
        details={"methods": details, "scikit_learn": is_sklearn_available()},
    )


if __name__ == "__main__":
    main()
