"""Lossy rules keep exactly the mismatches that they say, and say how much they lose."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.decoding.round import Action, check_exact
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.verification import Rejection, new_verification
from adaspec_rl.decoding.verification.lossy import (
    LOSSY,
    Fuzzy,
    Judge,
    LenientRejection,
    Seen,
    Tolerance,
    TopK,
    Typical,
)
from tests.toy import ToyModel, greedy_text, similar, toy_session

SAMPLES = 5_000
CPU = torch.device("cpu")
PROBABILITIES = [
    [0.5, 0.3, 0.15, 0.05],
    [0.97, 0.01, 0.01, 0.01],
    [0.25, 0.25, 0.25, 0.25],
    [0.6, 0.2, 0.1, 0.1],
]


def verified(rule, tokens, probabilities=PROBABILITIES):
    """`(accepted, next token, distances)` of `tokens` at temperature 0."""
    made = new_verification(rule, Sampling(), 0, 4, CPU)
    logits = torch.tensor(probabilities[: len(tokens) + 1]).log()
    accepted, token = made.verify(logits, torch.tensor(tokens), None, 0)
    return int(accepted), int(token), made.distances.tolist()


def seen(tokens, probabilities=PROBABILITIES):
    log_probs = torch.tensor(probabilities).log()
    return Seen(log_probs, torch.tensor(tokens), log_probs.argmax(-1))


def test_top_k_keeps_the_k_best():
    assert verified(TopK(2), [1, 0, 0]) == (3, 0, [1, 0, 0, 0])
    assert verified(TopK(2), [2, 0, 0]) == (0, 0, [0, 0, 0, 0])
    assert verified(TopK(3), [2, 0, 0])[0] == 3
    assert verified(TopK(4), [3, 3, 3]) == (3, 0, [1, 1, 1, 0])  # the whole vocabulary


def test_typical_asks_for_more_where_the_target_is_surer():
    # Row 0: entropy 1.142, exp(-H) 0.319; row 1: exp(-H) 0.846; row 2: exp(-H) 0.25.
    assert verified(Typical(epsilon=0.5, delta=0.5), [1, 0, 3])[0] == 3  # 0.3 > 0.16, 0.25 > 0.125
    assert verified(Typical(epsilon=0.5, delta=0.5), [2, 0, 0])[0] == 0  # 0.15 < 0.16
    assert verified(Typical(epsilon=0.1, delta=0.5), [2, 0, 0])[0] == 3  # 0.15 > 0.1
    assert verified(Typical(epsilon=0.1, delta=0.5), [0, 1, 0])[0] == 1  # 0.01 < 0.1
    keeps = Typical(epsilon=1.0, delta=1.0).keeps(seen([0, 0, 0]))
    assert keeps.tolist() == [True, True, False]  # the best is above exp(-H), but for equal ones


def test_fuzzy_at_temperature_0_compares_with_the_best():
    assert verified(Fuzzy(2.0), [1, 0, 0])[0] == 3  # 2 * 0.3 >= 0.5
    assert verified(Fuzzy(1.5), [1, 0, 0])[0] == 0  # 0.45 < 0.5
    assert verified(Fuzzy(4.0), [2, 0, 3])[0] == 3  # 0.6 >= 0.5
    assert verified(Fuzzy(1.0), [1, 0, 0])[0] == 0


def test_tolerance_waits_for_what_follows():
    # The target's own picks are 0, 0, 0, 0.
    assert verified(Tolerance(1), [2, 0, 0])[0] == 3
    assert verified(Tolerance(2), [2, 0, 0])[0] == 3
    assert verified(Tolerance(3), [2, 0, 0])[0] == 0  # only two follow
    assert verified(Tolerance(1), [2, 2, 0])[0] == 0  # the next is a mismatch itself
    assert verified(Tolerance(1), [0, 0, 2])[0] == 2  # nothing follows
    assert verified(Tolerance(1, entropy=1.0), [2, 0, 0])[0] == 3  # entropy 1.14
    assert verified(Tolerance(1, entropy=1.0), [0, 2, 0])[0] == 1  # entropy 0.17


def test_after_the_last_kept_token_stands_the_targets_own_pick():
    probabilities = [[0.6, 0.4, 0, 0], [0.1, 0.2, 0.7, 0], [0, 0, 0, 1]]
    assert verified(TopK(2), [1, 3], probabilities) == (1, 2, [1, 0, 0])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: TopK(1), "k from 2 to 32, got 1"),
        (lambda: TopK(33), "k from 2 to 32, got 33"),
        (lambda: Fuzzy(0.9), "T from 1 to 4, got 0.9"),
        (lambda: Fuzzy(math.nan), "T from 1 to 4, got nan"),
        (lambda: Typical(epsilon=0.0), "epsilon above 0 and at most 1, got 0.0"),
        (lambda: Typical(delta=1.5), "delta above 0 and at most 1, got 1.5"),
        (lambda: Tolerance(0), "a window of at least 1 token, got 0"),
        (lambda: Tolerance(1, entropy=-1), "an entropy of at least 0, got -1"),
        (lambda: new_verification("lossy.top_k", Sampling(), 0, 4, CPU), "pass a TopK"),
    ],
)
def test_bad_settings_end_in_one_sentence(make, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_names_are_those_of_the_configuration():
    assert list(LOSSY) == [
        f"lossy.{n}" for n in ("top_k", "typical", "fuzzy", "tolerance", "judge")
    ]
    assert LOSSY["lossy.judge"] is Judge and str(TopK(4)) == "lossy.top_k k=4"


TARGET = ToyModel(8, seed=3, sharpness=1.5)
DRAFTER = similar(TARGET, 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 7))
def test_every_token_of_a_text_is_among_the_k_best(k, lengths, first):
    session = toy_session(TARGET, [DRAFTER], max_new_tokens=12, verification=TopK(k))
    session.start([first])
    distance = turn = 0
    while session.finished is None:
        distance += session.step(Action(lengths[turn % len(lengths)])).distance
        turn += 1
    text = [first, *session.tokens]
    ranks = [
        int((TARGET.logits(text[:n]) > TARGET.logits(text[:n])[text[n]]).sum())
        for n in range(1, len(text))
    ]
    assert max(ranks) < k
    assert distance == sum(rank > 0 for rank in ranks)  # at temperature 0


@pytest.mark.parametrize("rule", [TopK(2), Typical(), Fuzzy(2.0), Tolerance(1)], ids=str)
def test_without_mismatches_and_without_drafts_texts_are_the_targets(rule):
    plain = greedy_text(TARGET, [1, 2], 12)
    for drafter, length in ((ToyModel(8, seed=3, sharpness=1.5), 4), (DRAFTER, 0)):
        session = toy_session(TARGET, [drafter], max_new_tokens=12, verification=rule)
        session.start([1, 2])
        while session.finished is None:
            assert session.step(Action(length)).distance == 0
        assert session.tokens == plain


@pytest.mark.parametrize("rule", [TopK(2), Typical(0.2), Tolerance(1)], ids=str)
def test_coupled_texts_under_leniency_differ_and_say_so(rule):
    texts = {}
    for verification in ("coupled", rule):
        session = toy_session(
            TARGET, [DRAFTER], max_new_tokens=20, temperature=1.0, verification=verification
        )
        found = []
        for seed in range(20):
            session.start([1, 2], seed=seed)
            distance = 0.0
            while session.finished is None:
                distance += session.step(Action(4)).distance
            found.append((session.tokens, distance))
        texts[str(verification)] = found
    exact, lenient = texts["coupled"], texts[str(rule)]
    assert all(distance == 0 for _, distance in exact)
    assert any(text != other for (text, _), (other, _) in zip(exact, lenient))
    for (text, _), (other, distance) in zip(exact, lenient):
        assert (text == other) == (distance == 0)


def test_fuzzy_distances_are_the_total_variation_of_what_it_emits():
    # p = (0.2, 0.8), q = (0.6, 0.4), T = 2: kept (0.4, 0.4), the rest 0.2 all on token 1.
    p, q = torch.tensor([[0.2, 0.8], [0.5, 0.5]]), torch.tensor([[0.6, 0.4]])
    generator = torch.Generator().manual_seed(0)
    rule = LenientRejection(Sampling(1.0), generator, rule=Fuzzy(2.0))
    counts = torch.zeros(2)
    for _ in range(1500):
        token = torch.multinomial(q[0], 1, generator=generator)
        accepted, after = rule.verify(p.log(), token, q.log(), 0)
        counts[int(token if accepted else after)] += 1
    assert rule.distances.tolist() == pytest.approx([0.2, 0.0], abs=1e-6)
    assert counts[0] / 1500 == pytest.approx(0.4, abs=0.065)  # five standard deviations


def test_fuzzy_of_1_decides_as_exact_rejection_does():
    random = torch.Generator().manual_seed(5)
    for seed in range(50):
        p, q = (torch.randn(n, 6, generator=random) for n in (4, 3))
        q = q.log_softmax(-1)
        tokens = torch.multinomial(q.exp(), 1, generator=random)[:, 0]
        for drawn in (q, None):
            exact = Rejection(Sampling(1.0), torch.Generator().manual_seed(seed))
            fuzzy = LenientRejection(
                Sampling(1.0), torch.Generator().manual_seed(seed), rule=Fuzzy(1.0)
            )
            assert exact.verify(p, tokens, drawn, 0) == fuzzy.verify(p, tokens, drawn, 0)
            assert fuzzy.distances.abs().max() < 1e-6


def chi_squared_z(lenience: float) -> float:
    """How many standard deviations chi-squared of the first token lies above its mean."""
    random = torch.Generator().manual_seed(7)
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
    q = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    rule = LenientRejection(Sampling(1.0), random, rule=Fuzzy(lenience))
    drafted = torch.multinomial(q[0], SAMPLES, replacement=True, generator=random)
    emitted = torch.zeros(4)
    for token in drafted:
        accepted, after = rule.verify(p.log(), token[None], q.log(), 0)
        emitted[token if accepted else after] += 1
    expected = SAMPLES * p[0]
    statistic = float(((emitted - expected) ** 2 / expected).sum())
    return (statistic - 3) / math.sqrt(6)


@pytest.mark.slow
def test_fuzzy_of_1_keeps_the_targets_distribution_and_of_4_does_not():
    assert chi_squared_z(1.0) < 4
    assert chi_squared_z(4.0) > 50


def test_a_round_may_be_lossy_and_the_others_exact():
    session = toy_session(TARGET, [DRAFTER], max_new_tokens=40)
    session.start([1, 2])
    distances = []
    while session.finished is None:
        text = [1, 2, *session.tokens]
        lossy = TopK(8) if len(distances) % 2 else None
        played = session.step(Action(3, lossy=lossy))
        distances.append(played.distance)
        if lossy:
            assert played.accepted == played.drafted  # k is the whole vocabulary
        else:
            assert list(played.tokens) == greedy_text(TARGET, text, len(played.tokens))
    assert not any(distances[::2]) and any(distances[1::2])


def test_a_lossy_round_fits_the_sessions_rule():
    session = toy_session(TARGET, [DRAFTER], temperature=1.0, verification="coupled")
    session.start([1, 2])
    with pytest.raises(ValueError, match="lossy.fuzzy T=2 needs verification 'rejection'"):
        session.step(Action(2, lossy=Fuzzy(2.0)))
    with pytest.raises(ValueError, match=r"replay verifies exactly, got 'draft 2, lossy.top_k k=4"):
        check_exact(Action(2, lossy=TopK(4)), "replay")
