"""Measuring costs against a clock that only the models move, so that every part is known."""

from collections.abc import Sequence

import pytest
import torch

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.estimates import Timings, round_costs
from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile
from adaspec_rl.decoding.drafters import Drafter, DraftModel, NgramLookup
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from tests.toy import ToyModel, similar

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [3, 0, 1]]
TARGET, WIDER, DRAFT, READ = 1.0, 0.125, 0.25, 0.03125  # seconds


class Clock:
    """A clock that models move; it also ticks whenever it is read."""

    def __init__(self) -> None:
        self.now, self.tick = 0.0, 0.0

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


class Timed:
    """A model whose forwards take `base` seconds, and `more` for each token after the first."""

    def __init__(self, model: ToyModel, clock: Clock, base: float, more: float) -> None:
        self.model, self.clock, self.base, self.more = model, clock, base, more

    def __getattr__(self, name: str) -> object:
        return getattr(self.model, name)

    def prefill(self, tokens: torch.Tensor) -> torch.Tensor:
        self.model.reset()
        return self.extend(tokens)[:, -1]

    def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        self.clock.now += self.base + self.more * (tokens.shape[1] - 1)
        return self.model.extend(tokens, keep)

    def extend_tree(
        self, tokens: torch.Tensor, parents: Sequence[int], keep: int | None = None
    ) -> torch.Tensor:
        self.clock.now += self.base + self.more * (tokens.shape[1] - 1)
        return self.model.extend_tree(tokens, parents, keep)


def timed_session(
    clock: Clock, *, slowness: float = 1.0, eos_ids: tuple[int, ...] = (), max_new_tokens: int = 30
) -> LiveSession:
    """A target, a draft model and a lookup, whose forwards take known times."""
    toy = ToyModel(seed=1, context_length=256)
    target = Timed(toy, clock, slowness * TARGET, slowness * WIDER)
    draft = Timed(similar(toy, 0.3), clock, slowness * DRAFT, slowness * READ)
    drafters: list[Drafter] = [DraftModel(draft, toy.vocab_size), NgramLookup()]  # type: ignore[arg-type]
    return LiveSession(
        target,  # type: ignore[arg-type]
        drafters,
        eos_ids=eos_ids,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(0.0),
        clock=clock,
    )


def measured(session: LiveSession, **options: object) -> CostProfile:
    settings = {"max_length": 5, "contexts": (40, 16), "seconds": None, "samples": 6, **options}
    return measure(session, PROMPTS, **settings)  # type: ignore[arg-type]


def test_a_draft_model_of_fewer_tokens_is_measured_on_texts_that_it_cannot_spell():
    toy = ToyModel(8, seed=1, context_length=256)
    small = DraftModel(ToyModel(6, seed=2, context_length=256), toy.vocab_size)
    session = LiveSession(toy, [small], max_new_tokens=30, sampling=Sampling(0.0))
    settings = {"contexts": (16,), "seconds": None, "samples": 1, "batch_sizes": (1, 2)}
    profile = measure(session, [[7, 1, 6]], max_length=3, **settings)
    assert [point.batch_size for point in profile.points] == [1, 2]


def test_every_part_is_what_the_models_take():
    profile = measured(timed_session(Clock()))
    assert [point.context for point in profile.points] == [16, 40]
    for point in profile.points:
        assert point.autoregressive_step == TARGET
        assert point.verification == tuple(TARGET + WIDER * more for more in range(6))
        assert point.draft_step == (DRAFT, 1e-9)
        assert point.stopping_step == (0, 0) == point.overhead
        assert point.catch_up[0] == pytest.approx(READ * (point.context - 1) / point.context)
        assert point.catch_up[1] == 0
    assert profile.policy == 0


def test_a_draft_model_begins_a_round_with_its_weights_out_of_the_cache():
    """As the target has just run; timed by itself, it would have run last."""
    session, late = timed_session(Clock()), 0.375

    class Cached(Timed):
        def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
            if self.clock.ran is not self and self.base == DRAFT:
                self.clock.now += late
            self.clock.ran = self
            return super().extend(tokens, keep)

    session.clock.ran = None
    for model in (session.target, session.models[0].model):
        model.__class__ = Cached
    point = measured(session).at()
    assert point.draft_step[0] == pytest.approx(DRAFT)
    assert point.overhead[0] == pytest.approx(late)


def test_parts_add_up_to_whole_rounds_with_what_is_in_none_of_them():
    clock = Clock()
    clock.tick = 1 / 64  # host work, whenever anything is timed
    session = timed_session(clock)
    keep = session.models[0].keep

    def slow_keep(length: int) -> None:
        clock.now += 0.125
        keep(length)

    session.models[0].keep = slow_keep  # type: ignore[method-assign]
    profile = measured(session)
    point = profile.at(16)
    assert point.overhead == pytest.approx((0.125, 0))
    assert profile.policy == pytest.approx(clock.tick)
    session.start(PROMPTS[0] * 3)
    for length in (5, 1, 3):
        session.step(Action(1))  # catches up
        played = session.step(Action(length))
        assert played.drafted == length
        assert point.seconds(0, length) == pytest.approx(played.seconds, abs=READ)
    assert session.step(FALLBACK).seconds == pytest.approx(point.autoregressive_step)


