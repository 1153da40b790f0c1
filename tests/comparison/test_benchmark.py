"""The comparison: interleaved, shuffled, paired, and honest about its texts."""

import csv
import io
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from adaspec_rl.comparison.benchmark import Record, run_benchmark
from adaspec_rl.comparison.figures import Conditions, PairName, Results
from adaspec_rl.comparison.identity import adaptive_method, fixed_method
from adaspec_rl.comparison.journal import Journal
from adaspec_rl.comparison.losslessness import compare_texts, compare_with_recording, is_tie
from adaspec_rl.comparison.memory import MemoryFigures, MemoryUse, memory_figures
from adaspec_rl.comparison.results import assemble
from adaspec_rl.comparison.selection import Selection
from adaspec_rl.comparison.tables import results_table, write_results
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.encoding import ChatFacts
from adaspec_rl.data.prompts import EncodedPrompt, Prompt
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.verification import new_verification
from adaspec_rl.recording.recorder import record
from tests.recording.recordings import Toys, toy_recording
from tests.toy import ToyModel, similar, toy_session

COST = CostFeatures(0.1, 0.02, 0.05)
PROMPTS = [
    EncodedPrompt(Prompt(f"p{number}", "even" if number % 2 == 0 else "odd", "x"), [number, 1])
    for number in range(6)
]
IDS = {item.prompt.id: item.ids for item in PROMPTS}
PAIR = PairName("toy", "0")
CONDITIONS = Conditions(
    mode="live",
    pair=PAIR,
    temperature=0.0,
    verification="greedy",
    prompts=6,
    selection=Selection(6, 6, 3, None),
    chat=ChatFacts("auto", 0, None),
    max_new_tokens=12,
)
FIXED = [fixed_method(length) for length in (0, 1, 3)]


def run(seed=1, warmup=1):
    target = ToyModel(seed=seed)
    session = toy_session(target, [similar(target, 0.2)])
    controllers = [FixedLength(length) for length in (0, 1, 3)]
    return target, run_benchmark(session, controllers, PROMPTS, cost=COST, warmup=warmup)


def test_methods_take_turns_in_random_order():
    _, records = run()
    order = [[r.method for r in records if r.prompt == item.prompt.id] for item in PROMPTS]
    assert all(sorted(names) == ["autoregressive", "fixed_1", "fixed_3"] for names in order)
    before = {pair for names in order for pair in pairwise(names)}
    assert len(before) > 3  # in a rotation, each method follows one other
    assert [r.method for r in run()[1]] == [r.method for r in records]
    assert [r.prompt for r in records[:6]] == ["p0"] * 3 + ["p1"] * 3


def test_greedy_texts_are_identical_and_a_difference_is_noticed():
    target, records = run()
    same = compare_texts(records, IDS, target)
    assert (same.prompts, same.compared, same.identical, same.ties) == (6, 12, 12, 0)
    broken = next(r for r in records if r.method == "fixed_3")
    broken.generation.tokens[2] = (broken.generation.tokens[2] + 1) % target.vocab_size
    damaged = compare_texts(records, IDS, target)
    assert (damaged.identical, damaged.ties) == (11, 0)


def test_recorded_texts_that_part_from_live_ones_are_counted(tmp_path):
    target, records = run()
    recording = toy_recording(max_new_tokens=20)
    trace, _ = record(
        Toys(target, []), recording, [item.ids for item in PROMPTS], ["toy"] * 6, tmp_path
    )
    same = compare_with_recording(records, trace, IDS, target)
    assert (same.prompts, same.compared, same.identical, same.ties) == (6, 6, 6, 0)
    trace.texts[1].tokens[2] = (trace.texts[1].tokens[2] + 1) % target.vocab_size
    parted = compare_with_recording(records, trace, IDS, target)
    assert (parted.compared, parted.identical, parted.ties) == (6, 5, 0)
    others = compare_with_recording(records, trace, IDS, target, seed=1)  # of other texts
    assert others.compared == 0


