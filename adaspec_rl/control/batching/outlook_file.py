"""An outlook as a folder of weights and a description; loading it runs none of its code."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adaspec_rl import strict_json
from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.files import new_folder

SCHEMA = 1
WEIGHTS, DESCRIPTION = "outlook.safetensors", "outlook.json"


@dataclass(frozen=True, slots=True)
class _Description:
    """The content of `outlook.json`."""

    schema: int
    fingerprint: str
    groups: tuple[str, ...]
    max_length: int
    vocab_size: int
    drafters: int
    features: tuple[str, ...]
    depth: int
    layers: int


def save_outlook(outlook: Outlook, fingerprint: str, folder: Path) -> None:
    """Write to `folder`, replacing it as a whole; `fingerprint` is that of the pair."""
    network, spec = outlook.network, outlook.spec
    arrays = {f"layer{n}.weight": np.ascontiguousarray(w) for n, w in enumerate(network.weights)}
    arrays |= {f"layer{n}.bias": np.ascontiguousarray(b) for n, b in enumerate(network.biases)}
    description = {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "groups": spec.groups,
        "max_length": spec.max_length,
        "vocab_size": spec.vocab_size,
        "drafters": spec.drafters,
        "features": spec.names,
        "depth": outlook.depth,
        "layers": len(network.weights),
    }
    with new_folder(folder) as fresh:
        (fresh / WEIGHTS).write_bytes(save(arrays))
        (fresh / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def load_outlook(folder: Path, fingerprint: str) -> Outlook:
    """Read what `save_outlook` wrote for the pair of this fingerprint.

    Raises:
        ValueError: one sentence that says what is missing, damaged or does not fit.
    """
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no outlook: it has no {name}")
    values = strict_json.read(folder / DESCRIPTION, f"{folder / DESCRIPTION}")
    try:
        described = strict_json.typed(_Description, values)
        return _assemble(described, (folder / WEIGHTS).read_bytes(), fingerprint)
    except ValueError as error:
        raise ValueError(f"the outlook {folder} cannot be used: {error}") from None


def _assemble(described: _Description, packed: bytes, fingerprint: str) -> Outlook:
    if described.schema != SCHEMA:
        raise ValueError(f"it has schema {described.schema}, expected {SCHEMA}: train it anew")
    if described.fingerprint != fingerprint:
        raise ValueError(
            f"it was trained for the pair {described.fingerprint!a:.40} but this is {fingerprint}"
        )
    spec = ObservationSpec(
        described.groups, described.max_length, described.vocab_size, described.drafters
    )
    if spec.names != described.features:
        raise ValueError("its features are not those of this version: train it anew")
    try:
        arrays = load(packed)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{WEIGHTS} is damaged ({error}): copy it anew") from None
    layers = range(described.layers)
    names = {f"layer{n}.{part}" for n in layers for part in ("weight", "bias")}
    if not described.layers or arrays.keys() != names:
        raise ValueError(f"{WEIGHTS} does not hold the {described.layers} layers it should")
    weights = tuple(arrays[f"layer{n}.weight"] for n in layers)
    biases = tuple(arrays[f"layer{n}.bias"] for n in layers)
    chained = all(
        weight.ndim == 2 and bias.shape == weight.shape[1:] and weight.dtype == np.float32
        for weight, bias in zip(weights, biases)
    ) and all(low.shape[1] == high.shape[0] for low, high in zip(weights, weights[1:]))
    network = Actor(weights, biases)
    if not chained or not network.finite:
        raise ValueError(f"{WEIGHTS} holds layers that do not fit together, or are not finite")
    return Outlook(network, spec, described.depth)
