"""The same search for every method: as many trials on the training recording, with each drafter."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import optuna

from adaspec_rl import strict_json
from adaspec_rl.comparison import methods
from adaspec_rl.comparison.methods import DRAFTER, Method, Parameters, Range
from adaspec_rl.comparison.workbench import Workbench
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.files import write_atomically
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.session import ReplaySession

logger = logging.getLogger(__name__)

# Packages whose code determines a replayed throughput.
PARTS = ("control", "costs", "decoding", "recording", "replay")
COST = CostFeatures(0.0, 0.0, 0.0)  # tuned methods do not observe costs


def tuned(
    method: Method,
    bench: Workbench,
    *,
    trials: int,
    seed: int,
    cache: Path,
    progress: Callable[[float], None] = lambda tried: None,
) -> Parameters:
    """The best of `trials` parameter settings on the bench's training texts; cached on disk.

    The first trial has the method's own defaults, the others are Optuna's (TPE, seeded). If a
    method's only parameter is an integer with at most `trials` values, all values are tried. A
    method that uses a single drafter gets as many trials with each of the pair's. `progress` gets
    the share of trials that is done, as a number of trials with one drafter.
    """
    path = cache / f"{method.name}-{_fingerprint(method, bench, trials, seed)}.json"
    space = method.space_among(len(bench.trace.drafters))
    kept = _kept(path, method.name, space)
    if kept is not None:
        return kept
    ways: list[Parameters] = [{}]
    if DRAFTER in space:
        ways = [{DRAFTER: number} for number in range(len(bench.trace.drafters))]
    found = []
    for number, way in enumerate(ways):

        def shown(tried: int, before: int = number * trials) -> None:
            progress((before + tried) / len(ways))

        found.append(_searched(method, bench, way, trials, seed, shown))
    rate, chosen = max(found, key=lambda one: one[0])
    best = {name: chosen[name] for name in space}  # in the order in which a file is read
    kept_as = {"parameters": best, "tokens_per_second": rate}
    write_atomically(path, json.dumps(kept_as, indent=2) + "\n")
    return best


def _searched(
    method: Method,
    bench: Workbench,
    given: Parameters,
    trials: int,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[float, Parameters]:
    """The best of `trials` settings beside the `given` parameters, and its tokens a second."""
    session = ReplaySession(bench.trace, bench.profile, batch_size=bench.batch_size)

    def objective(trial: optuna.Trial) -> float:
        tried = {name: space.suggest(trial, name) for name, space in method.space.items()}
        controller = method.build(bench, **given, **tried)
        rate = replayed_throughput(controller, session, bench.trace)
        progress(trial.number + 1)
        return rate

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=_sampler(method, trials, seed))
    if not isinstance(study.sampler, optuna.samplers.GridSampler):
        study.enqueue_trial({name: space.default for name, space in method.space.items()})
    study.optimize(objective, n_trials=trials)
    return study.best_value, {**given, **study.best_params}


def _kept(path: Path, name: str, space: Mapping[str, Range]) -> Parameters | None:
    """The parameters in a cache file; None if it is missing or, with a warning, damaged."""
    if not path.exists():
        return None
    try:
        found = strict_json.read(path, "the file")["parameters"]
        return {key: item.checked(found[key]) for key, item in space.items()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("%s is damaged (%s): tuning %s anew", path, error, name)
        return None


def _sampler(method: Method, trials: int, seed: int) -> optuna.samplers.BaseSampler:
    spaces = list(method.space.items())
    if len(spaces) == 1 and isinstance(spaces[0][1].default, int):
        name, space = spaces[0]
        values = range(int(space.low), int(space.high) + 1)
        if len(values) <= trials:
            return optuna.samplers.GridSampler({name: list(values)}, seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)


def replayed_throughput(controller: Controller, session: ReplaySession, trace: Trace) -> float:
    """A controller's tokens per second over all texts of a trace, in order."""
    tokens, seconds = 0, 0.0
    for text in trace.texts:
        made = generate(session, controller, text.prompt.tolist(), cost=COST, seed=text.seed)
        tokens += len(made.tokens)
        seconds += sum(played.seconds for played in made.rounds)
    return tokens / seconds


def _fingerprint(method: Method, bench: Workbench, trials: int, seed: int) -> str:
    """A hash of everything that the outcome depends on."""
    seeds: Sequence[int] = [text.seed for text in bench.trace.texts]
    settings = [
        repr(method.space),
        bench.trace.fingerprint,
        seeds,
        bench.profile.to_dict(),
        bench.batch_size,
        bench.max_length,
        trials,
        seed,
        code_version(),
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


@cache
def code_version() -> str:
    """A hash of the sources that determine a replayed throughput, and of Optuna's version."""
    package = Path(__file__).parents[1]
    paths = [path for part in PARTS for path in sorted((package / part).rglob("*.py"))]
    digest = hashlib.sha256(optuna.__version__.encode())
    for path in (*paths, Path(methods.__file__), Path(__file__)):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
