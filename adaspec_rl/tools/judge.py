"""Train a judge for `env.verification=lossy.judge`: `python -m adaspec_rl.tools.judge out=FOLDER`.

The target solves word problems of the training split. Wherever the drafter's token differs, it is
swapped in and the target goes on; a swap matters if it changes the answer. A logistic regression
learns to recognise such swaps (see `decoding.verification.lossy.judge`). The threshold is chosen on
a withheld fifth of the problems: the largest under which no more than the share `missed` of the
swaps that matter are kept.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adaspec_rl.config_limits import COUNT, SEED, TEXT, THREADS
from adaspec_rl.console import progress, say, standard_output
from adaspec_rl.data.problems import gsm8k_problems, word_problems
from adaspec_rl.decoding.verification.lossy import Judge
from adaspec_rl.decoding.verification.lossy.judge import fit_judge
from adaspec_rl.decoding.verification.lossy.judge_file import save_judge
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.limits import ListOf, Number, Whole
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.settings import describe, one_line_errors, parse, setting
from adaspec_rl.tools.distillation.config import TargetConfig
from adaspec_rl.tools.judging import Swaps, collect, judged_drafter
from adaspec_rl.training.bundle import package_versions

WITHHELD = 5  # every fifth problem


@dataclass
class JudgeConfig:
    """The pair whose judge is trained, and the training data."""

    model: TargetConfig = field(default_factory=lambda: TargetConfig(target="tiny:target"))
    drafters: list[str] = setting(
        ["tiny:draft", "ngram"],
        "all of the pair's, in order: a judge belongs to the pair",
        ListOf(TEXT, least=1, most=32),
    )
    drafter: int = setting(0, "the number of the one whose drafts are judged", Whole(0, 31))
    data: str = setting("embedded", "embedded word problems, or a file of GSM8K's kind", TEXT)
    problems: int = setting(160, "that the target solves", COUNT)
    max_new_tokens: int = setting(128, "of each text", Whole(2, 10**6))
    missed: float = setting(
        0.1, "share of the swaps that matter which may be kept", Number(0, 1, below=True)
    )
    out: str = setting("???", "the folder that the judge is written to", TEXT)
    seed: int = setting(0, "of which problems are withheld", SEED)
    threads: int | None = setting(None, "of torch on the CPU; null: one a core", THREADS)


def train_judge(config: JudgeConfig, console: Console) -> Judge:
    """Collect swaps, fit the judge, and write it with its figures on withheld problems.

    Raises:
        ValueError: the drafter cannot be judged, or all swaps are alike.
    """
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    device, dtype = config.model.placement()
    pair = load_pair(
        config.model.target,
        config.model.target,
        config.drafters,
        LoadOptions(dtype=dtype, device=device),
    )
    drafter = judged_drafter(pair, config.drafter)
    if config.data == "embedded":
        tasks = word_problems(config.problems, "train")
    else:
        tasks = gsm8k_problems(Path(config.data))[: config.problems]
    prompts = [pair.encode(task.text) for task in tasks]
    with progress(console, "swapping tokens") as update:
        swaps = collect(
            pair,
            drafter,
            tasks,
            prompts,
            max_new_tokens=config.max_new_tokens,
            progress=update,
        )
    judge, figures = fitted(swaps, pair, drafter.name, missed=config.missed, seed=config.seed)
    about = {"problems": len(tasks), "data": config.data, **figures, "versions": package_versions()}
    save_judge(judge, about, Path(config.out))
    for name, value in figures.items():
        say(console, f"{name}: {value:.4g}")
    return judge


def fitted(
    swaps: Sequence[Swaps], pair: Pair, drafter: str, *, missed: float, seed: int
) -> tuple[Judge, dict[str, Any]]:
    """A judge fitted to the swaps of each problem, and its figures on withheld problems."""
    order = torch.randperm(len(swaps), generator=torch.Generator().manual_seed(seed)).tolist()
    withheld = Swaps.joined([swaps[n] for n in order[: max(1, len(order) // WITHHELD)]])
    learned = Swaps.joined([swaps[n] for n in order[max(1, len(order) // WITHHELD) :]])
    weights, bias, mean, scale = fit_judge(learned.features, learned.important)
    judge = Judge(weights, bias, mean, scale, drafter, pair.fingerprint, pair.name)
    chances, important = judge.importance(withheld.features), withheld.important
    if not important.any() or important.all():
        raise ValueError(
            f"the {len(important)} swaps of the withheld problems are all alike: take more problems"
        )
    # At most the share `missed` of the swaps that matter lies below the threshold.
    threshold = float(chances[important].quantile(missed).clamp(1e-4, 1 - 1e-4))
    judge = judge.at(threshold)
    kept = chances < threshold
    return judge, {
        "swaps": len(learned.important) + len(withheld.important),
        "withheld_swaps": len(important),
        "important_share": float(important.float().mean()),
        "auc": area_under_curve(chances, important),
        "threshold": threshold,
        "kept_share_of_harmless": float(kept[~important].float().mean()),
        "kept_share_of_important": float(kept[important].float().mean()),
    }


def area_under_curve(chances: torch.Tensor, important: torch.Tensor) -> float:
    """The chance that an important swap has a higher chance than a harmless one; both are `[N]`."""
    above, below = chances[important][:, None], chances[~important][None]
    return float(((above > below).double() + (above == below).double() / 2).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(JudgeConfig)}")
        return
    console = standard_output()
    with one_line_errors():
        config = parse(JudgeConfig, given)
        train_judge(config, console)
        say(console, f"use it with env.verification=lossy.judge env.lossy.judge={config.out}")


if __name__ == "__main__":
    main()
