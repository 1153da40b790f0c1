"""The rules by name, and weighing by several rules at once."""

from collections.abc import Sequence

import torch

from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.sampling import Sampling, warp_logits
from adaspec_rl.decoding.verification.contract import Verification
from adaspec_rl.decoding.verification.coupled import Coupled
from adaspec_rl.decoding.verification.greedy import Greedy
from adaspec_rl.decoding.verification.lossy import (
    LOSSY,
    Fuzzy,
    Lenient,
    LenientRejection,
    LossyRule,
)
from adaspec_rl.decoding.verification.rejection import Rejection
from adaspec_rl.decoding.verification.traversal import Traversal

RULES = ("greedy", "rejection", "traversal", "coupled")
Rule = str | LossyRule  # the name of an exact rule, or a lossy rule with its settings


def weigh_rows(
    rules: Sequence[Verification],
    logits: torch.Tensor,
    positions: Sequence[Sequence[int]],
    ids: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rules[b].weigh` for `logits[b]` at `positions[b]`, stacked to `[B, W, C]` both."""
    if all(isinstance(rule, Greedy) for rule in rules):
        return logits, logits
    coupled = [rule for rule in rules if isinstance(rule, Coupled)]
    if len(coupled) == len(rules) and len({rule.sampling for rule in coupled}) == 1:
        log_probs = warp_logits(logits, coupled[0].sampling)
        scores = log_probs.clone()
        for rule, row, places in zip(coupled, scores, positions):
            rule.noise.add_to(row, places, ids)
        return log_probs, scores
    found = [rule.weigh(row, places, ids) for rule, row, places in zip(rules, logits, positions)]
    return torch.stack([item[0] for item in found]), torch.stack([item[1] for item in found])


def is_lossy(rule: Rule) -> bool:
    """Whether texts may differ from the target's."""
    return not isinstance(rule, str) or rule in LOSSY


def new_verification(
    rule: Rule, sampling: Sampling, seed: int, vocab_size: int, device: torch.device
) -> Verification:
    """An exact rule by its name, one of `RULES`, or a lossy rule.

    At temperature 0, exact rules become greedy. A lossy rule is lenient about the target's own
    picks, which are greedy at temperature 0 and coupled above it; `Fuzzy` above temperature 0 is
    lenient rejection sampling.
    """
    if not isinstance(rule, str):
        return _lossy(rule, sampling, seed, vocab_size, device)
    if rule in LOSSY:
        raise ValueError(
            f"verification {rule!r} has settings: pass a {LOSSY[rule].__name__} in place of its "
            "name"
        )
    if rule not in RULES:
        raise ValueError(f"unknown verification {rule!r}: expected one of {', '.join(RULES)}")
    if sampling.temperature == 0:
        return Greedy()
    if rule == "greedy":
        raise ValueError(
            f"verification 'greedy' needs temperature 0, got {sampling.temperature}: "
            "use 'rejection', 'traversal' or 'coupled'"
        )
    if rule in ("rejection", "traversal"):
        generator = torch.Generator(device).manual_seed(seed)
        return (Traversal if rule == "traversal" else Rejection)(sampling, generator)
    return Coupled(sampling, GumbelNoise(seed, vocab_size, device))


def lenient(exact: Verification, lossy: LossyRule | None) -> Verification:
    """`exact` with `lossy` accepting some mismatches; None: `exact` itself. Shares random state.

    Raises:
        ValueError: `lossy` does not work with this exact rule.
    """
    if lossy is None:
        return exact
    if isinstance(exact, Greedy) or (isinstance(exact, Coupled) and not isinstance(lossy, Fuzzy)):
        return Lenient(exact, lossy)
    if isinstance(exact, Rejection) and isinstance(lossy, Fuzzy):
        return LenientRejection(exact.sampling, exact.generator, rule=lossy)
    wanted = "rejection" if isinstance(lossy, Fuzzy) else "coupled"
    raise ValueError(f"above temperature 0, {lossy} needs verification {wanted!r}")


def _lossy(
    rule: LossyRule, sampling: Sampling, seed: int, vocab_size: int, device: torch.device
) -> Verification:
    exact = "rejection" if isinstance(rule, Fuzzy) else "coupled"
    return lenient(new_verification(exact, sampling, seed, vocab_size, device), rule)
