"""The policy bundle: a folder that can be shared, checked, and loaded without running code.

`policy.safetensors` holds the actor's weights. `policy.json` holds everything needed to use them:
feature names and scales, the action list, the network's shape, the pair's fingerprint, the cost
profile, a training summary and package versions. A checksum covers both files.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adaspec_rl import strict_json
from adaspec_rl.control.action import most_nodes
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import LARGEST, Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.costs.tracking import CostTracking
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival, Survival, SurvivalHead
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.files import new_folder
from adaspec_rl.strict_json import typed

if TYPE_CHECKING:
    from adaspec_rl.pairs.pair import Pair

SCHEMA = 5
WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
ACTIVATION = "tanh"
# The keys of `PolicyBundle.training` that the software itself reads or writes.
TRAINING: dict[str, Any] = {
    "steps": int,
    "speedup": float,
    "gain_over_best_fixed": float,
    "seed": int,
    "temperature": float,
    "verification": str,
    "recording": str,
    "chat": dict[str, Any],
    "data": dict[str, Any],
    "agent": dict[str, Any],
    "costs": str,  # `env.cost`
}
PACKAGES = ("adaspec_rl", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


@dataclass(frozen=True, slots=True)
class _Pair:
    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Feature:
    name: str
    scale: float


@dataclass(frozen=True, slots=True)
class _Observation:
    groups: tuple[str, ...]
    max_length: int
    vocab_size: int
    drafters: int
    features: tuple[_Feature, ...]


@dataclass(frozen=True, slots=True)
class _Action:
    length: int
    drafter: int
    threshold: float
    rule: None
    parents: tuple[int, ...]  # of its token tree; (): a chain
    ranks: tuple[int, ...]
    also: tuple[int, ...]

    @classmethod
    def of(cls, action: Action) -> "_Action":
        tree = action.tree
        assert not isinstance(tree, TreeGrowth), "trees that grow by confidence are no policy's"
        parents, ranks = (tree.parents, tree.ranks) if tree else ((), ())
        return cls(
            action.length, action.drafter, action.threshold, None, parents, ranks, action.also
        )

    def action(self) -> Action:
        tree = TreeShape(self.parents, self.ranks) if self.parents or self.ranks else None
        return Action(self.length, self.drafter, self.threshold, tree=tree, also=self.also)


@dataclass(frozen=True, slots=True)
class _Network:
    activation: str
    layers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Description:
    """`policy.json` without its schema version and checksum."""

    pair: _Pair
    observation: _Observation
    actions: tuple[_Action, ...]
    network: _Network
    survival: tuple[str, ...]
    cost_profile: dict[str, Any]
    training: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A trained policy with everything that it was trained for."""

    actor: Actor
    actions: tuple[Action, ...]
    spec: ObservationSpec
    pair: str
    fingerprint: str
    profile: CostProfile
    survival: tuple[Survival, ...]  # by drafter: the estimates that thresholds are compared with
    training: Mapping[str, Any]
    checksum: str = ""  # of the files that it was loaded from

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together.

        Raises:
            ValueError: one sentence on what is wrong.
        """
        self._check_network()
        for number, action in enumerate(self.actions):
            for drafter in (action.drafter, *action.also):
                if drafter not in range(self.spec.drafters):
                    raise ValueError(
                        f"actions[{number}] drafts with drafter {drafter}: expected one of the "
                        f"{self.spec.drafters} drafters, counted from 0"
                    )
            if action.length > self.spec.max_length or action.rule is not None:
                raise ValueError(
                    f"actions[{number}] is to {action}: expected at most {self.spec.max_length} "
                    "tokens and no rule"
                )
        if len(self.survival) != self.spec.drafters:
            raise ValueError(
                f"survival has {len(self.survival)} estimates: expected one for each of the "
                f"{self.spec.drafters} drafters"
            )
        for drafter, survival in enumerate(self.survival):
            if isinstance(survival, SurvivalHead) and len(survival.token) != self.spec.vocab_size:
                raise ValueError(
                    f"survival[{drafter}] knows {len(survival.token)} tokens: expected the "
                    f"{self.spec.vocab_size} of the vocabulary"
                )
        self.profile.check(self.spec.drafters, self.spec.max_length, most_nodes(self.actions))
        for name in TRAINING.keys() & self.training.keys():
            typed(TRAINING[name], self.training[name], f"training.{name}")

    def _check_network(self) -> None:
        """Refuse a network that is not finite or does not map features to actions."""
        shapes = [weight.shape for weight in self.actor.weights]
        biases = [bias.shape for bias in self.actor.biases]
        widths = [len(self.spec), *(shape[-1] for shape in shapes if shape)]
        chained = shapes == list(zip(widths, widths[1:])) and biases == [(w,) for w in widths[1:]]
        if not shapes or not chained or widths[-1] != len(self.actions):
            raise ValueError(
                f"the policy's network has weights of shapes {shapes} and biases of {biases}: "
                f"expected layers from {len(self.spec)} features to {len(self.actions)} actions"
            )
        if not self.actor.finite:
            raise ValueError(
                f"the policy's network has weights that are not finite, or above {LARGEST:g}: "
                "train it anew, with a lower agent.learning_rate"
            )

    def controller(self) -> LearnedPolicy:
        """The policy as a controller."""
        return LearnedPolicy(self.actor, self.actions, self.spec)

    def tracked(self) -> LearnedPolicy | CostTracking:
        """The policy for live decoding: if it knows drifting costs, it is told the present ones."""
        policy = self.controller()
        if self.training.get("costs") != "drifting" or "cost" not in self.spec.groups:
            return policy
        return CostTracking(policy, self.profile.at(batch_size=self.profile.points[0].batch_size))

    def guarded(self) -> Guarded:
        """The policy behind a guard, trusted at first if its validated speedup exceeds 1."""
        return Guarded(self.tracked(), trusted=float(self.training.get("speedup", 0.0)) > 1.0)

    def costs(self, batch_size: int = 1) -> CostFeatures:
        """Decoding costs as the policy observes them, from the profile that it was trained for."""
        return self.profile.at(batch_size=batch_size).features()

    def check_pair(self, pair: "Pair") -> None:
        """Refuse any pair but the one that the policy was trained on."""
        own = (self.fingerprint, self.spec.drafters, self.spec.vocab_size)
        if own != (pair.fingerprint, len(pair.drafters), pair.target.vocab_size):
            raise ValueError(
                f"the policy was trained for the pair {self.pair} ({self.fingerprint}, "
                f"{self.spec.drafters} drafters, {self.spec.vocab_size} tokens) but this is "
                f"{pair.name} ({pair.fingerprint}, {len(pair.drafters)} drafters, "
                f"{pair.target.vocab_size} tokens): train one for it"
            )

    def check_verification(self, rule: str) -> None:
        """Refuse to sample with a rule that the policy was not trained for.

        Its survival estimates read how far a token's score is above the others. One rule's scores
        include noise, the other's do not.
        """
        own = self.training.get("verification")
        if self.training.get("temperature") and own and own != rule:
            raise ValueError(
                f"the policy was trained for env.verification={own} but this is {rule}, for which "
                f"its survival estimates were not fitted: set env.verification={own}, or train one"
            )


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that figures depend on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def save_bundle(bundle: PolicyBundle, folder: Path) -> None:
    """Write `bundle` to `folder`, replacing the folder as a whole."""
    weights = {}
    for layer, (weight, bias) in enumerate(zip(bundle.actor.weights, bundle.actor.biases)):
        weights[f"layer{layer}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        weights[f"layer{layer}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    for drafter, survival in enumerate(bundle.survival):
        if isinstance(survival, SurvivalHead):
            weights |= {f"survival{drafter}.{k}": v for k, v in survival.tensors().items()}
    packed = save(weights)
    description = {"schema": SCHEMA, **asdict(_describe(bundle))}
    description["checksum"] = _checksum(description, packed)
    with new_folder(folder) as fresh:
        (fresh / WEIGHTS).write_bytes(packed)
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _describe(bundle: PolicyBundle) -> _Description:
    spec = bundle.spec
    return _Description(
        pair=_Pair(bundle.pair, bundle.fingerprint),
        observation=_Observation(
            spec.groups,
            spec.max_length,
            spec.vocab_size,
            spec.drafters,
            tuple(map(_Feature, spec.names, spec.scales)),
        ),
        actions=tuple(map(_Action.of, bundle.actions)),
        network=_Network(ACTIVATION, tuple(weight.shape for weight in bundle.actor.weights)),
        survival=tuple(survival.name for survival in bundle.survival),
        cost_profile=bundle.profile.to_dict(),
        training=dict(bundle.training),
        versions=package_versions(),
    )


def load_bundle(folder: Path) -> PolicyBundle:
    """Read and check a bundle. Nothing in it is executed.

    Raises:
        ValueError: one sentence on what is missing, damaged, or does not fit this version.
    """
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a policy bundle: it has no {name}")
    packed = (folder / WEIGHTS).read_bytes()
    description = strict_json.read(folder / DESCRIPTION, f"{folder / DESCRIPTION}")
    schema = description.pop("schema", None) if isinstance(description, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(
            f"the bundle {folder} has schema {schema!a:.40} but this version reads {SCHEMA}: "
            "export the policy anew"
        )
    checksum = description.pop("checksum", None)
    if checksum != _checksum({"schema": SCHEMA, **description}, packed):
        raise ValueError(
            f"the bundle {folder} was altered or truncated after its export (its checksum does "
            "not match): copy it anew"
        )
    try:
        made = _assemble(typed(_Description, description), _weights(packed))
        return replace(made, checksum=checksum)
    except ValueError as error:
        raise ValueError(f"the bundle {folder} cannot be used: {error}") from None


def _weights(packed: bytes) -> dict[str, np.ndarray]:
    try:
        weights = load(packed)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{WEIGHTS} is damaged ({error}): copy it anew") from None
    for name, array in weights.items():
        if array.dtype != np.float32:
            raise ValueError(f"{WEIGHTS} has {array.dtype} numbers in {name!a}: expected float32")
    return weights


def _assemble(description: _Description, weights: dict[str, np.ndarray]) -> PolicyBundle:
    """Build the policy from `weights`; refuse weights that do not belong to it."""
    drafters = len(description.survival)
    if description.observation.drafters != drafters:  # refused before it takes any memory
        raise ValueError(
            f"observation.drafters is {description.observation.drafters}: expected {drafters}, as "
            "many as survival has estimates"
        )
    actions = tuple(item.action() for item in description.actions)
    bundle = PolicyBundle(
        actor=_actor(description.network, weights),
        actions=actions,
        spec=_spec(description.observation, any(action.branches for action in actions)),
        pair=description.pair.name,
        fingerprint=description.pair.fingerprint,
        profile=CostProfile.from_dict(description.cost_profile),
        survival=tuple(_survival(n, name, weights) for n, name in enumerate(description.survival)),
        training=description.training,
    )
    if weights:
        raise ValueError(f"{WEIGHTS} has an unknown {min(weights)!a:.60}: expected no more arrays")
    return bundle


def _spec(observation: _Observation, trees: bool) -> ObservationSpec:
    spec = ObservationSpec(
        observation.groups,
        observation.max_length,
        observation.vocab_size,
        observation.drafters,
        trees,
        sum(bool(re.fullmatch(r"table_\d+_first", item.name)) for item in observation.features),
    )
    features = [(item.name, item.scale) for item in observation.features]
    if features != list(zip(spec.names, spec.scales)):
        odd = next((name for name, _ in features if name not in spec.names), "their order or scale")
        raise ValueError(
            f"the policy expects {len(features)} features but this version computes {len(spec)} "
            f"(first difference: {odd:.60}): use the version that trained it, or train anew"
        )
    return spec


def _actor(network: _Network, weights: dict[str, np.ndarray]) -> Actor:
    if network.activation != ACTIVATION:
        raise ValueError(
            f"network.activation is {network.activation!a:.60}: expected {ACTIVATION!r}"
        )
    layers = [_taken(weights, f"layer{n}.weight") for n in range(len(network.layers))]
    biases = [_taken(weights, f"layer{n}.bias") for n in range(len(network.layers))]
    shapes = tuple(layer.shape for layer in layers)
    if shapes != network.layers:
        raise ValueError(
            f"network.layers has shapes {str(network.layers):.100}: expected {shapes}, those in "
            f"{WEIGHTS}"
        )
    return Actor(tuple(layers), tuple(biases))


def _survival(drafter: int, name: str, weights: dict[str, np.ndarray]) -> Survival:
    if name == ProductSurvival.name:
        return ProductSurvival()
    if name != SurvivalHead.name:
        raise ValueError(
            f"survival[{drafter}] is {name!a:.60}: expected {ProductSurvival.name!r} or "
            f"{SurvivalHead.name!r}"
        )
    prefix = f"survival{drafter}."
    own = [name for name in weights if name.startswith(prefix)]
    return SurvivalHead.from_tensors({k.removeprefix(prefix): weights.pop(k) for k in own})


def _taken(weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in weights:
        raise ValueError(f"{WEIGHTS} lacks {name}, which network.layers asks for")
    return weights.pop(name)


def _checksum(description: Mapping[str, Any], packed: bytes) -> str:
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical + hashlib.sha256(packed).digest()).hexdigest()
