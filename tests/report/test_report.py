"""The report page: honest sentences, harmless contents, and nothing shown that was not measured."""

import json
import re
from dataclasses import fields, replace
from importlib.resources import files

import numpy as np
import pytest

from adaspec_rl.comparison.examples import Example, ShownRound, ShownToken
from adaspec_rl.comparison.figures import (
    ComparisonFigures,
    Conditions,
    MethodFigures,
    PairName,
    ScopeFigures,
)
from adaspec_rl.comparison.identity import (
    AUTOREGRESSIVE,
    MethodIdentity,
    adaptive_method,
    fixed_method,
)
from adaspec_rl.comparison.losslessness import Losslessness
from adaspec_rl.comparison.memory import MemoryFigures
from adaspec_rl.comparison.selection import Selection
from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.data.conversations import Message
from adaspec_rl.data.encoding import ChatFacts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.report.contents import Report, ReportedComparison
from adaspec_rl.report.figures import _drafting, report_figures
from adaspec_rl.report.page import verdict, verdicts, write_report
from adaspec_rl.report.policy_map import PolicyMap, _promised, drafted, policy_map
from adaspec_rl.training.bundle import PolicyBundle

COSTS = RoundCosts(
    context=64,
    batch_size=2,
    autoregressive_step=2.4e-3,
    draft_step=(3.2e-4,),
    stopping_step=(8e-5,),
    verification=tuple(2.4e-3 + 1.5e-4 * width for width in range(9)),
    overhead=(2e-4,),
    catch_up=(1e-5,),
)
PROFILE = CostProfile("some CPU, 2 threads", 4e-5, (COSTS,))
EVIL = "</script><img src=x onerror=alert(1)><!--"
TURNS = (Message("user", f"code-test-1 {EVIL}"), Message("assistant", "Yes."))
METHODS = (
    *(fixed_method(length) for length in (0, 1, 3)),
    *(adaptive_method(name, "https://arxiv.org/abs/2211.17192") for name in ("ucb1", "learned")),
)


def figures(identity, speedup, versus=1.0, interval=(1.0, 1.0), **more):
    return MethodFigures(
        **{
            "identity": identity,
            "tokens_per_second": 380 * speedup,
            "speedup": speedup,
            "speedup_ci95": (speedup - 0.04, speedup + 0.04) if speedup != 1 else (1.0, 1.0),
            "identical": 1.0,
            "distance": 0.0,
            "mean_accepted_tokens": 2.1,
            "acceptance_rate": 0.64,
            "mean_draft_length": 3.0,
            "controller_share": 0.012,
            "memory": MemoryFigures(None, 0, 0.0),
            "versus_best_fixed": versus,
            "versus_best_fixed_ci95": interval,
            "probability_of_improvement": 0.61,
            "draft_length_by_position": [3.0] * 4,
            "acceptance_by_depth": [(420, 310), (310, 205)],
            "learned_ahead": None,
            "learned_ahead_ci95": None,
            "gap_closed": None,
            **more,
        }
    )


def scope(learned, interval, gap=0.17, best=1.46, repetition=0.3):
    """Methods among which the learned one is `learned` × as fast as the best fixed length."""
    plain, fixed_1, fixed_3, ucb1, policy = METHODS
    nothing = {"acceptance_rate": None, "draft_length_by_position": [0.0] * 4}
    curves = {
        "draft_length_by_position": [2.0, 2.6, 3.1, 3.3],
        "acceptance_by_depth": [(400, 300), (300, 210), (210, 130), (20, 9)],
        "gap_closed": gap,
    }
    methods = (
        figures(plain, 1.0, 1 / best, (0.6, 0.7), acceptance_by_depth=[], **nothing),
        figures(fixed_1, best - 0.2, 0.86, (0.84, 0.88)),
        figures(fixed_3, best),
        figures(ucb1, best - 0.05, 0.97, (0.96, 0.98)),
        figures(policy, best * learned, learned, interval, **curves),
    )
    return ScopeFigures({item.identity.name: item for item in methods}, "fixed_3", repetition)


def comparison(learned=1.06, interval=(1.05, 1.08), gap=0.17, **more):
    """Figures of one mode and temperature; `more` are any of their fields."""
    conditions = {
        "mode": "live",
        "temperature": 0.0,
        "verification": "greedy",
        "prompts": 60,
        "selection": Selection(60, 60, 20, None),
        "chat": ChatFacts("auto", 0, None),
        "max_new_tokens": 128,
        "pair": PairName("tiny", "6c07f4784712c2d7"),
    }
    fields = {
        "overall": scope(learned, interval, gap),
        "domains": {
            "code": scope(1.09, (1.06, 1.12), repetition=0.4),
            "prose": scope(0.988, (0.98, 0.996), repetition=0.24),
        },
        "lossless": Losslessness(60, 240, 239, 1),
        "recorded": None,
    }
    for name, value in more.items():
        (conditions if name in conditions else fields)[name] = value
    return ComparisonFigures(conditions=Conditions(**conditions), **fields)


