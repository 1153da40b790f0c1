"""What the guard saves when a drafter is never right, and what it costs when the drafter is good.

    python benchmarks/guard.py [--length K] [--prompts N] [--threads T] [--json PATH]

The guard wraps fixed drafts of K tokens. A hostile drafter is the pair's own with every proposed
token changed to another one, at the same cost. All methods play a prompt in turn, the order
rotating, and do not stop at an end of text; the guard keeps what it has learned from one generation
to the next.

Figures, ratios of tokens a second: `guard_hostile_vs_autoregressive` and `guard_good_vs_unguarded`,
whole generations of 128 tokens, the median over the prompts;
`guard_recovered_share`, guarded against unguarded from 64 tokens after a drafter that had been
hostile for 96 to 159 tokens turned into the real one, to the end of the generation, sum over sum;
`guard_fresh_recovered_share`, likewise where the guard has seen nothing but the hostile tokens;
`unguarded_hostile_vs_autoregressive` and `unguarded_good_vs_autoregressive`, for comparison; and
`guard_identical_share`, of prompts on which all methods wrote the same text. The JSON has all
ratios both ways and 95% intervals (prompts resampled).
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

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import Generation, generate
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.drafters import Draft, Drafter, Stop
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.verification import Verification
from adaspec_rl.pairs.pair import Pair, load_pair

NO_COST = CostFeatures(0.0, 0.0, 0.0)
TOKENS = 128  # of a whole generation
HOSTILE = 96  # tokens before a drafter recovers, at least; up to WITHIN more
WITHIN = 64  # tokens after the recovery by which the speed must be back

Count = Callable[[Generation], tuple[int, float]]  # the tokens and seconds that count


class Hostile:
    """A drafter whose tokens are all changed, until the sequence has `until` tokens."""

    def __init__(self, drafter: Drafter, vocab_size: int) -> None:
        self.drafter, self.vocab_size = drafter, vocab_size
        self.name = f"hostile_{drafter.name}"
        self.context_length = drafter.context_length
        self.until = math.inf

    def start(self) -> None:
        self.drafter.start()

    def propose(
        self, sequence: torch.Tensor, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        draft = self.drafter.propose(sequence, length, rule, stop)
        if len(sequence) >= self.until:
            return draft
        return dataclasses.replace(
            draft, tokens=(draft.tokens + self.vocab_size // 2) % self.vocab_size
        )

    def keep(self, length: int) -> None:
        self.drafter.keep(length)


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
    """Generations of several controllers, in turn on the same prompts."""

    def __init__(self, *controllers: Controller) -> None:
        self.controllers = list(controllers)
        self.counted: list[list[tuple[int, float]]] = []  # by prompt and controller
        self.identical: list[bool] = []  # whether all wrote the same, by prompt

    def play(self, session: LiveSession, prompt: list[int], count: Count = whole) -> None:
        turn, number = len(self.counted), len(self.controllers)
        made = {
            index: play(session, self.controllers[index], prompt)
            for index in sorted(range(number), key=lambda index: (index + turn) % number)
        }
        self.identical.append(all(other.tokens == made[0].tokens for other in made.values()))
        self.counted.append([count(made[index]) for index in range(number)])

    def table(self) -> np.ndarray:
        """Tokens and seconds, `[prompts, controllers, 2]`."""
        return np.array(self.counted)


def of_sums(table: np.ndarray, one: int, other: int) -> float:
    """Tokens a second of controller number `one` against `other`'s, over all generations."""
    tokens, seconds = table.sum(0).T
    return float(tokens[one] / seconds[one] * seconds[other] / tokens[other])


def of_pairs(table: np.ndarray, one: int, other: int) -> float:
    """Likewise, the median of what single generations show."""
    speeds = table[..., 0] / table[..., 1]
    return float(np.median(speeds[:, one] / speeds[:, other]))


def interval(
    ratio: Callable[[np.ndarray, int, int], float], table: np.ndarray, one: int, other: int
) -> list[float]:
    """95% of what `ratio` is on resampled generations."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(table), size=(2000, len(table)))
    found = [ratio(table[draw], one, other) for draw in draws]
    return np.quantile(found, [0.025, 0.975]).tolist()


def session_of(pair: Pair, drafter: Drafter, max_new_tokens: int) -> LiveSession:
    return LiveSession(pair.target, [drafter], max_new_tokens=max_new_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2, help="of the guarded drafts")
    parser.add_argument("--prompts", type=int, default=32, help="a domain")
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
    bad = Comparison(plain, unguarded, Guarded(unguarded))
    good = Comparison(plain, unguarded, Guarded(unguarded))
    recovery = Comparison(unguarded, Guarded(unguarded), Guarded(unguarded))
    bad_session = session_of(pair, hostile, TOKENS)
    good_session = session_of(pair, real, TOKENS)
    recovery_session = session_of(pair, alternating, HOSTILE + 2 * WITHIN + TOKENS)
    for session in (bad_session, good_session):  # uncounted
        for controller in (plain, unguarded):
            play(session, controller, prompts[0])
    for number, prompt in enumerate(track(prompts, "generating")):
        bad.play(bad_session, prompt)
        good.play(good_session, prompt)
        recovered = HOSTILE + number * 17 % WITHIN
        alternating.until = len(prompt) + recovered
        recovery.controllers[2] = Guarded(unguarded)  # knows nothing yet
        recovery.play(recovery_session, prompt, after(recovered + WITHIN))
    compared = {
        "guard_hostile_vs_autoregressive": (of_pairs, bad.table(), 2, 0),
        "guard_recovered_share": (of_sums, recovery.table(), 1, 0),
        "guard_fresh_recovered_share": (of_sums, recovery.table(), 2, 0),
        "guard_good_vs_unguarded": (of_pairs, good.table(), 2, 1),
        "unguarded_hostile_vs_autoregressive": (of_pairs, bad.table(), 1, 0),
        "unguarded_good_vs_autoregressive": (of_pairs, good.table(), 1, 0),
    }
    figures = {name: ratio(*of_what) for name, (ratio, *of_what) in compared.items()}
    figures["guard_identical_share"] = float(
        np.mean(bad.identical + good.identical + recovery.identical)
    )
    details = {
        name: {
            "interval": interval(ratio, *of_what),
            "of_sums": of_sums(*of_what),
            "of_pairs": of_pairs(*of_what),
        }
        for name, (ratio, *of_what) in compared.items()
    }
    finish(figures, options.json, details={"details": details})


if __name__ == "__main__":
    main()
