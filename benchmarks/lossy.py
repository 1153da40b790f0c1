"""What lossy verification gains and costs, beside lossless decoding.

    python benchmarks/lossy.py --judge FOLDER --json FILE --plot docs/lossy.png

Every rule at three settings, plain decoding, fixed lengths and a learned policy, all greedy, write
answers to held-out word problems (with `--gsm8k FILE`, to its problems, through the chat template).
A rule's draft length is the fastest on training problems by the cost profile. All methods decode
the first `--timed` problems in turn, which gives the speedups. Figures on texts are of all
`--problems`, decoded side by side up to the answer. Lossless methods write plain decoding's texts,
which is checked on the timed problems and assumed for the others.

Figures of each method: `speedup` over plain decoding; `accuracy`, the share of problems solved;
`same_answer` and `identical`, the shares of answers and of texts that equal plain decoding's;
`distance`, total variation from the target per token; `log_likelihood` of its texts under the
target, in nats per token.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from live_costs import MAX_LENGTH, measured, pair_arguments, pair_from
from live_policy import learned, prompts_of
from report import finish, save
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adaspec_rl.comparison.accuracy import Written, pareto_front, price
from adaspec_rl.comparison.answers import (
    answered,
    judge_answers,
    write_answers,
    write_one_by_one,
)
from adaspec_rl.comparison.benchmark import Record, run_benchmark
from adaspec_rl.comparison.identity import AUTOREGRESSIVE
from adaspec_rl.comparison.statistics import paired_ratio, paired_ratio_interval
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.joint import Joint, solve_joint
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
    Judge,
    LossyRule,
    Scheduled,
    Tolerance,
    TopK,
    Typical,
)
from adaspec_rl.decoding.verification.lossy.judge_file import load_judge
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.report.lossy_plot import accuracy_plot
from adaspec_rl.tools.judging import judged_drafter, seen_in

LENGTHS = (3, 5, 8)
JOINT = 32  # training problems on which the joint decision process is solved
TUNING = 4  # training problems on which a rule's draft length is chosen
Texts = dict[str, Written]  # by problem


@dataclass(frozen=True, slots=True)
class Entered:
    """One method of the comparison."""

    controller: Controller
    rule: LossyRule | None  # None: lossless
    length: int | None  # drafted per round; None: the policy chooses


def rules(judge: Path | None, pair: Pair) -> list[LossyRule]:
    """Every rule at three settings, the strictest first; the judge's surround its own threshold."""
    found: list[LossyRule] = []
    if judge:
        known = load_judge(judge)
        known.check_pair(pair.name, pair.fingerprint)
        odds = known.threshold / (1 - known.threshold)
        found += [known.at(odds * k / (1 + odds * k)) for k in (0.5, 1.0, 3.0)]
    return [
        *found,
        *(TopK(k) for k in (2, 4, 16)),
        *(Typical(epsilon, delta) for epsilon, delta in ((0.3, 0.5), (0.09, 0.3), (0.02, 0.1))),
        *(Fuzzy(lenience) for lenience in (1.5, 2.0, 4.0)),
        *(Tolerance(window) for window in (4, 2, 1)),
    ]


def asked(pair: Pair, problems: Sequence[Problem], chat: bool) -> list[EncodedPrompt]:
    prompts = [Prompt(item.id, "problems", item.text) for item in problems]
    shown = as_asked(prompts, "on", pair.tokenizer) if chat else prompts
    return [encode(pair.tokenizer, prompt) for prompt in shown]


def policy(
    pair: Pair, profile: CostProfile, options: argparse.Namespace
) -> tuple[Controller, list[Survival]]:
    """The lossless policy and its survival estimates, fitted to training outcomes."""
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
    session: LiveSession,
    profile: CostProfile,
    prompts: Sequence[EncodedPrompt],
    rule: LossyRule,
    lengths: Sequence[int] = LENGTHS,
) -> Entered:
    """The rule with the draft length that costs least per token by the cost profile."""
    if len(lengths) == 1:
        return Entered(Lossy(FixedLength(lengths[0]), rule, name=str(rule)), rule, lengths[0])
    costs, found = profile.at(), {}
    for length in lengths:
        controller = Lossy(FixedLength(length), rule, name=str(rule))
        made = [generate(session, controller, item.ids, cost=costs.features()) for item in prompts]
        seconds = sum(costs.seconds(0, p.drafted) for text in made for p in text.rounds)
        found[seconds / sum(len(text.tokens) for text in made)] = Entered(controller, rule, length)
    return found[min(found)]