def reported(found=None, **more):
    """The same in a report."""
    shown = {"profile": PROFILE, "policy_map": policy_map(bundle(("history", "cost"))), **more}
    return ReportedComparison(found or comparison(), **shown)


def a_round(decision, texts, drafted_, accepted, rejected=(), seen=None):
    last = "fallback" if not drafted_ else "bonus" if accepted == drafted_ else "corrected"
    tokens = zip(texts, ["accepted"] * accepted + [last])
    return ShownRound(
        decision,
        drafted_,
        accepted,
        2.4 + 0.5 * drafted_,
        seen,
        [ShownToken(text, kind) for text, kind in tokens],
        list(rejected),
    )


def example(prompt_id="code-test-0", end=EVIL, turns=()):
    seen = {"acceptance_ema_2": 0.713, "draft_step": 0.134}
    methods = {
        "autoregressive": [
            a_round("fallback", [text], 0, 0) for text in ("   ", " return", " x", "\n", end)
        ],
        "fixed_3": [
            a_round("draft up to 3", ["   ", " return", " x"], 3, 2, [" y"]),
            a_round("draft up to 3", ["\n", end], 3, 1, ["\n", "def"]),
        ],
        "learned": [
            a_round("fallback", ["   "], 0, 0, seen=seen),
            a_round(
                "draft up to 12, stop below 0.45", [" return", " x", "\n", end], 3, 3, seen=seen
            ),
        ],
    }
    prompt = f"def main(args):  # {prompt_id}\n    {EVIL}\n"
    return Example(prompt_id, "code", prompt, turns, 0.0, methods)


def sample_report(**more):
    slower = comparison(
        0.99, (0.984, 0.997), -0.03, mode="replay", temperature=0.8, verification="coupled"
    )
    fields = {
        "title": "Learned draft lengths & others",
        "created": "2025-01-31 12:00",
        "command": "python evaluate.py policy=POLICY_FOLDER",
        "device": "some CPU, 2 threads",
        "execution": "compiled, float32, cpu",
        "drafters": ["draft"],
        "comparisons": [reported(), reported(slower)],
        "examples": [example(), example("code-test-1", " end", TURNS)],
    }
    return Report(**fields | more)


def bundle(groups, seed=0, kind="length_threshold", max_length=8, drafters=1):
    rng = np.random.default_rng(seed)
    spec = ObservationSpec(groups, drafters=drafters)
    actions = tuple(action_list(kind, max_length, drafters))
    sizes = [len(spec), 16, len(actions)]
    return PolicyBundle(
        actor=Actor(
            tuple(rng.normal(size=pair).astype(np.float32) for pair in zip(sizes, sizes[1:])),
            tuple(np.zeros(size, np.float32) for size in sizes[1:]),
        ),
        actions=actions,
        spec=spec,
        pair="tiny",
        fingerprint="6c07f4784712c2d7",
        profile=PROFILE.of_drafters([0] * drafters),
        survival=(ProductSurvival(),) * drafters,
        training={},
    )


def test_a_win_with_a_loss_within():
    assert verdict(comparison()) == (
        "The learned policy decodes 1.55× as fast as plain decoding: 6% faster than the best fixed "
        "length (3 tokens; 95% interval +5% to +8%), closing 17% of the gap to the oracle; against "
        "each domain's own best length it gains 9% on code and loses 1.2% on prose."
    )


def test_a_loss_is_stated_like_a_win():
    lost = comparison(0.99, (0.984, 0.997), -0.03, domains={})
    assert verdict(lost) == (
        "The learned policy decodes 1.45× as fast as plain decoding: 1.0% slower than the best "
        "fixed length (3 tokens; 95% interval −1.6% to −0.3%), leaving the gap to the oracle 3% "
        "wider."
    )


def test_an_interval_around_zero_is_no_win():
    level = comparison(1.012, (0.99, 1.03), 0.04, domains={"code": scope(1.012, (0.99, 1.03))})
    assert (
        "no clear difference to the best fixed length (3 tokens; +1%; 95% interval −1% to +3%)"
        in (verdict(level))
    )
    level.domains["prose"] = scope(0.9, (0.88, 0.92))
    assert "it loses 10% on prose and shows no clear difference on code." in verdict(level)


