"""Microseconds in the runtime for other engines: `python benchmarks/interop_runtime.py`.

The policy has the shape of a default training's, with random weights (which take as long), and runs
in NumPy alone. Timed are a decision on a new observation; the same with taking in the verified
tokens; SGLang's answer and feedback; a lookup in a table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report import finish

from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.conversion import batch_costs
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.interop.runtime import LookupPolicy, LookupText
from adaspec_rl.interop.sglang import LearnedSteps
from adaspec_rl.interop.table import DraftTable
from adaspec_rl.training.bundle import PolicyBundle

LENGTH, VOCABULARY, HIDDEN = 12, 4096, (64, 64)


def bundle(groups: tuple[str, ...], actions: tuple[Action, ...], drafters: int) -> PolicyBundle:
    """A policy with random weights."""
    rng = np.random.default_rng(0)
    spec = ObservationSpec(groups, LENGTH, VOCABULARY, drafters)
    sizes = [len(spec), *HIDDEN, len(actions)]
    point = RoundCosts(
        context=128,
        batch_size=1,
        autoregressive_step=1e-2,
        draft_step=(1e-3,) * drafters,
        stopping_step=(0.0,) * drafters,
        verification=tuple(1e-2 + 1e-4 * width for width in range(LENGTH + 1)),
        overhead=(1e-4,) * drafters,
        catch_up=(0.0,) * drafters,
    )
    return PolicyBundle(
        actor=Actor(
            tuple(rng.normal(size=(a, b)).astype(np.float32) for a, b in zip(sizes, sizes[1:])),
            tuple(rng.normal(size=b).astype(np.float32) for b in sizes[1:]),
        ),
        actions=actions,
        spec=spec,
        pair="none",
        fingerprint="none",
        profile=CostProfile("none", 0.0, (point,)),
        survival=(ProductSurvival(),) * drafters,
        training={},
    )


def median_us(what: Callable[[int], object], count: int) -> float:
    """Median microseconds of `what(n)`."""
    taken = []
    for number in range(count):
        began = time.perf_counter()
        what(number)
        taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)


def lookups(count: int) -> dict[str, float]:
    """A text that repeats itself now and then."""
    actions = tuple(action_list("length_threshold", LENGTH, 2))
    made = bundle(("context", "lookup", "cost"), actions, 2)
    policy = LookupPolicy(made, batch_costs(made.profile), 1)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 50, size=count + 256).tolist()
    text = LookupText(policy)
    text.start(tokens[:256])
    seen = [rng.normal(size=len(made.spec)).astype(np.float32) for _ in range(count)]

    def whole(number: int) -> None:
        text.propose()
        text.committed([tokens[256 + number]])

    return {
        "decision_us": median_us(lambda n: policy.policy.decide(seen[n]), count),
        "round_us": median_us(whole, count),
    }


def steps(count: int) -> dict[str, float]:
    """A batch of 16 requests."""
    made = bundle(("history", "cost"), (FALLBACK, *(Action(n) for n in (1, 3, 5))), 1)
    policy = LearnedSteps(made, batch_costs(made.profile))
    accepted = np.random.default_rng(2).integers(0, 4, size=(count, 16)).tolist()
    return {
        "sglang_answer_us": median_us(lambda n: policy.get_steps_for_batch(16), count),
        "sglang_round_us": median_us(
            lambda n: policy.on_verify_complete(accepted[n], 16, 3), count
        ),
    }


def table(count: int) -> dict[str, float]:
    """A table with as many cells as an export has."""
    axes = (1, 4, 16), (0, 256, 1024), (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
    made = DraftTable(*axes, (Action(3),) * 63)
    return {"table_us": median_us(lambda n: made.decide(n % 20 + 1, n, 0.4), count)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000, help="of each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count = options.count
    finish({**lookups(count), **steps(count), **table(count)}, options.json)


if __name__ == "__main__":
    main()
