"""What the guard saves when a drafter is never right, and what it costs when the drafter is good.

    python benchmarks/guard.py [--length K] [--prompts N] [--threads T] [--json PATH]

The guard wraps fixed drafts of K tokens. A hostile drafter is the pair's own with every proposed
token changed to another token, at the same cost. Both methods play each prompt, and then again in
the opposite order, so that a drift of the machine cancels out. Texts do not stop at their end. A
guard keeps what it has learned from one generation to the next.

Figures are ratios of tokens a second. `guard_hostile_vs_autoregressive`,
`guard_trusted_hostile_vs_autoregressive` (the guard trusted the drafter at first) and
`guard_good_vs_unguarded` are medians over prompts, for whole generations of 128 tokens. For
`guard_recovered_share`, a drafter is hostile for 96 to 159 tokens and then becomes the real one;
the figure compares guarded with unguarded decoding from 64 tokens later to the end of the
generation, sum over sum. `guard_fresh_recovered_share` is the same with a guard that has seen only
the hostile tokens. `guard_identical_share` is the share of prompts on which all methods wrote the
same text. The JSON has all ratios both ways and 95% intervals (prompts resampled).
"""

import argparse
import dataclasses
import gc
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import finish
from rich.progress import track

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import Generation, generate
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters import Drafter, Stop
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Verification
from adaspec_rl.pairs.pair import Pair, load_pair

NO_COST = CostFeatures(0.0, 0.0, 0.0)
TOKENS = 128  # of a whole generation
HOSTILE = 96  # tokens before a drafter recovers, at least; up to WITHIN more
WITHIN = 64  # tokens in which the speed must recover

Count = Callable[[Generation], tuple[int, float]]  # the tokens and seconds that count


