"""One short hash of a pair's models and how they run."""

import hashlib
import json
from collections.abc import Sequence

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.pairs.drafter_names import is_free


def fingerprint(
    checkpoints: Sequence[Checkpoint],
    shapes: Sequence[str | None] = (),
    drafters: Sequence[str] = (),
    executions: Sequence[str] = (),
) -> str:
    """A short hash of models: configurations, headers and samples of the weights, inflation.

    The locations of files do not matter.

    Args:
        drafters: the names of all drafters, those without a checkpoint included.
        executions: how each model runs, `LanguageModel.execution`.
    """
    kinds = [drafter if is_free(drafter) else "model" for drafter in drafters]
    digest = hashlib.sha256(repr([kinds, list(shapes), list(executions)]).encode())
    for checkpoint in checkpoints:
        config = {k: v for k, v in checkpoint.config().items() if k != "_name_or_path"}
        digest.update(json.dumps(config, sort_keys=True).encode())
        for path in checkpoint.weight_files():
            size = path.stat().st_size
            digest.update(f"{path.name}:{size}".encode())
            with path.open("rb") as file:
                for part in range(16):  # the header, then samples throughout the file
                    file.seek(part * size // 16)
                    digest.update(file.read(65536))
    return digest.hexdigest()[:16]
