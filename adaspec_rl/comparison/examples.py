"""A few generations token by token, for the report's round viewer."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaspec_rl.comparison.benchmark import Record
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import follow
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.data.conversations import Conversation
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.pairs.pair import Pair

PER_DOMAIN = 1  # prompts shown
METHODS = 8  # shown


@dataclass(frozen=True, slots=True)
class ShownToken:
    """An emitted token."""

    text: str  # its part of the decoded text
    kind: str  # accepted, corrected, bonus or fallback


@dataclass(frozen=True, slots=True)
class ShownRound:
    """A round, as the report's viewer shows it."""

    decision: str
    drafted: int
    accepted: int
    milliseconds: float
    seen: dict[str, float] | None  # unscaled features; None: the controller looks at none
    tokens: list[ShownToken]
    rejected: list[str]  # texts of rejected drafted tokens


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt under some methods."""

    prompt_id: str
    domain: str
    prompt: str
    turns: Conversation
    temperature: float
    methods: dict[str, list[ShownRound]]


def examples(
    records: Sequence[Record],
    prompts: Sequence[EncodedPrompt],
    controllers: Sequence[Controller],
    pair: Pair,
    *,
    temperature: float,
    cost: CostFeatures,
    methods: Sequence[str],
) -> list[Example]:
    """The first prompt of each domain under some methods."""
    shown, counts = [], dict.fromkeys((item.prompt.domain for item in prompts), 0)
    observing = {controller.name: controller for controller in controllers}
    for item in prompts:
        if counts[item.prompt.domain] == PER_DOMAIN:
            continue
        counts[item.prompt.domain] += 1
        own = {r.method: r for r in records if r.prompt == item.prompt.id}
        shown.append(
            Example(
                item.prompt.id,
                item.prompt.domain,
                item.prompt.text,
                item.prompt.turns,
                temperature,
                {
                    name: _rounds(own[name], item, observing[name], pair, cost)
                    for name in methods[:METHODS]
                },
            )
        )
    return shown


def _rounds(
    record: Record, item: EncodedPrompt, controller: Controller, pair: Pair, cost: CostFeatures
) -> list[ShownRound]:
    made = record.generation
    texts = _texts(pair, item.ids, made.tokens)
    spec = controller.observes
    observer = StreamObserver(spec, cost) if spec else None
    followed = follow(observer, item.ids, made) if observer else made.rounds
    found, at = [], 0
    for played, decision in zip(followed, record.decisions, strict=True):
        seen = None
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
        shown = zip(texts[at : at + count], kinds, strict=True)
        found.append(
            ShownRound(
                decision,
                played.drafted,
                played.accepted,
                round(played.seconds * 1e3, 3),
                seen,
                [ShownToken(text, kind) for text, kind in shown],
                _texts(pair, before, played.rejected),
            )
        )
        at += count
    return found


def _texts(pair: Pair, prompt: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """Each token's part of the decoded text, in context because characters may span tokens."""
    ends = [len(pair.decode([*prompt, *tokens[:count]])) for count in range(len(tokens) + 1)]
    whole = pair.decode([*prompt, *tokens])
    return [whole[start:stop] for start, stop in zip(ends, ends[1:])]
