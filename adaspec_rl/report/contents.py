"""The report's contents. Its page reads this structure as JSON, key for key."""

from dataclasses import dataclass

from adaspec_rl.comparison.examples import Example
from adaspec_rl.comparison.figures import ComparisonFigures, Inline
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.report.policy_map import PolicyMap


@dataclass(frozen=True, slots=True)
class ReportedComparison:
    """A comparison with its own policy and costs."""

    figures: Inline[ComparisonFigures]
    profile: CostProfile | None
    policy_map: PolicyMap | None


@dataclass(frozen=True, slots=True)
class Report:
    """All contents of the page."""

    title: str
    created: str | None  # a date; None: replayed, so it is the same on any day
    command: str
    device: str
    execution: str  # kernels, numbers, kind of device
    drafters: list[str]  # short names
    comparisons: list[ReportedComparison]
    examples: list[Example]
