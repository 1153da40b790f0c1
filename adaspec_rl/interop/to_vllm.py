"""For vLLM: draft lengths by batch size, and a proposer: a lookup under the policy."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from adaspec_rl import strict_json
from adaspec_rl.control.batching.rowwise import Rowwise
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.parts import (
    BEYOND,
    ONE_DRAFTER,
    STALE,
    UNKNOWN_TEXT,
    keep_policy,
    model_of,
)
from adaspec_rl.interop.replayed import Replayable
from adaspec_rl.interop.runtime import LookupPolicy
from adaspec_rl.interop.schedules import Schedule, controller, fitted_schedule, merged
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.pairs.drafter_names import NGRAM

INTERFACE = (
    "vllm-project/vllm, docs/features/speculative_decoding/dynamic_speculative_decoding.md at "
    "015a47e1282c and vllm/v1/spec_decode/custom_class_proposer.py at 71f7afb3f9fc"
)
CONFIG, LOOKUP_CONFIG, MODULE = (
    "speculative_config.json",
    "speculative_config_lookup.json",
    "adaspec_lookup_proposer.py",
)
SCHEDULE, LOOKUP = "schedule", "lookup"
LONGEST = "num_speculative_tokens"
BY_SIZE = "num_speculative_tokens_per_batch_size"
PROPOSER = '''"""The exported proposer; needs adaspec_rl, and its folder on vLLM's PYTHONPATH."""

from pathlib import Path

from adaspec_rl.interop.vllm import LookupProposer


class Proposer(LookupProposer):
    folder = Path(__file__).parent
    drafter = {drafter}
'''


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write all parts that the pair has drafters for."""
    parts = []
    own = shop.of(shop.drafter)
    schedule = fitted_schedule(own.learned, own.profile(), own.sizes, shop.tiers)
    if longest := max(schedule.values()):
        drafts = (
            {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 5}
            if own.drafters[0] == NGRAM
            else {"method": "draft_model", "model": own.drafters[0]}
        )
        config = {**drafts, LONGEST: longest, BY_SIZE: ranges(schedule, shop.max_rows)}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        parts.append(_schedule_part(shop, own.drafters[0]))
    lookup = shop.named(NGRAM)
    if lookup is not None and not shop.bundle.spec.needs_signals:
        keep_policy(shop.bundle, shop.costs, folder)
        (folder / MODULE).write_text(PROPOSER.format(drafter=lookup))
        config = {
            "method": "custom_class",
            "model": f"{Path(MODULE).stem}.Proposer",
            LONGEST: longest_lookup(shop, lookup),
        }
        (folder / LOOKUP_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        parts.append(_lookup_part(lookup))
    return parts


def ranges(schedule: Schedule, max_rows: int) -> list[list[int]]:
    """`[[smallest, largest, K], …]` without gaps, up to `max_rows`."""
    sizes = [size for size in schedule if size <= max_rows]
    ends = [*(size - 1 for size in sizes[1:]), max_rows]
    return [[size, end, schedule[size]] for size, end in zip(sizes, ends)]


def read_schedule(config: Any) -> Schedule:
    """The schedule in a `speculative_config`.

    Raises:
        ValueError: vLLM would refuse it: ranges must start at 1 and have no gaps, and no K may
            exceed `num_speculative_tokens`.
    """
    entries, longest = config[BY_SIZE], config[LONGEST]
    expected = 1
    for low, high, length in entries:
        if low != expected or high < low or not 0 <= length <= longest:
            raise ValueError(
                f"the range {[low, high, length]} does not fit: expected one from {expected} with "
                f"0 to {longest} tokens"
            )
        expected = high + 1
    return merged({low: length for low, _, length in entries})


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The parts, loaded back from the folder."""
    found = {}
    for part in export.parts:
        if part.name == SCHEDULE:
            schedule = read_schedule(strict_json.read(folder / CONFIG, CONFIG))
            found[part.name] = Replayable(partial(controller, schedule), part.drafter)
        else:
            assert part.drafter is not None
            found[part.name] = lookup_replayable(folder, part.drafter)
    return found


def lookup_replayable(folder: Path, drafter: int) -> Replayable:
    """The runtime's policy, row by row."""
    policy = LookupPolicy.load(folder, drafter).policy
    return Replayable(
        lambda: Rowwise(lambda: LearnedPolicy(policy.actor, policy.actions, policy.observes))
    )


def longest_lookup(shop: Workshop, drafter: int) -> int:
    """The longest draft that the policy asks a lookup for."""
    return max(action.length for action in shop.bundle.actions if action.drafter == drafter)


def _schedule_part(shop: Workshop, drafter: str) -> Part:
    return Part(
        SCHEDULE,
        (CONFIG,),
        f'vllm serve {shop.target} --speculative-config "$(cat {CONFIG})"',
        (shop.drafter,),
        lost=(ONE_DRAFTER, UNKNOWN_TEXT, "thresholds that stop a draft early", BEYOND),
        mind=(
            STALE,
            "with data parallelism vLLM ignores the schedule and drafts num_speculative_tokens",
            *model_of(drafter),
        ),
    )


def _lookup_part(drafter: int) -> Part:
    return Part(
        LOOKUP,
        (LOOKUP_CONFIG, MODULE),
        f'PYTHONPATH=FOLDER vllm serve MODEL --speculative-config "$(cat {LOOKUP_CONFIG})"',
        (drafter,),
        lost=("all drafters but the lookup",),
        mind=("a request that changes its row in the batch is read again from its beginning",),
    )
