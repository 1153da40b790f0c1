import copy
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import adaspec_rl.interop as interop
from adaspec_rl.costs.measurement import measure
from adaspec_rl.tools.choose import Candidate, Choice
from adaspec_rl.tools.tune import TuneConfig, tune
from adaspec_rl.tools.tuning.advice import Advice, Measured, judged, page, without
from adaspec_rl.tools.tuning.page import Page

GOOD = Candidate("tiny:draft", 0.6, 0.05, 4.2, 3, 1.4)
HOSTILE = Candidate("hostile", 0.01, 0.4, 40.0, 0, 1.0)


def test_a_page_is_the_same_in_both_forms():
    made = Page("A & B")
    made.say("1 < 2")
    made.table(["a|b"], [["<c>"]])
    assert made.markdown() == "# A & B\n\n1 < 2\n\n| a\\|b |\n| --- |\n| <c> |\n"
    assert "<h1>A &amp; B</h1><p>1 &lt; 2</p>" in made.html()
    assert "<th>a|b</th></tr><tr><td>&lt;c&gt;</td>" in made.html()


@pytest.mark.parametrize(
    "live, drafters",
    [
        (Measured(1.4, (1.3, 1.5), 1.35, (1.2, 1.5)), ("tiny:draft", "ngram")),
        (Measured(1.4, (1.3, 1.5), 0.98, (0.9, 1.1)), ()),
    ],
)
def test_what_is_measured_decides(live, drafters):
    used, because = judged(Choice((GOOD,), (), ("tiny:draft",)), live, ("tiny:draft", "ngram"))
    assert used == drafters
    assert f"{live.live:.2f} ×" in because


def test_intervals_that_overlap_agree():
    assert Measured(1.4, (1.3, 1.5), 1.35, (1.2, 1.31)).agree
    assert not Measured(1.4, (1.3, 1.5), 1.1, (1.0, 1.2)).agree


def test_the_page_says_what_to_do_and_what_not():
    because = without(Choice((HOSTILE,), (), ()))
    advice = Advice((), because, (HOSTILE,), {}, [], {"batch 1": 1.0}, {"hostile": 40.0})
    told = page(advice, "", {}).markdown()
    assert "Do not speculate here, because the best drafter alone, hostile, is right at 1%" in told
    assert "| hostile | 1% | 0.400 | 40.0 MiB | none | 1.00 × | do not use it |" in told
    found = Measured(1.4, (1.3, 1.5), 1.35, (1.2, 1.5))
    advice = Advice(
        ("tiny:draft",), "x", (GOOD, HOSTILE), {"all": found}, [(10, 6), (6, 3)], {}, {}
    )
    told = page(advice, "model.generate()", {"policy": "the bundle"}).markdown()
    assert "Speculate, with tiny:draft" in told and "model.generate()" in told
    assert "| accepted, once reached | 60% | 50% |" in told
    assert "| all | 1.40 × (1.30 to 1.50) | 1.35 × (1.20 to 1.50) | yes |" in told


def quick(tmp_path, **settings):
    config = TuneConfig(minutes=0.5, max_new_tokens=32, max_length=4, threads=1, **settings)
    config.model.target, config.out = "tiny:target", str(tmp_path / "tuned")
    return config


@pytest.mark.slow
def test_a_hostile_drafter_is_not_to_be_used(tmp_path):
    folder = interop.checkpoint("tiny:draft")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "hostile")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "hostile")
    config = quick(tmp_path, candidates=[str(tmp_path / "hostile")])
    advice = tune(config, Console(quiet=True))
    assert advice.drafters == ()
    assert "Do not speculate here" in (tmp_path / "tuned" / "advice.md").read_text()
    assert (tmp_path / "tuned" / "advice.html").stat().st_size > 500


def where_drafts_pay(*arguments, **options):
    """What decoding costs, as it would be where drafting and verifying took no time."""
    found = measure(*arguments, **options)

    def cheap(point):
        flat = (point.autoregressive_step,) * len(point.verification)
        nothing = (1e-9,) * len(point.draft_step)
        return replace(point, verification=flat, draft_step=nothing, overhead=nothing)

    return replace(found, points=tuple(map(cheap, found.points)))


@pytest.mark.slow
def test_tuning_ends_with_advice_that_generate_can_follow_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("adaspec_rl.tools.choose.measure", where_drafts_pay)
    config = quick(tmp_path, candidates=["tiny:draft"])
    advice = tune(config, Console(quiet=True))
    folder = tmp_path / "tuned"
    assert advice.candidates[0].acceptance > 0.3
    assert advice.by_text["all"].live > 0
    assert json.loads((folder / "advice.json").read_text())["because"] == advice.because
    assert (folder / "exports" / "table" / "table.csv").is_file()
    model = AutoModelForCausalLM.from_pretrained(interop.checkpoint("tiny:target"))
    tokens = torch.tensor([[5, 6, 7]])
    expected = model.generate(tokens, max_new_tokens=16, do_sample=False)
    found = model.generate(
        tokens,
        max_new_tokens=16,
        do_sample=False,
        custom_generate=interop.generate,
        policy=folder / "policy",
        draft_model=["tiny:draft", "ngram"],
    )
    assert torch.equal(found, expected)
    again = copy.deepcopy(config)
    again.minutes = 0.6  # a killed run goes on; nothing is measured twice
    assert tune(again, Console(quiet=True)).by_text == advice.by_text
    again.max_length = 5
    with pytest.raises(ValueError, match="max_length=4, not 5: set out"):
        tune(again, Console(quiet=True))
