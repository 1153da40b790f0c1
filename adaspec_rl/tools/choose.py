"""Which drafters are worth having: `python -m adaspec_rl.tools.choose candidates=[...]`.

Records what each candidate would draft in the target's texts and measures its costs here. This
gives the speedup of each candidate alone, at its best fixed length, and of sets of candidates under
a policy. The policy is the full-information regression, fitted on one half of the texts and judged
on the other, both ways round. A set grows by the candidate that helps most, as long as one helps.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adaspec_rl.config import AgentConfig
from adaspec_rl.config_limits import (
    COUNT,
    LENGTH,
    SEED,
    TEMPERATURE,
    TEXT,
    THREADS,
    TOKENS,
)
from adaspec_rl.console import progress, say, standard_output
from adaspec_rl.control.action import action_list
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.encoding import CHAT, as_asked, encode
from adaspec_rl.data.prompts import balanced
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.device import device_named
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.memory import weight_bytes
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.files import new_file, write_atomically
from adaspec_rl.from_config import set_threads
from adaspec_rl.limits import ListOf, Number, Whole, Words
from adaspec_rl.pairs.drafter_names import short_names
from adaspec_rl.pairs.pair import Pair, load_pair, own_model
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.trace import Trace
from adaspec_rl.replay.oracle import best_fixed
from adaspec_rl.replay.streams import ReplayStreams, ReplayTables, play_all
from adaspec_rl.settings import describe, one_line_errors, parse, setting
from adaspec_rl.tools.distillation.config import TargetConfig
from adaspec_rl.tools.distillation.prompts import read_prompts
from adaspec_rl.training.hindsight import fit_hindsight
from adaspec_rl.training.judge import deciding

STREAMS = 256
REGRESSION = AgentConfig(
    name="hindsight", total_steps=100_000, learning_rate=3e-3, n_epochs=8, hidden=[64, 64]
)


@dataclass
class ChooseConfig:
    """The candidates, the texts to compare them on, and how."""

    model: TargetConfig = field(default_factory=TargetConfig)
    candidates: list[str] = setting(
        ["ngram", "early_exit"],
        "draft models (folders or hub ids), early_exit:LAYERS, ngram, table:FILE",
        ListOf(TEXT, least=1, most=32),
    )
    data: str = setting("embedded", "embedded, or a file of prompts: .jsonl or .txt", TEXT)
    chat: str = setting(
        "auto", "auto: conversations go through the chat template; on: texts too; off", Words(*CHAT)
    )
    prompts: int = setting(16, "a domain", COUNT)
    max_new_tokens: int = setting(128, "of each text", TOKENS)
    max_length: int = setting(8, "the longest draft", LENGTH)
    temperature: float = setting(0.0, "above 0: coupled sampling", TEMPERATURE)
    least_gain: float = setting(
        0.01, "of the speedup, for which a set grows by one more drafter", Number(0, 100)
    )
    samples: int = setting(48, "the most timings of each part of a round", Whole(1, 10_000))
    out: str = setting("choice", "a folder for the recording, table and plot", TEXT)
    seed: int = setting(0, "of texts and regressions", SEED)
    threads: int | None = setting(None, "of CPU kernels; null: one a core", THREADS)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One drafter by itself."""

    name: str
    acceptance: float  # share of positions at which its next token would be accepted
    draft_step: float  # in autoregressive steps
    mebibytes: float  # of weights of its own
    length: int  # its best fixed draft length; 0: plain decoding is faster
    speedup: float  # at that length


@dataclass(frozen=True, slots=True)
class Choice:
    """The measured candidates and the chosen set."""

    candidates: tuple[Candidate, ...]
    sets: tuple[tuple[tuple[str, ...], float], ...]  # the best of each size, and its speedup
    chosen: tuple[str, ...]