class Noisy(ToyModel):
    """Passes of more than one token round some tokens' logits differently."""

    noisy: tuple[int, ...] = ()

    def extend(self, tokens, keep=None):
        logits = super().extend(tokens, keep)
        if tokens.shape[1] > 1:
            logits[..., list(self.noisy)] += 1e-3
        return logits


def test_a_tie_is_a_gap_within_the_noise_of_the_two_logits():
    target = Noisy(seed=1)
    best, second, *others = target.logits([4, 1]).argsort(descending=True).tolist()
    target.noisy = (second,)
    assert not is_tie(target, [4, 1], [best], [second])
    target.table[4, 1, second] = target.table[4, 1, best] - 5e-4
    assert is_tie(target, [4, 1], [best], [second])
    assert not is_tie(target, [4, 1], [best], [])  # a text that stops short is no tie
    target.noisy = tuple(others)  # the noise of all others excuses nothing
    assert not is_tie(target, [4, 1], [best], [second])


def test_under_coupling_a_tie_is_one_of_scores_noise_included():
    target, sampling, prompt = Noisy(seed=1), Sampling(0.7), [4, 1]
    rule = new_verification("coupled", sampling, 3, target.vocab_size, target.device)
    scores = rule.weigh(target.logits(prompt)[None], [2])[1][0]
    best, second = scores.argsort(descending=True)[:2].tolist()
    gap = float(scores[best] - scores[second])
    target.noisy = (second,)
    assert not is_tie(target, prompt, [best], [second], rule)
    target.table[4, 1, second] += sampling.temperature * (gap - 5e-4)
    assert is_tie(target, prompt, [best], [second], rule)
    assert not is_tie(target, prompt, [best], [second])  # the logits alone are far apart


def test_the_share_of_identical_texts_stands_beside_every_speedup():
    target, records = run()
    broken = next(r for r in records if r.method == "fixed_3" and r.prompt == "p0")
    broken.generation.tokens[2] = (broken.generation.tokens[2] + 1) % target.vocab_size
    found = assemble(records, FIXED, CONDITIONS, lossless=None)
    assert found.overall.methods["fixed_3"].identical == pytest.approx(5 / 6)
    assert found.domains["even"].methods["fixed_3"].identical == pytest.approx(2 / 3)
    assert found.overall.methods["fixed_1"].identical == 1.0
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(results_table(found))
    (row,) = [line for line in console.export_text().splitlines() if line.startswith("fixed_3")]
    assert "83%" in row


def test_a_learned_policy_is_compared_with_every_method():
    target, records = run()
    names = {"fixed_3": "learned", "fixed_1": "oracle"}
    records = [replace(r, method=names.get(r.method, r.method)) for r in records]
    entered = [FIXED[0], adaptive_method("oracle", ""), adaptive_method("learned", "")]
    methods = assemble(records, entered, CONDITIONS, lossless=None).overall.methods
    for figures in methods.values():
        low, high = figures.learned_ahead_ci95
        assert figures.learned_ahead == pytest.approx(methods["learned"].speedup / figures.speedup)
        assert low <= figures.learned_ahead <= high
    assert methods["learned"].learned_ahead == 1.0
    learned, oracle = methods["learned"], methods["oracle"]
    if oracle.speedup > 1:
        wanted = pytest.approx((learned.speedup - 1) / (oracle.speedup - 1))
        assert learned.gap_closed == wanted and oracle.gap_closed == 1.0
    else:
        assert learned.gap_closed is None


def test_the_best_of_each_domain_is_picked_by_its_own_prompts():
    _, records = run()
    seconds = {("even", "fixed_3"): 1.0, ("odd", "fixed_1"): 2.0}  # others take 4
    timed = [
        replace(r, generation=replace(r.generation, seconds=seconds.get((r.domain, r.method), 4.0)))
        for r in records
    ]
    found = assemble(timed, FIXED, CONDITIONS, lossless=None)
    tokens = sum(len(r.generation.tokens) for r in timed if r.method == "fixed_1")
    best = found.overall.methods["best_by_domain"]
    assert best.tokens_per_second == pytest.approx(tokens / (3 * 1.0 + 3 * 2.0))
    assert best.identity.kind == "bound"
    assert found.overall.best_fixed == "fixed_3"  # 3 + 12 seconds; the other one 12 + 6
    for domain, name in (("even", "fixed_3"), ("odd", "fixed_1")):
        methods = found.domains[domain].methods
        assert methods["best_by_domain"].speedup == methods[name].speedup
    alone = [r for r in timed if r.domain == "odd"]
    assert "best_by_domain" not in assemble(alone, FIXED, CONDITIONS, lossless=None).overall.methods


