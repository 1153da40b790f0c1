"""How good a policy is while it trains: its profiled speedup on fixed training prompts."""

from collections.abc import Sequence

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.decoding.session import Session
from adaspec_rl.replay.cost_profile import CostProfile


def profiled_speedup(
    session: Session,
    controller: Controller,
    prompts: Sequence[Sequence[int]],
    profile: CostProfile,
) -> float:
    """Throughput over autoregressive decoding's, rounds costing what the profile says.

    The clock has no say, and prompts and seeds are always the same, so that two policies differ
    only by what they decide.
    """
    tokens, seconds = 0, 0.0
    for number, prompt in enumerate(prompts):
        made = generate(session, controller, prompt, cost=profile.features(), seed=number)
        tokens += len(made.tokens)
        seconds += sum(profile.seconds(r.drafter, r.drafted) for r in made.rounds)
    return tokens * profile.autoregressive_step / seconds
