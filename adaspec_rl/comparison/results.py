"""From the records of a comparison to its figures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaspec_rl.comparison.benchmark import Record
from adaspec_rl.comparison.figures import (
    ComparisonFigures,
    Conditions,
    Interval,
    MethodFigures,
    ScopeFigures,
)
from adaspec_rl.comparison.identity import (
    AUTOREGRESSIVE,
    BEST_BY_DOMAIN,
    LEARNED,
    ORACLE,
    MethodIdentity,
    adaptive_method,
)
from adaspec_rl.comparison.losslessness import Losslessness
from adaspec_rl.comparison.memory import memory_figures
from adaspec_rl.comparison.statistics import (
    paired_ratio,
    paired_ratio_interval,
    probability_of_improvement,
    repeated_ngrams,
    throughput,
)
from adaspec_rl.decoding.round import Round

BUCKET = 8  # generated tokens in a bucket of `draft_length_by_position`


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How prompts are resampled for intervals."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Played:
    """One method's tokens and seconds on all prompts of a scope."""

    records: Sequence[Record]
    tokens: np.ndarray  # [prompts]
    seconds: np.ndarray  # [prompts]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Played":
        """Sums of each record."""
        tokens = [len(record.generation.tokens) for record in records]
        seconds = [record.generation.seconds for record in records]
        return cls(records, np.array(tokens, dtype=np.float64), np.array(seconds))

    def over(self, other: "Played") -> float:
        """The throughput divided by the other's."""
        return paired_ratio(self.tokens, self.seconds, other.tokens, other.seconds)

    def interval_over(self, other: "Played", how: Bootstrap) -> Interval:
        """The 95% interval of `over`."""
        sums = (self.tokens, self.seconds, other.tokens, other.seconds)
        return paired_ratio_interval(*sums, resamples=how.resamples, seed=how.seed)


def compare_methods(
    records: Sequence[Record], methods: Sequence[MethodIdentity], how: Bootstrap
) -> ScopeFigures:
    """The figures of all methods on the same prompts, in the given order."""
    grouped: dict[str, list[Record]] = {method.name: [] for method in methods}
    for record in records:
        grouped[record.method].append(record)
    prompts = [record.prompt for record in grouped[AUTOREGRESSIVE]]
    for name, items in grouped.items():
        assert [record.prompt for record in items] == prompts, f"{name} is not paired"
    played = {name: Played.of(items) for name, items in grouped.items()}
    rates = {name: throughput(own.tokens, own.seconds) for name, own in played.items()}
    best = max((method.name for method in methods if method.is_fixed), key=rates.__getitem__)
    found = {method.name: _method_figures(method, played, best, how) for method in methods}
    texts = [record.generation.tokens for record in grouped[AUTOREGRESSIVE]]
    return ScopeFigures(found, best, repeated_ngrams(texts))


def _method_figures(
    method: MethodIdentity, played: dict[str, Played], best_fixed: str, how: Bootstrap
) -> MethodFigures:
    own, plain, best = played[method.name], played[AUTOREGRESSIVE], played[best_fixed]
    learned, oracle = played.get(LEARNED), played.get(ORACLE)
    rounds = [one for record in own.records for one in record.generation.rounds]
    reached = sum(one.reached for one in rounds)
    lead = oracle.over(plain) - best.over(plain) if oracle else 0.0
    deciding = sum(record.generation.controller_seconds for record in own.records)
    return MethodFigures(
        identity=method,
        tokens_per_second=throughput(own.tokens, own.seconds),
        speedup=own.over(plain),
        speedup_ci95=own.interval_over(plain, how),
        identical=_identical(own.records, plain.records),
        distance=sum(one.distance for one in rounds) / max(1.0, float(own.tokens.sum())),
        mean_accepted_tokens=sum(len(one.tokens) for one in rounds) / len(rounds),
        acceptance_rate=sum(one.accepted for one in rounds) / reached if reached else None,
        mean_draft_length=sum(one.drafted for one in rounds) / len(rounds),
        controller_share=deciding / float(own.seconds.sum()),
        memory=memory_figures([record.memory for record in own.records]),
        versus_best_fixed=own.over(best),
        versus_best_fixed_ci95=own.interval_over(best, how),
        probability_of_improvement=probability_of_improvement(
            _rates_by_domain(own.records), _rates_by_domain(best.records)
        ),
        draft_length_by_position=_draft_lengths(own.records),
        acceptance_by_depth=_acceptance_by_depth(rounds),
        learned_ahead=learned.over(own) if learned else None,
        learned_ahead_ci95=learned.interval_over(own, how) if learned else None,
        gap_closed=(own.over(plain) - best.over(plain)) / lead if lead > 0 else None,
    )


