"""The policy bundle: a folder that can be shared, checked, and loaded without running code.

`policy.safetensors` holds the actor's weights; `policy.json` everything needed to use them: feature
names and scales, the action list, the network's shape, the pair's fingerprint, the cost profile,
a training summary and package versions, sealed by a checksum over both files.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival, Survival, SurvivalHead
from adaspec_rl.files import new_folder
from adaspec_rl.replay.cost_profile import CostProfile

SCHEMA = 4
WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"
PACKAGES = ("adaspec_rl", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """A trained policy with all it was trained for."""

    actor: Actor
    actions: tuple[Action, ...]
    spec: ObservationSpec
    pair: str
    fingerprint: str
    profile: CostProfile
    survival: tuple[Survival, ...]  # by drafter: what thresholds are compared with
    training: Mapping[str, Any]

    def controller(self) -> LearnedPolicy:
        """The policy as a controller."""
        return LearnedPolicy(self.actor, self.actions, self.spec)

    def guarded(self) -> Guarded:
        """The policy behind a guard, which trusts it at first if it paid when it was validated."""
        return Guarded(self.controller(), trusted=float(self.training.get("speedup", 0.0)) > 1.0)

    def costs(self, batch_size: int = 1) -> CostFeatures:
        """What decoding costs, as the policy sees it, by the profile that it was trained for."""
        return self.profile.at(batch_size=batch_size).features()

    def check_pair(self, name: str, fingerprint: str) -> None:
        """Refuse any pair but the one that the policy was trained on."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"the policy was trained for the pair {self.pair} ({self.fingerprint}) but this is "
                f"{name} ({fingerprint}): train one for it"
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
    """Write `bundle` to `folder`, replacing it as a whole: never half an old and half a new one."""
    weights = {}
    for layer, (weight, bias) in enumerate(zip(bundle.actor.weights, bundle.actor.biases)):
        weights[f"layer{layer}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
        weights[f"layer{layer}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    for drafter, survival in enumerate(bundle.survival):
        if isinstance(survival, SurvivalHead):
            weights |= {f"survival{drafter}.{k}": v for k, v in survival.tensors().items()}
    packed = save(weights)
    description = {
        "schema": SCHEMA,
        "pair": {"name": bundle.pair, "fingerprint": bundle.fingerprint},
        "observation": {
            "groups": list(bundle.spec.groups),
            "max_length": bundle.spec.max_length,
            "vocab_size": bundle.spec.vocab_size,
            "drafters": bundle.spec.drafters,
            "features": [
                {"name": name, "scale": scale}
                for name, scale in zip(bundle.spec.names, bundle.spec.scales)
            ],
        },
        "actions": [asdict(action) for action in bundle.actions],
        "network": {
            "activation": "tanh",
            "layers": [list(weight.shape) for weight in bundle.actor.weights],
        },
        "survival": [survival.name for survival in bundle.survival],
        "cost_profile": bundle.profile.to_dict(),
        "training": dict(bundle.training),
        "versions": package_versions(),
    }
    description["checksum"] = _checksum(description, packed)
    with new_folder(folder) as fresh:
        (fresh / WEIGHTS).write_bytes(packed)
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_bundle(folder: Path) -> PolicyBundle:
    """Read and check a bundle. Nothing in it is executed.

    Raises:
        ValueError: one sentence on what is missing, damaged, or does not fit this version.
    """
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a policy bundle: it has no {name}")
    packed = (folder / WEIGHTS).read_bytes()
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{folder / DESCRIPTION} is damaged: it is not JSON") from None
    if not isinstance(description, dict) or description.get("schema") != SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else None
        raise ValueError(
            f"the bundle {folder} has schema {found} but this version reads {SCHEMA}: "
            "export the policy anew"
        )
    if description.pop("checksum", None) != _checksum(description, packed):
        raise ValueError(
            f"the bundle {folder} was altered or truncated after its export (its checksum does "
            "not match): copy it anew"
        )
    try:
        weights = load(packed)
        return _assemble(description, weights)
    except (KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"the bundle {folder} is incomplete: {error}") from None


def _assemble(description: dict[str, Any], weights: dict[str, np.ndarray]) -> PolicyBundle:
    observation = description["observation"]
    spec = ObservationSpec(
        tuple(observation["groups"]),
        observation["max_length"],
        observation["vocab_size"],
        observation["drafters"],
    )
    features = [(item["name"], item["scale"]) for item in observation["features"]]
    if features != list(zip(spec.names, spec.scales)):
        odd = next((name for name, _ in features if name not in spec.names), "their order or scale")
        raise ValueError(
            f"the policy expects {len(features)} features but this version computes {len(spec)} "
            f"(first difference: {odd}): use the version that trained it, or train anew"
        )
    actions = tuple(Action(**action) for action in description["actions"])
    count = len(description["network"]["layers"])
    layers = [weights[f"layer{layer}.weight"] for layer in range(count)]
    biases = [weights[f"layer{layer}.bias"] for layer in range(count)]
    widths = [len(spec), *(weight.shape[1] for weight in layers)]
    shapes = list(zip(widths[:-1], widths[1:]))
    if [weight.shape for weight in layers] != shapes or widths[-1] != len(actions):
        raise ValueError(
            f"the policy's network maps {layers[0].shape[0]} features to {widths[-1]} actions but "
            f"its description has {len(spec)} features and {len(actions)} actions"
        )
    survival = tuple(
        _survival(drafter, name, weights) for drafter, name in enumerate(description["survival"])
    )
    return PolicyBundle(
        survival=survival,
        actor=Actor(tuple(layers), tuple(biases)),
        actions=actions,
        spec=spec,
        pair=description["pair"]["name"],
        fingerprint=description["pair"]["fingerprint"],
        profile=CostProfile.from_dict(description["cost_profile"]),
        training=description["training"],
    )


def _survival(drafter: int, name: str, weights: Mapping[str, np.ndarray]) -> Survival:
    if name == ProductSurvival.name:
        return ProductSurvival()
    if name != SurvivalHead.name:
        raise ValueError(f"the bundle has an unknown survival estimate {name!r}: expected head")
    prefix = f"survival{drafter}."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return SurvivalHead.from_tensors(own)


def _checksum(description: Mapping[str, Any], packed: bytes) -> str:
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical + hashlib.sha256(packed).digest()).hexdigest()
