"""For TensorRT-LLM: draft lengths by batch size, and the acceptance below which it stops."""

import json
from pathlib import Path
from typing import Any

from adaspec_rl import strict_json
from adaspec_rl.costs.profile import RoundCosts
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.parts import BEYOND, ONE_DRAFTER, STALE, UNKNOWN_TEXT, model_of
from adaspec_rl.interop.replayed import Replayable
from adaspec_rl.interop.schedules import Schedule, controller, fitted_schedule, merged
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.pairs.drafter_names import NGRAM

INTERFACE = (
    "NVIDIA/TensorRT-LLM, tensorrt_llm/llmapi/llm_args.py (DecodingBaseConfig) at 000439672005"
)
CONFIG, SCHEDULE = "speculative_config.json", "schedule"
WINDOW = 64  # requests
BY_SIZE = "draft_len_schedule"


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write the part, unless plain decoding is best even for a single request."""
    own = shop.of(shop.drafter)
    profile = own.profile()
    schedule = capped(fitted_schedule(own.learned, profile, own.sizes, shop.tiers))
    longest = schedule[1]
    if not longest:
        return []
    drafts = (
        {"decoding_type": "NGram", "max_matching_ngram_size": 4}
        if own.drafters[0] == NGRAM
        else {"decoding_type": "Draft_Target", "speculative_model": own.drafters[0]}
    )
    config = {
        **drafts,
        "max_draft_len": longest,
        BY_SIZE: upper_bounds(schedule, shop.max_rows),
        "acceptance_rate_window_size": WINDOW,
        "acceptance_rate_threshold": round(break_even(profile.at(None, own.sizes[0]), longest), 3),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return [_part(shop, own.drafters[0])]


def capped(schedule: Schedule) -> Schedule:
    """The schedule with no length above that of a single request, as the engine requires."""
    return merged({size: min(length, schedule[1]) for size, length in schedule.items()})


def upper_bounds(schedule: Schedule, max_rows: int) -> dict[int, int]:
    """`{largest batch size: length}`; above the last one, the engine does not draft."""
    sizes = list(schedule)
    ends = [*(size - 1 for size in sizes[1:]), max(max_rows, sizes[-1])]
    found = {end: schedule[size] for size, end in zip(sizes, ends)}
    while found and found[max(found)] == 0:
        del found[max(found)]
    return found


def read_schedule(config: Any) -> Schedule:
    """The schedule in a configuration.

    Raises:
        ValueError: TensorRT-LLM would refuse it: the smallest batch size must have
            `max_draft_len`, and no other may exceed it.
    """
    bounds = {int(size): length for size, length in config[BY_SIZE].items()}
    longest = config["max_draft_len"]
    if not bounds or min(bounds) < 1 or bounds[min(bounds)] != longest:
        raise ValueError(
            f"{BY_SIZE} is {bounds}: expected the smallest of its batch sizes to have "
            f"max_draft_len={longest}"
        )
    if min(bounds.values()) < 0 or max(bounds.values()) > longest:
        raise ValueError(f"{BY_SIZE} is {bounds}: expected lengths from 0 to {longest}")
    schedule, first = {}, 1
    for size in sorted(bounds):
        schedule[first], first = bounds[size], size + 1
    schedule[first] = 0
    return merged(schedule)


def break_even(costs: RoundCosts, length: int) -> float:
    """The share of accepted tokens from which on drafts of `length` tokens are worth their time."""
    return (costs.seconds(0, length) / costs.autoregressive_step - 1) / length


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The part, loaded back from the folder."""
    schedule = read_schedule(strict_json.read(folder / CONFIG, CONFIG))
    return {
        part.name: Replayable(lambda: controller(schedule), part.drafter) for part in export.parts
    }


def _part(shop: Workshop, drafter: str) -> Part:
    return Part(
        SCHEDULE,
        (CONFIG,),
        "LLM(model=…, speculative_config=json.load(open(FILE))), batch sizes as integers",
        (shop.drafter,),
        lost=(
            ONE_DRAFTER,
            UNKNOWN_TEXT,
            "thresholds that stop a draft early",
            "longer drafts at larger batch sizes than at 1, which the engine refuses",
            BEYOND,
        ),
        mind=(
            STALE,
            f"under acceptance_rate_threshold over {WINDOW} requests the engine stops speculating "
            "for good; the prediction leaves that out",
            "keys are the largest batch size of a range here; releases that read them as the "
            "smallest one need other keys",
            *model_of(drafter),
        ),
    )