def test_results_hold_every_figure_and_print(tmp_path):
    target, records = run()
    methods = [*FIXED[:2], replace(FIXED[2], source="somewhere", parameters={"length": 3})]
    lossless = compare_texts(records, IDS, target)
    found = assemble(records, methods, CONDITIONS, lossless=lossless)
    results = Results(
        5, "python", "CPU", {"torch": "2"}, PAIR, {"toy": 0.1}, "shared", 0, [found], "float32"
    )
    write_results(results, tmp_path)
    (read,) = json.loads((tmp_path / "results.json").read_text())["comparisons"]
    assert set(read["domains"]) == {"even", "odd"} and read["pair"]["name"] == "toy"
    assert read["lossless"] == {"prompts": 6, "compared": 12, "identical": 12, "ties": 0}
    for scope in (read, *read["domains"].values()):  # whatever the turn of the first prompt
        names = ["autoregressive", "fixed_1", "fixed_3", "best_by_domain"]
        assert list(scope["methods"]) == names
    figures = read["methods"]["fixed_3"]
    base = read["methods"]["autoregressive"]
    assert base["speedup"] == 1.0 and base["speedup_ci95"] == [1.0, 1.0]
    assert base["acceptance_rate"] is None and base["mean_accepted_tokens"] == 1.0
    assert figures["speedup"] == pytest.approx(
        figures["tokens_per_second"] / base["tokens_per_second"]
    )
    assert 1 < figures["mean_accepted_tokens"] <= 4 and 0 < figures["acceptance_rate"] <= 1
    best = max(names[:3], key=lambda name: read["methods"][name]["speedup"])
    assert read["best_fixed"] == best
    assert read["methods"][best]["versus_best_fixed"] == 1.0
    assert figures["versus_best_fixed"] == pytest.approx(
        figures["speedup"] / read["methods"][best]["speedup"]
    )
    assert figures["parameters"] == {"length": 3} and figures["source"] == "somewhere"
    assert (figures["kind"], figures["label"], figures["length"]) == ("fixed", "fixed 3", 3)
    assert figures["learned_ahead_ci95"] is None and figures["gap_closed"] is None
    depths = figures["acceptance_by_depth"]
    assert len(depths) == 3 and all(reached >= kept for reached, kept in depths)
    assert depths[1][0] == depths[0][1]  # the second token is reached where the first stood
    assert len(base["draft_length_by_position"]) == len(figures["draft_length_by_position"])
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["mode"] for row in rows} == {"live"}
    assert len(rows) == 12 and {row["domain"] for row in rows} == {"all", "even", "odd"}
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(results_table(found))
    assert "fixed_3" in console.export_text()


def test_nothing_to_compare_is_refused():
    session = toy_session(ToyModel(seed=1), [])
    with pytest.raises(ValueError, match="no held-out prompts"):
        run_benchmark(session, [FixedLength(0)], [], cost=COST)
    with pytest.raises(ValueError, match="different names"):
        run_benchmark(session, [FixedLength(0), FixedLength(0)], PROMPTS, cost=COST)


class Learner:
    """Drafts one token more after every text that it has seen."""

    name, observes = "learner", None

    def __init__(self) -> None:
        self.texts = 0
        self.rounds = 0

    def reset(self, prompt=(), seed=0):
        self.texts += 1

    def decide(self, observation):
        return Action(min(self.texts, 4))

    def observe(self, round_):
        self.rounds += 1


def drafted(records):
    return [[r.drafted for r in record.generation.rounds] for record in records]