def choose(config: ChooseConfig, console: Console) -> Choice:
    """Measure the candidates and grow the best set; writes `choice.json` and `choice.png`.

    Raises:
        ValueError: a candidate cannot be loaded, or settings do not fit the target.
    """
    set_threads(config.threads)
    pair = load_pair(
        "choice",
        config.model.target,
        config.candidates,
        LoadOptions(dtype=config.model.dtype, device=device_named(config.model.device)),
    )
    chosen = balanced(read_prompts(config.data, 0.5).train, config.prompts)
    asked = [encode(pair.tokenizer, p) for p in as_asked(chosen, config.chat, pair.tokenizer)]
    domains, ids = [item.prompt.domain for item in asked], [item.ids for item in asked]
    trace, profile = _measured(config, pair, ids, domains, console)
    names = config.candidates
    candidates = tuple(
        _alone(pair, trace, profile, number, name) for number, name in enumerate(names)
    )
    with progress(console, "sets of drafters") as update:
        total = len(names) * (len(names) + 1) // 2
        sets = grow(
            len(names),
            lambda some: predicted(trace.of_drafters(some), profile.of_drafters(some), config.seed),
            least_gain=config.least_gain,
            progress=lambda tried: update(tried, total),
        )
    named = tuple((tuple(names[number] for number in some), speed) for some, speed in sets)
    found = Choice(candidates, named, named[-1][0] if named else ())
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "choice.json", json.dumps(asdict(found), indent=2) + "\n")
    plot(found, folder / "choice.png")
    return found


