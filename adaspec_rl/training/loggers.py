"""Where training curves go: CSV, TensorBoard, or Weights & Biases."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, configure

from adaspec_rl.config import LoggerConfig


class WandbWriter(KVWriter):
    """Forwards Stable-Baselines3's figures to one W&B run."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        self.run.log(key_values, step=step)

    def close(self) -> None:
        pass


class RunLog:
    """One run's logger: training curves, final figures, the bundle."""

    def __init__(self, logger: Logger, run: Any | None) -> None:
        self.logger = logger
        self._run = run

    def finish(self, summary: Mapping[str, Any], bundle: Path) -> None:
        """With W&B, log the final figures, and the bundle as a model artifact."""
        if self._run is None:
            return
        import wandb

        self._run.summary.update(dict(summary))
        artifact = wandb.Artifact(f"policy-{self._run.id}", type="model", metadata=dict(summary))
        artifact.add_dir(str(bundle))
        self._run.log_artifact(artifact)


@contextmanager
def open_log(config: LoggerConfig, folder: Path, run: Any | None) -> Iterator[RunLog]:
    """The configured logger, closed at the end; `run` is an open one of W&B."""
    if run is not None:
        yield RunLog(Logger(str(folder), [WandbWriter(run)]), run)
        return
    logger = configure(str(folder / config.name), [config.name])
    try:
        yield RunLog(logger, None)
    finally:
        logger.close()
