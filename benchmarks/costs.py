"""Decoding costs on this machine, saved under a name for `cost=NAME`.

    python benchmarks/costs.py NAME [GROUP=NAME ...] [--contexts N ...] [--batch-sizes N ...]

Measures the configured pair (`model=inflated`), prints the profile as a table and writes
`NAME.json` and `NAME.yaml` to `adaspec_rl/conf/cost`. Figures: `policy_share` (a policy's own time
÷ an autoregressive step) and, at every batch size and context, `autoregressive_ms`.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from report import finish
from rich.console import Console

from adaspec_rl import config as schema
from adaspec_rl.config import CONF, TrainConfig
from adaspec_rl.control.pair_observation import pair_observation
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.costs.table import cost_table
from adaspec_rl.from_config import (
    measured_profile_from,
    pair_from,
    set_threads,
)
from adaspec_rl.prompts import prompts_from
from adaspec_rl.report.plots import cost_plot

RESERVED = ("measured", "file")


def name_of(text: str) -> str:
    """`text`, if it is a valid name for a profile."""
    if not re.fullmatch(r"[\w-]+", text) or text in RESERVED:
        raise argparse.ArgumentTypeError(
            f"expected letters, digits, - and _ other than {' and '.join(RESERVED)}, got {text!r}"
        )
    return text


def configured(options: argparse.Namespace) -> TrainConfig:
    """`train_policy.py`'s configuration with the requested contexts and batch sizes."""
    schema.register()
    overrides = [
        "cost=measured",
        f"cost.samples={options.samples}",
        f"cost.seconds={options.seconds}",
        f"cost.contexts={options.contexts}",
        f"cost.batch_sizes={options.batch_sizes}",
        *options.overrides,
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("train_policy", overrides=overrides))
    assert isinstance(config, TrainConfig)
    return config


def write_named(profile: CostProfile, name: str, note: str, folder: Path) -> None:
    """Write `profile` to `folder` so that `cost=NAME` finds it."""
    path = folder.resolve() / f"{name}.json"
    profile.save(path)
    shown = path.relative_to(CONF) if path.is_relative_to(CONF) else path
    path.with_suffix(".yaml").write_text(f"# {note}\nsource: file\npath: {shown}\nbatch_size: 1\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", type=name_of)
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--samples", type=int, default=48, help="the most timings of each part")
    parser.add_argument("--seconds", type=float, default=600, help="that they may take in all")
    parser.add_argument(
        "--folder", type=Path, default=CONF / "cost", help="adaspec_rl/conf/cost by default"
    )
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", help="train_policy.py's settings")
    options = parser.parse_args()
    config, console = configured(options), Console()
    set_threads(config.threads)
    pair = pair_from(config.model, config.engine)
    prompts = prompts_from(config, "train", pair, console)
    spec = pair_observation(pair, config.env.features, config.env.max_length)
    profile = measured_profile_from(config, pair, prompts, None, spec, console)
    command = shlex.join(["python", "benchmarks/costs.py", *sys.argv[1:]])
    note = f"{pair.name} on {profile.device}: {command}"
    write_named(profile, options.name, note, options.folder)
    console.print(cost_table(profile))
    if options.plot:
        cost_plot(profile, options.plot)
    figures = {"policy_share": profile.policy / profile.at().autoregressive_step}
    for point in profile.points:
        place = f"batch{point.batch_size}_context{point.context}"
        figures[f"autoregressive_ms_{place}"] = point.autoregressive_step * 1e3
    finish(figures, options.json, device=pair.target.device, details={"profile": profile.to_dict()})


if __name__ == "__main__":
    main()