def joint(
    pair: Pair, profile: CostProfile, texts: Sequence[tuple[list[int], list[int]]]
) -> list[Entered]:
    """Joint policies of length and threshold, at three prices, solved on training texts."""
    drafter, costs, length = judged_drafter(pair, 0), profile.at(), MAX_LENGTH
    step = (costs.seconds(0, length) - costs.seconds(0, 1)) / (length - 1)
    known = []
    for prompt, text in texts:
        # A judge's last five features: see `verification.lossy.judge.SCALARS`.
        own, pick, draft, _, _ = seen_in(pair, drafter, prompt, text)[0][:, -5:].double().exp().T
        known.append((draft.numpy(), (own / pick).clamp(max=1).numpy()))
    found = []
    for price_of_distance in (4.0, 1.0, 0.25):
        table = solve_joint(
            known,
            token_ms=1e3 * step,
            round_ms=1e3 * (costs.seconds(0, 1) - step - costs.autoregressive_step),
            max_length=length,
            price=price_of_distance,
        )
        controller = Joint(table, name=f"lossy.joint price={price_of_distance:g}")
        found.append(Entered(controller, Scheduled(), None))
    return found


def figures_of(
    method: Entered, timed: Sequence[Record], texts: Texts, plain: Texts
) -> dict[str, Any]:
    """A method's figures: speed on the timed problems, quality of texts on all problems."""
    name = method.controller.name
    pairs = []
    for one in (name, AUTOREGRESSIVE):
        made = [record.generation for record in timed if record.method == one]
        pairs.append(np.array([len(text.tokens) for text in made], dtype=float))
        pairs.append(np.array([text.seconds for text in made]))
    return {
        "rule": method.rule.name if method.rule else None,
        "lossy": method.rule is not None,
        "draft_length": method.length,
        "tokens_per_second": float(pairs[0].sum() / pairs[1].sum()),
        "speedup": paired_ratio(*pairs),
        "speedup_ci95": paired_ratio_interval(*pairs),
        **asdict(price(texts, plain)),
    }


