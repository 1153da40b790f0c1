"""The tabular Markov decision process: what it finds on texts whose outcomes are made up."""

from dataclasses import replace

import numpy as np
import pytest

from adaspec_rl.control.baselines.markov import Markov, MarkovPolicy
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import FALLBACK, DraftedToken
from adaspec_rl.recording.texts import Text
from adaspec_rl.recording.trace import DraftTable, Trace
from adaspec_rl.replay.markov_solver import solve
from adaspec_rl.replay.oracle import best_fixed, oracle
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import PROMPTS, profile, toy_recording, toy_trace, toys
from tests.toy import greedy_text

LONGEST, TOKENS = 6, 80
COST = CostFeatures(0.1, 0.02, 0.05)


def costs(draft_step: float = 0.15, stopping_step: float = 0.01, policy: float = 0.0):
    point = RoundCosts(
        context=10,
        batch_size=1,
        autoregressive_step=1.0,
        draft_step=(draft_step,),
        stopping_step=(stopping_step,),
        verification=tuple(1 + 0.02 * k for k in range(LONGEST + 1)),
        overhead=(0.05,),
        catch_up=(0.0,),
    )
    return CostProfile("made up", policy, (point,))


def made_up(informative: float, texts: int = 20, seed: int = 0) -> Trace:
    """Drafts that are right up to a random length, at whose end entropy is high.

    At a share `1 - informative` of positions, entropy is that of another position.
    """
    rng = np.random.default_rng(seed)
    positions = texts * TOKENS
    run = np.minimum(rng.geometric(0.3, positions) - 1, LONGEST)
    told = np.where(rng.random(positions) < informative, run, rng.permutation(run))
    depth = np.arange(LONGEST)
    entropy = np.where(depth < told[:, None], 0.3, 2.0) + rng.uniform(
        -0.2, 0.2, (positions, LONGEST)
    )
    made = [
        Text(
            prompt=np.array([number, 1], dtype=np.int32),
            seed=number,
            tokens=rng.integers(0, 9, TOKENS).astype(np.int32),
            finished="length",
            budget=TOKENS,
            target_entropy=np.zeros(TOKENS, dtype=np.float32),
            target_top_probability=np.ones(TOKENS, dtype=np.float32),
        )
        for number in range(texts)
    ]
    left = np.tile(TOKENS - np.arange(TOKENS), texts)
    signals = np.zeros((positions, LONGEST, 4), dtype=np.float32)
    signals[:, :, 1] = entropy
    table = DraftTable(
        name="made up",
        tokens=np.zeros((positions, LONGEST), dtype=np.int32),
        accepted=np.minimum(run, left).astype(np.int32),
        signals=signals,
        survival=np.ones((positions, LONGEST), dtype=np.float32),
    )
    return Trace.assemble("made up", made, ["made up"] * texts, [table], LONGEST)


def speed(trace: Trace, profile_: CostProfile, policy: MarkovPolicy) -> float:
    """Tokens an autoregressive step, whose length is 1 second."""
    session, controller = ReplaySession(trace, profile_), Markov(policy, LONGEST)
    seconds = 0.0
    for text in trace.texts:
        made = generate(session, controller, text.prompt.tolist(), cost=COST, seed=text.seed)
        assert made.tokens == text.tokens.tolist()
        seconds += sum(round_.seconds for round_ in made.rounds)
    return float(trace.starts[-1]) / seconds


def test_informative_entropy_beats_every_fixed_length():
    trace, expense = made_up(1.0), costs()
    fixed = best_fixed(trace, expense)[1]
    found = speed(trace, expense, solve(trace, expense, entropy_classes=4))
    best = oracle(trace, expense).speedup
    # The token at which entropy is high is drafted before it is seen, which the oracle is spared.
    assert fixed * 1.1 < found < best
    noisy = made_up(0.7)
    assert speed(noisy, expense, solve(noisy, expense)) > best_fixed(noisy, expense)[1] * 1.05


def test_it_keeps_on_unseen_texts_what_it_learned():
    expense = costs()
    policy = solve(made_up(1.0, seed=0), expense)
    fresh = made_up(1.0, seed=1)
    assert speed(fresh, expense, policy) > best_fixed(fresh, expense)[1] * 1.1


