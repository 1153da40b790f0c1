"""Other engines' reports on their drafts: vLLM's, SGLang's, llama.cpp's."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaspec_rl.interop.acceptance import Counts, of_histogram, of_positions, of_rounds

PROMETHEUS = re.compile(r"^vllm:spec_decode_num_(\w+?)_total(?:\{([^}]*)\})?\s+(\S+)$")
POSITION = re.compile(r'position="(\d+)"')
STATISTICS = re.compile(
    r"statistics\s+(?P<name>\S+?):.*?#gen drafts\s*=\s*(?P<drafts>\d+),.*?"
    r"#gen tokens\s*=\s*(?P<drafted>\d+),\s*#acc tokens\s*=\s*(?P<accepted>\d+)"
    r"(?:.*?#acc rate/pos\s*=\s*\((?P<rates>[^)]*)\))?"
)
FORMATS = (
    "responses of vLLM with metrics.speculative_decoding or of SGLang with meta_info (JSON, or one "
    "a line), vLLM's /metrics, or a log of llama-server"
)


def read(path: Path) -> list[Counts]:
    """The counts in a file, request by request if it has them.

    Raises:
        ValueError: there is no such file, or its format is none of `FORMATS`.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}: expected {FORMATS}")
    text = path.read_text(encoding="utf-8", errors="replace")
    if objects := _objects(text):
        found = [
            item for n, one in enumerate(objects) for item in _of_response(one, f"{path}, {n}")
        ]
    else:
        found = _of_metrics(text, str(path)) or _of_log(text, str(path))
    if not found:
        raise ValueError(f"{path} reports no drafts: expected {FORMATS}")
    return found


def _objects(text: str) -> list[Any]:
    """A JSON value, or one value per line (a stream's lines begin with `data: `)."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        pass
    else:
        return whole if isinstance(whole, list) else [whole]
    found = []
    for line in text.splitlines():
        line = line.removeprefix("data: ").strip()
        if not line.startswith("{"):
            continue
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            return []
    return found


def _of_response(value: Any, name: str) -> Iterator[Counts]:
    if not isinstance(value, Mapping):
        return
    metrics = (value.get("metrics") or {}).get("speculative_decoding")
    if isinstance(metrics, Mapping):
        yield _of_vllm(metrics, name)
    places = [value, *(value.get("choices") or [])]
    for info in (place.get("meta_info") for place in places if isinstance(place, Mapping)):
        if isinstance(info, Mapping) and "spec_verify_ct" in info:
            yield _of_sglang(info, name)


def _of_vllm(metrics: Mapping[str, Any], name: str) -> Counts:
    if "per_step_accepted" in metrics:
        return of_rounds(name, metrics["per_step_accepted"], metrics["per_step_drafted"])
    return _checked(
        of_histogram(name, metrics["acceptance_histogram"], metrics.get("num_draft_tokens")),
        metrics.get("num_accepted_draft_tokens"),
    )


def _of_sglang(info: Mapping[str, Any], name: str) -> Counts:
    """Counts from SGLang's `meta_info`; newer releases have other names, so both are read."""

    def first(*names: str) -> Any:
        return next((info[name] for name in names if info.get(name) is not None), None)

    histogram = first("spec_correct_drafts_histogram", "spec_accept_histogram")
    if histogram is None:
        raise ValueError(
            f"{name} has no spec_accept_histogram: without it, depths cannot be told apart"
        )
    drafted = first("spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num")
    accepted = first("spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num")
    return _checked(of_histogram(name, histogram, drafted), accepted)


def _checked(counts: Counts, accepted: int | None) -> Counts:
    """Refuse a histogram that contradicts the sum beside it."""
    if accepted is not None and accepted != counts.accepted.sum():
        raise ValueError(
            f"{counts.name} has {accepted} accepted tokens but its histogram has "
            f"{counts.accepted.sum()}: expected the same"
        )
    return counts


def _of_metrics(text: str, name: str) -> list[Counts]:
    """vLLM's Prometheus counters, summed over engines."""
    sums: dict[str, float] = {}
    positions: dict[int, float] = {}
    for line in text.splitlines():
        found = PROMETHEUS.match(line)
        if not found:
            continue
        what, labels, value = found.groups()
        place = POSITION.search(labels or "")
        if what == "accepted_tokens_per_pos" and place:
            at = int(place.group(1))
            positions[at] = positions.get(at, 0.0) + float(value)
        else:
            sums[what] = sums.get(what, 0.0) + float(value)
    if "drafts" not in sums or not positions:
        return []
    kept = [positions.get(depth, 0.0) for depth in range(1 + max(positions))]
    drafted = sums.get("draft_tokens")
    return [
        of_positions(name, int(sums["drafts"]), kept, None if drafted is None else int(drafted))
    ]


def _of_log(text: str, name: str) -> list[Counts]:
    """llama.cpp's lines; they are running totals, so the last line of each kind counts."""
    last: dict[str, re.Match[str]] = {}
    for line in text.splitlines():
        found = STATISTICS.search(line)
        if found and int(found["drafts"]):
            last[found["name"]] = found
    return [_of_statistics(found, f"{name}, {kind}") for kind, found in last.items()]


def _of_statistics(found: re.Match[str], name: str) -> Counts:
    drafts, drafted, accepted = (int(found[key]) for key in ("drafts", "drafted", "accepted"))
    if found["rates"]:
        rates = [float(rate) for rate in found["rates"].split(",")]
        return of_positions(name, drafts, [round(rate * drafts) for rate in rates], drafted)
    return _geometric(name, drafts, drafted, accepted)


def _geometric(name: str, drafts: int, drafted: int, accepted: int) -> Counts:
    """Counts by depth from sums alone, as if each token had the same chance."""
    depth = max(1, round(drafted / drafts))
    low, high = 0.0, 1.0
    for _ in range(60):
        chance = (low + high) / 2
        if _sum(chance, depth) * drafts < accepted:
            low = chance
        else:
            high = chance
    hits = np.array([round(drafts * high**n) for n in range(1, depth + 1)])
    reached = np.concatenate([[drafts], hits[:-1]])
    return Counts(name, reached, hits, drafts, complete=False)


def _sum(chance: float, depth: int) -> float:
    return sum(chance**n for n in range(1, depth + 1))


def read_all(paths: Sequence[Path]) -> list[Counts]:
    """The counts in several files."""
    return [item for path in paths for item in read(path)]