def test_slower_than_plain_decoding_is_said_first():
    slow = comparison(0.9, (0.88, 0.92), None, domains={})
    learned = replace(slow.overall.methods["learned"], speedup=0.9)
    methods = {**slow.overall.methods, "learned": learned}
    slow = replace(slow, overall=replace(slow.overall, methods=methods, best_fixed=AUTOREGRESSIVE))
    assert verdict(slow) == (
        "The learned policy is slower than plain decoding, at 0.90× its speed: 10% slower than the "
        "best fixed length (which is not to draft at all; 95% interval −12% to −8%)."
    )


def test_without_a_policy_the_sentence_is_about_the_next_best():
    other = comparison(domains={})
    del other.overall.methods["learned"]
    assert verdict(other).startswith("The controller ucb1 decodes 1.41× as fast")
    del other.overall.methods["ucb1"]
    assert verdict(other) == (
        "The best fixed length, 3 tokens, decodes 1.46× as fast as plain decoding."
    )


def test_of_several_drafters_the_verdict_names_the_best_lengths_own():
    best, other = fixed_method(1, "code"), comparison(domains={})
    methods = {"autoregressive": other.overall.methods["autoregressive"]}
    methods[best.name] = figures(best, 1.5)
    other = replace(other, overall=ScopeFigures(methods, best.name, 0.0))
    assert verdict(other).startswith("The best fixed length, 1 token by code, decodes 1.50×")


def test_texts_that_differ_are_part_of_the_verdict():
    broken = Losslessness(60, 240, 230, 1)
    assert "; 9 of 240 texts differ from plain decoding's." in verdict(comparison(lossless=broken))


def test_what_a_lossy_speed_is_paid_with_is_part_of_the_verdict():
    found = comparison(verification="lossy.topk(k=2)", lossless=None)
    paid = replace(found.overall.methods["learned"], distance=0.021, identical=0.4)
    found.overall.methods["learned"] = paid
    assert verdict(found).endswith(
        "; this is lossy (lossy.topk(k=2)): 2.1% in total variation from the target, 40% of the "
        "texts are plain decoding's."
    )


def test_every_comparison_gets_its_sentence():
    first, second = verdicts([item.figures for item in sample_report().comparisons])
    assert first.startswith("Live, at temperature 0, the learned policy decodes 1.55×")
    assert second.startswith("Replayed, at temperature 0.8, the learned policy decodes 1.45×")


def written(tmp_path, report):
    write_report(tmp_path / "report.html", report)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_models_wrote_stays_harmless(tmp_path):
    page = written(tmp_path, sample_report(title=EVIL))
    assert EVIL not in page and "<img" not in page
    assert page.count("</script>") == 2  # the page's own: data, and code
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1])["examples"][0]["methods"]["learned"][1]["tokens"][3]["text"] == EVIL


def test_it_needs_no_network(tmp_path):
    page = written(tmp_path, sample_report())
    code = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", code)
    assert "default-src 'none'" in code


def section_ids(page):
    return re.findall(r'<section id="(\w+)"', page)


def test_policies_and_costs_are_left_out_where_there_are_none(tmp_path):
    every = ["speedup", "domains", "drafting", "policy", "costs", "rounds", "methods"]
    assert section_ids(written(tmp_path, sample_report())) == every
    for key, missing in (("profile", "costs"), ("policy_map", "policy")):
        some = sample_report(comparisons=[reported(**{key: None}), reported(**{key: None})])
        page = written(tmp_path, some)
        assert section_ids(page) == [name for name in every if name != missing]
        assert not re.search(r"<!--\S*-->", page)  # no mark is left


def test_the_page_reads_what_is_there():
    """Names of figures that its script asks for, but that nothing writes."""
    page = (files("adaspec_rl.report") / "template.html").read_text(encoding="utf-8")
    classes = (Report, ReportedComparison, ComparisonFigures, Conditions, ScopeFigures,
               MethodFigures, MethodIdentity, MemoryFigures, PolicyMap, CostProfile, RoundCosts,
               Example, ShownRound, ShownToken, Message, Selection, ChatFacts, PairName,
               Losslessness)  # fmt: skip
    written = {part.name for item in classes for part in fields(item)}
    inner = {name for name in re.findall(r"\b(?:c|m|s|p|r|t|e|map|data|scope|like|example|lossless)"
                                         r"(?:\.profile|\.pair|\.selection|\.chat|\.recorded)?"
                                         r"\.([a-z]+(?:_[a-z0-9]+)+)", page)}  # fmt: skip
    assert len(inner) > 20 and inner <= written


