"""What lossy verification gains and costs, beside lossless decoding.

    python benchmarks/lossy.py --judge FOLDER --json FILE --plot docs/lossy.png

Every rule at three settings, plain decoding, fixed lengths and a learned policy, all greedy, write
answers to held-out word problems (`--gsm8k FILE`: to those, through the chat template). A rule's
draft length is the one that would be fastest on training problems by the cost profile. The first
`--timed` problems are decoded by all methods in turn, which gives the speedups; the figures on
texts are of all `--problems`. Lossless methods write plain decoding's texts, which is checked on
the timed problems and relied on for the others.

Figures of each method: `speedup` over plain decoding; `accuracy`, problems solved; `same_answer`,
answers that are plain decoding's; `identical`, texts that are; `distance`, total variation from the
target a token; `log_likelihood`, of its texts by the target, nats a token.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from live_costs import MAX_LENGTH, measured, pair_arguments, pair_from
from live_policy import learned, prompts_of
from report import finish
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adaspec_rl.comparison.accuracy import Written, judged, pareto_front, price
from adaspec_rl.comparison.benchmark import AUTOREGRESSIVE, Record, run_benchmark
from adaspec_rl.comparison.statistics import paired_ratio, paired_ratio_interval
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.lossy import Lossy
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.data.problems import Problem, gsm8k_problems, word_problems
from adaspec_rl.data.prompts import EncodedPrompt, Prompt
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.verification.lossy import (
    Fuzzy,
    LossyRule,
    Tolerance,
    TopK,
    Typical,
)
from adaspec_rl.decoding.verification.lossy.judge_file import load_judge
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.report.lossy_plot import accuracy_plot

LENGTHS = (2, 4, 6, 8)
TUNING = 8  # training problems on which a rule's draft length is chosen
Texts = dict[str, Written]  # by problem


def rules(judge: Path | None, pair: Pair) -> list[LossyRule]:
    """Every rule at three settings, the strictest first; the judge's are around its own."""
    found: list[LossyRule] = [
        *(TopK(k) for k in (2, 4, 16)),
        *(Typical(epsilon, delta) for epsilon, delta in ((0.3, 0.5), (0.09, 0.3), (0.02, 0.1))),
        *(Fuzzy(lenience) for lenience in (1.5, 2.0, 4.0)),
        *(Tolerance(window) for window in (4, 2, 1)),
    ]
    if judge:
        known = load_judge(judge)
        known.check_pair(pair.name, pair.fingerprint)
        odds = known.threshold / (1 - known.threshold)
        found += [known.at(odds * k / (1 + odds * k)) for k in (0.5, 1.0, 3.0)]
    return found


def asked(pair: Pair, problems: Sequence[Problem], chat: bool) -> list[EncodedPrompt]:
    prompts = [Prompt(item.id, "problems", item.text) for item in problems]
    shown = as_asked(prompts, "on", pair.tokenizer) if chat else prompts
    return [encode(pair.tokenizer, prompt) for prompt in shown]


def policy(
    pair: Pair, profile: CostProfile, options: argparse.Namespace
) -> tuple[Controller, list[Survival]]:
    """The lossless one, with its survival estimates: fitted to what every action would have brought on training prompts."""
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=options.max_new_tokens,
        max_length=MAX_LENGTH,
    )
    training = prompts_of(pair, "train", options.train_prompts)
    with tempfile.TemporaryDirectory() as folder:
        trace, survival = record(
            pair,
            recording,
            [item.ids for item in training],
            [item.prompt.domain for item in training],
            Path(folder),
        )
    return learned(pair, trace, profile, options.fit_steps), survival


def fastest(
    session: LiveSession, profile: CostProfile, prompts: Sequence[EncodedPrompt], rule: LossyRule
) -> Lossy:
    """The rule with the draft length whose rounds cost least a token by the cost profile."""
    costs, found = profile.at(), {}
    for length in LENGTHS:
        controller = Lossy(FixedLength(length), rule, name=str(rule))
        made = [generate(session, controller, item.ids, cost=costs.features()) for item in prompts]
        seconds = sum(costs.seconds(0, p.drafted) for text in made for p in text.rounds)
        found[seconds / sum(len(text.tokens) for text in made)] = controller
    return found[min(found)]


def figures_of(
    name: str, rule: str | None, length: Any, timed: Sequence[Record], texts: dict[str, Texts]
) -> dict[str, Any]:
    """One method's: its speed on the timed problems, what its texts are worth on all."""
    sums = {
        method: [
            [len(r.generation.tokens) for r in timed if r.method == method],
            [r.generation.seconds for r in timed if r.method == method],
        ]
        for method in (name, AUTOREGRESSIVE)
    }
    pairs = [np.array(part, float) for method in (name, AUTOREGRESSIVE) for part in sums[method]]
    worth = price(texts[name], texts[AUTOREGRESSIVE])
    return {
        "rule": rule,
        "lossy": rule is not None,
        "draft_length": length,
        "tokens_per_second": float(pairs[0].sum() / pairs[1].sum()),
        "speedup": paired_ratio(*pairs),
        "speedup_ci95": paired_ratio_interval(*pairs),
        **asdict(worth),
    }


