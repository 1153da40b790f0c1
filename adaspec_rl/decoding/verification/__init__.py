"""The rules that decide how many drafted tokens are accepted, and what follows them."""

from adaspec_rl.decoding.picks import LARGEST_MARGIN
from adaspec_rl.decoding.sampling import best
from adaspec_rl.decoding.verification.acceptance import leading, row
from adaspec_rl.decoding.verification.choice import Choice, Perturbation, PointMass, choice_margin
from adaspec_rl.decoding.verification.contract import Verification
from adaspec_rl.decoding.verification.coupled import Coupled
from adaspec_rl.decoding.verification.greedy import Greedy
from adaspec_rl.decoding.verification.rejection import Rejection
from adaspec_rl.decoding.verification.rules import (
    RULES,
    Rule,
    is_lossy,
    lenient,
    new_verification,
    weigh_rows,
)
from adaspec_rl.decoding.verification.traversal import Traversal

__all__ = [
    "LARGEST_MARGIN",
    "RULES",
    "Choice",
    "Coupled",
    "Greedy",
    "Perturbation",
    "PointMass",
    "Rejection",
    "Rule",
    "Traversal",
    "Verification",
    "best",
    "choice_margin",
    "is_lossy",
    "leading",
    "lenient",
    "new_verification",
    "row",
    "weigh_rows",
]
