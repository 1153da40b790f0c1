"""Lossy rules: faster, but the text is not the target's. Opt-in, and labelled wherever used."""

from adaspec_rl.decoding.verification.lossy.distance import LossyVerification, distance_of
from adaspec_rl.decoding.verification.lossy.fuzzy import Fuzzy, LenientRejection
from adaspec_rl.decoding.verification.lossy.judge import Judge
from adaspec_rl.decoding.verification.lossy.lenient import Lenient
from adaspec_rl.decoding.verification.lossy.rule import LossyRule, Seen, States
from adaspec_rl.decoding.verification.lossy.scheduled import Scheduled
from adaspec_rl.decoding.verification.lossy.tolerance import Tolerance
from adaspec_rl.decoding.verification.lossy.top_k import TopK
from adaspec_rl.decoding.verification.lossy.typical import Typical

LOSSY = {rule.name: rule for rule in (TopK, Typical, Fuzzy, Tolerance, Judge)}

__all__ = [
    "LOSSY",
    "Fuzzy",
    "Judge",
    "Lenient",
    "LenientRejection",
    "LossyRule",
    "LossyVerification",
    "Scheduled",
    "Seen",
    "States",
    "Tolerance",
    "TopK",
    "Typical",
    "distance_of",
]
