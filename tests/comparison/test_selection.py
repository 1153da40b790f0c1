"""Which prompts a comparison takes: as many as its minutes allow, the same ones ever after."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adaspec_rl.comparison import selection
from adaspec_rl.comparison.selection import FILE, Selection, compared_prompts, fitting
from adaspec_rl.config import EvaluateConfig
from adaspec_rl.control import generation


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.floats(0.01, 10),
    st.floats(0, 20),
    st.floats(1, 500),
)
def test_no_more_prompts_are_taken_than_fit_and_no_fewer(sizes, each, once, seconds):
    per_domain = fitting(sizes, each, once, seconds)

    def needs(count: int) -> float:
        return once + each * sum(min(size, count) for size in sizes)

    assert 1 <= per_domain <= max(sizes)
    assert per_domain == 1 or needs(per_domain) <= seconds
    assert per_domain == max(sizes) or needs(per_domain + 1) > seconds


class SlowPair:
    """A pair without models: 9 methods, whose texts take `seconds` each."""

    drafters = (SimpleNamespace(name="draft"), SimpleNamespace(name="ngram"))
    tokenizer = None

    def __init__(self, seconds: float) -> None:
        self.seconds, self.tried = seconds, 0

    def session(self, **options: object) -> "SlowPair":
        return self


@pytest.fixture
def slow(monkeypatch):
    """Prompts of two domains, and a way to ask which are taken by a pair of some speed."""
    prompts = [
        selection.Prompt(f"{domain}{number}", domain, f"text {number}")
        for number in range(10)
        for domain in ("code", "prose")
    ]

    def asked(config, split, pair, per_domain=None):
        limit = 10 if per_domain is None else per_domain
        return [prompt for prompt in prompts if int(prompt.id[-1]) < limit]

    def generate(session, controller, ids, **options):
        session.tried += 1
        return generation.Generation([1], "length", [], seconds=session.seconds)

    monkeypatch.setattr(selection, "asked_prompts", asked)
    monkeypatch.setattr(
        selection,
        "prompts_from",
        lambda config, split, pair, console, count: [
            selection.EncodedPrompt(prompt, [1]) for prompt in asked(config, split, pair, count)
        ],
    )
    monkeypatch.setattr(
        selection, "encode", lambda tokenizer, prompt: selection.EncodedPrompt(prompt, [1])
    )
    monkeypatch.setattr(selection, "generate", generate)
    return prompts


def configured(**evaluation: object) -> EvaluateConfig:
    config = EvaluateConfig()
    settings = {"lengths": [1, 2, 4], "warmup": 2, "minutes": 3.0, **evaluation}
    return replace(config, evaluation=replace(config.evaluation, **settings))


def taken(config, pair, folder):
    console = Console(file=io.StringIO(), width=200)
    prompts, chosen = compared_prompts(config, pair, folder, console)
    assert chosen.taken == len(prompts)
    return [item.prompt.id for item in prompts], chosen, console.file.getvalue()


def test_a_fast_pair_takes_all_and_says_how_long(slow, tmp_path):
    ids, chosen, said = taken(configured(), SlowPair(0.5), tmp_path)
    assert len(ids) == 20 and chosen == Selection(20, 20, 10, 3.0)
    # 8 methods: plain, 3 lengths of each of 2 drafters, learned; 20 prompts and 2 to warm up
    assert said == "comparing 8 methods on all 20 prompts: about 1 min 28 s\n"


def test_a_slow_pair_takes_as_many_of_each_domain_as_fit(slow, tmp_path):
    ids, chosen, said = taken(configured(), SlowPair(2.0), tmp_path)
    # 180 s are 11 prompts of 16 s each, of which 2 warm up: 4 of each domain
    assert sorted(ids) == sorted(f"{d}{n}" for d in ("code", "prose") for n in range(4))
    assert said.startswith("comparing 8 methods on 8 of 20 prompts: about 2 min 40 s (evaluation.m")


def test_one_prompt_a_domain_is_the_least(slow, tmp_path):
    ids, chosen, said = taken(configured(), SlowPair(100.0), tmp_path)
    assert ids == ["code0", "prose0"] and "one of each domain is the least" in said


def test_several_temperatures_share_the_minutes(slow, tmp_path):
    ids, _, _ = taken(configured(temperatures=[0.0, 0.8]), SlowPair(2.0), tmp_path)
    assert len(ids) == 2


@pytest.mark.parametrize("options", [{"minutes": None}, {"mode": "replay"}])
def test_nothing_is_tried_where_there_is_no_limit(slow, tmp_path, options):
    pair = SlowPair(100.0)
    ids, chosen, said = taken(configured(**options), pair, tmp_path)
    assert len(ids) == 20 and said == "" and pair.tried == 0
    assert chosen == Selection(20, 20, 10, None)


def test_an_interrupted_comparison_goes_on_with_the_same_prompts(slow, tmp_path):
    begun, _, _ = taken(configured(), SlowPair(2.0), tmp_path)
    pair = SlowPair(0.01)  # now it would take all
    again, _, said = taken(configured(), pair, tmp_path)
    assert again == begun and said == "" and pair.tried == 0
    other, _, _ = taken(configured(minutes=4.0), pair, tmp_path)  # another question
    assert len(other) == 20


def test_a_damaged_choice_is_refused_by_name(slow, tmp_path):
    (tmp_path / FILE).write_text("[")
    with pytest.raises(ValueError, match=rf"{FILE} is damaged .*: delete it"):
        taken(configured(), SlowPair(1.0), tmp_path)
