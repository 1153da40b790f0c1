"""From a checkpoint to advice: `python -m adaspec_rl.tools.tune model.target=FOLDER data=FILE`.

Measures this machine, records the candidates' drafts, chooses drafters, trains a policy, and
decodes held-out prompts with it, all within `minutes`. `advice.md` and `advice.html` in `out` say
what to use and what it gains, or why not to speculate here. All other files lie beside them.
Repeating the command resumes a killed run.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from adaspec_rl import config as schema
from adaspec_rl import strict_json
from adaspec_rl.comparison.compare import MODES, compare
from adaspec_rl.comparison.figures import Results
from adaspec_rl.config import CONF, TrainConfig
from adaspec_rl.config_limits import LENGTH, SEED, TEMPERATURE, TEXT, THREADS, TOKENS
from adaspec_rl.console import duration, say, standard_output
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.encoding import CHAT
from adaspec_rl.files import locked, write_atomically
from adaspec_rl.from_config import pair_from, set_threads
from adaspec_rl.interop.export import KINDS, ExportConfig, export
from adaspec_rl.limits import ListOf, Number, Words
from adaspec_rl.pairs.drafter_names import NGRAM
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import best_fixed
from adaspec_rl.report.conclusion import conclude
from adaspec_rl.run_identity import saved_identity
from adaspec_rl.settings import describe, one_line_errors, parse, setting
from adaspec_rl.tools.choose import Candidate, Choice, ChooseConfig, choose
from adaspec_rl.tools.distillation.config import TargetConfig
from adaspec_rl.tools.tuning.advice import Advice, judged, measured, page, without
from adaspec_rl.training.bundle import load_bundle
from adaspec_rl.training.loggers import open_log
from adaspec_rl.training.train import Task, identity_of, learn, prepare

RECORD = "tune.json"  # the settings that a folder belongs to
STEPS = 5
SHARES = (0.3, 0.35, 0.25)  # shares of the time: choosing, training, decoding held-out prompts


@dataclass
class TuneConfig:
    """The models, texts and time limit of a tuning run."""

    model: TargetConfig = field(default_factory=TargetConfig)
    candidates: list[str] = setting(
        [NGRAM, "early_exit"],
        "draft models (folders or hub ids), early_exit:LAYERS, ngram, table:FILE",
        ListOf(TEXT, least=1, most=32),
    )
    data: str = setting("embedded", "embedded, or a file of prompts: .jsonl", TEXT)
    chat: str = setting(
        "auto", "auto: conversations go through the chat template; on: texts too; off", Words(*CHAT)
    )
    minutes: float = setting(10.0, "that all of it may take, about", Number(0.5, 10_000))
    max_new_tokens: int = setting(96, "of each text", TOKENS)
    max_length: int = setting(8, "the longest draft", LENGTH)
    temperature: float = setting(0.0, "above 0: coupled sampling", TEMPERATURE)
    exports: list[str] = setting(
        ["table"], f"some of {', '.join(KINDS)}", ListOf(Words(*KINDS), least=0, most=len(KINDS))
    )
    out: str = setting("tuned", "a folder for all that is made", TEXT)
    seed: int = setting(0, "of texts and regressions", SEED)
    threads: int | None = setting(None, "of torch on the CPU; null: one a core", THREADS)


class Steps:
    """Prints which step begins and how much time is left."""

    def __init__(self, minutes: float, console: Console) -> None:
        self._ends, self._console, self._step = time.monotonic() + 60 * minutes, console, 0

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(0.0, self._ends - time.monotonic())

    def begin(self, what: str) -> None:
        """Print the start of the next step."""
        self._step += 1
        say(self._console, f"step {self._step} of {STEPS}: {what}; {duration(self.left)} left")


def tune(config: TuneConfig, console: Console) -> Advice:
    """Run all steps; writes `advice.md`, `advice.html` and `advice.json` to `config.out`.

    Raises:
        ValueError: a model or data cannot be loaded, or the folder belongs to another run.
    """
    set_threads(config.threads)
    folder = Path(config.out)
    with locked(folder):
        _claim(config, folder)
        steps = Steps(config.minutes, console)
        steps.begin("choosing drafters")
        choice = _chosen(config, folder, console)
        if not choice.chosen:
            advice = _without(choice, choice.candidates, folder)
        else:
            advice = _trained(config, choice, folder, steps, console)
        _write(config, advice, folder)
    return advice


def _claim(config: TuneConfig, folder: Path) -> None:
    """Record the settings that a folder belongs to; only `minutes` may change later."""
    own = json.loads(json.dumps({k: v for k, v in asdict(config).items() if k != "minutes"}))
    path = folder / RECORD
    if path.is_file() and (found := strict_json.read(path, str(path))) != own:
        odd = next(key for key in own if found.get(key) != own[key])
        raise ValueError(
            f"{folder} holds a run with {odd}={found.get(odd)!a:.60}, not {own[odd]!a:.60}: "
            "set out to another folder"
        )
    write_atomically(path, json.dumps(own, indent=2) + "\n")


def _chosen(config: TuneConfig, folder: Path, console: Console) -> Choice:
    path = folder / "choice" / "choice.json"
    if path.is_file():
        return _saved(path)
    asked = ChooseConfig(
        model=config.model,
        candidates=config.candidates,
        data=config.data,
        chat=config.chat,
        prompts=_clamped(SHARES[0] * 4 * config.minutes, 2, 16),
        max_new_tokens=config.max_new_tokens,
        max_length=config.max_length,
        temperature=config.temperature,
        samples=_clamped(6 * config.minutes, 8, 48),
        out=str(folder / "choice"),
        seed=config.seed,
        threads=config.threads,
    )
    return choose(asked, console)


def _saved(path: Path) -> Choice:
    found = strict_json.read(path, str(path))
    return Choice(
        candidates=strict_json.typed(tuple[Candidate, ...], found["candidates"], "candidates"),
        sets=tuple((tuple(map(str, some)), float(speed)) for some, speed in found["sets"]),
        chosen=strict_json.typed(tuple[str, ...], found["chosen"], "chosen"),
    )


def _clamped(value: float, least: int, most: int) -> int:
    return max(least, min(most, round(value)))


def _without(choice: Choice, candidates: Sequence[Any], folder: Path) -> Advice:
    profile = {f"batch 1: {item.name}": item.speedup for item in candidates}
    weights = {item.name: item.mebibytes for item in candidates}
    return Advice((), without(choice), tuple(candidates), {}, [], profile, weights)


def _trained(
    config: TuneConfig, choice: Choice, folder: Path, steps: Steps, console: Console
) -> Advice:
    drafters = (*(name for name in choice.chosen if name != NGRAM), NGRAM)  # a lookup costs nothing
    run = _run_config(config, drafters, folder, steps)
    pair = pair_from(run.model, run.engine)
    steps.begin("recording and measuring costs")
    task = prepare(run, pair, console, folder if saved_identity(folder) else None)
    task.profile.save(folder / "cost_profile.json")
    identity_of(run, pair, task.prompts, task.profile).save(folder)
    steps.begin("training")
    if not (folder / "policy" / "policy.json").is_file():
        _learn(run, task, folder, console)
    bundle = load_bundle(folder / "policy")
    steps.begin("decoding held-out prompts")
    found = [compare(run, pair, bundle, folder, console, mode=mode) for mode in MODES["both"]]
    results = conclude(run, pair, found, folder)
    steps.begin("exports and advice")
    for to in config.exports:
        made = ExportConfig(
            policy=str(folder / "policy"),
            to=to,
            run=str(folder),
            runs=str(folder),
            threads=config.threads,
        )
        export(made, console)
    return _advice(choice, drafters, results, task)


def _learn(run: TrainConfig, task: Task, folder: Path, console: Console) -> None:
    """Train in a folder of its own, so that `policy` is complete or absent."""
    unfinished = folder / "training"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    with open_log(run.logger, unfinished, None) as log:
        learn(run, task, unfinished, console, log=log)
    os.replace(unfinished / "policy", folder / "policy")


def _run_config(
    config: TuneConfig, drafters: Sequence[str], folder: Path, steps: Steps
) -> TrainConfig:
    """The settings for `train_policy.py`; a resumed run gets the same."""
    path = folder / "plan.json"
    if path.is_file():
        plan = strict_json.typed(dict[str, float], strict_json.read(path, str(path)))
    else:
        spent = max(1.0, 60 * config.minutes - steps.left)
        prompts = _clamped(SHARES[0] * 4 * config.minutes, 2, 16)
        rate = prompts / spent  # prompts per domain and second, including cost measurement
        plan = {
            "prompts": _clamped(SHARES[1] * steps.left * rate, 4, 64),
            "cost_seconds": min(60.0, max(5.0, 0.06 * 60 * config.minutes)),
            "minutes": max(0.25, SHARES[2] * config.minutes),
        }
        write_atomically(path, json.dumps(plan, indent=2) + "\n")
    quoted = ",".join(json.dumps(name) for name in drafters)
    overrides = [
        "model=pair",
        f"model.target={json.dumps(config.model.target)}",
        f"model.drafters=[{quoted}]",
        f"model.dtype={config.model.dtype}",
        f"model.device={config.model.device}",
        "agent=hindsight",
        f"env.temperature={config.temperature}",
        "env.verification=coupled",
        f"env.max_length={config.max_length}",
        f"env.max_new_tokens={config.max_new_tokens}",
        f"replay.prompts={int(plan['prompts'])}",
        f"replay.cache={json.dumps(str(folder / 'traces'))}",
        f"cost.seconds={plan['cost_seconds']}",
        "cost.batch_sizes=[1,8]",
        f"evaluation.minutes={plan['minutes']}",
        f"evaluation.max_new_tokens={config.max_new_tokens}",
        f"data.chat={config.chat}",
        f"seed={config.seed}",
        f"threads={config.threads or 'null'}",
    ]
    if config.data != "embedded":
        overrides += ["data=jsonl", f"data.path={json.dumps(config.data)}"]
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        made = OmegaConf.to_object(compose("train_policy", overrides=overrides))
    assert isinstance(made, TrainConfig)
    return replace(made, controller=replace(made.controller, name="learned"), controllers=None)


def _advice(choice: Choice, drafters: tuple[str, ...], results: Results, task: Task) -> Advice:
    by_text, depths = measured(results)
    used, because = judged(choice, by_text["all"], drafters)
    return Advice(
        drafters=used,
        because=because,
        candidates=choice.candidates,
        by_text=by_text,
        acceptance_by_depth=depths,
        elsewhere=_elsewhere(task.trace, task.profile),
        weights_mib=results.weights_mib,
    )


def _elsewhere(trace: Trace, profile: CostProfile) -> dict[str, float]:
    """The best fixed length's replayed speedup at each measured batch size and context."""
    found = {}
    for point in profile.points:
        there = replace(profile, points=(replace(point, batch_size=1),))
        where = f"batch {point.batch_size}, context {point.context}"
        found[where] = best_fixed(trace, there)[1]
    return found


