"""The guard: bounded harm, quick recovery, no false alarms. Costs are simulated, in plain steps."""

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.guard import RESERVE, Guarded
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.control.step_time import ENOUGH, NOISE
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from tests.toy import ToyModel, greedy_text, similar, toy_session

NO_COST = CostFeatures(0.0, 0.0, 0.0)
DRAFT_STEP, OVERHEAD = 0.14, 0.14
VERIFICATION = (0.93, 1.06, 1.03, 1.22, 1.29, 1.33, 1.37, 1.41, 1.50)  # by drafted tokens


class Simulated:
    """A session without models: drafted tokens are right with a probability, rounds have a price.

    Position counts emitted tokens over all sequences.
    """

    def __init__(
        self,
        chance: Callable[[int], float],
        *,
        spikes: float = 0.0,  # share of rounds that take 20 steps more
        slowdown: Callable[[int], float] = lambda position: 1.0,
        draft_step: float = DRAFT_STEP,
        plain_step: Callable[[int], float] = lambda position: 1.0,
        noise: float = 0.03,
        right: int = 8,  # tokens of a draft that can be, at most
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> None:
        self.chance, self.spikes, self.slowdown = chance, spikes, slowdown
        self.draft_step, self.plain_step = draft_step, plain_step
        self.noise, self.right, self.max_new_tokens = noise, right, max_new_tokens
        self.random = random.Random(seed)
        self.position = 0
        self.steps = 0.0  # spent, spikes not counted
        self.rounds: list[tuple[int, Action]] = []  # the position before each

    @property
    def finished(self) -> str | None:
        return "length" if len(self.tokens) >= self.max_new_tokens else None

    def start(self, prompt: Sequence[int], seed: int = 0, signals: bool = True) -> None:
        self.tokens: list[int] = []

    def step(self, action: Action) -> Round:
        self.rounds.append((self.position, action))
        room = self.max_new_tokens - len(self.tokens)
        drafted = min(action.length, room - 1)
        accepted = 0
        while accepted < min(drafted, self.right):
            if self.random.random() >= self.chance(self.position + accepted):
                break
            accepted += 1
        price = self.plain_step(self.position)
        if drafted:
            price = self.draft_step * drafted + VERIFICATION[drafted] + OVERHEAD
        noise = self.random.uniform(1 - self.noise, 1 + self.noise)
        price *= self.slowdown(len(self.tokens)) * noise
        self.steps += price
        if self.random.random() < self.spikes:
            price += 20
        emitted = tuple(range(accepted + 1))
        self.tokens += emitted
        self.position += len(emitted)
        return Round(action.drafter, drafted, accepted, emitted, 0.0024 * price)


def play(session: Simulated, controller: Controller, tokens: int) -> float:
    """Generate at least `tokens` tokens; the plain steps that a token took."""
    before, at = session.steps, session.position
    while session.position < at + tokens:
        generate(session, controller, [1], cost=NO_COST, deciding=0.0)
    return (session.steps - before) / (session.position - at)


def drafts(session: Simulated, of_length: int) -> list[int]:
    """Positions of rounds that were to draft `of_length` tokens."""
    return [position for position, action in session.rounds if action.length == of_length]


@pytest.mark.parametrize("length", [1, 4, 8])
def test_a_hostile_drafter_costs_less_than_one_percent(length):
    session = Simulated(lambda position: 0.0)
    assert play(session, Guarded(FixedLength(length)), 1000) < 1.01
    probes = drafts(session, 1)
    assert len(probes) >= 1000 / 64  # it does go on trying
    assert length == 1 or not drafts(session, length)  # careful from the first round on


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("draft_step", [0.02, 0.14, 0.5])
def test_in_total_no_more_is_lost_than_was_granted(chance, draft_step):
    session = Simulated(lambda position: chance, draft_step=draft_step, noise=0.0, seed=1)
    guard = Guarded(FixedLength(8), allowance=0.005, advance=1.0)
    for _ in range(200):
        play(session, guard, 128)
        lost = session.steps - session.position
        assert lost < 1.0 + NOISE + 0.005 * session.position
    unguarded = Simulated(lambda position: chance, draft_step=draft_step)
    assert chance == 0.4 or play(unguarded, FixedLength(8), 20_000) > 1.2


def test_a_drafter_that_is_right_but_slow_is_not_used():
    session = Simulated(lambda position: 1.0, draft_step=1.2)
    assert play(session, Guarded(FixedLength(4)), 5_000) < 1.01
    assert not drafts(session, 4)


@pytest.mark.parametrize("seed", range(20))
def test_a_recovered_drafter_is_used_within_64_tokens(seed):
    recovery = 300 + 7 * seed
    session = Simulated(lambda position: float(position >= recovery), seed=seed)
    play(session, Guarded(FixedLength(4)), 700)
    first = min(drafts(session, 4))
    assert recovery < first <= recovery + 64
    plain = [position for position in drafts(session, 0) if position > first]
    assert len(plain) <= 4  # to keep the estimate fresh


def test_the_speed_of_a_fairly_good_drafter_is_back_after_64_tokens():
    def speed(guarded: bool, seed: int) -> float:
        recovery = 256 + seed % 64
        session = Simulated(
            lambda position: 0.7 * (position >= recovery), max_new_tokens=32, seed=seed
        )
        controller = Guarded(FixedLength(3)) if guarded else FixedLength(3)
        play(session, controller, recovery + 64)
        return play(session, controller, 128)

    seeds = range(200)
    with_guard = sum(speed(True, seed) for seed in seeds)
    assert sum(speed(False, seed) for seed in seeds) / with_guard > 0.95


@pytest.mark.parametrize("period", [20, 50, 100, 300, 1000])
def test_a_drafter_that_changes_sides_does_no_harm(period):
    session = Simulated(lambda position: 0.9 * (position // period % 2))
    assert play(session, Guarded(FixedLength(8)), 20_000) < 1.01
    if period >= 300:
        assert play(session, Guarded(FixedLength(8)), 20_000) < 0.85


def test_a_good_drafter_is_hardly_ever_interrupted():
    session = Simulated(lambda position: 0.8)
    guard = Guarded(FixedLength(4))
    play(session, guard, 200)
    assert guard.trusted
    del session.rounds[:]
    steps = play(session, guard, 20_000)
    assert len(drafts(session, 4)) > 0.97 * len(session.rounds)
    assert steps < 1.01 * play(Simulated(lambda position: 0.8, seed=1), FixedLength(4), 20_000)


def test_a_new_sequence_is_measured_only_where_that_could_matter():
    session = Simulated(lambda position: 0.9, max_new_tokens=64)
    guard = Guarded(FixedLength(4))
    play(session, guard, 200)
    del session.rounds[:]
    play(session, guard, 6400)
    assert len(drafts(session, 0)) <= 6400 / 512
    session.chance = lambda position: 0.9 * (position % 64 > 8)  # bad beginnings raise doubts
    del session.rounds[:]
    play(session, guard, 6400)
    assert len(drafts(session, 0)) > 3 * 6400 / 512


def test_spikes_do_not_trip_it():
    session = Simulated(lambda position: 0.8, spikes=0.02)
    guard = Guarded(FixedLength(4))
    play(session, guard, 200)
    del session.rounds[:]
    play(session, guard, 20_000)
    assert len(drafts(session, 4)) > 0.97 * len(session.rounds)


@pytest.mark.parametrize("good", [False, True])
def test_plain_steps_that_slow_down_with_the_context_mislead_nobody(good):
    session = Simulated(
        lambda position: 0.8 * good,
        slowdown=lambda position: 1 + position / 500,
        max_new_tokens=1000,
    )
    guard = Guarded(FixedLength(4))
    play(session, guard, 1000)
    del session.rounds[:]
    play(session, guard, 20_000)
    if good:
        assert len(drafts(session, 4)) > 0.95 * len(session.rounds)
    else:
        assert not drafts(session, 4) and len(drafts(session, 1)) < 0.03 * len(session.rounds)


def test_it_notices_that_plain_steps_have_become_quicker():
    session = Simulated(
        lambda position: 0.8,
        plain_step=lambda position: 1.0 if position < 2000 else 0.4,
        max_new_tokens=10_000,
    )
    play(session, Guarded(FixedLength(4)), 4000)
    used = drafts(session, 4)
    assert sum(position < 2000 for position in used) > 500
    assert max(used) < 2000 + 512 + 64


def plain_runs(session: Simulated) -> list[int]:
    """How many fallbacks in a row, from run to run."""
    kinds = itertools.groupby(action == FALLBACK for _, action in session.rounds)
    return [len(list(rounds)) for plain, rounds in kinds if plain]


def test_it_waits_longer_each_time_that_probes_promise_too_much():
    session = Simulated(lambda position: 1.0, right=1, max_new_tokens=10_000)
    play(session, Guarded(FixedLength(8), advance=10.0), 1000)
    assert drafts(session, 8)
    assert plain_runs(session)[:6] == [ENOUGH, 8, 16, 32, 40, 40]


def test_an_accepted_probe_buys_some_patience():
    session = Simulated(lambda position: float(position == ENOUGH))
    play(session, Guarded(FixedLength(4)), 64)
    assert [action.length for _, action in session.rounds[:9]] == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    assert plain_runs(session)[1] == 8


def test_a_trusted_controller_is_in_charge_once_plain_steps_are_measured():
    session = Simulated(lambda position: 0.8)
    guard = Guarded(FixedLength(4), trusted=True)
    play(session, guard, 1000)
    assert [action.length for _, action in session.rounds[:4]] == [0, 0, 4, 4]
    assert not drafts(session, 1) and guard.trusted


@pytest.mark.parametrize("length", [1, 4, 8])
def test_trust_that_is_deceived_costs_what_was_granted_and_ends(length):
    session = Simulated(lambda position: 0.0, noise=0.0)
    guard = Guarded(FixedLength(length), trusted=True)
    for _ in range(60):
        play(session, guard, 128)
        lost = session.steps - session.position
        assert lost < RESERVE + NOISE + 0.005 * session.position
    assert length == 1 or max(drafts(session, length)) < 12 * 128


def test_trust_lasts_until_texts_that_pay_come():
    """One text in three pays, after several that do not."""
    session = Simulated(lambda position: 0.9 * (position // 128 % 3 == 2), noise=0.0)
    assert play(session, Guarded(FixedLength(4), trusted=True), 30 * 128) < 0.9


def test_trust_spares_a_hard_beginning_a_long_wait():
    def steps(trusted: bool) -> float:
        spent = 0.0
        for seed in range(50):  # a fresh guard for each text
            session = Simulated(lambda position: 0.7 * (position > 5), seed=seed)
            spent += play(session, Guarded(FixedLength(4), trusted=trusted), 128)
        return spent / 50

    assert steps(trusted=True) < 0.95 * steps(trusted=False)


def by_kind(position: int) -> float:
    """Every third sequence is easy, the others are hopeless."""
    return 0.9 * (position // 128 % 3 == 0)


def test_a_new_sequence_gets_a_new_chance_out_of_what_was_won():
    session, guard = Simulated(by_kind, noise=0.0), Guarded(FixedLength(4))
    play(session, guard, 3 * 128)  # puts something aside
    unguarded = play(Simulated(lambda position: 0.9, noise=0.0), FixedLength(4), 1280)
    for _ in range(10):
        easy, hard, harder = (128 * play(session, guard, 128) for _ in range(3))
        assert easy < 1.2 * 128 * unguarded
        assert 0 < hard - 128 < guard.limit + 2 * NOISE  # it was in charge already
        assert 0 < harder - 128 < 3 * NOISE
    assert not [at for at in drafts(session, 1) if at >= 3 * 128 and by_kind(at)]  # no probes


def test_without_savings_a_new_sequence_is_not_trusted():
    session, guard = Simulated(lambda position: 0.0), Guarded(FixedLength(4))
    for _ in range(20):
        play(session, guard, 128)
    assert not drafts(session, 4)


def test_a_new_sequence_ends_a_wait_that_can_be_afforded():
    hard = Simulated(lambda position: 0.0, max_new_tokens=8, noise=0.0)
    guard = Guarded(FixedLength(4), advance=3.0)
    play(hard, guard, 64)
    first_probes = drafts(hard, 1)[:3]
    assert first_probes[1] - first_probes[0] < guard.longest


class Recorder:
    """Proposes actions in a cycle and remembers what it was told."""

    name = "recorder"
    observes = None

    def __init__(self, *actions: Action) -> None:
        self.actions = actions
        self.asked = 0
        self.told: list[tuple[Action, Round]] = []
        self.resets: list[tuple[Sequence[int], int]] = []

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.resets.append((prompt, seed))

    def decide(self, observation) -> Action:
        self.asked += 1
        self.proposed = self.actions[self.asked % len(self.actions)]
        return self.proposed

    def observe(self, round_: Round) -> None:
        self.told.append((self.proposed, round_))


@pytest.mark.parametrize("chance", [0.0, 0.8])
def test_the_guarded_controller_observes_exactly_the_rounds_that_it_chose(chance):
    recorder = Recorder(Action(2), Action(4, 1), FALLBACK)
    guard = Guarded(recorder)
    assert guard.name == "guarded_recorder" and guard.observes is None
    session = Simulated(lambda position: chance, max_new_tokens=10_000)
    made = generate(session, guard, [1, 2], cost=NO_COST, seed=3)
    assert recorder.resets == [([1, 2], 3)]
    assert all(round_.drafted == proposed.length for proposed, round_ in recorder.told[:-1])
    assert 0 < len(recorder.told) < len(made.rounds)
    drafting = [proposed.length > 0 for proposed, _ in recorder.told]
    assert any(drafting) == (chance > 0)  # all others were probes
    assert {action.drafter for _, action in session.rounds if action.length == 1} <= {0, 1}


def test_decisions_that_cost_more_than_they_bring_end_with_the_controller():
    """Three tokens in 2.5 steps pay if decisions are free, and not if they take a step."""

    def share(deciding: float) -> float:
        session = Simulated(lambda position: 1.0, draft_step=0.5, right=2, max_new_tokens=1000)
        guard = Guarded(FixedLength(2), trusted=True)
        generate(session, guard, [1], cost=NO_COST, deciding=deciding)
        return len(drafts(session, 2)) / len(session.rounds)

    assert share(0.0) > 0.95
    assert share(0.0024) < 0.2


def test_a_controller_that_decides_for_plain_steps_pays_for_deciding():
    session = Simulated(lambda position: 0.0, max_new_tokens=1000)
    asked = []

    class Undecided(FixedLength):
        def decide(self, observation):
            asked.append(session.position)
            return FALLBACK

    guard = Guarded(Undecided(0), trusted=True)
    generate(session, guard, [1], cost=NO_COST, deciding=0.1 * 0.0024)
    assert len(asked) < 500  # in half of the rounds nobody decides


def test_a_probe_drafts_one_token_with_the_drafter_in_question():
    session = Simulated(lambda position: 0.0)
    play(session, Guarded(FixedLength(4, drafter=1)), 256)
    assert {action for _, action in session.rounds} == {FALLBACK, Action(1, 1)}


def test_a_controller_that_never_drafts_is_left_alone():
    recorder = Recorder(FALLBACK)
    session = Simulated(lambda position: 0.0)
    play(session, Guarded(recorder), 128)
    assert {action for _, action in session.rounds} == {FALLBACK}
    assert len(recorder.told) == 128 - ENOUGH


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_text_stays_as_it_was(weight, temperature):
    target = ToyModel(seed=1)
    options = dict(max_new_tokens=40, temperature=temperature, verification="coupled")
    guard = Guarded(FixedLength(3), allowance=0.9, shortest=1, longest=4)
    session = toy_session(target, [similar(target, weight)], **options)
    plain = toy_session(target, [], **options)
    for seed in range(5):
        made = generate(session, guard, [1, seed], cost=NO_COST, seed=seed)
        expected = generate(plain, FixedLength(0), [1, seed], cost=NO_COST, seed=seed)
        assert made.tokens == expected.tokens and made.finished == expected.finished
        assert any(round_.drafted for round_ in made.rounds)
        if not temperature:
            assert made.tokens == greedy_text(target, [1, seed], 40)


@pytest.mark.parametrize(
    "settings",
    [
        {"allowance": 0.0},
        {"advance": -1.0},
        {"shortest": 0},
        {"shortest": 9, "longest": 8},
        {"proof": 0.0},
        {"proof": 3.0, "limit": 2.0},
        {"refresh": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="must be|expected"):
        Guarded(FixedLength(1), **settings)
