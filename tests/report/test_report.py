"""The report page: honest sentences, harmless contents, and nothing shown that was not measured."""

import copy
import json
import re

import numpy as np
import pytest

from adaspec_rl.control.action import action_list
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec
from adaspec_rl.costs.profile import CostProfile, RoundCosts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import ProductSurvival
from adaspec_rl.report.figures import report_figures
from adaspec_rl.report.page import verdict, verdicts, write_report
from adaspec_rl.report.policy_map import _promised, drafted, policy_map
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
TURNS = [{"role": "user", "text": f"code-test-1 {EVIL}"}, {"role": "assistant", "text": "Yes."}]


def figures(speedup, versus=None, interval=None, gap=None, **more):
    return {
        "speedup": speedup,
        "speedup_ci95": [speedup - 0.04, speedup + 0.04] if speedup != 1 else [1.0, 1.0],
        "tokens_per_second": 380 * speedup,
        "mean_accepted_tokens": 2.1,
        "acceptance_rate": 0.64,
        "mean_draft_length": 3.0,
        "controller_share": 0.012,
        "versus_best_fixed": versus,
        "versus_best_fixed_ci95": interval,
        "probability_of_improvement": 0.61,
        "gap_closed": gap,
        "parameters": {"length": 3},
        "source": "https://arxiv.org/abs/2211.17192",
        **more,
    }


def scope(learned, interval, gap=0.17, best=1.46):
    """Methods among which the learned one is `learned` × as fast as the best fixed length."""
    low, high = interval
    curves = {
        "draft_length_by_position": [2.0, 2.6, 3.1, 3.3],
        "acceptance_by_depth": [[400, 300], [300, 210], [210, 130], [20, 9]],
    }
    flat = {"draft_length_by_position": [3.0] * 4, "acceptance_by_depth": [[420, 310], [310, 205]]}
    return {
        "methods": {
            "autoregressive": figures(1.0, 1 / best, [0.6, 0.7], acceptance_rate=None),
            "fixed_1": figures(best - 0.2, 0.86, [0.84, 0.88]),
            "fixed_3": figures(best, 1.0, [1.0, 1.0], **flat),
            "ucb1": figures(best - 0.05, 0.97, [0.96, 0.98], **flat),
            "learned": figures(best * learned, learned, [low, high], gap, **curves),
        },
        "best_fixed": "fixed_3",
        "oracle": {"speedup": 2.07},
    }


def comparison(learned=1.06, interval=(1.05, 1.08), gap=0.17, **more):
    return {
        "mode": "live",
        "temperature": 0.0,
        "verification": "greedy",
        "prompts": 60,
        "max_new_tokens": 128,
        "pair": {"name": "tiny", "fingerprint": "6c07f4784712c2d7"},
        **scope(learned, interval, gap),
        "domains": {
            "code": {**scope(1.09, (1.06, 1.12)), "repetition": 0.4},
            "prose": {**scope(0.988, (0.98, 0.996)), "repetition": 0.24},
        },
        "lossless": {"prompts": 60, "compared": 240, "identical": 239, "ties": 1},
        "profile": json.loads(json.dumps(PROFILE.to_dict())),
        "policy_map": policy_map(bundle(("history", "cost"))),
        **more,
    }


def a_round(decision, texts, drafted_, accepted, rejected=(), seen=None):
    last = "fallback" if not drafted_ else "bonus" if accepted == drafted_ else "corrected"
    kinds = ["accepted"] * accepted + [last]
    return {
        "decision": decision,
        "drafted": drafted_,
        "accepted": accepted,
        "milliseconds": 2.4 + 0.5 * drafted_,
        "seen": seen,
        "tokens": [{"text": text, "kind": kind} for text, kind in zip(texts, kinds)],
        "rejected": list(rejected),
    }


def example(prompt_id="code-test-0", end=EVIL):
    seen = {"acceptance_ema_2": 0.713, "draft_step": 0.134}
    return {
        "prompt_id": prompt_id,
        "domain": "code",
        "prompt": f"def main(args):  # {prompt_id}\n    {EVIL}\n",
        "temperature": 0.0,
        "methods": {
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
                    "draft up to 12, stop below 0.45",
                    [" return", " x", "\n", end],
                    3,
                    3,
                    seen=seen,
                ),
            ],
        },
    }


def sample_report():
    return {
        "title": "Learned draft lengths & others",
        "command": "python evaluate.py policy=POLICY_FOLDER",
        "device": "some CPU, 2 threads",
        "created": "2025-01-31 12:00",
        "comparisons": [
            comparison(),
            comparison(
                0.99, (0.984, 0.997), -0.03, mode="replay", temperature=0.8, verification="coupled"
            ),
        ],
        "examples": [example(), {**example("code-test-1", " end"), "turns": TURNS}],
    }


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
    level["domains"]["prose"] = scope(0.9, (0.88, 0.92))
    assert "it loses 10% on prose and shows no clear difference on code." in verdict(level)


def test_slower_than_plain_decoding_is_said_first():
    slow = comparison(domains={}, oracle=None)
    slow["methods"]["learned"] |= {"speedup": 0.9, "versus_best_fixed_ci95": None}
    slow["methods"]["learned"] |= {"versus_best_fixed": 0.9, "gap_closed": None}
    slow["best_fixed"] = "autoregressive"
    assert verdict(slow) == (
        "The learned policy is slower than plain decoding, at 0.90× its speed: 10% slower than the "
        "best fixed length (which is not to draft at all)."
    )


def test_without_a_policy_the_sentence_is_about_the_next_best():
    other = comparison(domains={})
    del other["methods"]["learned"]
    assert verdict(other).startswith("The controller ucb1 decodes 1.41× as fast")
    del other["methods"]["ucb1"]
    assert verdict(other) == (
        "The best fixed length, 3 tokens, decodes 1.46× as fast as plain decoding."
    )