def show(methods: dict[str, dict[str, Any]], front: Sequence[str]) -> None:
    """Print the table; a lossy method's row says that it is lossy, and by how much."""
    table = Table(title="Greedy, best speeds first; * on the Pareto front", title_justify="left")
    for heading in ("method", "length", "speedup (95%)", "solved", "same answer", "same text"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, m in sorted(methods.items(), key=lambda item: -item[1]["speedup"]):
        price_paid = f" (lossy, {m['distance']:.1%} off the target)" if m["lossy"] else ""
        low, high = m["speedup_ci95"]
        table.add_row(
            name + price_paid + (" *" if name in front else ""),
            "chosen" if m["draft_length"] is None else str(m["draft_length"]),
            f"{m['speedup']:.2f} ({low:.2f}, {high:.2f})",
            f"{m['accuracy']:.1%}",
            f"{m['same_answer']:.1%}",
            f"{m['identical']:.1%}",
        )
    Console(width=140).print(table)


def written(
    pair: Pair,
    entered: Sequence[Entered],
    prompts: Sequence[EncodedPrompt],
    problems: Sequence[Problem],
    options: argparse.Namespace,
) -> Iterator[tuple[Entered, Texts]]:
    """Yield every method's texts, plain decoding's first; lossless methods share these."""
    ids = [item.ids for item in prompts]
    likely: dict[tuple[int, ...], float] = {}
    plain: Texts = {}
    with Progress() as shown:
        for method in entered:
            if method.rule is None and plain:
                yield method, plain
                continue
            task = shown.add_task(method.controller.name, total=len(prompts))
            how: dict[str, Any] = {
                "max_new_tokens": options.max_new_tokens,
                "ended": answered if options.gsm8k is None else lambda tail: False,
                "progress": lambda done, task=task: shown.update(task, completed=done),
            }
            if method.rule is None:
                texts = write_answers(pair, ids, "greedy", 0, rows=options.rows, **how)
            elif method.length is None or isinstance(method.rule, Judge):
                texts = write_one_by_one(pair, ids, method.controller, **how)
            else:
                rows = options.rows
                texts = write_answers(pair, ids, method.rule, method.length, rows=rows, **how)
            judged = judge_answers(pair, problems, ids, texts, likely)
            plain = plain or judged
            yield method, judged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair_arguments(parser)
    parser.add_argument("--judge", type=Path, help="what adaspec_rl.tools.judge wrote")
    parser.add_argument("--gsm8k", type=Path, help="a file of GSM8K in place of word problems")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--timed", type=int, default=24, help="of them, decoded in turn")
    parser.add_argument("--rows", type=int, default=16, help="texts side by side, untimed")
    parser.add_argument("--length", type=int, help="every rule's draft; the fastest without it")
    parser.add_argument("--seconds", type=float, default=12, help="for measuring costs")
    parser.add_argument("--train-prompts", type=int, default=24, help="to record, a domain")
    parser.add_argument("--fit-steps", type=int, default=100_000, help="states to fit to")
    parser.add_argument("--max-new-tokens", type=int, default=112)
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
    profile = measured(
        pair, contexts=[128], batch_sizes=[1], seconds=options.seconds, max_new_tokens=limit
    )
    exact, survival = policy(pair, profile, options)
    session = pair.session(max_new_tokens=limit, sampling=Sampling(), survival=survival)
    entered = [Entered(FixedLength(length), None, length) for length in (0, *LENGTHS)]
    entered.append(Entered(exact, None, None))
    lengths = (options.length,) if options.length else LENGTHS
    for rule in rules(options.judge, pair):
        entered.append(fastest(session, profile, tuning, rule, lengths))
    solved_on = asked(pair, word_problems(min(JOINT, options.problems), "train"), False)
    plain = write_answers(pair, [p.ids for p in solved_on], "greedy", 0, max_new_tokens=limit,
                          rows=options.rows)  # fmt: skip
    entered += joint(pair, profile, [(p.ids, text) for p, (text, _) in zip(solved_on, plain)])
    with Progress() as shown:
        task = shown.add_task("decoding in turn", total=options.timed)
        timed = run_benchmark(
            session,
            [method.controller for method in entered],
            prompts[: options.timed],
            cost=profile.at().features(),
            progress=lambda done, total: shown.update(task, completed=done),
        )
    different = differing(timed, [method for method in entered if method.rule is None])
    methods: dict[str, dict[str, Any]] = {}
    plain_texts: Texts = {}
    for method, texts in written(pair, entered, prompts, problems, options):
        plain_texts = plain_texts or texts
        methods[method.controller.name] = figures_of(method, timed, texts, plain_texts)
        front = pareto_front({name: (m["speedup"], m["accuracy"]) for name, m in methods.items()})
        details = {
            "problems": len(problems),
            "timed_problems": options.timed,
            "pareto_front": front,
            "methods": methods,
        }
        figures = {f"speedup of {name}": m["speedup"] for name, m in methods.items()}
        figures["lossless_texts_that_differ"] = different
        # After every method: the run is long, and what it has found so far should last.
        save(figures, options.json, device=pair.target.device, details=details)
    show(methods, front)
    if options.plot:
        title = f"{pair.target.name}, {len(problems)} problems, greedy"
        accuracy_plot(methods, title, options.plot)
    finish(figures, None)


def differing(timed: Sequence[Record], lossless: Sequence[Entered]) -> int:
    """The number of lossless methods' texts that differ from plain decoding's."""
    names = {method.controller.name for method in lossless}
    plain = {r.prompt: r.generation.tokens for r in timed if r.method == AUTOREGRESSIVE}
    own = [r for r in timed if r.method in names]
    return sum(r.generation.tokens != plain[r.prompt] for r in own)


if __name__ == "__main__":
    main()
