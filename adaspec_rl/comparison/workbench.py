"""The texts and costs from which the controllers of a comparison are built."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from adaspec_rl.config import Config, DataConfig
from adaspec_rl.control.action import most_nodes
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.from_config import (
    measured_profile_from,
    recording_from,
    saved_profile_from,
)
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import prompts_from
from adaspec_rl.recording.trace import Trace
from adaspec_rl.training.bundle import PolicyBundle

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workbench:
    """The texts and costs from which controllers are built."""

    trace: Trace  # training texts
    held_out: Trace | None  # the compared texts, for bounds and for what is picked in hindsight
    profile: CostProfile
    max_length: int
    batch_size: int = 1
    seed: int = 0


def workbench(
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    prompts: Sequence[EncodedPrompt],
    console: Console,
    *,
    held_out: bool,
    measured: Path,
    rivals: Sequence[PolicyBundle] = (),
) -> tuple[Workbench, list[Survival]]:
    """Recordings of the training texts and, if wanted, the compared texts; and decoding costs."""
    tried_on = replace(config, data=training_data(config.data, bundle))
    training = prompts_from(tried_on, "train", pair, console, config.replay.prompts)
    ranks = any(most_nodes(policy.actions) > 0 for policy in (bundle, *rivals) if policy)
    trace, survival = recording_from(config, pair, training, console, ranks=ranks)
    if bundle and bundle.training.get("recording") != trace.fingerprint:
        survival = list(bundle.survival)
    own: Trace | None = None
    if held_out:
        budget = config.evaluation.max_new_tokens
        there = replace(config, env=replace(config.env, max_new_tokens=budget))
        own, _ = recording_from(there, pair, prompts, console, heads=survival, ranks=ranks)
    profile = _profile(config, pair, bundle, training, survival, console, measured)
    small = spread(trace, config.evaluation.tuning_prompts)
    longest = config.env.max_length
    bench = Workbench(small, own, profile, longest, config.cost.batch_size, config.seed)
    return bench, survival


def training_data(data: DataConfig, bundle: PolicyBundle | None) -> DataConfig:
    """The data on whose training split parameters are tuned: the comparison's own by default.

    If all of its prompts are held out, these are the data that the policy was trained on; without a
    policy, or if that file is not on this machine, the embedded prompts.
    """
    if data.source == "embedded" or data.test_share < 1:
        return data
    if bundle and "data" in bundle.training:
        own = _trained_on(bundle)
        if own.path is None or Path(own.path).is_file():
            return own
        logger.warning(
            "the policy was trained on %s, which is not here: parameters of other controllers are "
            "tuned on the embedded prompts",
            own.path,
        )
    return DataConfig(chat=data.chat)


def _trained_on(bundle: PolicyBundle) -> DataConfig:
    try:
        given = OmegaConf.merge(OmegaConf.structured(DataConfig), bundle.training["data"])
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(
            f"training.data of the policy is no data configuration: {reason}"
        ) from None
    own = OmegaConf.to_object(given)
    assert isinstance(own, DataConfig)
    return own


def _profile(
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    training: Sequence[EncodedPrompt],
    survival: list[Survival],
    console: Console,
    measured: Path,
) -> CostProfile:
    """The configured cost profile, else the policy's own, else one that is measured here, once."""
    saved = saved_profile_from(config.cost)
    if saved or bundle:
        return saved or bundle.profile  # type: ignore[union-attr]
    if measured.exists():
        return CostProfile.load(measured)
    spec = pair_observation(pair, config.env.features, config.env.max_length)
    profile = measured_profile_from(config, pair, training, survival, spec, console)
    profile.save(measured)
    return profile


def spread(trace: Trace, count: int) -> Trace:
    """`count` texts of each of a trace's domains, evenly spaced."""
    chosen: list[int] = []
    for domain in dict.fromkeys(trace.domains):
        members = [n for n, name in enumerate(trace.domains) if name == domain]
        chosen += members[:: max(1, len(members) // count)][:count]
    return trace.select(sorted(chosen))