def test_an_interrupted_comparison_goes_on_as_if_nothing_had_happened(tmp_path):
    def session():
        target = ToyModel(seed=1)
        return toy_session(target, [similar(target, 0.2)])

    settings = {"prompts": 6}
    journal = Journal(tmp_path / "a.jsonl", settings)
    whole = run_benchmark(
        session(), [FixedLength(0), Learner()], PROMPTS, cost=COST, on_prompt=journal.append
    )
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 7
    (tmp_path / "b.jsonl").write_text("".join(lines[:4]) + lines[4][:50])  # killed while writing
    reopened = Journal(tmp_path / "b.jsonl", settings)
    assert len(reopened.prompts) == 3
    learner = Learner()
    rest = run_benchmark(
        session(),
        [FixedLength(0), learner],
        PROMPTS,
        cost=COST,
        done=list(reopened.prompts),
        on_prompt=reopened.append,
    )
    assert drafted(rest) == drafted(whole)
    assert learner.texts == 6
    assert [r.generation.tokens for r in rest] == [r.generation.tokens for r in whole]
    first = 3 * 2  # records of the first three prompts, as they were timed
    assert rest[:first] == [without_actions(record) for record in whole[:first]]
    assert [len(p) for p in Journal(tmp_path / "b.jsonl", settings).prompts] == [2] * 6


def without_actions(record: Record) -> Record:
    """A record as a file gives it back: decisions in words, no actions."""
    return replace(record, generation=replace(record.generation, actions=[]))


def test_the_journal_of_another_comparison_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    Journal(path, {"seed": 0})
    with pytest.raises(ValueError, match=r"holds another comparison \(seed=0 there, 1 here\)"):
        Journal(path, {"seed": 1})
    path.write_text(path.read_text() + "[{}]\n")
    with pytest.raises(ValueError, match="is damaged"):
        Journal(path, {"seed": 0})


def test_a_journal_that_two_wrote_is_refused(tmp_path):
    path, ids = tmp_path / "a.jsonl", [item.prompt.id for item in PROMPTS]
    journal = Journal(path, {}, prompts=ids)
    records = run()[1]
    for number in range(len(PROMPTS)):
        journal.append(records[3 * number : 3 * number + 3])
    assert len(Journal(path, {}, prompts=ids).prompts) == 6
    header, *lines = path.read_text().splitlines(keepends=True)
    for mixed in ([*lines, *lines], [lines[0], lines[0]], lines[1:]):
        path.write_text("".join([header, *mixed]))
        with pytest.raises(ValueError, match="is damaged"):
            Journal(path, {}, prompts=ids)


class Stepwise:
    """A memory meter that counts what it is asked."""

    begun = 0

    def begin(self):
        self.begun += 1

    def read(self):
        return MemoryUse(peak=self.begun << 20, moves=self.begun % 2, moved=10 << 20)


def test_memory_is_measured_for_every_generation_and_kept(tmp_path):
    target = ToyModel(seed=1)
    journal = Journal(tmp_path / "a.jsonl", {})
    records = run_benchmark(
        toy_session(target, [similar(target, 0.2)]),
        [FixedLength(0), FixedLength(1)],
        PROMPTS,
        cost=COST,
        memory=Stepwise(),
        on_prompt=journal.append,
    )
    assert [record.memory.peak >> 20 for record in records] == list(range(1, 13))
    stored = [record for line in Journal(tmp_path / "a.jsonl", {}).prompts for record in line]
    assert [record.memory for record in stored] == [record.memory for record in records]
    found = memory_figures([record.memory for record in records])
    assert found == MemoryFigures(peak_memory_mib=12, drafter_moves=6, drafter_moved_mib=120)
    assert memory_figures([None, None]) == MemoryFigures(None, 0, 0)


def test_warming_up_teaches_nothing():
    target = ToyModel(seed=1)
    learner = Learner()
    controllers = [FixedLength(0), learner]
    run_benchmark(toy_session(target, [similar(target, 0.2)]), controllers, PROMPTS, cost=COST)
    assert learner.texts == len(PROMPTS)