def _identical(records: Sequence[Record], base: Sequence[Record]) -> float:
    """Share of texts equal to the autoregressive ones, token for token."""
    same = [a.generation.tokens == b.generation.tokens for a, b in zip(records, base)]
    return sum(same) / len(same)


def _rates_by_domain(records: Sequence[Record]) -> list[np.ndarray]:
    """Tokens a second of each prompt, by domain."""
    found: dict[str, list[float]] = {}
    for record in records:
        made = record.generation
        found.setdefault(record.domain, []).append(len(made.tokens) / made.seconds)
    return [np.array(values) for values in found.values()]


def _draft_lengths(records: Sequence[Record]) -> list[float]:
    """Mean draft length of rounds that begin in the first `BUCKET` tokens, the next `BUCKET`, …"""
    sums: list[list[int]] = []
    for record in records:
        made = 0
        for played in record.generation.rounds:
            while len(sums) <= made // BUCKET:
                sums.append([0, 0])
            sums[made // BUCKET][0] += played.drafted
            sums[made // BUCKET][1] += 1
            made += len(played.tokens)
    return [total / count if count else 0.0 for total, count in sums]


def _acceptance_by_depth(rounds: Sequence[Round]) -> list[tuple[int, int]]:
    """How many first drafted tokens were reached and accepted, how many second ones, …"""
    deepest = max((played.drafted for played in rounds), default=0)
    return [
        (
            sum(depth < played.reached for played in rounds),
            sum(depth < played.accepted for played in rounds),
        )
        for depth in range(deepest)
    ]


def best_by_domain(records: Sequence[Record], methods: Sequence[MethodIdentity]) -> list[Record]:
    """The records of each domain's fastest fixed length, as those of one method."""
    fixed = {method.name for method in methods if method.is_fixed}
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.method in fixed:
            grouped.setdefault((record.domain, record.method), []).append(record)
    rates: dict[str, dict[str, float]] = {}
    for (domain, name), items in grouped.items():
        own = Played.of(items)
        rates.setdefault(domain, {})[name] = throughput(own.tokens, own.seconds)
    best = {domain: max(found, key=found.__getitem__) for domain, found in rates.items()}
    return [
        replace(record, method=BEST_BY_DOMAIN)
        for record in records
        if record.method == best[record.domain]
    ]


def assemble(
    records: Sequence[Record],
    methods: Sequence[MethodIdentity],
    conditions: Conditions,
    *,
    lossless: Losslessness | None,
    recorded: Losslessness | None = None,
    how: Bootstrap = Bootstrap(),
) -> ComparisonFigures:
    """The figures of a comparison, over all prompts and by domain.

    With several domains there is one more method, `BEST_BY_DOMAIN`.
    """
    domains = sorted({record.domain for record in records})
    if len(domains) > 1:
        records = [*records, *best_by_domain(records, methods)]
        source = "the best fixed drafter and length of each domain, in hindsight"
        methods = [*methods, adaptive_method(BEST_BY_DOMAIN, source)]
    return ComparisonFigures(
        conditions,
        compare_methods(records, methods, how),
        {
            domain: compare_methods([r for r in records if r.domain == domain], methods, how)
            for domain in domains
        },
        lossless,
        recorded,
    )
