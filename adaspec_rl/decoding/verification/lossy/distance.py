"""How far a lossy rule's tokens are from the target's."""

from adaspec_rl.decoding.verification.contract import Verification
from adaspec_rl.decoding.verification.lossy.fuzzy import LenientRejection
from adaspec_rl.decoding.verification.lossy.lenient import Lenient

LossyVerification = Lenient | LenientRejection


def distance_of(rule: Verification, emitted: int) -> float:
    """Total variation from the target, summed over the `emitted` tokens of the last `verify`.

    It is 0 for exact rules.
    """
    if not isinstance(rule, LossyVerification):
        return 0.0
    return float(rule.distances[:emitted].sum())
