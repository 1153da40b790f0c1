"""The files of a trace: safetensors shards that are written as a whole, or not at all.

Each shard names its recording and carries a checksum of its tensors.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

SCHEMA = "4"


def pack(tensors: Mapping[str, np.ndarray], fingerprint: str, kind: str) -> bytes:
    """A shard's bytes; the same content gives the same bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    metadata = {
        "schema": SCHEMA,
        "kind": kind,
        "fingerprint": fingerprint,
        "checksum": _checksum(arrays),
    }
    # One entry only: safetensors writes several in an order that changes from call to call.
    return save(arrays, {"shard": json.dumps(metadata)})


def read(path: Path, fingerprint: str, kind: str) -> dict[str, np.ndarray]:
    """A shard's tensors.

    Raises:
        ValueError: the file is damaged, of another recording, or of another version.
    """
    again = "delete it and run the same command again, which records it anew"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get("shard", "{}"))
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"the trace shard {path} is damaged ({error}): {again}") from None
    expected = {"schema": SCHEMA, "kind": kind, "fingerprint": fingerprint}
    for name, wanted in expected.items():
        if metadata.get(name) != wanted:
            raise ValueError(
                f"the trace shard {path} has {name} {metadata.get(name)} but {wanted} is expected "
                f"here: it belongs to another recording; {again}"
            )
    if metadata.get("checksum") != _checksum(tensors):
        raise ValueError(f"the trace shard {path} is damaged (its checksum differs): {again}")
    return tensors


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
