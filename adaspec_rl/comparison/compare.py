"""Compare controllers on held-out prompts, live or replayed, and print the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from adaspec_rl.comparison.benchmark import ProfileTime, Record, run_benchmark
from adaspec_rl.comparison.contestants import Contestants, contestants
from adaspec_rl.comparison.examples import Example, examples
from adaspec_rl.comparison.figures import (
    LIVE,
    REPLAY,
    SCHEMA,
    ComparisonFigures,
    Conditions,
    PairName,
    ScopeFigures,
    as_json,
)
from adaspec_rl.comparison.identity import AUTOREGRESSIVE, BEST_BY_DOMAIN, LEARNED, ORACLE
from adaspec_rl.comparison.journal import Journal
from adaspec_rl.comparison.losslessness import (
    Losslessness,
    compare_texts,
    compare_with_recording,
)
from adaspec_rl.comparison.memory import MemoryMeter
from adaspec_rl.comparison.results import Bootstrap, assemble
from adaspec_rl.comparison.selection import Selection, compared_prompts
from adaspec_rl.comparison.tables import results_table
from adaspec_rl.config import Config
from adaspec_rl.console import progress, say
from adaspec_rl.costs.profile import CostProfile, device_name
from adaspec_rl.data.encoding import chat_facts
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.sampling import SAMPLER
from adaspec_rl.decoding.session import Session
from adaspec_rl.decoding.verification import is_lossy
from adaspec_rl.from_config import sampling_from, verification_from
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.replay.session import ReplaySession
from adaspec_rl.run_identity import digest, settings_of
from adaspec_rl.training.bundle import PolicyBundle, package_versions

MODES = {LIVE: (LIVE,), REPLAY: (REPLAY,), "both": (REPLAY, LIVE)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison in one mode at one temperature: figures, and some generations to look at."""

    figures: ComparisonFigures
    shown: list[Example]
    bundle: PolicyBundle | None  # the policy that took part
    profile: CostProfile | None  # costs that methods were tuned or replayed with


def compare(
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    folder: Path,
    console: Console,
    *,
    mode: str = LIVE,
    rivals: Mapping[str, PolicyBundle] | None = None,
    between: Callable[[EncodedPrompt, int], None] = lambda item, seed: None,
) -> Comparison:
    """Run every method on the held-out prompts, interleaved, and print the table.

    If `folder` holds a part of this very comparison, it is continued.

    Args:
        rivals: other policies, by the names under which they take part.
        between: called with each prompt and its seed when all methods have played the prompt, so
            that other decoders can be timed in the same run.
    """
    sampling = sampling_from(config.env)
    prompts, selection = compared_prompts(config, pair, folder, console)
    entered = contestants(
        config,
        pair,
        bundle,
        prompts,
        console,
        replayed=mode == REPLAY,
        measured=folder / f"cost_profile-t{sampling.temperature:g}.json",
        rivals=rivals or {},
    )
    # This refuses before any file is written.
    session, timing = _session(config, pair, prompts, entered, console, mode)
    journal = Journal(
        folder / generations_file(mode, f"{sampling.temperature:g}"),
        _settings(config, pair, prompts, entered, bundle, mode, rivals or {}),
        prompts=[item.prompt.id for item in prompts],
    )

    def played(records: Sequence[Record]) -> None:
        number = len(journal.prompts)
        journal.append(records)
        between(prompts[number], config.seed + number)

    with progress(console, f"comparing {mode}, temperature {sampling.temperature:g}") as update:
        records = run_benchmark(
            session,
            entered.controllers,
            prompts,
            cost=entered.cost,
            seed=config.seed,
            warmup=config.evaluation.warmup if mode == LIVE else 0,
            time=timing,
            memory=MemoryMeter(pair) if mode == LIVE else None,
            done=list(journal.prompts),
            on_prompt=played,
            progress=update,
        )
    figures = _figures(config, pair, prompts, selection, entered, records, mode)
    console.print(results_table(figures))
    say(console, _footnote(figures))
    shown = examples(
        records,
        prompts,
        entered.controllers,
        pair,
        temperature=sampling.temperature,
        cost=entered.cost,
        methods=_worth_showing(figures.overall),
    )
    profile = entered.bench.profile if entered.bench else bundle.profile if bundle else None
    return Comparison(figures, shown, bundle, profile)


def generations_file(mode: str, temperature: str) -> str:
    """The name of a comparison's journal."""
    return f"generations-{mode}-t{temperature}.jsonl"


def _session(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    entered: Contestants,
    console: Console,
    mode: str,
) -> tuple[Session, ProfileTime | None]:
    if mode == REPLAY:
        bench = entered.bench
        assert bench is not None and bench.held_out is not None
        replayed = ReplaySession(bench.held_out, bench.profile, batch_size=bench.batch_size)
        return replayed, ProfileTime(bench.profile.policy)
    live = pair.session(
        max_new_tokens=config.evaluation.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=verification_from(config.env),
        survival=entered.survival,
    )
    if pair.target.device.type != "cpu":
        longest = max(len(item.ids) for item in prompts) + live.max_new_tokens
        with progress(console, "capturing CUDA graphs") as update:
            live.prepare(longest, lambda share: update(share, 1.0))
    return live, None


