"""The findings of a tuning run, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaspec_rl.comparison.figures import LIVE, REPLAY, MethodFigures, Results
from adaspec_rl.comparison.identity import LEARNED
from adaspec_rl.tools.choose import Candidate, Choice
from adaspec_rl.tools.tuning.page import Page

WORTH = 1.02  # least speedup for which speculation is worth its trouble


@dataclass(frozen=True, slots=True)
class Measured:
    """The policy's speedup over plain decoding on held-out prompts."""

    expected: float  # replayed
    expected_ci95: tuple[float, float]
    live: float
    live_ci95: tuple[float, float]

    @property
    def agree(self) -> bool:
        """Whether the intervals overlap."""
        return (
            self.expected_ci95[0] <= self.live_ci95[1]
            and self.live_ci95[0] <= self.expected_ci95[1]
        )


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and why.

    Attributes:
        drafters: the policy's drafters; empty: do not speculate.
        because: the reason, in one sentence.
        by_text: the policy's speedup by kind of text, and under `all`.
        elsewhere: the best fixed length's predicted speedup at other batch sizes and contexts.
    """

    drafters: tuple[str, ...]
    because: str
    candidates: tuple[Candidate, ...]
    by_text: Mapping[str, Measured]
    acceptance_by_depth: Sequence[tuple[int, int]]  # of the policy's drafts: reached and accepted
    elsewhere: Mapping[str, float]
    weights_mib: Mapping[str, float]


def measured(results: Results) -> tuple[dict[str, Measured], list[tuple[int, int]]]:
    """The policy's speedups by kind of text, and its acceptance by depth."""
    scopes = {}
    for comparison in results.comparisons:
        found = {"all": comparison.overall, **comparison.domains}
        scopes[comparison.conditions.mode] = {
            name: scope.methods[LEARNED] for name, scope in found.items()
        }
    by_text = {
        name: _both(scopes[REPLAY][name], live)
        for name, live in scopes[LIVE].items()
        if name in scopes[REPLAY]
    }
    return by_text, list(scopes[LIVE]["all"].acceptance_by_depth)


def _both(replayed: MethodFigures, live: MethodFigures) -> Measured:
    return Measured(replayed.speedup, replayed.speedup_ci95, live.speedup, live.speedup_ci95)


def without(choice: Choice) -> str:
    """Why no candidate is worth using."""
    best = max(choice.candidates, key=lambda item: item.speedup)
    return (
        f"the best drafter alone, {best.name}, is right at {best.acceptance:.0%} of positions, but "
        f"a drafted token costs {best.draft_step:.2f} of a plain step, and no policy over the "
        "drafters is predicted to be faster than plain decoding"
    )


def judged(
    choice: Choice, found: Measured, drafters: tuple[str, ...]
) -> tuple[tuple[str, ...], str]:
    """The drafters to use, if any, and why."""
    low, high = found.live_ci95
    range_ = f"{found.live:.2f} × (95% interval {low:.2f} to {high:.2f})"
    if found.live < WORTH:
        return (
            (),
            f"the learned policy was measured at {range_} of plain decoding on held-out texts",
        )
    if low < 1:
        return drafters, f"held-out texts took {range_}; a longer measurement would be surer"
    return drafters, f"held-out texts were written at {range_} plain decoding's speed"


def page(advice: Advice, use: str, files: Mapping[str, str]) -> Page:
    """The advice as a page.

    Args:
        use: lines of code that decode as advised.
        files: the files in the folder, and what each of them is.
    """
    made = Page("Speculative decoding here")
    if advice.drafters:
        made.say(f"Speculate, with {' and '.join(advice.drafters)}: {advice.because}.")
        made.code(use)
    else:
        made.say(f"Do not speculate here, because {advice.because}.")
    if advice.by_text:
        made.heading("Speedup over plain decoding, by kind of text")
        made.table(
            ["text", "expected (replay)", "measured (live)", "intervals overlap"],
            [_text_row(name, item) for name, item in advice.by_text.items()],
        )
        if not all(item.agree for item in advice.by_text.values()):
            made.say(
                "Where the intervals do not overlap, costs were other than measured, as on a busy "
                "machine, or the texts are few: give it more minutes."
            )
    made.heading("The candidates by themselves")
    made.table(
        ["drafter", "right at", "drafted token", "weights", "best length", "expected", "advice"],
        [_candidate_row(item, advice.drafters) for item in advice.candidates],
    )
    made.say(
        "A drafted token is in plain steps. The table is replayed; the speedup is at that length."
    )
    if reached := [(r, a) for r, a in advice.acceptance_by_depth if r]:
        made.heading("Acceptance by draft length")
        made.table(
            ["drafted token", *(str(depth + 1) for depth in range(len(reached)))],
            [["accepted, once reached", *(f"{a / r:.0%}" for r, a in reached)]],
        )
    made.heading("What would change the answer")
    made.table(
        ["where", "best fixed length, expected"],
        [[where, f"{speedup:.2f} ×"] for where, speedup in advice.elsewhere.items()],
    )
    made.say(_break_even(advice))
    made.heading("Memory")
    made.say("Weights in MiB: " + ", ".join(f"{k} {v:.1f}" for k, v in advice.weights_mib.items()))
    made.heading("Files")
    made.table(["file", "what it is"], [[name, what] for name, what in files.items()])
    return made


def _text_row(name: str, item: Measured) -> list[str]:
    return [
        name,
        f"{item.expected:.2f} × ({item.expected_ci95[0]:.2f} to {item.expected_ci95[1]:.2f})",
        f"{item.live:.2f} × ({item.live_ci95[0]:.2f} to {item.live_ci95[1]:.2f})",
        "yes" if item.agree else "no",
    ]


def _candidate_row(item: Candidate, used: Sequence[str]) -> list[str]:
    return [
        item.name,
        f"{item.acceptance:.0%}",
        f"{item.draft_step:.3f}",
        f"{item.mebibytes:.1f} MiB",
        str(item.length) if item.length else "none",
        f"{item.speedup:.2f} ×",
        "use it" if item.name in used else "do not use it",
    ]


def _break_even(advice: Advice) -> str:
    best = max(advice.candidates, key=lambda item: item.speedup)
    return (
        f"A draft of one token pays while its cost, drafted and verified, is under the chance that "
        f"it is right: with {best.name}, {best.acceptance:.0%} of a plain step. Larger batches and "
        "longer contexts raise that cost; text that repeats itself raises the chance."
    )
