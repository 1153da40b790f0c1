"""The commands `adaspec-train` and `adaspec-evaluate`, also those of the two scripts."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from adaspec_rl.command import run
from adaspec_rl.config import CONF, EvaluateConfig, TrainConfig
from adaspec_rl.console import standard_output


def train() -> None:
    """Train a policy that controls speculative decoding: `adaspec-train [model=llama] …`."""
    run(_train, CONF, "train_policy", follow)


def evaluate() -> None:
    """Compare a trained policy with fixed draft lengths: `adaspec-evaluate [policy=DIR] …`."""
    run(_evaluate, CONF, "evaluate", follow)


def follow(config: TrainConfig | EvaluateConfig) -> None:
    """Compute a share of the target for the first process that `torchrun` started."""
    from adaspec_rl.from_config import follow_from  # slow to import

    follow_from(config.model, config.engine)


def _train(config: TrainConfig) -> float:
    from adaspec_rl.tools.train import train_policy  # slow to import; mistakes are shown first

    return train_policy(config, _folder(), standard_output())


def _evaluate(config: EvaluateConfig) -> None:
    from adaspec_rl.tools.evaluate import evaluate_policy

    evaluate_policy(config, _folder(), standard_output())


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir)
