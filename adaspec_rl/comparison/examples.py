"""A few generations token by token, for the report's round viewer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from adaspec_rl.comparison.benchmark import Record
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import StreamObserver
from adaspec_rl.control.observation import CostFeatures, Observer
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.pairs.pair import Pair

PER_DOMAIN = 1  # prompts shown
METHODS = 8  # shown


def examples(
    records: Sequence[Record],
    prompts: Sequence[EncodedPrompt],
    controllers: Sequence[Controller],
    pair: Pair,
    *,
    temperature: float,
    cost: CostFeatures,
    methods: Sequence[str],
) -> list[dict[str, Any]]:
    """The first prompt of each domain under some methods, as `report.write_report` wants them."""
    shown, counts = [], dict.fromkeys((item.prompt.domain for item in prompts), 0)
    observing = {controller.name: controller for controller in controllers}
    for item in prompts:
        if counts[item.prompt.domain] == PER_DOMAIN:
            continue
        counts[item.prompt.domain] += 1
        own = {r.method: r for r in records if r.prompt == item.prompt.id}
        shown.append(
            {
                "prompt_id": item.prompt.id,
                "domain": item.prompt.domain,
                "prompt": item.prompt.text,
                "turns": [asdict(message) for message in item.prompt.turns],
                "temperature": temperature,
                "methods": {
                    name: _rounds(own[name], item, observing[name], pair, cost)
                    for name in methods[:METHODS]
                },
            }
        )
    return shown


def _rounds(
    record: Record, item: EncodedPrompt, controller: Controller, pair: Pair, cost: CostFeatures
) -> list[dict[str, Any]]:
    made = record.generation
    texts = _texts(pair, item.ids, made.tokens)
    spec = controller.observes
    observer = StreamObserver(Observer(spec, cost)) if spec else None
    followed = observer.follow(item.ids, made) if observer else made.rounds
    found, at = [], 0
    for played, decision in zip(followed, record.decisions, strict=True):
        seen: Mapping[str, float] | None = None
        if observer and spec:
            values = observer.observation()
            seen = {
                name: round(float(value) * scale, 4)
                for name, value, scale in zip(spec.names, values, spec.scales)
            }
        count = len(played.tokens)
        before = [*item.ids, *made.tokens[: at + min(played.accepted, count)]]
        kinds = ["accepted"] * min(played.accepted, count)
        if len(kinds) < count:
            whole = played.accepted == played.drafted
            kinds.append("fallback" if not played.drafted else "bonus" if whole else "corrected")
        found.append(
            {
                "decision": decision,
                "drafted": played.drafted,
                "accepted": played.accepted,
                "milliseconds": round(played.seconds * 1e3, 3),
                "seen": seen,
                "tokens": [
                    {"text": text, "kind": kind}
                    for text, kind in zip(texts[at : at + count], kinds, strict=True)
                ],
                "rejected": _texts(pair, before, played.rejected),
            }
        )
        at += count
    return found


def _texts(pair: Pair, prompt: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """Each token's share of the decoded text; decoded in context, as words may span tokens."""
    ends = [len(pair.decode([*prompt, *tokens[:count]])) for count in range(len(tokens) + 1)]
    whole = pair.decode([*prompt, *tokens])
    return [whole[start:stop] for start, stop in zip(ends, ends[1:])]