def _write(config: TuneConfig, advice: Advice, folder: Path) -> None:
    names = ", ".join(repr(name) for name in advice.drafters)
    use = (
        "import adaspec_rl.interop as adaspec\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f"folder = adaspec.checkpoint({config.model.target!r})\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        "model.generate(**inputs, custom_generate=adaspec.generate, weights='packed',\n"
        f"               policy={str(folder / 'policy')!r}, draft_model=[{names}])"
    )
    known = {
        "policy": "the policy bundle",
        "report.html": "the comparison, in full",
        "results.json": "its figures",
        "cost_profile.json": "what decoding costs here",
        "choice": "the candidates, and their recording",
        "exports": "for other engines",
        "advice.json": "this page's figures",
    }
    write_atomically(folder / "advice.json", json.dumps(asdict(advice), indent=2) + "\n")
    there = {name: what for name, what in known.items() if (folder / name).exists()}
    shown = page(advice, use, there)
    write_atomically(folder / "advice.md", shown.markdown())
    write_atomically(folder / "advice.html", shown.html())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(TuneConfig)}")
        return
    console = standard_output()
    with one_line_errors():
        config = parse(TuneConfig, given)
        advice = tune(config, console)
    if advice.drafters:
        say(console, f"speculate, with {' and '.join(advice.drafters)}: {advice.because}")
    else:
        say(console, f"do not speculate here, because {advice.because}")
    say(console, f"advice: {Path(config.out) / 'advice.md'}")


if __name__ == "__main__":
    main()
