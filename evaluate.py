"""Compare a trained policy with every fixed draft length: `python evaluate.py [policy=DIR] …`."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from adaspec_rl.command import run
from adaspec_rl.config import EvaluateConfig
from adaspec_rl.console import standard_output


def main(config: EvaluateConfig) -> None:
    from adaspec_rl.tools.evaluate import evaluate_policy

    evaluate_policy(config, Path(HydraConfig.get().runtime.output_dir), standard_output())


if __name__ == "__main__":
    run(main, Path(__file__).parent / "conf", "evaluate")
