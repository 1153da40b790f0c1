"""Observations: the same from one stream as from many, and what their names say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.control.observation import (
    DRAFTER_SPAN,
    EMA_SPANS,
    GROUPS,
    CostFeatures,
    ObservationSpec,
    Observer,
    RoundArrays,
)
from adaspec_rl.control.stream_observer import StreamObserver
from adaspec_rl.control.text_features import TextFeatures
from adaspec_rl.decoding.round import Round

SAID = (1.0, 2.0, 0.5, 0.5)  # of a text
AHEAD = (1.0, 0.5)  # a forecast
COST = CostFeatures(draft_step=0.1, verification_step=0.02, overhead=0.05, batch_size=4)


@st.composite
def rounds(draw):
    drafted = draw(st.integers(0, 8))
    accepted = draw(st.integers(0, drafted))
    unit = st.floats(0.01, 3.0)
    return Round(
        drafter=draw(st.integers(0, 1)),
        drafted=drafted,
        accepted=accepted,
        tokens=tuple(range(accepted + 1)),
        seconds=1.0,
        draft_log_probs=tuple(-draw(unit) for _ in range(drafted)),
        draft_entropies=tuple(draw(unit) for _ in range(drafted)),
        draft_margins=tuple(draw(unit) for _ in range(drafted)),
        draft_survivals=tuple(draw(st.floats(0, 1)) for _ in range(drafted)),
        target_entropy=draw(unit),
        target_top_probability=draw(st.floats(0, 1)),
    )


def drafting(length: int, accepted: int) -> Round:
    """A round whose signals are the same at every drafted token."""
    return Round(
        drafter=0,
        drafted=length,
        accepted=accepted,
        tokens=tuple(range(accepted + 1)),
        seconds=1.0,
        draft_log_probs=(-0.1,) * length,
        draft_entropies=(2.0,) * length,
        draft_margins=(3.0,) * length,
        draft_survivals=tuple(0.9**depth for depth in range(1, length + 1)),
        target_entropy=1.5,
        target_top_probability=0.7,
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(rounds(), rounds(), rounds()), min_size=1, max_size=12))
def test_many_streams_see_what_single_streams_see(history):
    spec = ObservationSpec(drafters=2)
    cost = replace(COST, other_draft_steps=(0.3,))
    batch = Observer(spec, cost, batch=3)
    singles = [Observer(spec, cost) for _ in range(3)]
    for number, played in enumerate(history):
        ahead = [(0.5, 0.5), (number, 1.0), (0.0, 0.0)]
        said = [(1.0, number, 0.5, 0.1), (2.0, 2 * number, 1.0, 1.0), (0, 0, 0, 0)]
        batch.update(RoundArrays.from_rounds(played, said, ahead))
        for single, round_, own, expected in zip(singles, played, said, ahead):
            single.update(RoundArrays.from_rounds([round_], [own], [expected]))
        together = np.concatenate([single.observation() for single in singles])
        np.testing.assert_array_equal(batch.observation(), together)
        some = np.array([2, 0])
        np.testing.assert_array_equal(batch.observation(some), together[some])


@settings(deadline=None, max_examples=60)
@given(
    history=st.lists(rounds(), min_size=1, max_size=12),
    groups=st.sampled_from([GROUPS, ("draft", "cost"), ("context", "lookup"), ("history",)]),
    looks=st.lists(st.booleans(), min_size=1, max_size=6),
)
def test_one_text_is_observed_number_by_number(history, groups, looks):
    """Rounds before which nobody looks are read later."""
    spec = ObservationSpec(groups, drafters=2, trees=True)
    cost = replace(COST, other_draft_steps=(0.3,), trees=(0.01, 0.02))
    one, text, general = StreamObserver(spec, cost), TextFeatures(), Observer(spec, cost)
    ahead = [(0.5, 0.25)]
    for _ in range(2):  # the second text begins like the first
        ahead[0] = (0.5, 0.25)
        one.start([1, 2, 1], lambda tables: ahead[0])
        text.start([1, 2, 1])
        general.reset(text=text.values, forecast=(0.5, 0.25))
        for number, played in enumerate(history):
            if looks[number % len(looks)]:
                np.testing.assert_array_equal(one.observation(), general.observation()[0])
                assert one.observation() is one.observation()
            one.update(played)
            ahead[0] = (number, 0.5)
            text.extend(played.tokens)
            general.update(RoundArrays.from_rounds([played], [text.values], [(number, 0.5)]))
        np.testing.assert_array_equal(one.observation(), general.observation()[0])


def test_features_are_what_they_are_called():
    spec = ObservationSpec()
    observer = Observer(spec, COST)
    observer.reset(text=(0, np.log2(5), 0.25, 0.75), forecast=(2.0, 0.75))
    start = dict(zip(spec.names, observer.observation()[0]))
    assert start["acceptance_ema_2"] == 0.5
    assert start["suffix_match"] == pytest.approx(np.log2(5) / np.log2(17))
    assert start["lookup_expected"] == 0.5 and start["lookup_first"] == 0.75
    assert start["lookup_rate_8"] == 0.25 and start["lookup_rate_32"] == 0.75
    assert start["draft_step"] == pytest.approx(0.1) and start["batch_size"] == pytest.approx(2 / 6)
    played = drafting(4, accepted=1)
    observer.update(RoundArrays.from_rounds([played], [SAID], [AHEAD]))
    seen = dict(zip(spec.names, observer.observation()[0]))
    assert seen["accepted_1_ago"] == pytest.approx(1 / 8) and seen["drafted_1_ago"] == 0.5
    decay = np.exp(-1 / EMA_SPANS[0])  # one of two reached positions was accepted: still 0.5
    assert seen["acceptance_ema_2"] == pytest.approx(0.5 * decay + 0.5 * (1 - decay))
    assert seen["draft_survival"] == pytest.approx(0.9**4, rel=1e-5)
    assert seen["target_top_probability"] == pytest.approx(0.7)
    assert seen["rounds_since_draft"] == 0
    fallback = Round(0, 0, 0, (7,), 1.0)
    observer.update(RoundArrays.from_rounds([fallback], [SAID], [AHEAD]))
    after = dict(zip(spec.names, observer.observation()[0]))
    assert after["acceptance_ema_2"] == seen["acceptance_ema_2"]
    assert after["draft_survival"] == seen["draft_survival"]
    assert after["rounds_since_draft"] == 1 / 8 and after["accepted_2_ago"] == pytest.approx(1 / 8)


def test_the_end_of_a_text_within_a_draft_is_no_rejection():
    spec = ObservationSpec(("history",))
    observer = Observer(spec, COST)
    played = replace(drafting(4, accepted=2), tokens=(1, 2))  # the text ended with the second one
    assert played.reached == 2
    observer.update(RoundArrays.from_rounds([played], [SAID], [AHEAD]))
    seen = dict(zip(spec.names, observer.observation()[0]))
    assert seen["acceptance_ema_2"] == pytest.approx(1.0 - 0.5 * np.exp(-1 / EMA_SPANS[0]))


def test_every_drafter_has_features_of_its_own():
    spec = ObservationSpec(("drafters", "cost"), drafters=3)
    observer = Observer(spec, replace(COST, other_draft_steps=(0.2, 0.3)))

    def seen() -> dict[str, float]:
        return dict(zip(spec.names, observer.observation()[0].tolist()))

    assert seen()["draft_step_1"] == pytest.approx(0.2) and seen()["draft_step_2"] > 0.29
    observer.update(RoundArrays.from_rounds([replace(drafting(4, 4), drafter=1)], [SAID], [AHEAD]))
    decay = np.exp(-1 / DRAFTER_SPAN)
    assert seen()["drafter_1_acceptance_ema"] == pytest.approx(1 - 0.5 * decay)
    assert seen()["drafter_0_acceptance_ema"] == seen()["drafter_2_acceptance_ema"] == 0.5
    unread = np.log1p(5) / np.log1p(1024)
    assert [seen()[f"drafter_{d}_unread"] for d in range(3)] == pytest.approx([unread, 0, unread])
    observer.update(RoundArrays.from_rounds([replace(drafting(0, 0), drafter=1)], [SAID], [AHEAD]))
    assert seen()["drafter_1_acceptance_ema"] == pytest.approx(1 - 0.5 * decay)  # a fallback
    assert seen()["drafter_1_unread"] > 0 and seen()["drafter_2_unread"] > unread
    observer.reset()
    assert seen()["drafter_1_acceptance_ema"] == 0.5 and seen()["drafter_2_unread"] == 0


def test_resetting_some_streams_leaves_the_others_alone():
    observer = Observer(ObservationSpec(), COST, batch=2)
    fresh = observer.observation()
    played = drafting(2, accepted=2)
    observer.update(RoundArrays.from_rounds([played, played], [SAID, SAID], [AHEAD, AHEAD]))
    moved = observer.observation()
    observer.reset(np.array([1]))
    after = observer.observation()
    np.testing.assert_array_equal(after[0], moved[0])
    np.testing.assert_array_equal(after[1], fresh[1])


@pytest.mark.parametrize("group", GROUPS)
def test_groups_can_be_left_out(group):
    rest = tuple(name for name in GROUPS if name != group)
    full, without, alone = ObservationSpec(), ObservationSpec(rest), ObservationSpec((group,))
    assert len(without) + len(alone) == len(full)
    assert Observer(without, COST).observation().shape == (1, len(without))
    assert Observer(without, COST).observation().dtype == np.float32


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="unknown feature group 'weather'"):
        ObservationSpec(("weather",))
    with pytest.raises(ValueError, match="no feature group"):
        ObservationSpec(())
