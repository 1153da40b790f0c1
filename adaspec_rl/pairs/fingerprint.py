"""Which models these are and how they run, in one short hash."""

import hashlib
import json
from collections.abc import Sequence

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.pairs.drafter_names import is_free


def fingerprint(
    checkpoints: Sequence[Checkpoint],
    shapes: Sequence[str | None] = (),
    drafters: Sequence[str] = (),
    executions: Sequence[str] = (),
) -> str:
    """A short hash of models: configurations, headers and samples of the weights, inflation.

    Where files lie is no part of it.

    Args:
        drafters: the names of all drafters, those without a checkpoint included.
        executions: how each model runs, see `execution`.
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


def execution(
    model: LanguageModel, *, dtype: str, quantize: str | None, compile: bool = False
) -> str:
    """What else a text depends on: the engine that runs the model, its numbers, the device's kind.

    Rounding differs with each of them, and with it now and then a token.
    """
    engine = type(model).__name__ + ("-compiled" if compile else "")
    return f"{engine} {dtype} {quantize or 'unquantised'} {model.device.type}"