def test_numbers_that_json_cannot_say_become_null(tmp_path):
    odd = {"gap_closed": float("nan"), "tokens_per_second": float("inf")}
    found = comparison()
    found.overall.methods["learned"] = replace(found.overall.methods["learned"], **odd)
    page = written(tmp_path, sample_report(comparisons=[reported(found)]))
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    learned = json.loads(data[1])["comparisons"][0]["methods"]["learned"]
    assert learned["gap_closed"] is None and learned["tokens_per_second"] is None


@pytest.mark.parametrize(
    ("action", "chance", "expected"),
    [
        (Action(0), 0.9, 0),
        (Action(8), 0.05, 8),  # without a threshold nothing stops it
        (Action(8, threshold=0.45), 0.9, 8),  # 0.9^7 = 0.478, 0.9^8 = 0.43: the last anyway
        (Action(8, threshold=0.45), 0.8, 4),  # 0.8^3 = 0.512, 0.8^4 = 0.41
        (Action(8, threshold=0.45), 0.4, 1),  # it stops after the token, never before
        (Action(2, threshold=0.45), 1.0, 2),
    ],
)
def test_drafting_stops_after_the_token_that_falls_under(action, chance, expected):
    assert drafted(action, chance) == expected


def test_the_map_asks_the_policy_itself():
    shown = policy_map(bundle(("history", "draft", "cost"), seed=1))
    assert np.shape(shown.drafted) == (len(shown.y), len(shown.x)) == (20, 11)
    assert len({tuple(column) for column in zip(*shown.drafted)}) > 1  # history matters to it
    for column in zip(*shown.drafted):
        assert list(column) == sorted(column)  # more confidence never shortens a draft
    assert shown.x_name == "recent acceptance" and len(shown.drafter) == 11
    for groups, x_name, across in (
        (("context", "lookup", "cost"), "tokens expected of an n-gram lookup", 16),
        (("context", "cost"), "tokens in the text's end that occurred before", 17),
    ):
        maps = [policy_map(bundle(groups, seed=seed)) for seed in range(5)]
        assert all((found.x_name, len(found.x)) == (x_name, across) for found in maps)
        assert any(len(set(zip(*found.drafted))) > 1 for found in maps)  # it matters to some
    narrow = policy_map(bundle(("cost",)))
    assert np.shape(narrow.drafted) == (20, 1) and "does not look at" in narrow.note


def test_a_lookup_that_promises_more_has_likelier_tokens():
    promises = [_promised(expected) for expected in (0.0, 0.5, 2.0, 7.5)]
    chances = [promise["lookup_first"] for promise in promises]
    assert chances == sorted(chances) and chances[0] < 1e-6 and 0.97 < chances[-1] < 1
    assert sum(chances[2] ** depth for depth in range(1, 9)) == pytest.approx(2.0)


def test_a_map_of_several_drafters_says_which(tmp_path):
    mixed = bundle(("lookup", "cost"), 5, "length", 4, drafters=2)
    shown = policy_map(mixed, ["draft", "ngram"])
    assert set(shown.drafter) <= {None, 0, 1} and shown.drafters == ["draft", "ngram"]
    both = reported(policy_map=replace(shown, drafter=[0] * 8 + [1] * 8))
    assert [path.name for path in report_figures([both], tmp_path)][-1] == "policy_map.png"


def test_of_the_bounds_the_oracle_alone_has_curves():
    names = ("best_by_domain", "foreseeable", "oracle")
    found = scope(1.06, (1.05, 1.08))
    bounds = {name: figures(adaptive_method(name, ""), 1.9) for name in names}
    shown = _drafting(replace(found, methods=found.methods | bounds))
    assert [item.identity.name for item in shown] == [
        "fixed_1", "fixed_3", "ucb1", "learned", "oracle",
    ]  # fmt: skip


def test_figures_are_drawn(tmp_path):
    names = [path.name for path in report_figures(sample_report().comparisons, tmp_path)]
    assert names == ["draft_length.png", "acceptance_by_depth.png", "policy_map.png"]
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)
    narrow = reported(policy_map=policy_map(bundle(("cost",))))
    drawn = report_figures([narrow], tmp_path / "new")
    assert [path.name for path in drawn] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    bare = report_figures([reported(policy_map=None)], tmp_path)
    assert [path.name for path in bare] == names[:2]


def test_every_temperature_has_the_map_of_its_own_policy(tmp_path):
    maps = [policy_map(bundle(("cost",), seed=seed)) for seed in (1, 2)]
    assert maps[0] != maps[1]
    shown = [
        reported(comparison(temperature=temperature), policy_map=found)
        for found, temperature in zip(maps, (0.0, 0.8))
    ]
    names = [path.name for path in report_figures(shown, tmp_path)]
    assert names[-2:] == ["policy_map-t0.png", "policy_map-t0.8.png"]
