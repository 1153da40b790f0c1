"""Every method by name: it builds, tunes with the same budget, and plays recorded texts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adaspec_rl.comparison import tuning
from adaspec_rl.comparison.contestants import NAMES, without_trees
from adaspec_rl.comparison.methods import METHODS, Range
from adaspec_rl.comparison.tuning import COST, replayed_throughput, tuned
from adaspec_rl.comparison.workbench import Workbench, spread
from adaspec_rl.config import CONF
from adaspec_rl.control.generation import generate
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.suffix_automaton import SuffixAutomaton
from adaspec_rl.replay.session import ReplaySession
from tests.recording.recordings import profile, toy_trace, toys

COSTS = profile(drafters=2, max_length=4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    trace = toy_trace(folder, survival="head", max_new_tokens=24)
    return Workbench(trace, None, COSTS, max_length=4)


@pytest.fixture(scope="module")
def looking(tmp_path_factory):
    """The same with a lookup beside one model."""
    models = toys(noise=(0.4,))
    models.drafters = [*models.drafters, NgramLookup()]
    folder = tmp_path_factory.mktemp("trace")
    trace = toy_trace(folder, models, survival="head", max_new_tokens=24)
    return Workbench(trace, None, COSTS, max_length=4)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_plays_with_its_own_parameters(bench, looking, name):
    method = METHODS[name]
    bench = looking if method.drafters or name == "together" else bench
    parameters = {key: space.default for key, space in method.space.items()}
    controller = method.build(bench, **parameters)
    assert controller.name == name
    session = ReplaySession(bench.trace, bench.profile)
    for text in bench.trace.texts:
        made = generate(session, controller, text.prompt.tolist(), cost=COST, seed=text.seed)
        assert made.tokens == text.tokens.tolist()
        assert max(action.length for action in made.actions) <= 4


def test_switching_looks_up_where_much_of_the_text_has_occurred_before(looking):
    session = ReplaySession(looking.trace, looking.profile)
    text = max(looking.trace.texts, key=lambda text: len(text.tokens))
    seen = set()
    for match in (1, 3, 16):
        controller = METHODS["switching"].build(looking, match=match, lookup_length=4, length=2)
        made = generate(session, controller, text.prompt.tolist(), cost=COST, seed=text.seed)
        automaton = SuffixAutomaton(text.prompt.tolist())
        for action, played in zip(made.actions, made.rounds):
            assert action == (Action(4, 1) if automaton.match >= match else Action(2, 0))
            seen.add(action.drafter)
            automaton.extend(played.tokens)
    assert seen == {0, 1}


def test_switching_needs_a_lookup_and_a_model(bench):
    assert METHODS["switching"].drafters == {"ngram"}
    alone = replace(bench, trace=replace(bench.trace, drafters=()))
    with pytest.raises(ValueError, match="needs a draft model beside ngram"):
        METHODS["switching"].build(alone, match=1, lookup_length=4, length=2)


def test_together_is_left_out_where_the_costs_of_trees_are_unknown(looking, caplog):
    names = ["fixed", "together"]
    assert without_trees(names, "all", looking) == names
    points = [replace(p, tree_verification=(), levels=()) for p in looking.profile.points]
    chains = replace(looking, profile=replace(looking.profile, points=tuple(points)))
    assert without_trees(names, "all", chains) == ["fixed"] and "left out" in caplog.text
    assert without_trees(["fixed"], ["fixed"], chains) == ["fixed"]
    with pytest.raises(ValueError, match="costs are not in the cost profile: train"):
        without_trees(names, names, chains)


def test_every_name_has_a_file_in_conf():
    files = {path.stem for path in (CONF / "controller").glob("*.yaml")}
    assert files == set(NAMES)


def test_tuning_spends_its_trials_once_and_never_does_worse_than_the_defaults(bench, tmp_path):
    method, tried = METHODS["sglang_tiers"], []
    found = tuned(method, bench, trials=6, seed=1, cache=tmp_path, progress=tried.append)
    drafters = len(bench.trace.drafters)
    assert drafters == 2 and len(tried) == 12 and set(found) == {*method.space, "drafter"}
    assert tried == [(n + 1) / 2 for n in range(12)]
    session = ReplaySession(bench.trace, bench.profile)
    plain = {key: space.default for key, space in method.space.items()}
    rates = [
        replayed_throughput(method.build(bench, **parameters), session, bench.trace)
        for parameters in (found, plain)
    ]
    assert rates[0] >= rates[1]
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text())["tokens_per_second"] == rates[0]
    again = tuned(method, bench, trials=6, seed=1, cache=tmp_path, progress=tried.append)
    assert again == found and list(again) == list(found) and len(tried) == 12  # looked up
    other = tuned(method, bench, trials=6, seed=1, cache=tmp_path / "new", progress=tried.append)
    assert other == found and len(tried) == 24  # the same search finds the same


@pytest.fixture(scope="module")
def second_best(tmp_path_factory):
    """The second drafter is the target itself, the first one hardly resembles it."""
    trace = toy_trace(tmp_path_factory.mktemp("trace"), toys(noise=(3.0, 0.0)), max_new_tokens=24)
    return Workbench(trace, None, COSTS, max_length=4)


ALONE = [name for name, method in METHODS.items() if not method.several]


@pytest.mark.parametrize("name", ALONE)
def test_a_method_for_one_drafter_gets_the_best_one(second_best, tmp_path, name):
    method = METHODS[name]
    parameters = tuned(method, second_best, trials=3, seed=1, cache=tmp_path)
    controller = method.build(second_best, **parameters)
    session = ReplaySession(second_best.trace, second_best.profile)
    drafters = set()
    for text in second_best.trace.texts:
        made = generate(session, controller, text.prompt.tolist(), cost=COST, seed=text.seed)
        drafters |= {played.drafter for played in made.rounds if played.drafted}
    assert drafters == {1}


def test_what_other_code_has_tuned_is_not_believed(bench, tmp_path, monkeypatch):
    method, tried = METHODS["fixed"], []
    versions = iter(("one", "one", "two"))
    monkeypatch.setattr(tuning, "code_version", lambda: next(versions))
    for _ in range(3):
        tuned(method, bench, trials=2, seed=1, cache=tmp_path, progress=tried.append)
    assert len(tried) == 2 * 2 * 2


def test_the_version_of_the_code_changes_with_any_controller(monkeypatch):
    before = tuning.code_version()
    read = Path.read_bytes

    def edited(path):
        return read(path) + (b"#" if path.name == "heuristic.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    tuning.code_version.cache_clear()
    assert tuning.code_version() != before
    monkeypatch.undo()
    tuning.code_version.cache_clear()
    assert tuning.code_version() == before


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"parameters": {}}', '{"parameters": {"threshold": NaN}}',
     '{"parameters": {"threshold": 99.0}}', '{"parameters": {"threshold": "0.5"}}'],
)  # fmt: skip
def test_a_damaged_result_of_tuning_is_found_anew(bench, tmp_path, caplog, content):
    method = METHODS["svip"]
    found = tuned(method, bench, trials=2, seed=1, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_text(content)
    assert tuned(method, bench, trials=2, seed=1, cache=tmp_path) == found
    assert "is damaged" in caplog.text and "tuning svip anew" in caplog.text
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_integers_stay_integers():
    class Trial:
        def suggest_int(self, name, low, high, log):
            return ("int", low, high, log)

        def suggest_float(self, name, low, high, log):
            return ("float", low, high, log)

    assert Range(3, 1, 12).suggest(Trial(), "length") == ("int", 1, 12, False)
    assert Range(0.5, 0.1, 1.0, log=True).suggest(Trial(), "x") == ("float", 0.1, 1.0, True)


def test_tuning_texts_are_spread_over_a_domain(bench):
    chosen = spread(bench.trace, 2)
    assert len(chosen.texts) == 2
    assert chosen.texts[0].seed == bench.trace.texts[0].seed
    assert chosen.texts[1].seed == bench.trace.texts[2].seed
