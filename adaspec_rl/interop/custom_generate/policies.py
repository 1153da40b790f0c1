"""What decides how much to draft: a trained policy, or an online bandit, both guarded."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaspec_rl.control.baselines.by_match import ByMatch
from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batching.bandit_for_all import BanditForAll
from adaspec_rl.control.batching.guard import GuardedBatch
from adaspec_rl.control.batching.rowwise import Rowwise
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.drafters import Drafter
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.training.bundle import load_bundle

LOOKUP_LENGTHS, LENGTHS, CAUTIOUS = (2, 5), (1, 3), (6, 0.4)
BATCH_LENGTHS = (1, 3)
TRIAL = 2.0  # plain rounds that trying out actions may cost, once
NO_COSTS = CostFeatures(0.1, 0.02, 0.05)  # for a policy that observes no costs


class Roughly:
    """How plain rounds grow with rows, without a unit, since the guard measures seconds itself."""

    def verifying(self, rows: np.ndarray, verified: np.ndarray, context: np.ndarray) -> np.ndarray:
        return 1.0 + (np.asarray(rows) + verified) / 8

    def features(self, rows: int, context: float) -> CostFeatures:
        return NO_COSTS


@dataclass(slots=True)
class Policy:
    """Controllers for one text and for many, which keep learning over calls."""

    single: Controller
    batch: BatchController
    survival: Sequence[Survival]
    costs: Callable[[int, float], CostFeatures]  # by rows and average context


def load_policy(source: str | Path | None, drafters: Sequence[Drafter], vocab_size: int) -> Policy:
    """Load a bundle's folder, or a hub id with a `policy` folder; None: a policy learned online.

    Raises:
        ValueError: `source` is not a bundle, or its policy has other drafters.
    """
    if source is None:
        lookups = [n for n, drafter in enumerate(drafters) if drafter.model is None]
        single = Guarded(ByMatch(single_arms(drafters), lookups), advance=TRIAL)
        batch = GuardedBatch(BanditForAll(batch_arms(drafters)), Roughly(), trial=TRIAL)
        survival = [ProductSurvival() for _ in drafters]
        return Policy(single, batch, survival, Roughly().features)
    bundle = load_bundle(policy_folder(source))
    if (bundle.spec.drafters, bundle.spec.vocab_size) != (len(drafters), vocab_size):
        raise ValueError(
            f"the policy {source} was trained for {bundle.spec.drafters} drafters of "
            f"{bundle.spec.vocab_size} tokens, but there are {len(drafters)} "
            f"({', '.join(drafter.name for drafter in drafters)}) of {vocab_size}: name the "
            "drafters that it was trained with in draft_model, in their order"
        )
    known = {point.batch_size for point in bundle.profile.points}

    def costs(rows: int, context: float) -> CostFeatures:
        size = max((n for n in known if n <= rows), default=min(known))
        return bundle.profile.at(round(context), size).features()

    batch = GuardedBatch(Rowwise(bundle.controller), Roughly(), trial=TRIAL)
    return Policy(bundle.guarded(), batch, bundle.survival, costs)


def policy_of(controller: Controller, drafters: Sequence[Drafter]) -> Policy:
    """A controller without a guard; each of several texts gets its own copy."""
    batch = Rowwise(lambda: copy.deepcopy(controller))
    survival = [ProductSurvival() for _ in drafters]
    return Policy(controller, batch, survival, Roughly().features)


def policy_folder(source: str | Path) -> Path:
    """The bundle's folder; a bundle on the hub is downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder if (folder / "policy.json").is_file() else folder / "policy"
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=["policy/*"])) / "policy"
    except Exception as error:  # any error of the network or the hub
        raise ValueError(
            f"there is no folder {source}, and the hub has no such policy "
            f"({type(error).__name__}): expected the folder of a policy bundle"
        ) from None


def single_arms(drafters: Sequence[Drafter]) -> list[Action]:
    """The actions tried for one text: short and long drafts of each drafter."""
    arms: list[Action] = []
    for number, drafter in enumerate(drafters):
        if drafter.model is None:
            arms += [Action(length, number) for length in LOOKUP_LENGTHS]
        else:
            arms += [Action(length, number) for length in LENGTHS]
            arms.append(Action(CAUTIOUS[0], number, CAUTIOUS[1]))
    return arms


def batch_arms(drafters: Sequence[Drafter]) -> list[Action]:
    """The actions tried for many texts at once."""
    return [Action(length, n) for n in range(len(drafters)) for length in BATCH_LENGTHS]
