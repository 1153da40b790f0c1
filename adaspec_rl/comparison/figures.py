"""The figures of comparisons, as `results.json`, the tables and the report show them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_origin

from adaspec_rl.comparison.identity import MethodIdentity
from adaspec_rl.comparison.losslessness import Losslessness
from adaspec_rl.comparison.memory import MemoryFigures
from adaspec_rl.comparison.selection import Selection
from adaspec_rl.data.encoding import ChatFacts

SCHEMA = 6
LIVE, REPLAY = "live", "replay"  # modes
Interval = tuple[float, float]  # 95%, from resampled prompts
Part = TypeVar("Part")
Inline = Annotated[Part, "inline"]  # its fields are merged into those of the whole in JSON


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method on the prompts of a scope. Throughputs are ratios of sums over all prompts."""

    identity: Inline[MethodIdentity]
    tokens_per_second: float
    speedup: float  # over autoregressive decoding
    speedup_ci95: Interval
    identical: float  # share of texts equal to autoregressive decoding's, token for token
    distance: float  # total variation from the target per token; 0: lossless
    mean_accepted_tokens: float  # per round, bonus included
    acceptance_rate: float | None  # of drafted positions that were reached; None: none were
    mean_draft_length: float
    controller_share: float  # share of the seconds
    memory: Inline[MemoryFigures]
    versus_best_fixed: float  # throughput divided by the best fixed length's
    versus_best_fixed_ci95: Interval
    probability_of_improvement: float  # over the best fixed length, see `statistics`
    draft_length_by_position: list[float]  # mean of rounds that begin in each `BUCKET` of tokens
    acceptance_by_depth: list[tuple[int, int]]  # reached and accepted: first drafted tokens, second
    learned_ahead: float | None  # the policy's throughput divided by the method's; None: no policy
    learned_ahead_ci95: Interval | None
    gap_closed: float | None  # share of the gap from best fixed length to oracle; None: no gap


@dataclass(frozen=True, slots=True)
class ScopeFigures:
    """All methods on the same prompts: all of a comparison, or one domain's."""

    methods: dict[str, MethodFigures]
    best_fixed: str  # the fastest fixed length, plain decoding included
    repetition: float  # share of repeated 8-grams in what was generated


@dataclass(frozen=True, slots=True)
class PairName:
    """The models of a comparison."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all methods of a comparison share."""

    mode: str  # `LIVE` or `REPLAY`
    pair: PairName
    temperature: float
    verification: str
    prompts: int
    selection: Selection
    chat: ChatFacts
    max_new_tokens: int

    @property
    def is_lossy(self) -> bool:
        """Whether verification keeps some mismatches, so that texts are not the target's."""
        return self.verification.startswith("lossy.")


@dataclass(frozen=True, slots=True)
class ComparisonFigures:
    """The comparison in one mode at one temperature."""

    conditions: Inline[Conditions]
    overall: Inline[ScopeFigures]
    domains: dict[str, ScopeFigures]
    # None if texts may differ: rejection sampling keeps the distribution, not the text.
    lossless: Losslessness | None  # all methods against autoregressive decoding
    recorded: Losslessness | None  # recorded texts against live ones; also None without a recording


@dataclass(frozen=True, slots=True)
class Results:
    """All comparisons of a run."""

    schema: int
    command: str
    device: str
    versions: dict[str, str]
    pair: PairName
    weights_mib: dict[str, float]
    memory: str
    seed: int
    comparisons: list[ComparisonFigures]
    execution: str  # kernels, numbers and kind of device of the target, as `LanguageModel` says


def as_json(value: Any) -> Any:
    """Dataclasses and their contents as JSON values, with null in place of NaN and infinity."""
    if is_dataclass(value):
        found: dict[str, object] = {}
        for part in fields(value):
            item = as_json(getattr(value, part.name))
            found |= item if get_origin(part.type) is Annotated else {part.name: item}
        return found
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