def show(methods: dict[str, dict[str, Any]], front: Sequence[str]) -> None:
    """The table: a lossy method's row says so, and by how much."""
    table = Table(title="Greedy, best speeds first; * on the Pareto front", title_justify="left")
    for heading in ("method", "length", "speedup (95%)", "solved", "same answer", "same text"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, m in sorted(methods.items(), key=lambda item: -item[1]["speedup"]):
        price_paid = f" (lossy, {m['distance']:.1%} off the target)" if m["lossy"] else ""
        low, high = m["speedup_ci95"]
        table.add_row(
            name + price_paid + (" *" if name in front else ""),
            str(m["draft_length"]),
            f"{m['speedup']:.2f} ({low:.2f}, {high:.2f})",
            f"{m['accuracy']:.1%}",
            f"{m['same_answer']:.1%}",
            f"{m['identical']:.1%}",
        )
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair_arguments(parser)
    parser.add_argument("--judge", type=Path, help="what adaspec_rl.tools.judge wrote")
    parser.add_argument("--gsm8k", type=Path, help="a file of GSM8K in place of word problems")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--timed", type=int, default=40, help="of them, decoded in turn")
    parser.add_argument("--train-prompts", type=int, default=24, help="to record, a domain")
    parser.add_argument("--fit-steps", type=int, default=100_000, help="states to fit to")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    pair = pair_from(options)
    limit, chat = options.max_new_tokens, options.gsm8k is not None
    if options.gsm8k:
        every = gsm8k_problems(options.gsm8k)
        problems, training = every[: options.problems], every[-TUNING:]
    else:
        problems, training = word_problems(options.problems), word_problems(TUNING, "train")
    prompts, tuning = asked(pair, problems, chat), asked(pair, training, chat)
    profile = measured(pair, contexts=[128], batch_sizes=[1], seconds=15, max_new_tokens=limit)
    exact, survival = policy(pair, profile, options)
    session = pair.session(max_new_tokens=limit, sampling=Sampling(), survival=survival)
    lossy = [fastest(session, profile, tuning, rule) for rule in rules(options.judge, pair)]
    lossless = [FixedLength(0), *map(FixedLength, LENGTHS), exact]
    with Progress() as shown:
        task = shown.add_task("decoding in turn", total=options.timed)
        timed = run_benchmark(
            session,
            [*lossless, *lossy],
            prompts[: options.timed],
            cost=profile.at().features(),
            progress=lambda done, total: shown.update(task, completed=done),
        )
    texts = written(pair, session, profile, [*lossless, *lossy], prompts, problems, timed)
    methods = {}
    for controller in (*lossless, *lossy):
        rule = controller.rule.name if isinstance(controller, Lossy) else None
        inner = controller.controller if isinstance(controller, Lossy) else controller
        length = inner.action.length if isinstance(inner, FixedLength) else "chosen"
        methods[controller.name] = figures_of(controller.name, rule, length, timed, texts)
    front = pareto_front({name: (m["speedup"], m["accuracy"]) for name, m in methods.items()})
    show(methods, front)
    if options.plot:
        title = f"{pair.target.name}, {len(problems)} problems, greedy"
        accuracy_plot(methods, title, options.plot)
    figures = {f"speedup of {name}": m["speedup"] for name, m in methods.items()}
    details = {
        "problems": len(problems),
        "timed_problems": options.timed,
        "pareto_front": front,
        "methods": methods,
    }
    finish(figures, options.json, device=pair.target.device, details=details)


def written(
    pair: Pair,
    session: LiveSession,
    profile: CostProfile,
    controllers: Sequence[Controller],
    prompts: Sequence[EncodedPrompt],
    problems: Sequence[Problem],
    timed: Sequence[Record],
) -> dict[str, Texts]:
    """All texts of all methods, judged; lossless methods share plain decoding's."""
    cost = profile.at().features()
    known = {(record.method, record.prompt): record.generation for record in timed}
    found: dict[str, Texts] = {controller.name: {} for controller in controllers}
    with Progress() as shown:
        task = shown.add_task("decoding the others", total=len(problems))
        for problem, item in zip(problems, prompts):
            for controller in controllers:
                own = found[controller.name]
                made = known.get((controller.name, problem.id))
                plain = found[AUTOREGRESSIVE].get(problem.id)
                if made is None and plain and not isinstance(controller, Lossy):
                    own[problem.id] = plain
                    continue
                made = made or generate(session, controller, item.ids, cost=cost)
                text = pair.decode(made.tokens)
                own[problem.id] = judged(pair.target, item.ids, made, problem, text)
            shown.advance(task)
    return found


if __name__ == "__main__":
    main()
