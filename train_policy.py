"""Train a policy that controls speculative decoding: `python train_policy.py [model=llama] …`."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from adaspec_rl.command import run
from adaspec_rl.config import TrainConfig
from adaspec_rl.console import standard_output


def main(config: TrainConfig) -> float:
    from adaspec_rl.tools.train import train_policy

    return train_policy(config, Path(HydraConfig.get().runtime.output_dir), standard_output())


if __name__ == "__main__":
    run(main, Path(__file__).parent / "conf", "train_policy")
