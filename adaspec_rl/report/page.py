"""`report.html`: what was measured, in one file for people that opens without a network."""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from adaspec_rl.files import write_atomically

LEARNED, PLAIN, ORACLE = "learned", "autoregressive", "oracle"
MANY_DOMAINS = 4  # more gains than these are counted, not listed; losses always are


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report` (JSON-able) as a web page, atomically.

    Sections without data are left out. What was measured live comes before what was replayed.
    """
    measured = sorted(report.get("comparisons") or [], key=lambda item: item["mode"] != "live")
    report = {**report, "comparisons": measured}
    page = (files(__package__) / "template.html").read_text(encoding="utf-8")
    for name, present in sections(report).items():
        page = re.sub(
            rf"<!--\[{name}-->(.*?)<!--{name}\]-->", r"\1" if present else "", page, flags=re.DOTALL
        )
    statements = verdicts(report)
    for mark, content in {
        "title": html.escape(str(report.get("title") or "Speculative decoding, compared")),
        "verdict": html.escape(statements[0] if statements else ""),
        "also": "".join(f"<li>{html.escape(text)}</li>" for text in statements[1:]),
        "data": embedded_json(report),  # last: it may hold anything
    }.items():
        page = page.replace(f"<!--{mark}-->", content, 1 if mark == "data" else -1)
    write_atomically(path, page)


def sections(report: Mapping[str, Any]) -> dict[str, bool]:
    """The sections of the page in their order, and whether there is anything to show in them."""
    comparisons = report.get("comparisons") or []
    methods = [figures for item in comparisons for figures in item["methods"].values()]
    return {
        "verdict": bool(comparisons),
        "compared": bool(comparisons),
        "speedup": bool(comparisons),
        "domains": any(item.get("domains") for item in comparisons),
        "drafting": any(
            figures.get("draft_length_by_position") or figures.get("acceptance_by_depth")
            for figures in methods
        ),
        "policy": any((item.get("policy_map") or {}).get("drafted") for item in comparisons),
        "costs": any((item.get("profile") or {}).get("points") for item in comparisons),
        "rounds": any(example.get("methods") for example in report.get("examples") or []),
        "methods": bool(comparisons or report.get("command")),
        "command": bool(report.get("command")),
    }


def embedded_json(value: Any) -> str:
    """JSON that may stand within a script element: nothing in it can end the element."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """`value` with null in place of what JSON can't say (NaN, infinity)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def verdicts(report: Mapping[str, Any]) -> list[str]:
    """One sentence for each comparison; the first is the page's headline, the others are short."""
    comparisons = report.get("comparisons") or []
    if len(comparisons) == 1:
        return [verdict(comparisons[0])]
    return [
        f"{_setting(item)}, {_lower(verdict(item, by_domain=item is comparisons[0]))}"
        for item in comparisons
    ]


def verdict(comparison: Mapping[str, Any], by_domain: bool = True) -> str:
    """What a comparison found, in one sentence that states losses just as it states wins."""
    methods, best = comparison["methods"], comparison.get("best_fixed")
    name = _subject(methods)
    if name is None:
        if best is None:
            return "No method was compared with plain decoding."
        speed = _speed(methods[best]["speedup"])
        price = _lossy(comparison, best)
        return f"The best fixed length, {_length(best)}, {speed}{price and f'; {price}'}."
    who = "The learned policy" if name == LEARNED else f"The controller {name}"
    clauses = [f"{who} {_speed(methods[name]['speedup'])}"]
    if best is not None:
        against = f"{_against(methods, name, best)}{_gap(comparison, name)}"
        clauses[0] += f": {against}"
    if by_domain:
        clauses.append(_domains(comparison, name))
    clauses.append(_differing(comparison))
    clauses.append(_lossy(comparison, name))
    return "; ".join(filter(None, clauses)) + "."


def _subject(methods: Mapping[str, Any]) -> str | None:
    """Whom the sentence is about: the learned policy, else the fastest other controller."""
    if LEARNED in methods:
        return LEARNED
    others = [name for name in methods if name != ORACLE and not _is_fixed(name)]
    return max(others, key=lambda name: methods[name]["speedup"], default=None)


def _speed(speedup: float) -> str:
    if speedup < 0.995:
        return f"is slower than plain decoding, at {speedup:.2f}× its speed"
    return f"decodes {speedup:.2f}× as fast as plain decoding"


def versus(
    methods: Mapping[str, Any], name: str, best: str
) -> tuple[float, tuple[float, float] | None]:
    """A method's speedup ÷ the best fixed length's, and the 95% interval, if there is one."""
    figures = methods[name]
    ratio, interval = figures.get("versus_best_fixed"), figures.get("versus_best_fixed_ci95")
    if ratio is None:
        ratio = figures["speedup"] / methods[best]["speedup"]
    return ratio, tuple(interval) if interval else None


def _against(methods: Mapping[str, Any], name: str, best: str) -> str:
    ratio, interval = versus(methods, name, best)
    digits, sign = _digits(ratio, interval), _sign(ratio, interval)
    facts = [_length(best)]
    if sign == 0:
        facts.append(_signed(ratio, digits))
    if interval:
        low, high = (_signed(bound, digits) for bound in interval)
        facts.append(f"95% interval {low} to {high}")
    change = "no clear difference to"
    if sign:
        change = f"{_size(ratio, digits)} {'faster' if sign > 0 else 'slower'} than"
    return f"{change} the best fixed length ({'; '.join(facts)})"


def _gap(comparison: Mapping[str, Any], name: str) -> str:
    closed = comparison["methods"][name].get("gap_closed")
    if closed is None:
        return ""
    if abs(closed) < 0.005:
        return ", closing none of the gap to the oracle"
    if closed > 0:
        return f", closing {closed:.0%} of the gap to the oracle"
    return f", leaving the gap to the oracle {-closed:.0%} wider"


def _domains(comparison: Mapping[str, Any], name: str) -> str:
    """Gains and losses by domain, each against that domain's own best fixed length."""
    found: dict[int, list[tuple[float, str]]] = {1: [], -1: [], 0: []}
    domains = comparison.get("domains") or {}
    for domain, scope in domains.items():
        if name in scope["methods"] and scope.get("best_fixed"):
            ratio, interval = versus(scope["methods"], name, scope["best_fixed"])
            size = _size(ratio, _digits(ratio, interval))
            found[_sign(ratio, interval)].append((ratio, f"{size} on {domain}"))
    if sum(map(len, found.values())) < 2:
        return ""
    gains, losses = (
        [text for _, text in sorted(found[sign], reverse=sign > 0)] for sign in (1, -1)
    )
    parts = []
    if len(gains) > MANY_DOMAINS:
        parts.append(f"gains on {len(gains)} of {len(domains)} domains")
    elif gains:
        parts.append(f"gains {_listed(gains)}")
    if losses:
        parts.append(f"loses {_listed(losses)}")
    if found[0]:
        level = [text.split(" on ", 1)[1] for _, text in found[0]]
        parts.append(f"shows no clear difference on {_listed(level)}")
    return f"against each domain's own best length it {_listed(parts)}"


def _differing(comparison: Mapping[str, Any]) -> str:
    lossless = comparison.get("lossless")
    if not lossless:
        return ""
    differing = lossless["compared"] - lossless["identical"] - lossless["ties"]
    if not differing:
        return ""
    return f"{differing} of {lossless['compared']} texts differ from plain decoding's"


def _lossy(comparison: Mapping[str, Any], name: str) -> str:
    """What the speed of a lossy comparison is paid with."""
    rule = str(comparison.get("verification") or "")
    if not rule.startswith("lossy."):
        return ""
    figures = comparison["methods"][name]
    return (
        f"this is lossy ({rule}): {figures['distance']:.1%} in total variation from the target, "
        f"{figures['identical']:.0%} of the texts are plain decoding's"
    )


def _setting(comparison: Mapping[str, Any]) -> str:
    how = "Live" if comparison["mode"] == "live" else "Replayed"
    return f"{how}, at temperature {comparison['temperature']:g}"


def _sign(ratio: float, interval: Sequence[float] | None) -> int:
    """1 faster, -1 slower, 0 where the interval (or without one, the rounding) covers neither."""
    low, high = interval or (ratio - 0.0005, ratio + 0.0005)
    return int(low > 1) - int(high < 1)


def _digits(ratio: float, interval: Sequence[float] | None) -> int:
    """Decimals of percentages: one where none would hide the size, or make bounds alike."""
    numbers = (ratio, *(interval or ()))
    narrow = interval is not None and interval[1] - interval[0] < 0.02
    return 1 if narrow or any(abs(number - 1) < 0.01 for number in numbers) else 0


def _size(ratio: float, digits: int) -> str:
    return f"{100 * abs(ratio - 1):.{digits}f}%"


def _signed(ratio: float, digits: int) -> str:
    return f"{100 * (ratio - 1):+.{digits}f}%".replace("-", "−")


def _is_fixed(name: str) -> bool:
    return name == PLAIN or name.startswith("fixed_")


def _length(name: str) -> str:
    if name == PLAIN:
        return "which is not to draft at all"
    number, _, drafter = name.removeprefix("fixed_").partition("_")
    length = f"{number} token" if number == "1" else f"{number} tokens"
    return f"{length} by {drafter}" if drafter else length


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
