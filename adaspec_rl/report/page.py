"""`report.html`: all results on one page that opens without a network."""

import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from adaspec_rl.comparison.figures import (
    LIVE,
    ComparisonFigures,
    Interval,
    MethodFigures,
    ScopeFigures,
    as_json,
)
from adaspec_rl.comparison.identity import MethodIdentity
from adaspec_rl.files import write_atomically
from adaspec_rl.report.contents import Report

MANY_DOMAINS = 4  # more gains than these are counted, not listed; losses are always listed


def write_report(path: Path, report: Report) -> None:
    """Write `report` as a web page, atomically.

    Live comparisons come before replayed ones. The sections on policies and costs are left out if
    there are none.
    """
    shown = sorted(report.comparisons, key=lambda item: item.figures.conditions.mode != LIVE)
    report = replace(report, comparisons=shown)
    page = (files(__package__) / "template.html").read_text(encoding="utf-8")
    for name, present in {
        "policy": any(item.policy_map for item in shown),
        "costs": any(item.profile for item in shown),
    }.items():
        page = re.sub(
            rf"<!--\[{name}-->(.*?)<!--{name}\]-->", r"\1" if present else "", page, flags=re.DOTALL
        )
    headline, *others = verdicts([item.figures for item in shown])
    for mark, content in {
        "title": html.escape(report.title),
        "verdict": html.escape(headline),
        "also": "".join(f"<li>{html.escape(text)}</li>" for text in others),
        "data": embedded_json(as_json(report)),  # last: it may hold anything
    }.items():
        page = page.replace(f"<!--{mark}-->", content, 1 if mark == "data" else -1)
    write_atomically(path, page)


def embedded_json(value: Any) -> str:
    """JSON that is safe within a script element: nothing in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def verdicts(comparisons: Sequence[ComparisonFigures]) -> list[str]:
    """One sentence per comparison: the first is the page's headline, the others are short."""
    if len(comparisons) == 1:
        return [verdict(comparisons[0])]
    return [
        f"{_setting(item)}, {_lower(verdict(item, by_domain=item is comparisons[0]))}"
        for item in comparisons
    ]


def verdict(found: ComparisonFigures, by_domain: bool = True) -> str:
    """A comparison's result in one sentence, which states losses just as it states wins."""
    methods = found.overall.methods
    best, subject = methods[found.overall.best_fixed], _subject(found.overall)
    if subject is None:
        clauses = [f"The best fixed length, {_length(best.identity)}, {_speed(best.speedup)}"]
        return "; ".join(filter(None, [*clauses, _lossy(found, best)])) + "."
    learned = subject.identity.kind == "learned"
    who = "The learned policy" if learned else f"The controller {subject.identity.name}"
    clauses = [f"{who} {_speed(subject.speedup)}: {_against(subject, best)}{_gap(subject)}"]
    if by_domain:
        clauses.append(_domains(found, subject.identity.name))
    clauses += [_differing(found), _lossy(found, subject)]
    return "; ".join(filter(None, clauses)) + "."


def _subject(scope: ScopeFigures) -> MethodFigures | None:
    """The method that the sentence is about: the learned policy, else the fastest controller."""
    others = [one for one in scope.methods.values() if one.identity.kind == "adaptive"]
    learned = [one for one in scope.methods.values() if one.identity.kind == "learned"]
    return max(learned or others, key=lambda one: one.speedup, default=None)


def _speed(speedup: float) -> str:
    if speedup < 0.995:
        return f"is slower than plain decoding, at {speedup:.2f}× its speed"
    return f"decodes {speedup:.2f}× as fast as plain decoding"


def _against(method: MethodFigures, best: MethodFigures) -> str:
    ratio, interval = method.versus_best_fixed, method.versus_best_fixed_ci95
    digits, sign = _digits(ratio, interval), _sign(interval)
    facts = [_length(best.identity)]
    if sign == 0:
        facts.append(_signed(ratio, digits))
    low, high = (_signed(bound, digits) for bound in interval)
    facts.append(f"95% interval {low} to {high}")
    change = "no clear difference to"
    if sign:
        change = f"{_size(ratio, digits)} {'faster' if sign > 0 else 'slower'} than"
    return f"{change} the best fixed length ({'; '.join(facts)})"


def _gap(method: MethodFigures) -> str:
    closed = method.gap_closed
    if closed is None:
        return ""
    if abs(closed) < 0.005:
        return ", closing none of the gap to the oracle"
    if closed > 0:
        return f", closing {closed:.0%} of the gap to the oracle"
    return f", leaving the gap to the oracle {-closed:.0%} wider"


def _domains(found: ComparisonFigures, name: str) -> str:
    """Gains and losses by domain, each against that domain's own best fixed length."""
    by_sign: dict[int, list[tuple[float, str]]] = {1: [], -1: [], 0: []}
    for domain, scope in found.domains.items():
        figures = scope.methods[name]
        ratio, interval = figures.versus_best_fixed, figures.versus_best_fixed_ci95
        size = _size(ratio, _digits(ratio, interval))
        by_sign[_sign(interval)].append((ratio, f"{size} on {domain}"))
    if len(found.domains) < 2:
        return ""
    gains, losses = (
        [text for _, text in sorted(by_sign[sign], reverse=sign > 0)] for sign in (1, -1)
    )
    parts = []
    if len(gains) > MANY_DOMAINS:
        parts.append(f"gains on {len(gains)} of {len(found.domains)} domains")
    elif gains:
        parts.append(f"gains {_listed(gains)}")
    if losses:
        parts.append(f"loses {_listed(losses)}")
    if by_sign[0]:
        level = [text.split(" on ", 1)[1] for _, text in by_sign[0]]
        parts.append(f"shows no clear difference on {_listed(level)}")
    return f"against each domain's own best length it {_listed(parts)}"


def _differing(found: ComparisonFigures) -> str:
    lossless = found.lossless
    if not lossless:
        return ""
    differing = lossless.compared - lossless.identical - lossless.ties
    if not differing:
        return ""
    return f"{differing} of {lossless.compared} texts differ from plain decoding's"


def _lossy(found: ComparisonFigures, method: MethodFigures) -> str:
    """How far the texts of a lossy comparison are from the target's."""
    if not found.conditions.is_lossy:
        return ""
    return (
        f"this is lossy ({found.conditions.verification}): {method.distance:.1%} in total "
        f"variation from the target, {method.identical:.0%} of the texts are plain decoding's"
    )


def _setting(found: ComparisonFigures) -> str:
    how = "Live" if found.conditions.mode == LIVE else "Replayed"
    return f"{how}, at temperature {found.conditions.temperature:g}"


def _sign(interval: Interval) -> int:
    """1: faster, -1: slower, 0: the interval includes both."""
    low, high = interval
    return int(low > 1) - int(high < 1)


def _digits(ratio: float, interval: Interval) -> int:
    """Decimals of percentages: 1 if rounding to integers would hide the size or equate bounds."""
    narrow = interval[1] - interval[0] < 0.02
    return 1 if narrow or any(abs(number - 1) < 0.01 for number in (ratio, *interval)) else 0


def _size(ratio: float, digits: int) -> str:
    return f"{100 * abs(ratio - 1):.{digits}f}%"


def _signed(ratio: float, digits: int) -> str:
    return f"{100 * (ratio - 1):+.{digits}f}%".replace("-", "−")


def _length(fixed: MethodIdentity) -> str:
    if not fixed.length:
        return "which is not to draft at all"
    length = f"{fixed.length} token" if fixed.length == 1 else f"{fixed.length} tokens"
    return f"{length} by {fixed.drafter}" if fixed.drafter else length


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
