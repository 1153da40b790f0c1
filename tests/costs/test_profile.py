"""Cost profiles: measured whole, saved exactly, and refused when they make no sense."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.measurement import measure
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.costs.table import cost_table
from adaspec_rl.costs.work import PLAIN_STEP, DraftWork, RoundWork
from adaspec_rl.report.plots import cost_plot
from tests.mutations import mutated
from tests.toy import ToyModel, similar, toy_session

POINT = RoundCosts(
    context=64,
    batch_size=1,
    autoregressive_step=2.0,
    draft_step=(0.5,),
    stopping_step=(0.125,),
    verification=(2.0, 2.25, 2.5),
    overhead=(0.25,),
    catch_up=(0.0625,),
)
NONE = dict.fromkeys(("draft_step", "stopping_step", "overhead", "catch_up"), ())
PROMPTS = [[1, 2], [3], [4, 5]]


def profile_of(*points: RoundCosts) -> CostProfile:
    return CostProfile("toy", 0.01, points)


@st.composite
def profiles(draw: st.DrawFn) -> CostProfile:
    seconds = st.floats(1e-9, 1e3)
    drafters, widths = draw(st.integers(0, 3)), draw(st.integers(1, 6))
    nodes = draw(st.integers(0, 3))

    def several(count: int) -> tuple[float, ...]:
        return tuple(draw(seconds) for _ in range(count))

    places = st.tuples(st.integers(1, 64), st.integers(1, 4096))
    points = tuple(
        RoundCosts(
            context=context,
            batch_size=batch_size,
            autoregressive_step=draw(seconds),
            draft_step=several(drafters),
            stopping_step=several(drafters),
            verification=several(widths),
            overhead=several(drafters),
            catch_up=several(drafters),
            in_vain=draw(st.sampled_from([(), several(drafters)])),
            tree_verification=several(nodes + 1) if nodes else (),
            levels=tuple(several(nodes) for _ in range(drafters)) if nodes else (),
            tree_overhead=draw(seconds),
        )
        for batch_size, context in draw(st.lists(places, min_size=1, max_size=4, unique=True))
    )
    return CostProfile(
        draw(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)),
        draw(seconds),
        points,
    )


def small_session(drafters: int = 1, context_length: int = 64, max_new_tokens: int = 30):
    target = ToyModel(seed=1, context_length=context_length)
    models = [similar(target, 0.3, seed) for seed in range(10, 10 + drafters)]
    return toy_session(target, models, max_new_tokens=max_new_tokens)


def test_a_draft_that_is_stopped_late_pays_for_the_pass_under_way():
    late = replace(POINT, in_vain=(0.5,))
    assert late.seconds(0, 1, True, asked=2) == POINT.seconds(0, 1, True, asked=2) + 0.5
    for drafted, stopping, asked in ((2, True, 2), (1, False, 2), (0, True, 2)):
        plain = POINT.seconds(0, drafted, stopping, asked=asked)
        assert late.seconds(0, drafted, stopping, asked=asked) == plain
    with pytest.raises(ValueError, match="in_vain has 2 numbers: expected one for each of the 1"):
        replace(POINT, in_vain=(0.5, 0.5))


TREES = replace(
    POINT,
    draft_step=(0.5, 0.25),
    stopping_step=(0.125, 0.125),
    overhead=(0.25, 0.5),
    catch_up=(0.0625, 0.0),
    tree_verification=(2.0, 2.5, 3.0, 3.5),
    levels=((0.5, 0.75, 1.0), (0.25, 0.25, 0.25)),
    tree_overhead=0.0625,
)


def test_a_tree_pays_by_level_and_by_node_and_two_drafters_for_both_drafts():
    tree = RoundWork((DraftWork(0, (1, 2)),), 3)
    assert TREES.of(tree) == 0.5 + 0.75 + 3.5 + 0.25 + 0.0625
    both = RoundWork((DraftWork(0, (1,)), DraftWork(1, (1, 1), stopping=True)), 3)
    assert TREES.of(both) == 0.5 + 2 * (0.25 + 0.125) + 3.5 + 0.5 + 0.0625
    chain = RoundWork((DraftWork(1, (1, 1)),), 2)
    assert TREES.of(chain) == TREES.seconds(1, 2)
    assert TREES.of(PLAIN_STEP) == 2.0
    assert TREES.features().trees == pytest.approx((1.5 / 6, 0.5 / 6, 0.0))
    with pytest.raises(ValueError, match="covers no token trees, but one of 3 nodes is to be"):
        POINT.of(tree)
    with pytest.raises(ValueError, match="trees of up to 3 nodes, but one of 4 nodes"):
        TREES.of(RoundWork((DraftWork(0, (1, 3)),), 4))
    with pytest.raises(ValueError, match="trees of up to 3 nodes, but one of 8 nodes"):
        profile_of(TREES).check(2, 2, 8)
    with pytest.raises(ValueError, match="levels has 1 lists: expected one for each of 2 drafters"):
        replace(TREES, levels=TREES.levels[:1])
    with pytest.raises(ValueError, match="levels cover 2, 3 nodes but tree_verification 3"):
        replace(TREES, levels=(TREES.levels[0], (0.25, 0.25)))
    some = profile_of(TREES).of_drafters([1]).points[0]
    assert some.levels == ((0.25, 0.25, 0.25),)


@given(profiles())
def test_saving_keeps_every_number(profile):
    assert CostProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


def test_files_are_read_back(tmp_path):
    profile = profile_of(POINT, replace(POINT, context=256, overhead=(0.5,)))
    profile.save(tmp_path / "made" / "profile.json")
    assert CostProfile.load(tmp_path / "made" / "profile.json") == profile


@given(profiles(), st.integers(0, 5000))
def test_a_context_is_costed_at_the_nearest_measured_one(profile, context):
    for batch_size in {point.batch_size for point in profile.points}:
        found = profile.at(context, batch_size)
        distances = [abs(p.context - context) for p in profile.contexts(batch_size)]
        assert found.batch_size == batch_size
        assert abs(found.context - context) == min(distances)


def test_points_are_ordered_and_the_middle_one_stands_for_all():
    by_place = [
        replace(POINT, batch_size=batch, context=context)
        for batch, context in ((1, 64), (1, 256), (1, 1024), (4, 64))
    ]
    profile = profile_of(*reversed(by_place))
    assert list(profile.points) == by_place
    assert profile.at() == by_place[1] and profile.at(batch_size=4) == by_place[3]
    with pytest.raises(ValueError, match="has no batch size 8, only 1, 4: measure it"):
        profile.at(batch_size=8)


def test_a_round_costs_its_parts():
    assert POINT.max_length == 2
    assert POINT.seconds(0, 0) == 2.0 == POINT.seconds(0, 0, stopping=True)
    assert POINT.seconds(0, 2) == 2 * 0.5 + 2.5 + 0.25
    assert POINT.seconds(0, 2, stopping=True) == 2 * (0.5 + 0.125) + 2.5 + 0.25
    assert POINT.seconds(0, 2, unread=4) == 2 * 0.5 + 4 * 0.0625 + 2.5 + 0.25
    with pytest.raises(ValueError, match="covers drafts of up to 2 tokens, got 3"):
        POINT.seconds(0, 3)


def test_features_are_in_units_of_one_autoregressive_step():
    features = replace(POINT, batch_size=4).features()
    assert features.draft_step == 0.25 and features.overhead == 0.125
    assert features.verification_step == 0.125 and features.batch_size == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoregressive_step": 0.0}, r"seconds of autoregressive_step must be in .*, got 0"),
        ({"overhead": (-1.0,)}, r"seconds of overhead\[0\] must be in \[0, 1e\+06\], got -1"),
        ({"draft_step": (float("nan"),)}, r"seconds of draft_step\[0\] must be in .*, got nan"),
        ({"verification": (2.0, float("inf"))}, r"seconds of verification\[1\] .* got inf"),
        ({"verification": (2.0, 1e-300)}, r"seconds of verification\[1\] .* got 1e-300"),
        ({"verification": ()}, "verification .* at least 1 width, got none"),
        ({"context": 0}, "context must be in .*, got 0"),
        ({"batch_size": 2**40}, "batch_size must be in .*, got 1.09951e"),
        ({"stopping_step": ()}, "stopping_step has 0 numbers: expected one for each of the 1"),
    ],
)
def test_senseless_points_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(POINT, **change)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "at least 1 measured point, got none"),
        ([{}, {}], "2 points at 1 batch sizes and contexts"),
        ([{}, {"context": 9, "verification": (2.0,)}], "have 1 and 3 verification widths"),
        (
            [{}, {"context": 9, **NONE}],
            "have 0 and 1 drafters: expected the same number",
        ),
    ],
)
def test_points_that_do_not_go_together_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        profile_of(*(replace(POINT, **change) for change in points))


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_decision_takes_some_time_or_none(seconds):
    with pytest.raises(ValueError, match="seconds of policy must be"):
        CostProfile("toy", seconds, (POINT,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema=1), "schema 1 is not 3: measure it anew"),
        (lambda d: d.pop("schema"), "schema None is not 3"),
        (lambda d: d.update(schema=True), "schema True is not 3"),
        (lambda d: d.update(schema=3.0), "schema 3.0 is not 3"),
        (lambda d: d.pop("policy"), "lacks policy"),
        (lambda d: d.update(moon=1), "has an unknown 'moon'"),
        (lambda d: d.update(device=None), "device is null: expected a text"),
        (lambda d: d.update(device="\x1b[2J"), r'device is "\\u001b\[2J": expected a text'),
        (lambda d: d.update(policy="soon"), 'policy is "soon": expected a finite number'),
        (lambda d: d.update(policy=True), "policy is true: expected a finite number"),
        (lambda d: d.update(points=7), "points is 7: expected a list"),
        (lambda d: d.update(points=[]), "at least 1 measured point, got none"),
        (lambda d: d.update(points=[7]), r"points\[0\] is 7: expected an object with context, "),
        (lambda d: d["points"][0].pop("overhead"), r"points\[0\] lacks overhead"),
        (lambda d: d["points"][0].update(context="far"), r'context is "far": expected an integer'),
        (lambda d: d["points"][0].update(context=64.0), r"context is 64.0: expected an integer"),
        (
            lambda d: d["points"][0].update(draft_step=["free"]),
            r"\[0\].draft_step\[0\] is \"free\"",
        ),
        (lambda d: d["points"][0].update(draft_step=[True]), r"draft_step\[0\] is true"),
        (lambda d: d["points"][0].update(draft_step=[None]), r"draft_step\[0\] is null"),
        (lambda d: d["points"][0].update(verification=1.0), "verification is 1.0: expected a list"),
        (lambda d: d["points"][0].update(overhead=[-1]), r"points\[0\]: seconds of overhead\[0\]"),
    ],
)
def test_damaged_files_are_refused_by_name_in_one_sentence(tmp_path, change, message):
    content = json.loads(json.dumps(profile_of(POINT).to_dict()))
    change(content)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        CostProfile.load(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


TWO_POINTS = profile_of(POINT, replace(POINT, context=256, overhead=(0.5,)))


@settings(deadline=None, max_examples=150)
@given(mutated(TWO_POINTS.to_dict()))
def test_altered_files_are_refused_in_one_sentence_or_work(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(content, encoding="utf-8")
    try:
        profile = CostProfile.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 400
        return
    for point in profile.points:
        assert np.isfinite(np.float32(point.features().values())).all()
        for drafter in range(profile.drafters):
            for drafted in range(profile.max_length + 1):
                assert 0 < point.seconds(drafter, drafted, True, unread=9) < float("inf")
    assert profile.at(10**6, profile.points[0].batch_size) in profile.points


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no cost profile"),
        (b"", "is empty"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        (b'{"schema": 3, "policy": NaN}', "has NaN in place of a number"),
        (b'{"schema": 3, "policy": 1e999}', "has the number 1e999"),
        (b'{"schema": 3, "schema": 3}', "has the key 'schema' twice"),
        (b"[" * 100_000, "nests lists and objects more than 64 deep"),
        (b"[]", "holds no object"),
    ],
)
def test_files_that_hold_no_profile_are_refused(tmp_path, content, message):
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        CostProfile.load(path)


def test_a_profile_of_something_else_is_refused():
    profile_of(POINT).check(drafters=1, max_length=2)
    with pytest.raises(ValueError, match="covers 1 drafters but the pair has 2"):
        profile_of(POINT).check(drafters=2, max_length=2)
    with pytest.raises(ValueError, match="covers 1 drafters but the pair has 0"):
        profile_of(POINT).check(drafters=0, max_length=2)
    with pytest.raises(ValueError, match="up to 2 tokens but env.max_length is 3"):
        profile_of(POINT).check(drafters=1, max_length=3)


@pytest.mark.parametrize("drafters", [0, 1, 2])
def test_measuring_covers_every_context_length_and_drafter(drafters):
    shares: list[float] = []
    profile = measure(
        small_session(drafters),
        PROMPTS,
        max_length=3,
        samples=2,
        contexts=(20, 8),
        spec=ObservationSpec(max_length=3, vocab_size=8, drafters=max(1, drafters)),
        progress=shares.append,
    )
    assert shares[-1] == 1.0 and shares == sorted(shares)
    assert [(p.batch_size, p.context) for p in profile.points] == [(1, 8), (1, 20)]
    assert profile.drafters == drafters and profile.max_length == 3
    assert all(len(p.stopping_step) == drafters for p in profile.points)


def test_rounds_are_timed_near_their_context():
    session = small_session(context_length=128)
    measure(session, PROMPTS, max_length=2, samples=1, contexts=(40,))
    prompts = [width for width in session.target.forwards if width > 10]
    # The target reads all of a stretched prompt but its last token; verification reads it whole.
    assert prompts and set(prompts) <= {39, 40}


def test_larger_batches_keep_what_is_not_a_forward():
    session = small_session(context_length=128)
    profile = measure(
        session, PROMPTS, max_length=2, samples=1, contexts=(8, 16), batch_sizes=(4, 1)
    )
    assert [(p.batch_size, p.context) for p in profile.points] == [(1, 8), (1, 16), (4, 8), (4, 16)]
    for context in (8, 16):
        single, several = profile.at(context, 1), profile.at(context, 4)
        assert several.overhead == single.overhead
        assert several.stopping_step == single.stopping_step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contexts": (8, 50)}, r"has 50 tokens but the models hold 64, of which 30 .* at most 34"),
        ({"contexts": ()}, r"cost.contexts needs numbers of at least 1, got \[\]"),
        ({"contexts": (0,)}, r"cost.contexts needs numbers of at least 1, got \[0\]"),
        ({"samples": 0}, "cost.samples needs numbers"),
        ({"batch_sizes": ()}, "cost.batch_sizes needs numbers"),
        ({"prompts": [[]]}, "needs prompts of at least 1 token"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    settings = {"prompts": PROMPTS, "contexts": (8,), "max_length": 2, "samples": 1, **options}
    with pytest.raises(ValueError, match=message):
        measure(small_session(), **settings)


def test_people_see_every_point(tmp_path):
    profile = profile_of(POINT, replace(POINT, batch_size=16, context=1024))
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(cost_table(profile))
    shown = console.export_text()
    rows = [line.replace("│", " ").split() for line in shown.splitlines() if "2000.00" in line]
    assert [row[:2] for row in rows] == [["1", "64"], ["16", "1024"]]
    assert rows[0][3:] == ["0.250", "0.062", "0.0312", "1.25", "0.125", "0.005"]
    cost_plot(profile, tmp_path / "costs.png")
    assert (tmp_path / "costs.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_without_drafters_is_drawn_too(tmp_path):
    cost_plot(profile_of(replace(POINT, **NONE)), tmp_path / "costs.png")
    assert (tmp_path / "costs.png").exists()
