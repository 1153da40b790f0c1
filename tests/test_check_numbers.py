"""Every number in the README comes from a results file, and a wrong one is found."""

import json
import subprocess
import sys

import pytest
import yaml

from tests import PROJECT

NUMBERS = PROJECT / "docs" / "numbers.yaml"


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT / "benchmarks"))
    import check_numbers

    yield check_numbers
    sys.modules.pop("check_numbers")


@pytest.fixture
def own(module, tmp_path, monkeypatch):
    """A text of two numbers, and the phrases that they come from."""
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    (tmp_path / "made.json").write_text(json.dumps({"a.b": [{"gain": 1.25, "rate": -0.031}]}))
    entries = [
        {"file": "made.json", "at": "a.b", "phrases": ["{0/gain!gain|+.0f}% and {0/rate|.2f}"]},
        {"not_measured": ["2 cores"]},
    ]
    return "On 2 cores `x=3` has +25% and −0.03 here.", list(module.phrases(entries))


def test_the_readme_says_what_the_files_say():
    done = subprocess.run(
        [sys.executable, "benchmarks/check_numbers.py"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 10


def test_each_results_file_is_a_real_one():
    for entries in yaml.safe_load(NUMBERS.read_text()).values():
        for entry in entries:
            assert "not_measured" in entry or "command" in json.loads(
                (PROJECT / entry["file"]).read_text()
            )


def test_right_numbers_pass(module, own):
    text, wanted = own
    assert module.check(text, wanted) == []
    assert wanted[0].sources() == [("+25", "a.b/0/gain"), ("−0.03", "a.b/0/rate")]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "+25%",
            "+26%",
            "'+25% and −0.03' from made.json: the text says '+26% and −0.03'",
        ),
        ("−0.03", "0.03", "the text says '+25% and 0.03'"),
        ("here", "in 7 of 9", "line 1: 7 has no source"),
        ("2 cores", "two cores", "expected '2 cores' from docs/numbers.yaml"),
    ],
)
def test_a_wrong_number_is_found(module, own, right, wrong, said):
    text, wanted = own
    assert said in " ".join(module.check(text.replace(right, wrong), wanted))


def test_wrong_numbers_are_written_anew(module, own):
    text, wanted = own
    assert module.written(text.replace("+25", "−7").replace("0.03", "1,000"), wanted) == text
    with pytest.raises(ValueError, match="is in the text 0 times, expected once"):
        module.written("another text", wanted)


def test_a_place_that_is_not_there_is_named(module, own):
    (wanted, _) = own[1]
    elsewhere = module.Phrase("{0/loss|.1f}", "made.json", wanted.root, "a.b")
    with pytest.raises(ValueError, match=r"made.json has no number at a.b: \{0/loss"):
        elsewhere.rendered()
