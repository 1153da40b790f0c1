"""Requests that arrive over time, decoded in batches under every batch controller."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from adaspec_rl.comparison.batch_contestants import LIVE_GROUPS, contestants, live_decisions
from adaspec_rl.config import EvaluateConfig
from adaspec_rl.console import say
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batch_generation import Asked, BatchGeneration, generate_batch
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.batch_measurement import measure_batch_costs
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.from_config import recording_from, sampling_from
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.replay.batch_rows import BatchTables
from adaspec_rl.replay.load import arrivals, recorded_arrivals
from adaspec_rl.replay.serving import Served, serve

MODES = {"live": ("live",), "replay": ("replay",), "both": ("replay", "live")}
TUNING_TEXTS = 12  # at least this many texts are decoded at each load to tune settings
SHOWN = (
    "tokens_per_second", "to_first_p50", "to_first_p99", "per_token_p50", "per_token_p99",
    "goodput", "target_passes", "verified", "thrown_away",
)  # fmt: skip

Makers = Mapping[str, Callable[[int], BatchController]]


@dataclass(frozen=True, slots=True)
class Service:
    """A pair that serves requests in batches of up to `rows`, and its costs."""

    pair: Pair
    rules: DecodingRules
    heads: Sequence[Survival]
    costs: BatchCosts
    prompts: Sequence[EncodedPrompt]
    tables: BatchTables | None  # the recorded texts of `prompts`; None: live
    rows: int

    def served(self, controller: BatchController, arrived: np.ndarray) -> Served:
        """Serve all requests; request `n` has prompt `n`, modulo the number of prompts."""
        asked = np.arange(len(arrived)) % len(self.prompts)
        if self.tables is not None:
            return serve(self.tables, self.costs, controller, arrived, asked, self.rows)
        batch = Batch(
            self.pair.target, self.pair.drafters, self.rows, rules=self.rules, survival=self.heads
        )
        requests = [
            Asked(self.prompts[prompt].ids, prompt, at)
            for prompt, at in zip(asked.tolist(), arrived.tolist())
        ]
        made = generate_batch(batch, controller, requests, features=self.costs.features)
        return live_figures(made, arrived)


def live_figures(made: BatchGeneration, arrived: np.ndarray) -> Served:
    """A live run in the form of a simulated one.

    Raises:
        RuntimeError: a request failed; says which and why.
    """
    for number, answer in enumerate(made.answers):
        if answer.error:
            raise RuntimeError(f"request {number} failed: {answer.error}")
    return Served(
        arrived,
        np.array([answer.first for answer in made.answers]),
        np.array([answer.ended for answer in made.answers]),
        np.array([len(answer.tokens) for answer in made.answers]),
        made.rounds,
        made.prefills,
        made.offered,
        made.verified,
        sum(answer.accepted for answer in made.answers),
    )


def compare_under_load(config: EvaluateConfig, pair: Pair, console: Console) -> dict[str, Any]:
    """Every batch controller at every rate and in every mode of `config.evaluation`.

    All controllers serve the same requests. Learning and tuning use training prompts only.
    """
    asked = config.evaluation
    rules = DecodingRules(
        frozenset(pair.eos_ids),
        config.env.max_new_tokens,
        sampling_from(config.env),
        config.env.verification,
    )
    training = prompts_from(config, "train", pair, console, config.replay.prompts)
    trace, heads = recording_from(config, pair, training, console)
    costs = _costs(config, pair, training, rules, heads, console)
    spec = replace(pair_observation(pair, LIVE_GROUPS, config.env.max_length), tables=0)
    loads = [1 << n for n in range(asked.rows.bit_length())]
    short = replace(rules, max_new_tokens=min(32, rules.max_new_tokens))
    texts = [Asked(prompt.ids) for prompt in training]

    def batch_of(size: int) -> Batch:
        return Batch(pair.target, pair.drafters, size, rules=short, survival=heads)

    tables = BatchTables(trace)
    taken = live_decisions(batch_of, texts, asked.rows)
    makers = contestants(
        tables,
        costs,
        spec,
        TUNING_TEXTS,
        console,
        loads=loads,
        deciding=None if asked.batch_cost else taken,
    )
    prompts = prompts_from(config, "test", pair, console, asked.prompts)
    results: dict[str, Any] = {"load": asked.load, "rows": asked.rows, "costs": costs.device}
    results |= {"to_first": asked.to_first, "per_token": asked.per_token}
    for mode in MODES[asked.mode]:
        held_out = None
        if mode == "replay":
            held_out = BatchTables(recording_from(config, pair, prompts, console, heads=heads)[0])
        service = Service(pair, rules, heads, costs, prompts, held_out, asked.rows)
        results[mode] = [_at_rate(rate, config, service, makers, console) for rate in rates(config)]
    return results


def rates(config: EvaluateConfig) -> list[float]:
    """`evaluation.rate` as an ascending list."""
    given = config.evaluation.rate
    return sorted(map(float, given if isinstance(given, list) else [given]))


def arrived(config: EvaluateConfig, rate: float) -> np.ndarray:
    """Arrival times, the same for every controller; the first is 0 unless a file gives them."""
    asked = config.evaluation
    if asked.trace is not None:
        return recorded_arrivals(Path(asked.trace)) / rate
    assert asked.load is not None
    return arrivals(asked.load, rate, asked.requests, np.random.default_rng(config.seed))


def _costs(
    config: EvaluateConfig,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    rules: DecodingRules,
    heads: Sequence[Survival],
    console: Console,
) -> BatchCosts:
    if config.evaluation.batch_cost is not None:
        costs = BatchCosts.load(Path(config.evaluation.batch_cost))
        if len(costs.drafters) != len(pair.drafters):
            raise ValueError(
                f"{config.evaluation.batch_cost} holds costs of {len(costs.drafters)} drafters: "
                f"expected {len(pair.drafters)}, as model.drafters names them"
            )
        return costs
    say(console, "measuring what rounds of a batch cost")
    return measure_batch_costs(
        pair.target,
        pair.drafters,
        [prompt.ids for prompt in prompts],
        rows=config.evaluation.rows,
        rules=rules,
        survival=heads,
        max_length=config.env.max_length,
        seconds=config.cost.seconds or 30.0,
    )


def _at_rate(
    rate: float, config: EvaluateConfig, service: Service, makers: Makers, console: Console
) -> dict[str, Any]:
    """The figures of all controllers at one rate."""
    times, asked = arrived(config, rate), config.evaluation
    found = {}
    for name, make in makers.items():
        served = service.served(make(service.rows), times)
        found[name] = served.figures(asked.to_first, asked.per_token)
    where = "live" if service.tables is None else "replayed"
    table = Table(title=f"{where}, {asked.load}, {rate:g} requests a second, {service.rows} rows")
    for column in ("controller", *SHOWN):
        table.add_column(column.replace("_", " "), justify="right")
    for name, figures in found.items():
        table.add_row(name, *(f"{figures[column]:.4g}" for column in SHOWN))
    console.print(table)
    return {"rate": rate, "requests": len(times), "controllers": found}
