"""Baseline controllers: each known rule on rounds made by hand, and all of them on toy models."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest

from adaspec_rl.control.baselines.adaedl import AdaEdl
from adaspec_rl.control.baselines.bandit import Bandit
from adaspec_rl.control.baselines.batch_table import BatchTable
from adaspec_rl.control.baselines.exp3 import Exp3
from adaspec_rl.control.baselines.fixed import FixedLength, fixed_lengths
from adaspec_rl.control.baselines.heuristic import Heuristic
from adaspec_rl.control.baselines.hysteresis import Hysteresis
from adaspec_rl.control.baselines.ruled import Ruled
from adaspec_rl.control.baselines.sglang_tiers import SglangTiers
from adaspec_rl.control.baselines.sliding_window import SlidingWindow
from adaspec_rl.control.baselines.specdec_pp import SpecDecPlusPlus
from adaspec_rl.control.baselines.tapout import TapOut
from adaspec_rl.control.baselines.thompson import Thompson
from adaspec_rl.control.baselines.ucb1 import Ucb1
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import Generation, generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.control.stopping.confidence import ConfidenceStop
from adaspec_rl.control.stopping.cumulative_confidence import CumulativeConfidenceStop
from adaspec_rl.control.stopping.entropy_bound import EntropyBoundStop
from adaspec_rl.control.stopping.svip import SvipStop
from adaspec_rl.decoding.round import FALLBACK, Action, DraftedToken, Round, StopRule
from adaspec_rl.decoding.session import Session
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import PROMPTS, profile, toy_recording, toy_trace, toys
from tests.toy import ToyModel, greedy_text, similar, toy_session

COST = CostFeatures(0.1, 0.02, 0.05)
MAKERS: dict[str, Callable[[int], Controller]] = {
    "heuristic": Heuristic,
    "confidence": lambda k: Ruled("confidence", ConfidenceStop(0.5), k),
    "cumulative_confidence": lambda k: Ruled(
        "cumulative_confidence", CumulativeConfidenceStop(0.3), k
    ),
    "svip": lambda k: Ruled("svip", SvipStop(), k),
    "adaedl": AdaEdl,
    "sliding_window": SlidingWindow,
    "hysteresis": Hysteresis,
    "specdec_pp": SpecDecPlusPlus,
    "ucb1": Ucb1,
    "exp3": Exp3,
    "thompson": Thompson,
    "tapout": TapOut,
    "sglang_tiers": SglangTiers,
    "batch_table": BatchTable,
}
TIMED = {"sliding_window", "ucb1", "exp3", "thompson"}  # what they do depends on seconds
NAMED = pytest.mark.parametrize("name", MAKERS)


def outcome(drafted: int, accepted: int, seconds: float = 1.0) -> Round:
    return Round(0, drafted, accepted, tuple(range(accepted + 1)), seconds)


def lengths(controller: Controller, outcomes: Sequence[tuple[int, int]]) -> list[int]:
    """Draft lengths decided on before each round `(drafted, accepted)`, and after the last."""
    found = [controller.decide(None).length]
    for drafted, accepted in outcomes:
        controller.observe(outcome(drafted, accepted))
        found.append(controller.decide(None).length)
    return found


def token(
    depth: int, probability: float = 0.5, entropy: float = 0.0, survival: float = 1.0
) -> DraftedToken:
    return DraftedToken(depth, probability, entropy, survival)


def stops_after(rule: StopRule, tokens: Sequence[DraftedToken]) -> int:
    """Tokens of a draft that a rule lets be."""
    for item in tokens:
        if rule(item):
            return item.depth
    return len(tokens) + 1


def play_all(session: Session, controller: Controller, seed: int = 0) -> list[Generation]:
    return [generate(session, controller, prompt, cost=COST, seed=seed) for prompt in PROMPTS]


@NAMED
def test_texts_are_those_of_plain_decoding(name):
    target = ToyModel(seed=1)
    session = toy_session(target, [similar(target, 0.2)], max_new_tokens=30)
    session.clock = itertools.count().__next__  # drafts take no time, however busy the machine is
    controller = MAKERS[name](4)
    made = play_all(session, controller)
    assert controller.name == name and controller.observes is None
    assert [item.tokens for item in made] == [greedy_text(target, p, 30) for p in PROMPTS]
    assert sum(round_.accepted for item in made for round_ in item.rounds) > 20  # and it speculates


@NAMED
def test_coupled_samples_are_those_of_plain_decoding(name):
    target = ToyModel(seed=2)
    session = toy_session(
        target, [similar(target, 0.4)], temperature=0.9, verification="coupled", eos_ids=(3,)
    )
    plain = play_all(session, FixedLength(0), seed=5)
    assert [item.tokens for item in play_all(session, MAKERS[name](4), seed=5)] == [
        item.tokens for item in plain
    ]


@NAMED
def test_controllers_do_on_a_recording_what_they_do_live(name, tmp_path):
    models = toys(contexts=(64, 64))
    trace = toy_trace(tmp_path, models, temperature=0.8, max_new_tokens=20)
    replay = ReplaySession(trace, profile())
    live = models.session(toy_recording(0.8, max_new_tokens=20), None)
    decided, other = MAKERS[name](4), MAKERS[name](4)
    for number, prompt in enumerate(PROMPTS):
        made = generate(replay, decided, prompt, cost=COST, seed=number)
        expected = generate(live, other, prompt, cost=COST, seed=number)
        assert made.tokens == expected.tokens
        if name not in TIMED:
            done = [[(r.drafted, r.accepted) for r in m.rounds] for m in (made, expected)]
            assert done[0] == done[1]


@NAMED
def test_the_same_rounds_give_the_same_decisions(name, tmp_path):
    trace = toy_trace(tmp_path, max_new_tokens=40)
    session = ReplaySession(trace, profile())
    actions = []
    for _ in range(2):
        controller, rounds = MAKERS[name](4), []
        for number, prompt in enumerate(PROMPTS):
            rounds += generate(session, controller, prompt, cost=COST, seed=number).rounds
        actions.append(rounds)
    assert actions[0] == actions[1] and len(actions[0]) > 40


@NAMED
def test_the_drafter_can_be_chosen(name, tmp_path):
    trace = toy_trace(tmp_path)
    session = ReplaySession(trace, profile())
    made = {
        "confidence": lambda: Ruled("confidence", ConfidenceStop(0.5), 4, 1),
        "cumulative_confidence": lambda: Ruled("c", CumulativeConfidenceStop(0.3), 4, 1),
        "svip": lambda: Ruled("svip", SvipStop(), 4, 1),
    }.get(name, lambda: MAKERS[name](4, 1))()  # type: ignore[call-arg]
    rounds = [r for item in play_all(session, made) for r in item.rounds if r.drafted]
    assert rounds and {r.drafter for r in rounds} == {1}


def test_the_heuristic_adds_two_after_success_and_takes_one_after_failure():
    assert lengths(Heuristic(20), [(5, 5), (7, 6)]) == [5, 7, 6]
    assert lengths(Heuristic(8), [(5, 5), (7, 7), (8, 8)]) == [5, 7, 8, 8]  # at most max_length
    assert lengths(Heuristic(8, start=2), [(2, 0), (1, 0), (1, 1)]) == [2, 1, 1, 3]
    assert lengths(Heuristic(8), [(0, 0)]) == [5, 5]  # no room for a draft: nothing learned
    for transient, expected in [(False, 7), (True, 5)]:
        controller = Heuristic(8, transient=transient)
        controller.observe(outcome(5, 5))
        controller.reset([1])
        assert controller.decide(None) == Action(expected)


def test_confidence_looks_at_the_newest_token_and_its_product_at_all():
    draft = [token(1, 0.7), token(2, 0.6), token(3, 0.6), token(4, 0.3)]
    assert stops_after(ConfidenceStop(0.4), draft) == 4
    assert stops_after(ConfidenceStop(0.65), draft) == 2
    assert stops_after(ConfidenceStop(0.6), draft) == 4  # 0.6 is not under 0.6
    rule = CumulativeConfidenceStop(0.3)
    assert stops_after(rule, draft) == 3  # 0.7 * 0.6 * 0.6 = 0.252
    assert stops_after(rule, draft) == 3  # and a new draft starts from 1
    assert stops_after(CumulativeConfidenceStop(0.5), draft) == 2


def test_svip_and_the_entropy_bound_look_at_the_newest_entropy():
    draft = [token(1, entropy=0.2), token(2, entropy=0.9), token(3, entropy=1.3)]
    assert stops_after(SvipStop(1.0), draft) == 3
    assert stops_after(SvipStop(0.9), draft) == 2  # sqrt(0.9) = 0.949
    assert stops_after(SvipStop(1.2), draft) == 4
    assert stops_after(EntropyBoundStop(0.55, gamma=0.2), draft) == 3  # 1 - sqrt(0.18) = 0.576
    assert stops_after(EntropyBoundStop(0.58, gamma=0.2), draft) == 2
    assert SvipStop.needs == EntropyBoundStop.needs == {"entropy"}  # else a session says 0


def test_adaedl_stops_sooner_while_acceptance_is_under_its_target():
    controller = AdaEdl(8, target=0.8, start=0.4, step=0.1, share_decay=0.5, threshold_decay=0.9)
    controller.observe(outcome(4, 2))  # the smoothed share is 0.65: under 0.8
    assert controller.rule.threshold == pytest.approx(0.41)
    for _ in range(5):
        controller.observe(outcome(4, 4))  # 0.825 already after the first
    assert controller.rule.threshold == pytest.approx(0.41 - 5 * 0.01)
    controller.observe(outcome(0, 0))
    assert controller.rule.threshold == pytest.approx(0.36)
    assert controller.decide(None).rule is controller.rule  # what moves is what is played
    for _ in range(200):
        controller.observe(outcome(4, 0))
    assert controller.rule.threshold == 1.0


def test_specdec_stops_when_a_rejection_is_likelier_than_its_threshold():
    assert SpecDecPlusPlus(6, 1, 0.75).decide(None) == Action(6, 1, threshold=0.25)
    assert SpecDecPlusPlus(6, threshold=1).decide(None) == Action(6)  # never


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("draft_step", [0.05, 0.3, 0.8])
def test_the_sliding_window_is_as_fast_as_the_closed_forms_best_length(rate, draft_step):
    longest, rng = 8, random.Random(3)
    controller = SlidingWindow(longest, span=100)

    def seconds(k: int) -> float:
        return 2.0 * (1 + (0.1 + draft_step * k if k else 0))

    played = []
    for _ in range(2000):
        k = controller.decide(None).length
        accepted = 0
        while accepted < k and rng.random() < rate:
            accepted += 1
        controller.observe(outcome(k, accepted, seconds(k)))
        played.append(k)
    tokens = [(1 - rate ** (k + 1)) / (1 - rate) for k in range(longest + 1)]
    best = max(tokens[k] / seconds(k) for k in range(longest + 1))
    late = played[-1000:]
    assert sum(tokens[k] for k in late) / sum(seconds(k) for k in late) > 0.94 * best


def test_the_sliding_window_falls_back_and_looks_again():
    controller = SlidingWindow(4, span=3, pause=5)
    decided = []
    for _ in range(60):
        k = controller.decide(None).length
        decided.append(k)
        controller.observe(outcome(k, 0, 1 + 0.3 * k))
    assert decided[:2] == [0, 4]  # a plain round first, to know what it costs
    late = decided[-12:]
    assert late.count(1) == 2 and late.count(0) == 10  # one draft of one token in six rounds
    for _ in range(60):  # the drafter has become good
        k = controller.decide(None).length
        controller.observe(outcome(k, k, 1 + 0.3 * k))
    assert controller.decide(None).length == 4


def test_hysteresis_climbs_falls_waits_and_probes():
    made = dict(up=0.7, down=0.4, off=0.15, window=2, pause=3)
    assert lengths(Hysteresis(6, start=3, **made), [(3, 3), (4, 4), (5, 5), (6, 6)]) == [
        3, 4, 5, 6, 6,
    ]  # fmt: skip
    # 1 of 2 reached is between the thresholds: nothing moves; then 1 of 4 and 0 of 2
    assert lengths(Hysteresis(6, start=3, **made), [(3, 1), (3, 0)]) == [3, 3, 2]
    controller = Hysteresis(6, start=3, **made)
    rejected = [(3, 0), (2, 0)] + [(0, 0)] * 3
    assert lengths(controller, rejected) == [3, 2, 0, 0, 0, 1]
    assert lengths(controller, [(1, 0), (0, 0), (0, 0), (0, 0)]) == [1, 0, 0, 0, 1]  # no luck
    assert lengths(controller, [(1, 1), (2, 2)]) == [1, 2, 3]  # good again


def bandits(arms: Sequence[Action], seed: int = 0) -> list[Bandit]:
    return [
        Ucb1(4, exploration=0.5, arms=arms),
        Exp3(4, exploration=0.1, seed=seed, arms=arms),
        Thompson(4, exploration=0.5, seed=seed, arms=arms),
    ]


def pull(bandit: Bandit, rounds: int, rates: dict[int, float], seed: int = 0) -> list[int]:
    """Lengths that a bandit plays, where each is accepted in full or not at all."""
    rng, played = random.Random(seed), []
    for _ in range(rounds):
        k = bandit.decide(None).length
        played.append(k)
        bandit.observe(outcome(k, k if rng.random() < rates[k] else 0, 1 + 0.1 * k))
        bandit.reset([1, 2])  # what was learned stays
    return played


@pytest.mark.parametrize("number", range(3))
def test_bandits_find_the_better_of_two_arms(number):
    arms = [Action(1), Action(4)]
    for rates, better in [({1: 0.9, 4: 0.05}, 1), ({1: 0.2, 4: 0.6}, 4)]:
        late = pull(bandits(arms)[number], 1500, rates)[-500:]
        assert late.count(better) > 400, (rates, late.count(better))


@pytest.mark.parametrize("number", range(3))
def test_bandits_play_the_same_for_the_same_seed(number):
    arms = fixed_lengths(4)
    rates = {k: 0.9**k for k in range(5)}
    first, again, other = (pull(bandits(arms, seed)[number], 200, rates) for seed in (1, 1, 2))
    assert first == again and set(first) == set(range(5))
    assert (first == other) == (number == 0)  # UCB1 knows no chance


def test_bandits_learn_from_tokens_a_second_of_the_arm_that_was_played():
    bandit = Ucb1(2)
    assert bandit.arms == (FALLBACK, Action(1), Action(2))
    for drafted, accepted, seconds in [(0, 0, 1.0), (1, 1, 1.25), (2, 0, 2.0)]:
        assert bandit.decide(None).length == drafted
        bandit.observe(outcome(drafted, accepted, seconds))
    assert bandit.means == [1.0, 1.6, 0.5] and bandit.largest == 1.6
    assert bandit.decide(None).length == 1
    bandit.observe(outcome(0, 0, 1.0))  # there was no room for a draft: says nothing of the arm
    assert bandit.plays == [1, 1, 1]


def test_tapout_chooses_among_rules_by_a_blend_of_length_and_share():
    rules = [ConfidenceStop(0.0), ConfidenceStop(1.0)]
    bandit = TapOut(4, exploration=0.3, blend=0.25, rules=rules)
    assert [arm.rule for arm in bandit.arms] == rules
    assert bandit.worth(bandit.arms[0], outcome(2, 1)) == pytest.approx(0.25 / 4 + 0.75 / 2)
    played = []
    for _ in range(300):  # the second rule always stops, after a token that is always right
        rule = bandit.decide(None).rule
        played.append(rules.index(rule))
        bandit.observe(outcome(4, 1) if rule is rules[0] else outcome(1, 1))
    assert played[-100:].count(1) > 90
    assert {type(arm.rule) for arm in TapOut(4).arms} == {
        ConfidenceStop,
        CumulativeConfidenceStop,
        SvipStop,
        EntropyBoundStop,
    }


def test_sglang_tiers_follow_the_average_acceptance_length():
    made = dict(tiers=(1, 3, 7), rate=1.0, interval=2, warmup=2)
    # Looked at after rounds 4, 6, 8, …: by then the average is the last acceptance length.
    rise = [(3, 3)] * 4 + [(7, 7)] * 2
    assert lengths(SglangTiers(8, **made), rise) == [3, 3, 3, 3, 7, 7, 7]
    # Down at the lower tier - 0.75, through two tiers at once.
    fall = rise + [(7, 2)] * 2 + [(3, 0)] * 2
    assert lengths(SglangTiers(8, **made), fall)[-5:] == [7, 7, 3, 3, 1]
    assert lengths(SglangTiers(8, **made), rise + [(7, 0)] * 2)[-1] == 1
    assert lengths(SglangTiers(8, **made), [(3, 1)] * 4)[-1] == 3  # 1 is over 0.25, under 2.5
    # Tier 0 is left after one interval, to look again.
    made["tiers"] = (0, 2)
    asleep = [(2, 0)] * 4 + [(0, 0)] * 2
    assert lengths(SglangTiers(8, **made), asleep) == [2, 2, 2, 2, 0, 0, 2]
    assert lengths(SglangTiers(2), [(2, 2)] * 40)[-1] == 2  # tiers are cut to max_length


def test_the_batch_table_gives_its_length():
    found = [BatchTable(8, batch_size=size).decide(None) for size in (1, 64, 65, 128, 129, 512)]
    assert found == [Action(3), Action(3), Action(1), Action(1), FALLBACK, FALLBACK]
    assert BatchTable(2, 1).decide(None) == Action(2, 1)
    with pytest.raises(ValueError, match=r"1 range of batch sizes that holds 513, got 0 in \[\[1,"):
        BatchTable(8, batch_size=513)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heuristic(0), "max_length must be at least 1, got 0"),
        (lambda: Heuristic(4, start=0), "start must be at least 1, got 0"),
        (lambda: Ruled("r", ConfidenceStop(), 0), "max_length must be at least 1, got 0"),
        (lambda: ConfidenceStop(1.5), r"threshold must be in \[0, 1\], got 1.5"),
        (lambda: CumulativeConfidenceStop(-0.1), r"threshold must be in \[0, 1\], got -0.1"),
        (lambda: SvipStop(-1), "threshold must be at least 0, got -1"),
        (lambda: SvipStop(math.nan), "threshold must be at least 0, got nan"),
        (lambda: EntropyBoundStop(gamma=-1), "gamma must be at least 0, got -1"),
        (lambda: AdaEdl(4, target=2), r"target must be in \[0, 1\], got 2"),
        (lambda: SpecDecPlusPlus(4, threshold=2), r"threshold must be in \[0, 1\], got 2"),
        (lambda: SlidingWindow(4, span=0), "span must be at least 1, got 0"),
        (lambda: Hysteresis(4, up=0.3), "got off 0.15, down 0.4 and up 0.3"),
        (lambda: Ucb1(4, exploration=-1), "exploration must be at least 0, got -1"),
        (lambda: Exp3(4, exploration=2), r"exploration must be in \[0, 1\], got 2"),
        (lambda: Thompson(4, arms=[]), "needs at least 1 arm, got none"),
        (lambda: TapOut(4, blend=2), r"blend must be in \[0, 1\], got 2"),
        (lambda: SglangTiers(4, tiers=()), r"tiers of at least 0 tokens, got \[\]"),
        (lambda: SglangTiers(4, rate=2), r"rate must be in \[0, 1\], got 2"),
    ],
)
def test_senseless_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
