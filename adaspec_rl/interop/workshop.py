"""The basis of exports: a policy, the recording that it learned from, and costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from adaspec_rl.config import TrainConfig
from adaspec_rl.console import say
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.conversion import batch_costs, cost_profile
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.from_config import drafter_source, pair_from, recording_from
from adaspec_rl.interop.exported import Source
from adaspec_rl.interop.replayed import Tuning, of_drafter
from adaspec_rl.interop.schedules import seconds_by_length
from adaspec_rl.pairs.drafter_names import NGRAM, is_free
from adaspec_rl.prompts import prompts_from
from adaspec_rl.recording.trace import Trace
from adaspec_rl.run_identity import RECORD, digest, saved_identity
from adaspec_rl.training.bundle import PolicyBundle, load_bundle, package_versions
from adaspec_rl.training.judge import split

TUNED_ON = 16  # texts


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that an export needs."""

    bundle: PolicyBundle
    learned: Trace  # texts that schedules are fitted on
    withheld: Trace  # texts that predictions are replayed from
    costs: BatchCosts
    sizes: tuple[int, ...]  # batch sizes with known costs
    drafters: tuple[str, ...]  # the source of each, for `load_pair`
    target: str
    drafter: int  # the one for engines with a single drafter
    tiers: int  # the most different draft lengths allowed
    max_rows: int  # the most texts that the engine decodes at a time

    def profile(self) -> CostProfile:
        """The costs of rounds whose rows are all alike, at the known batch sizes."""
        contexts = sorted({point.context for point in self.bundle.profile.points})
        return cost_profile(self.costs, self.sizes, contexts, self.bundle.spec.max_length)

    def of(self, drafter: int) -> "Workshop":
        """A workshop with only this drafter, which becomes number 0."""
        chosen = [drafter]
        return replace(
            self,
            learned=self.learned.of_drafters(chosen),
            withheld=self.withheld.of_drafters(chosen),
            costs=of_drafter(self.costs, drafter),
            drafters=(self.drafters[drafter],),
            drafter=0,
        )

    def tuning(self) -> Tuning:
        """Some of the learned texts, with the fewest rows that have known costs."""
        some = self.learned.select(range(min(TUNED_ON, len(self.learned.texts))))
        return Tuning(some, self.costs, self.sizes[0])

    def named(self, name: str) -> int | None:
        """The number of the drafter called `name` in the recording; None: there is none."""
        names = [table.name for table in self.learned.drafters]
        return names.index(name) if name in names else None

    def spec(self, groups: Sequence[str]) -> ObservationSpec:
        """Observations of one drafter in these groups."""
        own = self.bundle.spec
        return ObservationSpec(tuple(groups), own.max_length, own.vocab_size, 1)

    def source(self) -> Source:
        """The export's record of its origin."""
        bundle = self.bundle
        return Source(
            pair=bundle.pair,
            fingerprint=bundle.fingerprint,
            bundle=bundle.checksum,
            profile=self.costs.device,
            costs=digest(self.costs.to_dict()),
            recording=self.learned.fingerprint,
            texts=len(self.withheld.texts),
            temperature=float(bundle.training.get("temperature", 0.0)),
            drafters=tuple(table.name for table in self.learned.drafters),
            versions=package_versions(),
        )


def trained_with(run: Path, bundle: PolicyBundle, runs: str) -> TrainConfig:
    """The configuration that a run was started with.

    Raises:
        ValueError: the folder holds no run, or a run of another version.
    """
    identity = saved_identity(run)
    if identity is None:
        raise ValueError(
            f"{run} holds no run (it has no {RECORD}): set run=FOLDER to the folder that "
            "train_policy.py wrote"
        )
    config = OmegaConf.structured(TrainConfig)
    try:
        for key, value in identity.settings.items():
            OmegaConf.update(config, key, value)
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ValueError(f"the run in {run} is of another version: {reason}") from None
    config.data.path = bundle.training.get("data", {}).get("path")
    config.runs, config.replay.cache = runs, str(Path(runs) / "traces")
    made: Any = OmegaConf.to_object(config)
    assert isinstance(made, TrainConfig)
    return made


def opened(
    policy: Path,
    run: Path,
    runs: str,
    console: Console,
    *,
    costs: Path | None,
    drafter: str | None,
    tiers: int,
    max_rows: int,
) -> Workshop:
    """Load a policy and its training data; a recording that is gone is made again.

    Raises:
        ValueError: something is missing, or does not fit the policy.
    """
    bundle = load_bundle(policy)
    config = trained_with(run, bundle, runs)
    pair = pair_from(config.model, config.engine)
    bundle.check_pair(pair)
    prompts = prompts_from(config, "train", pair, console, config.replay.prompts)
    trace, _ = recording_from(config, pair, prompts, console)
    learned, withheld = split(trace, config.agent.validation_share)
    say(console, f"{len(withheld.texts)} withheld texts of recording {trace.fingerprint}")
    measured = BatchCosts.load(costs) if costs else batch_costs(bundle.profile)
    if len(measured.drafters) != len(pair.drafters):
        raise ValueError(
            f"the costs of {measured.device} are of {len(measured.drafters)} drafters but the pair "
            f"has {len(pair.drafters)}: measure them for this pair"
        )
    names = [item.name for item in pair.drafters]
    if drafter is not None and drafter not in names:
        raise ValueError(f"drafter={drafter} is none of the pair's: expected {', '.join(names)}")
    shop = Workshop(
        bundle=bundle,
        learned=learned,
        withheld=withheld,
        costs=measured,
        sizes=tuple(int(size) for size in measured.target.rows),
        drafters=tuple(drafter_source(config.model, name) for name in config.model.drafters),
        target=config.model.target,
        drafter=names.index(drafter) if drafter else 0,
        tiers=tiers,
        max_rows=max_rows,
    )
    return shop if drafter else replace(shop, drafter=fastest(shop))


def fastest(shop: Workshop) -> int:
    """The drafter with the fastest fixed length, among those that other engines have."""
    known = [n for n, name in enumerate(shop.drafters) if name == NGRAM or not is_free(name)]

    def seconds(number: int) -> float:
        own = shop.of(number)
        return float(seconds_by_length(own.learned, own.profile(), own.sizes[:1]).min())

    return min(known, key=seconds, default=0)
