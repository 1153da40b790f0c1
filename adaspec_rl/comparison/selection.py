"""Which held-out prompts a live comparison takes, so that it ends in the given minutes."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from adaspec_rl.comparison.contestants import expected_methods
from adaspec_rl.config import Config
from adaspec_rl.console import duration, say
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.encoding import encode
from adaspec_rl.data.prompts import EncodedPrompt, Prompt
from adaspec_rl.files import write_atomically
from adaspec_rl.from_config import sampling_from, verification_from
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import asked_prompts, prompts_from

FILE = "compared_prompts.json"
TRIAL = 0.03  # share of the minutes for measuring how long a text takes
UNSEEN = CostFeatures(0.0, 0.0, 0.0)  # plain decoding observes no costs


@dataclass(frozen=True, slots=True)
class Selection:
    """How many prompts there were, how many of them are taken, and why."""

    asked: int
    taken: int
    per_domain: int  # at most
    minutes: float | None  # the time limit that decided; None: all are taken


def compared_prompts(
    config: Config, pair: Pair, folder: Path, console: Console
) -> tuple[list[EncodedPrompt], Selection]:
    """The held-out prompts of a comparison: as many of each domain as `evaluation.minutes` allow.

    The choice is kept in `folder`, so that all modes and temperatures, and a resumed comparison,
    take the same prompts. A comparison by replay alone takes all prompts.
    """
    asked = asked_prompts(config, "test", pair, config.evaluation.prompts)
    chosen = _kept(config, folder, asked)
    if chosen is None:
        chosen = _choose(config, pair, asked, console)
        content = {"of": _digest(config, asked), **asdict(chosen)}
        write_atomically(folder / FILE, json.dumps(content, indent=2) + "\n")
    return prompts_from(config, "test", pair, console, chosen.per_domain), chosen


def fitting(sizes: Sequence[int], each: float, once: float, seconds: float) -> int:
    """The most prompts per domain, at least 1, with which the comparison fits into `seconds`.

    Args:
        sizes: the number of prompts in each domain.
        each: seconds per prompt.
        once: seconds that do not depend on the number of prompts.
    """
    largest = max(sizes)

    def taken(per_domain: int) -> int:
        return sum(min(size, per_domain) for size in sizes)

    fits = (n for n in range(largest, 1, -1) if once + each * taken(n) <= seconds)
    return next(fits, 1)


def _choose(config: Config, pair: Pair, asked: Sequence[Prompt], console: Console) -> Selection:
    sizes = Counter(prompt.domain for prompt in asked)
    everything = max(sizes.values(), default=1)
    minutes = config.evaluation.minutes
    if not asked or minutes is None or config.evaluation.mode == "replay":
        return Selection(len(asked), len(asked), everything, None)
    seconds = 60 * minutes / max(1, len(config.evaluation.temperatures))
    text = _seconds_of_a_text(config, pair, asked, TRIAL * seconds)
    methods = expected_methods(config, pair)
    each, once = methods * text, min(config.evaluation.warmup, len(asked)) * methods * text
    per_domain = fitting(list(sizes.values()), each, once, seconds)
    taken = sum(min(size, per_domain) for size in sizes.values())
    expected = once + each * taken
    which = f"all {taken} prompts" if taken == len(asked) else f"{taken} of {len(asked)} prompts"
    line = f"comparing {methods} methods on {which}: about {duration(expected)}"
    if taken < len(asked):
        line += f" (evaluation.minutes={minutes:g}; null: all of them)"
    if expected > seconds and taken < len(asked):
        line += ", as one of each domain is the least"
    say(console, line)
    return Selection(len(asked), taken, per_domain, minutes)


def _seconds_of_a_text(config: Config, pair: Pair, asked: Sequence[Prompt], limit: float) -> float:
    """Mean seconds of a plain text over the first prompt of each domain, within `limit` seconds."""
    session = pair.session(
        max_new_tokens=config.evaluation.max_new_tokens,
        sampling=sampling_from(config.env),
        verification=verification_from(config.env),
    )
    firsts: dict[str, Prompt] = {}
    for prompt in asked:
        firsts.setdefault(prompt.domain, prompt)
    taken: list[float] = []
    for prompt in firsts.values():
        ids = encode(pair.tokenizer, prompt).ids
        taken.append(generate(session, FixedLength(0), ids, cost=UNSEEN, seed=config.seed).seconds)
        if sum(taken) > limit:
            break
    return sum(taken) / len(taken)


def _kept(config: Config, folder: Path, asked: Sequence[Prompt]) -> Selection | None:
    """The earlier choice in `folder`, if it was made from the same settings and prompts."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Selection(**content) if content.pop("of") == _digest(config, asked) else None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and start anew") from None


def _digest(config: Config, asked: Sequence[Prompt]) -> str:
    """A digest of everything that the choice depends on, except the machine's speed."""
    settings = [asdict(config.evaluation), [asdict(prompt) for prompt in asked]]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