def _settings(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    entered: Contestants,
    bundle: PolicyBundle | None,
    mode: str,
    rivals: Mapping[str, PolicyBundle],
) -> dict[str, object]:
    """The settings that generations depend on; a comparison with other settings is not resumed."""
    bench = entered.bench
    return {
        "schema": SCHEMA,
        "mode": mode,
        "pair": pair.fingerprint,
        "policy": bundle.checksum[:12] if bundle else None,
        "rivals": {name: rival.checksum[:12] for name, rival in rivals.items()},
        "prompts": digest([asdict(item) for item in prompts]),
        "training_texts": bench.trace.fingerprint if bench else None,
        "costs": digest(bench.profile.to_dict()) if bench else None,
        "methods": as_json(entered.methods),
        "device": device_name(pair.target.device),
        "sampler": SAMPLER,
        "versions": package_versions(),
        **settings_of(config),
    }


def _figures(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    selection: Selection,
    entered: Contestants,
    records: Sequence[Record],
    mode: str,
) -> ComparisonFigures:
    sampling, rule = sampling_from(config.env), verification_from(config.env)
    lossless, recorded = _checked(config, pair, prompts, entered, records, mode)
    if sampling.temperature == 0 and not is_lossy(rule):
        rule = "greedy"
    elif mode == REPLAY:
        rule = "coupled"  # as recordings are, whatever rule decodes live
    return assemble(
        records,
        entered.methods,
        Conditions(
            mode=mode,
            pair=PairName(pair.name, pair.fingerprint),
            temperature=sampling.temperature,
            verification=str(rule),
            prompts=len(prompts),
            selection=selection,
            chat=chat_facts(config.data.chat, prompts, pair.tokenizer),
            max_new_tokens=config.evaluation.max_new_tokens,
        ),
        lossless=lossless,
        recorded=recorded,
        how=Bootstrap(config.evaluation.resamples, config.seed),
    )


def _checked(
    config: Config,
    pair: Pair,
    prompts: Sequence[EncodedPrompt],
    entered: Contestants,
    records: Sequence[Record],
    mode: str,
) -> tuple[Losslessness | None, Losslessness | None]:
    """Check texts, and recorded texts, against plain decoding's; None: they may differ."""
    sampling, rule = sampling_from(config.env), verification_from(config.env)
    deterministic = (sampling.temperature == 0 and not is_lossy(rule)) or rule == "coupled"
    if mode == REPLAY or not deterministic:  # a replayed text is the recorded one
        return None, None
    exact = str(rule)
    ids = {item.prompt.id: item.ids for item in prompts}
    lossless = compare_texts(
        records, ids, pair.target, verification=exact, sampling=sampling, seed=config.seed
    )
    trace = entered.bench.held_out if entered.bench else None
    if trace is None:
        return lossless, None
    return lossless, compare_with_recording(
        records, trace, ids, pair.target, verification=exact, sampling=sampling, seed=config.seed
    )


def _worth_showing(scope: ScopeFigures) -> list[str]:
    """Methods to show: the learned policy, then its baselines, then the fastest others."""
    first = [LEARNED, scope.best_fixed, AUTOREGRESSIVE, ORACLE]
    others = sorted(scope.methods, key=lambda name: -scope.methods[name].speedup)
    names = dict.fromkeys([*first, *others])
    return [name for name in names if name in scope.methods and name != BEST_BY_DOMAIN]


def _footnote(figures: ComparisonFigures) -> str:
    repetition = ", ".join(
        f"{domain} {scope.repetition:.0%}" for domain, scope in figures.domains.items()
    )
    lines = [f"Repeated 8-grams in the output: {repetition}."]
    selection = figures.conditions.selection
    if selection.taken < selection.asked:
        lines.append(
            f"Prompts: {selection.taken} of {selection.asked}, as many as "
            f"evaluation.minutes={selection.minutes:g} allows."
        )
    recorded, lossless = figures.recorded, figures.lossless
    if recorded and recorded.identical < recorded.compared:
        lines.append(
            "Recorded texts that part from the live ones: "
            f"{recorded.compared - recorded.identical} of {recorded.compared} "
            f"({recorded.ties} at ties)."
        )
    if lossless:
        same = f"{lossless.identical} of {lossless.compared}"
        lines.append(f"Texts identical to autoregressive decoding: {same} ({lossless.ties} ties).")
    elif figures.conditions.is_lossy:
        lines.append(
            f"Lossy verification ({figures.conditions.verification}): texts are not the target's, "
            "by as much as stands beside each method."
        )
    elif figures.conditions.mode == LIVE:
        lines.append("Sampled by rejection: the distribution is the target's, texts differ.")
    return "\n".join(lines)
