"""Runs every method on every prompt, interleaved, so that their speeds are comparable."""

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaspec_rl.comparison.memory import MemoryMeter, MemoryUse
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import Generation, follow, generate
from adaspec_rl.control.guard import charge, looks
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.session import Session


@dataclass(frozen=True, slots=True)
class Record:
    """One generation of one method."""

    method: str
    prompt: str
    domain: str
    generation: Generation
    decisions: tuple[str, ...] = ()  # each round's decision, in words
    memory: MemoryUse | None = None


@dataclass(frozen=True, slots=True)
class ProfileTime:
    """Counts a replayed generation's time by its cost profile, not by the clock."""

    policy: float  # seconds that observing and deciding adds to a round of a learned policy

    def of_decision(self, controller: Controller) -> float:
        """Seconds of one observation and decision."""
        return self.policy if controller.observes else 0.0

    def __call__(self, controller: Controller, made: Generation) -> Generation:
        """`made` with its seconds replaced."""
        deciding = self.of_decision(controller) * len(made.rounds)
        seconds = sum(played.seconds for played in made.rounds)
        return replace(made, seconds=seconds + deciding, controller_seconds=deciding)


def run_benchmark(
    session: Session,
    controllers: Sequence[Controller],
    prompts: Sequence[EncodedPrompt],
    *,
    cost: CostFeatures,
    seed: int = 0,
    warmup: int = 2,
    time: ProfileTime | None = None,
    memory: MemoryMeter | None = None,
    done: Sequence[Sequence[Record]] = (),
    on_prompt: Callable[[Sequence[Record]], None] = lambda records: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """Generate with every controller, prompt by prompt, each time in another random order.

    In a rotation, every method would always follow the same other one, and what the machine does
    for some seconds would always meet the same neighbours. The order depends on `seed` alone. The
    first `warmup` prompts are played once in advance and not counted. Garbage collection is off
    while a generation is timed. All methods share a prompt's seed.

    Args:
        time: replaces the seconds of replayed generations; None: by the clock.
        memory: measures each generation's memory; None: it is not measured.
        done: records of the first prompts from an interrupted run; these prompts are not played
            again but shown to the controllers, which may learn from them.
        on_prompt: called with a prompt's records as soon as all methods have played it.
    """
    names = [controller.name for controller in controllers]
    if len(set(names)) != len(names):
        raise ValueError(f"methods must have different names, got {', '.join(names)}")
    if not prompts:
        raise ValueError("there are no held-out prompts to compare on: expected at least 1")
    for number, item in enumerate(prompts[: warmup if len(done) < len(prompts) else 0]):
        for controller in copy.deepcopy(list(controllers)):  # so that they forget what they learn
            generate(session, controller, item.ids, cost=cost, seed=seed + number)
    records = []
    for number, item in enumerate(prompts):
        shuffled = np.random.default_rng((seed, number)).permutation(len(controllers))
        order = [controllers[place] for place in shuffled.tolist()]
        if number < len(done):
            played = list(done[number])
            for controller, record in zip(order, played):
                assert record.method == controller.name and record.prompt == item.prompt.id
                _relive(controller, item, record.generation, cost, seed + number)
        else:
            played = []
            for controller in order:
                gc.collect(0)
                if memory:
                    memory.begin()
                gc.disable()
                try:
                    made = generate(
                        session,
                        controller,
                        item.ids,
                        cost=cost,
                        seed=seed + number,
                        deciding=time.of_decision(controller) if time else None,
                    )
                finally:
                    gc.enable()
                if time:
                    made = time(controller, made)
                prompt, told = item.prompt, tuple(map(str, made.actions))
                use = memory.read() if memory else None
                played.append(Record(controller.name, prompt.id, prompt.domain, made, told, use))
            on_prompt(played)
        records += played
        progress(number + 1, len(prompts))
    return records


def _relive(
    controller: Controller, item: EncodedPrompt, made: Generation, cost: CostFeatures, seed: int
) -> None:
    """Bring a controller to its state after `made`."""
    spec = controller.observes
    observer = StreamObserver(spec, cost) if spec else None
    controller.reset(item.ids, seed)
    deciding = made.controller_seconds / max(1, len(made.rounds))
    for played in follow(observer, item.ids, made) if observer else made.rounds:
        looked = looks(controller)
        controller.decide(observer.observation() if observer else None)
        if looked:
            charge(controller, deciding)
        controller.observe(played)