class Hostile:
    """A drafter with all tokens changed until the sequence has `until` tokens."""

    def __init__(self, drafter: Drafter, vocab_size: int) -> None:
        self.drafter, self.vocab_size = drafter, vocab_size
        self.name = f"hostile_{drafter.name}"
        self.context_length = drafter.context_length
        self.model = drafter.model
        self.needs_hidden = drafter.needs_hidden
        self.until = math.inf

    @property
    def starts(self) -> int:
        return self.drafter.starts

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        self.drafter.prepare(length, progress)

    def start(self) -> None:
        self.drafter.start()

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        draft = self.drafter.propose(sequence, length, rule, stop)
        if len(sequence) >= self.until:
            return draft
        return dataclasses.replace(
            draft, tokens=(draft.tokens + self.vocab_size // 2) % self.vocab_size
        )

    def keep(self, length: int) -> None:
        self.drafter.keep(length)

    def rest(self) -> None:
        self.drafter.rest()


def whole(made: Generation) -> tuple[int, float]:
    return len(made.tokens), made.seconds


def after(position: int) -> Count:
    """Counts the rounds from generated token number `position` on."""

    def count(made: Generation) -> tuple[int, float]:
        tokens, seconds, at = 0, 0.0, 0
        deciding = made.controller_seconds / len(made.rounds)
        for round_ in made.rounds:
            if at >= position:
                tokens += len(round_.tokens)
                seconds += round_.seconds + deciding
            at += len(round_.tokens)
        return tokens, seconds

    return count


def play(session: LiveSession, controller: Controller, prompt: list[int]) -> Generation:
    gc.collect(0)
    gc.disable()
    try:
        return generate(session, controller, prompt, cost=NO_COST)
    finally:
        gc.enable()


class Comparison:
    """A guard and its baseline, on the same prompts."""

    def __init__(self, baseline: Callable[[], Controller], guard: Callable[[], Controller]) -> None:
        """Both functions are called for every generation."""
        self.methods = (baseline, guard)
        self.counted: list[np.ndarray] = []  # tokens and seconds [methods, 2], by prompt
        self.identical: list[bool] = []  # whether all texts were the same, by prompt

    def play(self, session: LiveSession, prompt: list[int], count: Count = whole) -> None:
        totals, texts = np.zeros((2, 2)), set()
        for index in (0, 1, 1, 0) if len(self.counted) % 2 else (1, 0, 0, 1):
            made = play(session, self.methods[index](), prompt)
            texts.add(tuple(made.tokens))
            totals[index] += count(made)
        self.counted.append(totals)
        self.identical.append(len(texts) == 1)


def of_sums(table: np.ndarray) -> float:
    """The guard's throughput divided by the baseline's, from `[prompts, methods, 2]`."""
    (tokens, guarded), (seconds, guarded_seconds) = table.sum(0).T
    return float(guarded / guarded_seconds * seconds / tokens)


def of_pairs(table: np.ndarray) -> float:
    """The median of the same ratio over single prompts."""
    speeds = table[..., 0] / table[..., 1]
    return float(np.median(speeds[:, 1] / speeds[:, 0]))


def interval(ratio: Callable[[np.ndarray], float], table: np.ndarray) -> list[float]:
    """The 95% interval of `ratio` over resampled prompts."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(table), size=(2000, len(table)))
    return np.quantile([ratio(table[draw]) for draw in draws], [0.025, 0.975]).tolist()


def session_of(pair: Pair, drafter: Drafter, max_new_tokens: int) -> LiveSession:
    return LiveSession(pair.target, [drafter], max_new_tokens=max_new_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2, help="of the guarded drafts")
    parser.add_argument("--prompts", type=int, default=48, help="a domain")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = load_pair("tiny", "tiny:target", ["tiny:draft"])
    real = pair.drafters[0]
    hostile = Hostile(real, pair.target.vocab_size)
    alternating = Hostile(real, pair.target.vocab_size)
    prompts = [
        pair.encode(prompt.text) for prompt in balanced(embedded_prompts("test"), options.prompts)
    ]
    plain, unguarded = FixedLength(0), FixedLength(options.length)
    tried, used, betrayed = (Guarded(unguarded) for _ in range(3))
    trusting = Guarded(unguarded, trusted=True)
    bad = Comparison(lambda: plain, lambda: tried)
    deceiving = Comparison(lambda: plain, lambda: trusting)
    good = Comparison(lambda: unguarded, lambda: used)
    recovery = Comparison(lambda: unguarded, lambda: betrayed)
    fresh = Comparison(lambda: unguarded, lambda: Guarded(unguarded))
    bad_session = session_of(pair, hostile, TOKENS)
    good_session = session_of(pair, real, TOKENS)
    recovery_session = session_of(pair, alternating, HOSTILE + 2 * WITHIN + TOKENS)
    for session in (bad_session, good_session):  # uncounted
        for controller in (plain, unguarded):
            play(session, controller, prompts[0])
    for number, prompt in enumerate(track(prompts, "generating")):
        bad.play(bad_session, prompt)
        deceiving.play(bad_session, prompt)
        good.play(good_session, prompt)
        if number >= len(prompts) // 3:  # these texts are long
            continue
        recovered = HOSTILE + number * 17 % WITHIN
        alternating.until = len(prompt) + recovered
        counted = after(recovered + WITHIN)
        recovery.play(recovery_session, prompt, counted)
        fresh.play(recovery_session, prompt, counted)
    compared = {
        "guard_hostile_vs_autoregressive": (of_pairs, np.array(bad.counted)),
        "guard_trusted_hostile_vs_autoregressive": (of_pairs, np.array(deceiving.counted)),
        "guard_recovered_share": (of_sums, np.array(recovery.counted)),
        "guard_fresh_recovered_share": (of_sums, np.array(fresh.counted)),
        "guard_good_vs_unguarded": (of_pairs, np.array(good.counted)),
    }
    figures = {name: ratio(table) for name, (ratio, table) in compared.items()}
    played = [bad, deceiving, good, recovery, fresh]
    identical = np.concatenate([comparison.identical for comparison in played])
    figures["guard_identical_share"] = float(identical.mean())
    details = {
        name: {
            "interval": interval(ratio, table),
            "of_sums": of_sums(table),
            "of_pairs": of_pairs(table),
        }
        for name, (ratio, table) in compared.items()
    }
    finish(figures, options.json, details={"details": details})


if __name__ == "__main__":
    main()
