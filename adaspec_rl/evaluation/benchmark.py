"""Every method on every prompt, interleaved: the only way that this project compares speeds."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import Generation, generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.session import Session

AUTOREGRESSIVE = "autoregressive"


@dataclass(frozen=True, slots=True)
class Record:
    """One generation of one method."""

    method: str
    prompt: str
    domain: str
    generation: Generation


def run_benchmark(
    session: Session,
    controllers: Sequence[Controller],
    prompts: Sequence[EncodedPrompt],
    *,
    cost: CostFeatures,
    seed: int = 0,
    warmup: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Generate with every controller, prompt by prompt, the order rotating by one each time.

    The first `warmup` prompts are played once in advance, uncounted; garbage collection is held
    while a generation is timed. All methods share a prompt's seed.
    """
    names = [controller.name for controller in controllers]
    if len(set(names)) != len(names):
        raise ValueError(f"methods must have different names, got {', '.join(names)}")
    if not prompts:
        raise ValueError("there are no held-out prompts to compare on: expected at least 1")
    for item in prompts[:warmup]:
        for controller in controllers:
            generate(session, controller, item.ids, cost=cost, seed=seed)
    records = []
    for number, item in enumerate(prompts):
        turn = number % len(controllers)
        for controller in (*controllers[turn:], *controllers[:turn]):
            gc.collect(0)
            gc.disable()
            try:
                made = generate(session, controller, item.ids, cost=cost, seed=seed + number)
            finally:
                gc.enable()
            records.append(Record(controller.name, item.prompt.id, item.prompt.domain, made))
        progress(number + 1, len(prompts))
    return records
