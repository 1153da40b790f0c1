"""What drafters cost besides their drafts.

    python benchmarks/drafters.py [--rounds N] [--prompts N] [--threads T] [--json PATH]

Figures: `lookup_microseconds_32k`, the median time of an n-gram lookup that reads 3 new tokens and
drafts 8, after 32,768 tokens of text; `idle_drafter_cost`, how much longer generations take if a
further draft model is loaded and in the action list of a policy that never uses it (both play every
prompt twice, in either order; the median of ratios, minus 1); `switched_identical`, the share of
texts that stay the same when drafters of all kinds take turns in every round, for N rounds (2,000);
and `switched_growth_mib`, how much the process grew in the second half of these rounds.
"""

import argparse
import gc
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from report import finish
from rich.progress import track

from adaspec_rl.control.action import action_list
from adaspec_rl.control.generation import generate
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Greedy
from adaspec_rl.pairs.pair import Pair, load_pair

TARGET, DRAFTERS = "tiny:target", ["tiny:draft", "ngram"]
EVERY_KIND = ["tiny:draft", "tiny:code", "early_exit:3", "ngram"]
CALLS = 2000


def lookup_seconds(ids: Sequence[list[int]], length: int) -> float:
    """Median seconds of a call after `length` tokens of text."""
    text = [token for prompt in ids for token in prompt]
    text = (text * (1 + (length + 3 * CALLS) // len(text)))[: length + 3 * CALLS]
    rng = random.Random(0)  # prompts repeated in order would be one endless match
    text = [token if rng.random() < 0.9 else rng.choice(text) for token in text]
    sequence = TokenSequence(text[:length], torch.device("cpu"), room=len(text))
    lookup, rule = NgramLookup(), Greedy()
    lookup.propose(sequence, 8, rule)
    taken = []
    for call in range(CALLS):
        known = text[length + 3 * call : length + 3 * (call + 1)]
        began = time.perf_counter()
        sequence.extend(known)
        lookup.propose(sequence, 8, rule)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def policy_for(drafters: int) -> LearnedPolicy:
    """A network of the usual size that drafts 2 tokens with the first drafter."""
    spec = ObservationSpec(("context", "cost"), 12, drafters=drafters)
    actions = action_list("length_threshold", 12, drafters)
    rng = np.random.default_rng(0)
    widths = (len(spec), 64, 64, len(actions))
    shapes = list(zip(widths, widths[1:]))
    weights = tuple(rng.normal(size=shape).astype(np.float32) * 0.01 for shape in shapes)
    biases = [np.zeros(width, dtype=np.float32) for width in widths[1:]]
    biases[-1][actions.index(Action(2))] = 100.0
    return LearnedPolicy(Actor(weights, tuple(biases)), actions, spec)


def idle_cost(alone: Pair, beside: Pair, ids: Sequence[list[int]]) -> float:
    """Median ratio of seconds with a further drafter to seconds without it, minus 1."""
    settings = {"max_new_tokens": 128, "sampling": Sampling(), "verification": "coupled"}
    sessions = [pair.session(**settings) for pair in (alone, beside)]  # type: ignore[arg-type]
    policies = [policy_for(len(pair.drafters)) for pair in (alone, beside)]
    ratios = []
    for number, prompt in enumerate(track([ids[0], *ids], "idle drafter")):
        seconds = [0.0, 0.0]
        for which in (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1):
            gc.collect(0)
            gc.disable()
            cost = CostFeatures(0.1, 0.1, 0.1)
            made = generate(sessions[which], policies[which], prompt, cost=cost)
            gc.enable()
            seconds[which] += made.seconds
        ratios.append(seconds[1] / seconds[0])
    return statistics.median(ratios[1:]) - 1


def switching(pair: Pair, ids: Sequence[list[int]], rounds: int) -> tuple[float, float]:
    """The share of texts that stay the same, and the MiB added in the second half of the rounds."""
    session = pair.session(max_new_tokens=128, sampling=Sampling(0.8), verification="coupled")
    rng, played, same, sizes = random.Random(0), 0, [], []
    number = 0
    while played < rounds:
        prompt, seed = ids[number % len(ids)], number
        number += 1
        texts = []
        for switch in (True, False):
            session.start(prompt, seed)
            while not session.finished:
                drafter = played % len(pair.drafters)
                session.step(Action(rng.randint(1, 8), drafter) if switch else FALLBACK)
                played += switch
            texts.append(session.tokens)
        same.append(texts[0] == texts[1])
        sizes.append((played, resident_mib()))
    middle = next(size for done, size in sizes if done >= rounds / 2)
    return float(np.mean(same)), sizes[-1][1] - middle


def resident_mib() -> float:
    """The resident memory of this process, in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--prompts", type=int, default=12, help="a domain")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    alone = load_pair("tiny", TARGET, DRAFTERS)
    beside = load_pair("tiny", TARGET, [*DRAFTERS, "tiny:code"])
    ids = [alone.encode(p.text) for p in balanced(embedded_prompts("test"), options.prompts)]
    same, growth = switching(load_pair("tiny", TARGET, EVERY_KIND), ids, options.rounds)
    figures = {
        "lookup_microseconds_32k": 1e6 * lookup_seconds(ids, 32_768),
        "idle_drafter_cost": idle_cost(alone, beside, ids),
        "switched_identical": same,
        "switched_growth_mib": growth,
    }
    finish(figures, options.json)


if __name__ == "__main__":
    main()