@pytest.mark.parametrize("discount", [0.0, 0.9])
@pytest.mark.parametrize("informative", [0.0, 1.0])
def test_it_is_never_slower_than_the_best_fixed_length(discount, informative):
    trace = made_up(informative)
    for draft_step, stopping_step in [(0.02, 0.3), (0.15, 0.0), (2.0, 0.0)]:
        expense = costs(draft_step, stopping_step)
        policy = solve(trace, expense, discount=discount, sweeps=2)
        assert speed(trace, expense, policy) >= best_fixed(trace, expense)[1] * (1 - 1e-9)


def test_hopeless_drafts_are_not_made():
    trace, expense = made_up(1.0), costs(draft_step=3.0)
    policy = solve(trace, expense)
    assert speed(trace, expense, policy) == pytest.approx(1.0)
    assert Markov(policy, LONGEST).decide(None) == FALLBACK


def test_the_rate_of_the_reward_can_be_given():
    trace, expense = made_up(1.0), costs()
    own = solve(trace, expense)
    given = solve(trace, expense, lam=speed(trace, expense, own))
    assert speed(trace, expense, given) == pytest.approx(speed(trace, expense, own), rel=0.01)
    # Where tokens are worth next to nothing, no draft pays: what is left is a fixed length.
    worthless = solve(trace, expense, lam=100.0)
    assert speed(trace, expense, worthless) == pytest.approx(best_fixed(trace, expense)[1])


def test_drafting_depends_on_recent_acceptance():
    """Half of the texts are hopeless: tables that see recent acceptance fall back there."""
    trace = made_up(0.0)
    table = trace.drafters[0]
    hopeless = np.arange(len(table.accepted)) // TOKENS % 2 == 0
    table.accepted[hopeless] = 0
    expense = costs(draft_step=0.1, stopping_step=0.0)
    seeing = solve(trace, expense, acceptance_classes=4, span=20)
    blind = solve(trace, expense, acceptance_classes=1)
    assert 0 in seeing.lengths and max(seeing.lengths) > 0
    assert speed(trace, expense, seeing) > 1.1 * speed(trace, expense, blind)


def test_the_controller_looks_its_state_up():
    policy = MarkovPolicy(
        acceptance_edges=(0.5,),
        entropy_edges=(1.0,),
        lengths=(0, 4),
        asks=(False, True),
        stops=(((True, True),) * 4, ((False, True), (True, False), (False, False), (True, True))),
        span=2.0,
        prior=0.4,
    )
    controller = Markov(policy, 3, 1)
    assert controller.decide(None) == FALLBACK
    controller.acceptance = 0.5
    action = controller.decide(None)
    assert (action.length, action.drafter) == (3, 1)
    stops = [
        [action.rule(DraftedToken(depth, 0.5, entropy, 1.0)) for entropy in (0.9, 1.0)]
        for depth in (1, 2, 3)
    ]
    assert stops == [[False, True], [True, False], [False, False]]
    controller.reset()
    assert controller.acceptance == 0.4
    assert Markov(replace(policy, asks=(False, False)), 3).decide(None).rule is None


def test_it_decodes_live_what_plain_decoding_does(tmp_path):
    models = toys()
    trace = toy_trace(tmp_path, models, max_new_tokens=40)
    policy = solve(trace, profile(), acceptance_classes=2, entropy_classes=3)
    live = models.session(toy_recording(max_new_tokens=40), None)
    replay, controller = ReplaySession(trace, profile()), Markov(policy, 4)
    for number, prompt in enumerate(PROMPTS):
        made = generate(live, controller, prompt, cost=COST)
        assert made.tokens == greedy_text(models.target, prompt, 40)
        again = generate(replay, controller, prompt, cost=COST, seed=number)
        assert [(r.drafted, r.accepted) for r in again.rounds] == [
            (r.drafted, r.accepted) for r in made.rounds
        ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drafter": 1}, r"drafter must be in \[0, 0\], got 1"),
        ({"entropy_classes": 0}, "entropy_classes must be at least 1, got 0"),
        ({"discount": 1.5}, r"discount must be in \[0, 1\], got 1.5"),
        ({"batch_size": 2}, "no batch size 2, only 1"),
    ],
)
def test_senseless_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve(made_up(1.0, texts=1), costs(), **arguments)