def test_texts_that_differ_are_part_of_the_verdict():
    broken = {"prompts": 60, "compared": 240, "identical": 230, "ties": 1}
    assert "; 9 of 240 texts differ from plain decoding's." in verdict(comparison(lossless=broken))


def test_every_comparison_gets_its_sentence():
    first, second = verdicts(sample_report())
    assert first.startswith("Live, at temperature 0, the learned policy decodes 1.55×")
    assert second.startswith("Replayed, at temperature 0.8, the learned policy decodes 1.45×")


def written(tmp_path, report):
    write_report(tmp_path / "report.html", report)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_models_wrote_stays_harmless(tmp_path):
    report = sample_report()
    report["title"] = EVIL
    page = written(tmp_path, report)
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


def test_sections_without_data_are_left_out(tmp_path):
    every = ["speedup", "domains", "drafting", "policy", "costs", "rounds", "methods"]
    report = sample_report()
    assert section_ids(written(tmp_path, report)) == every
    for key, missing in (("profile", "costs"), ("policy_map", "policy")):
        some = {**report, "comparisons": [{**item, key: None} for item in report["comparisons"]]}
        assert section_ids(written(tmp_path, some)) == [name for name in every if name != missing]
    assert section_ids(written(tmp_path, {**report, "examples": None}))[-1] == "methods"
    bare = copy.deepcopy(report["comparisons"][:1])
    bare[0] |= {"domains": {}, "profile": None, "policy_map": None}
    for method in bare[0]["methods"].values():
        method.pop("draft_length_by_position", None)
        method.pop("acceptance_by_depth", None)
    page = written(tmp_path, {"title": "t", "comparisons": bare})
    assert section_ids(page) == ["speedup", "methods"] and 'id="command"' not in page
    page = written(tmp_path, {"title": "t", "examples": report["examples"]})
    assert section_ids(page) == ["rounds"] and 'id="verdict"' not in page
    assert not re.search(r"<!--\S*-->", page)  # no mark is left


def test_numbers_that_json_cannot_say_become_null(tmp_path):
    report = sample_report()
    report["comparisons"][0]["methods"]["learned"]["gap_closed"] = float("nan")
    report["comparisons"][0]["methods"]["learned"]["tokens_per_second"] = float("inf")
    data = re.search(r'id="data">(.*?)</script>', written(tmp_path, report), re.DOTALL)
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
    shown = policy_map(bundle(("history", "draft", "cost"), seed=3))
    assert np.shape(shown["drafted"]) == (len(shown["y"]), len(shown["x"])) == (20, 11)
    assert len({tuple(column) for column in zip(*shown["drafted"])}) > 1  # history matters to it
    for column in zip(*shown["drafted"]):
        assert list(column) == sorted(column)  # more confidence never shortens a draft
    assert shown["x_name"] == "recent acceptance" and len(shown["drafter"]) == 11
    for groups, x_name, across in (
        (("context", "lookup", "cost"), "tokens expected of an n-gram lookup", 16),
        (("context", "cost"), "tokens in the text's end that occurred before", 17),
    ):
        maps = [policy_map(bundle(groups, seed=seed)) for seed in range(5)]
        assert all((found["x_name"], len(found["x"])) == (x_name, across) for found in maps)
        assert any(len(set(zip(*found["drafted"]))) > 1 for found in maps)  # it matters to some
    narrow = policy_map(bundle(("cost",)))
    assert np.shape(narrow["drafted"]) == (20, 1) and "does not look at" in narrow["note"]
    assert json.loads(json.dumps(narrow)) == narrow


def test_a_lookup_that_promises_more_has_likelier_tokens():
    promises = [_promised(expected) for expected in (0.0, 0.5, 2.0, 7.5)]
    chances = [promise["lookup_first"] for promise in promises]
    assert chances == sorted(chances) and chances[0] < 1e-6 and 0.97 < chances[-1] < 1
    assert sum(chances[2] ** depth for depth in range(1, 9)) == pytest.approx(2.0)


def test_a_map_of_several_drafters_says_which(tmp_path):
    mixed = bundle(("lookup", "cost"), 5, "length", 4, drafters=2)
    shown = policy_map(mixed, ["draft", "ngram"])
    assert set(shown["drafter"]) <= {None, 0, 1} and shown["drafters"] == ["draft", "ngram"]
    report = {"comparisons": [comparison(policy_map={**shown, "drafter": [0] * 8 + [1] * 8})]}
    assert [path.name for path in report_figures(report, tmp_path)][-1] == "policy_map.png"


def test_figures_are_drawn_where_there_is_data(tmp_path):
    report = sample_report()
    names = [path.name for path in report_figures(report, tmp_path)]
    assert names == ["draft_length.png", "acceptance_by_depth.png", "policy_map.png"]
    assert all((tmp_path / name).stat().st_size > 5000 for name in names)
    bare = [{"temperature": 0.0, "methods": {}, "policy_map": policy_map(bundle(("cost",)))}]
    drawn = report_figures({"comparisons": bare}, tmp_path / "new")
    assert [path.name for path in drawn] == ["policy_map.png"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["policy_map.png"]


def test_every_temperature_has_the_map_of_its_own_policy(tmp_path):
    maps = [policy_map(bundle(("cost",), seed=seed)) for seed in (1, 2)]
    assert maps[0] != maps[1]
    report = {
        "comparisons": [
            comparison(policy_map=found, temperature=temperature)
            for found, temperature in zip(maps, (0.0, 0.8))
        ]
    }
    names = [path.name for path in report_figures(report, tmp_path)]
    assert names[-2:] == ["policy_map-t0.png", "policy_map-t0.8.png"]