def test_levels_and_verifications_of_trees_are_what_the_models_take():
    profile = measured(timed_session(Clock()), nodes=9)
    for point in profile.points:
        assert point.max_nodes == 9
        assert point.tree_verification == tuple(TARGET + WIDER * n for n in range(10))
        assert point.levels[0] == tuple(DRAFT + READ * n for n in range(9))
        assert point.levels[1] == (1e-9,) * 9
        assert point.tree_overhead == 0
    assert measured(timed_session(Clock())).max_nodes == 0


def test_texts_that_end_at_once_are_measured_all_the_same():
    profile = measured(timed_session(Clock(), eos_ids=tuple(range(8)), max_new_tokens=1))
    assert profile.at().verification == tuple(TARGET + WIDER * more for more in range(6))


def test_a_budget_is_kept_while_the_model_is_fast_enough():
    clock, notes = Clock(), []
    profile = measured(timed_session(clock, slowness=0.01), seconds=8.0, note=notes.append)
    assert clock.now <= 8.0 * 1.1 and notes == []
    assert profile.max_length == 5 and len(profile.points) == 2


def test_no_more_is_timed_once_every_part_is_known():
    clock = Clock()
    measured(timed_session(clock, slowness=0.001), seconds=1000.0, samples=10_000)
    assert clock.now < 1.0  # the clock is exact, so that a few timings suffice


@pytest.mark.parametrize(("slowness", "longest"), [(0.25, 40), (1.0, 40), (2.0, 70)])
def test_a_slow_model_ends_near_its_budget_and_says_what_was_left_out(slowness, longest):
    clock, notes = Clock(), []
    spec = ObservationSpec(("cost", "context", "lookup"), 12, 8, 2)
    profile = measured(
        timed_session(clock, slowness=slowness),
        spec=spec,
        max_length=12,
        contexts=(16, 64),
        seconds=30.0,
        note=notes.append,
    )
    assert clock.now <= longest
    (said,) = notes
    assert f"step takes {slowness:.3g} s" in said and "cost.seconds=30" in said
    point = profile.points[0]
    assert point.context == 16 and profile.max_length == 12
    expected = [slowness * (TARGET + WIDER * more) for more in range(13)]
    assert point.verification == pytest.approx(expected)  # those between are interpolated
    assert point.draft_step[0] == pytest.approx(slowness * DRAFT)


def test_a_machine_that_slows_down_keeps_its_ratios():
    clock = Clock()
    session = timed_session(clock)

    class Slowing(Timed):
        def extend(self, tokens: torch.Tensor, keep: int | None = None) -> torch.Tensor:
            before = self.clock.now
            logits = super().extend(tokens, keep)
            self.clock.now += (self.clock.now - before) * before / 2500  # far slower in the end
            return logits

    for model in (session.target, session.models[0].model):
        model.__class__ = Slowing
    profile = measured(session, samples=40, contexts=(16,))
    point = profile.at()
    unit = point.autoregressive_step
    assert unit > 1.2
    assert point.draft_step[0] / unit == pytest.approx(DRAFT, rel=0.1)
    assert point.verification[5] / unit == pytest.approx(1 + 5 * WIDER, rel=0.05)


def test_signals_are_part_of_what_a_policy_costs():
    clock = Clock()
    session = timed_session(clock)
    spec = ObservationSpec(("draft",), max_length=5, vocab_size=8, drafters=2)
    assert spec.needs_signals
    profile = measured(session, spec=spec)
    assert profile.policy == 0  # the clock stands still


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
def test_senseless_budgets_are_refused(seconds):
    with pytest.raises(ValueError, match=r"cost.seconds must be above 0, or null for no limit"):
        measured(timed_session(Clock()), seconds=seconds)


def test_noise_never_makes_a_draft_step_free():
    found = Timings()
    timed = {
        ("fallback",): 1.0, ("verification", 1): 1.0, ("verification", 5): 1.5,
        ("draft", 0, 1): 0.5, ("draft", 0, 4): 0.4, ("stopping", 0, 4): 0.4, ("catch up", 0): 0.5,
        ("round", 0, 1): 2.5, ("round", 0, 4): 1.0,
    }  # fmt: skip
    for kind, seconds in timed.items():
        found.add(kind, seconds)
    point = round_costs(found, context=8, max_length=4, drafters=1)
    assert point.draft_step == pytest.approx((0.1,)) and point.overhead[0] >= 0