def _measured(
    config: ChooseConfig,
    pair: Pair,
    ids: Sequence[Sequence[int]],
    domains: Sequence[str],
    console: Console,
) -> tuple[Trace, CostProfile]:
    sampling = Sampling(config.temperature)
    recording = Recording(
        pair=pair.fingerprint,
        sampling=sampling,
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=config.max_new_tokens,
        max_length=config.max_length,
        seed=config.seed,
        shard=max(1, len(ids) // 4),  # so that no text is judged by a fit to itself
    )
    with progress(console, "recording") as update:
        trace, survival = record(
            pair,
            recording,
            ids,
            domains,
            Path(config.out) / "traces",
            progress=update,
        )
    with progress(console, "measuring costs") as update:
        profile = measure(
            pair.session(
                max_new_tokens=config.max_new_tokens,
                sampling=sampling,
                verification="coupled",
                survival=survival,
            ),
            ids,
            max_length=config.max_length,
            samples=config.samples,
            contexts=(64,),
            spec=_features(trace),
            progress=lambda share: update(share, 1.0),
        )
    return trace, profile


def _alone(pair: Pair, trace: Trace, profile: CostProfile, number: int, name: str) -> Candidate:
    table, point = trace.drafters[number], profile.at()
    action, speedup = best_fixed(trace.of_drafters([number]), profile.of_drafters([number]))
    model = own_model(pair.drafters[number], pair.target)
    own = None if model is None else model.weights
    return Candidate(
        name=name,
        acceptance=float((table.accepted > 0).mean()),
        draft_step=point.draft_step[number] / point.autoregressive_step,
        mebibytes=weight_bytes(own, pair.target.weights) / 2**20,
        length=action.length,
        speedup=speedup,
    )


def grow(
    count: int,
    speedup: Callable[[tuple[int, ...]], float],
    *,
    least_gain: float,
    progress: Callable[[int], None] = lambda tried: None,
) -> list[tuple[tuple[int, ...], float]]:
    """Greedily growing sets: each adds the best candidate to the set before, while it gains enough.

    A larger set must be faster than the one before by `least_gain`, the first set faster than plain
    decoding by as much. `progress` gets the number of tried sets.
    """
    found: list[tuple[tuple[int, ...], float]] = []
    best: tuple[int, ...] = ()
    reached, count_tried = 1.0, 0
    while len(best) < count:
        tried = {}
        for number in range(count):
            if number not in best:
                larger = (*best, number)
                tried[larger] = speedup(larger)
                count_tried += 1
                progress(count_tried)
        larger = max(tried, key=lambda some: tried[some])
        if tried[larger] < reached * (1 + least_gain):
            break
        best, reached = larger, tried[larger]
        found.append((best, reached))
    return found


def predicted(trace: Trace, profile: CostProfile, seed: int) -> float:
    """The speedup under policies fitted on other texts: each half is judged by the other half's."""
    halves = [range(start, len(trace.texts), 2) for start in (0, 1)]
    tokens = steps = 0.0
    for own, other in (halves, halves[::-1]):
        played = _replayed(trace.select(own), trace.select(other), profile, seed)
        tokens += played[0]
        steps += played[1]
    return tokens / steps


def _replayed(
    learned: Trace, judged: Trace, profile: CostProfile, seed: int
) -> tuple[float, float]:
    """Tokens and autoregressive steps of `judged` under a policy fitted on `learned`."""
    count = len(learned.drafters)
    actions = action_list("length_threshold", learned.max_length, count)
    spec, points = _features(learned), profile.contexts()
    game = ReplayGame(
        ReplayTables(learned, actions),
        spec,
        [points],
        policy=[profile.policy],
        streams=STREAMS,
        seed=seed,
    )
    game.streams.rates[:] = max(1.0, best_fixed(learned, profile)[1])
    actor = fit_hindsight(game, REGRESSION, seed)
    tables = ReplayTables(judged, actions)
    streams = ReplayStreams.of(tables, spec, profile, streams=len(judged.texts))
    totals = play_all(streams, deciding(actor))
    return float(totals.tokens.sum()), float(totals.steps.sum())


def _features(trace: Trace) -> ObservationSpec:
    vocab_size = 1 + int(max(text.tokens.max() for text in trace.texts))
    return ObservationSpec(("context", "cost"), trace.max_length, vocab_size, len(trace.drafters))


def table(found: Choice) -> Table:
    """The candidates as a console table."""
    shown = Table(title="drafters by themselves", caption="draft step: in autoregressive steps")
    for name in ("drafter", "accepted", "draft step", "weights", "best fixed", "speedup"):
        shown.add_column(name, justify="left" if name == "drafter" else "right")
    for name, item in zip(short_names([item.name for item in found.candidates]), found.candidates):
        shown.add_row(
            Text(name),
            f"{item.acceptance:.0%}",
            f"{item.draft_step:.3f}",
            f"{item.mebibytes:.1f} MiB",
            str(item.length) if item.length else "none",
            f"{item.speedup:.2f}",
        )
    return shown


@rc_context({"text.parse_math": False})  # dollars in names are no formulas
def plot(found: Choice, path: Path) -> None:
    """Bars: each candidate alone at its best fixed length, then the sets under a policy."""
    names = [item.name for item in found.candidates]
    labels = short_names(names)
    short = dict(zip(names, labels))
    labels += [" + ".join(short[name] for name in some) for some, _ in found.sets]
    speeds = [item.speedup for item in found.candidates] + [speed for _, speed in found.sets]
    alone = len(found.candidates)
    figure = Figure(figsize=(6.0, 0.9 + 0.34 * len(labels)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(labels)))
    axes.barh(places, speeds, color=["#9aa7b4"] * alone + ["#d1495b"] * (len(labels) - alone))
    for place, speed in zip(places, speeds):
        axes.text(speed, place, f" {speed:.2f}", va="center", fontsize=8)
    axes.axvline(1.0, color="#333", lw=0.8, ls=":")
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(
        "predicted speedup over plain decoding (grey: alone, fixed length; red: policy)", fontsize=8
    )
    axes.spines[["top", "right"]].set_visible(False)
    with new_file(path) as fresh:
        figure.savefig(fresh, dpi=150, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(ChooseConfig)}")
        return
    console = standard_output()
    with one_line_errors():
        config = parse(ChooseConfig, given)
        found = choose(config, console)
    console.print(table(found))
    for some, speed in found.sets:
        say(console, f"{', '.join(some)}: {speed:.2f} under a policy")
    if found.chosen:
        say(console, f"recommended: model.drafters=[{','.join(found.chosen)}]")
    else:
        say(console, "recommended: none of them; plain decoding is as fast")


if __name__ == "__main__":
    main()
