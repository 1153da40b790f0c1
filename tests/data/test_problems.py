"""Word problems are graded by their generator's own answers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.data.problems import (
    gsm8k_problems,
    last_number,
    stated_answer,
    word_problems,
)
from adaspec_rl.data.prompts import embedded_prompts


def test_the_first_problems_are_the_held_out_prompts():
    prompts = [item.text for item in embedded_prompts("test") if item.domain == "dialogue"]
    problems = word_problems(600)
    assert [item.text for item in problems[: len(prompts)]] == prompts
    assert len({item.id for item in problems}) == 600
    training = {item.text for item in word_problems(600, "train")}
    assert not training & {item.text for item in problems}


def test_a_worked_answer_is_right_and_another_problems_is_not():
    # Each prompt shows a worked problem: read as the answer to itself, it is right.
    problems = word_problems(200)
    shown = [item.text.split("\n\nQuestion:")[0] for item in problems]
    for text, other in zip(shown, shown[1:]):
        answer = stated_answer(text)
        assert answer and all(part.isdigit() for part in answer)
        assert stated_answer(f"{text}\n\nQuestion: more\nAnswer: 1.") == answer
        assert stated_answer(text.split("Answer:")[0]) is None
        assert other == text or stated_answer(other) != answer or answer == stated_answer(other)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is.\nAnswer: Ada has 7 apples.\n", ("7",)),
        ("Answer: Each child gets 4 and Emma keeps 0.", ("4", "0")),
        ("Answer: There are 12", ("12",)),
        ("Answer: nobody knows.", ()),
        ("7 apples.", None),
        ("Hm.\n\nQuestion: what?\nAnswer: 7.", None),
    ],
)
def test_the_stated_answer_is_read(text, answer):
    assert stated_answer(text) == answer


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_the_right_number_solves_a_problem(right, said):
    text = f"Thus.\nAnswer: there are {said} in all."
    assert (stated_answer(text) == (str(right),)) == (said == right)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 4 + 5 = 9. #### 1,009", ("1009",)),
        ("4 + 5 = 9 dollars.", ("9",)),
        ("That makes $9.50 in all", ("9.5",)),
        ("It is 9.00.", ("9",)),
        ("I do not know.", None),
    ],
)
def test_gsm8k_answers_are_read(text, answer):
    assert last_number(text) == answer


def test_gsm8k_files_are_read_strictly(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text(json.dumps({"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"}) + "\n")
    (problem,) = gsm8k_problems(path)
    assert problem.solved_by("#### 4.0") and not problem.solved_by("#### 5")
    path.write_text(json.dumps({"question": "2 + 2?", "answer": "4"}) + "\n")
    with pytest.raises(ValueError, match="line 1: expected a question and an answer that ends"):
        gsm8k_problems(path)
