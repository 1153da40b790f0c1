"""For SGLang: tiers of draft steps by batch size for its own averages, or an actor instead."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaspec_rl.config import AgentConfig
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.interop.exported import Export, Part
from adaspec_rl.interop.parts import BEYOND, ONE_DRAFTER, STALE, keep_policy, model_of
from adaspec_rl.interop.replayed import Replayable, fastest
from adaspec_rl.interop.schedules import fewest, seconds_by_length
from adaspec_rl.interop.sglang import (
    DEFAULTS,
    AdaptiveSteps,
    EmaSteps,
    LearnedSteps,
    config_text,
)
from adaspec_rl.interop.workshop import Workshop
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.training.bundle import PolicyBundle
from adaspec_rl.training.hindsight import fit_hindsight

INTERFACE = (
    "sgl-project/sglang, python/sglang/srt/speculative/adaptive_spec_params.py at 015c872628e3 and "
    "adaptive_runtime_state.py (AdaptiveSpecPolicy)"
)
CONFIG, MODULE = "adaptive_config.json", "adaspec_steps.py"
EMA, ACTOR = "ema", "actor"
RATES = (0.1, 0.2, 0.4)  # tried rates of the averages
REGRESSION = AgentConfig(
    name="hindsight", total_steps=60_000, learning_rate=3e-3, n_epochs=6, hidden=[32, 32]
)
STREAMS = 256
NEAR = 1.1  # longest time of a tier, relative to the best length's at its size
STEPS = '''"""The exported policy; its folder must be on SGLang's PYTHONPATH, adaspec_rl installed.

SGLang has no setting for it: give `policy()` to `AdaptiveController` in place of
`AdaptiveSpeculativeParams`.
"""

from pathlib import Path

from adaspec_rl.interop.sglang import LearnedSteps


def policy() -> LearnedSteps:
    return LearnedSteps.load(Path(__file__).parent)
'''


def write(shop: Workshop, folder: Path) -> list[Part]:
    """Write both parts, for one drafter."""
    own = shop.of(shop.drafter)
    slots = tier_slots(own, shop.tiers)
    (folder / CONFIG).write_text(config_text(_tuned(own, slots)))
    candidates = sorted({step for steps in slots.values() for step in steps})
    keep_policy(_actor(own, candidates), own.costs, folder)
    (folder / MODULE).write_text(STEPS)
    mind = (
        STALE,
        "SGLang adapts for EAGLE and EAGLE3 drafters with topk 1 alone, and else stays with "
        "--speculative-num-steps",
        *model_of(own.drafters[0]),
    )
    middle = slots[own.sizes[0]][len(slots[own.sizes[0]]) // 2]
    return [
        Part(
            EMA,
            (CONFIG,),
            f"--speculative-adaptive --speculative-adaptive-config {CONFIG} "
            f"--speculative-num-steps {middle} --speculative-eagle-topk 1 "
            f"--speculative-num-draft-tokens {middle + 1}",
            (shop.drafter,),
            lost=(ONE_DRAFTER, "all that the policy reads in the text but acceptance", BEYOND),
            mind=mind,
        ),
        Part(
            ACTOR,
            (MODULE,),
            "AdaptiveController(worker, adaspec_steps.policy())",
            (shop.drafter,),
            lost=(
                ONE_DRAFTER,
                "all that the policy reads in the text but acceptance: an actor that sees this was "
                "fitted on the recording in its place",
                "decisions row by row: one for the whole batch",
                BEYOND,
            ),
            mind=mind,
        ),
    ]


def tier_slots(own: Workshop, tiers: int) -> dict[int, list[int]]:
    """Candidate steps by batch size: those near the best there, at most `tiers` different in all.

    The engine prepares each candidate ahead and chooses by acceptance alone. So a slot leaves out
    candidates that are too slow at its batch size.
    """
    steps = seconds_by_length(own.learned, own.profile(), own.sizes)
    relative = steps / steps.min(axis=1, keepdims=True)
    chosen = list(dict.fromkeys(fewest(steps, own.sizes, tiers).values()))
    for length in relative.min(axis=0).argsort().tolist():
        if len(chosen) < tiers and length not in chosen:
            chosen.append(length)
    return {
        size: sorted({n for n in chosen if row[n] <= NEAR} | {min(chosen, key=lambda n: row[n])})
        for size, row in zip(own.sizes, relative)
    }


def replayables(folder: Path, export: Export) -> dict[str, Replayable]:
    """The parts, loaded back from the folder."""
    made = {
        EMA: lambda: AdaptiveSteps(EmaSteps.load(folder / CONFIG)),
        ACTOR: lambda: _learned(folder),
    }
    return {part.name: Replayable(made[part.name], part.drafter) for part in export.parts}


def _learned(folder: Path) -> AdaptiveSteps:
    policy = LearnedSteps.load(folder)
    return AdaptiveSteps(policy, policy.spec)


def _tuned(own: Workshop, slots: Mapping[int, list[int]]) -> dict[str, Any]:
    """The configuration with these tiers that is fastest on the learned texts."""
    return fastest(
        list(_configs(slots)),
        lambda config: Replayable(lambda: AdaptiveSteps(EmaSteps(config))),
        own.tuning(),
    )


def _configs(slots: Mapping[int, list[int]]) -> Iterator[dict[str, Any]]:
    for rate in RATES:
        for down in (DEFAULTS["down_hysteresis"], 0.0):
            own = {"up_hysteresis": 0.0, "down_hysteresis": down, "ceiling_coeff": 0}
            by_size = {
                str(size): {"candidate_steps": steps, **own} for size, steps in slots.items()
            }
            first = min(slots)
            by_size = {"1" if key == str(first) else key: slot for key, slot in by_size.items()}
            yield {
                **by_size,
                "ema_alpha": rate,
                "update_interval": DEFAULTS["update_interval"],
                "warmup_batches": DEFAULTS["warmup_batches"],
            }


def _actor(own: Workshop, candidates: list[int]) -> PolicyBundle:
    """A policy that observes acceptance and costs, fitted on every recorded outcome."""
    actions = tuple(Action(step) if step else FALLBACK for step in sorted({0, *candidates}))
    spec = own.spec(("history", "cost"))
    profile = own.profile()
    profiles = [profile.contexts(size) for size in own.sizes]
    game = ReplayGame(
        ReplayTables(own.learned, actions),
        spec,
        profiles,
        policy=[own.costs.deciding(size) for size in own.sizes],
        streams=STREAMS,
    )
    for number, size in enumerate(own.sizes):
        seconds = seconds_by_length(own.learned, profile, [size])[0]
        game.streams.rates[number] = max(1.0, float(seconds[0] / seconds.min()))
    actor = fit_hindsight(game, REGRESSION, seed=0)
    return replace(
        own.bundle,
        actor=actor,
        actions=actions,
        spec=spec,
        profile=profile,
        survival=(ProductSurvival(),),
    )
