"""Answers are the target's greedy texts, cut where the answer is there."""

import pytest

from adaspec_rl.comparison.answers import answered, judge_answers, write_answers
from adaspec_rl.data.problems import word_problems
from adaspec_rl.decoding.round import FALLBACK
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.verification.lossy import TopK
from adaspec_rl.pairs.pair import load_pair


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", "tiny:target", ["tiny:draft", "ngram"])


@pytest.mark.parametrize(
    ("tail", "complete"),
    [
        ("so 4.\nAnswer: 4 apples.\n", True),
        ("so 4.\nAnswer: 4 apples.", False),
        ("so 4.\n", False),
        ("", False),
    ],
)
def test_an_answer_is_complete_with_its_line(tail, complete):
    assert answered(tail) is complete


@pytest.mark.slow
def test_answers_begin_as_plain_decoding_and_end_with_the_answer(pair):
    problems = word_problems(3)
    prompts = [pair.encode(problem.text) for problem in problems]
    how = {"max_new_tokens": 100, "rows": 2}
    exact = write_answers(pair, prompts, "greedy", 4, **how)
    assert exact == write_answers(pair, prompts, "greedy", 4, max_new_tokens=100, rows=1)
    for prompt, (tokens, distance) in zip(prompts, exact):
        session = pair.session(max_new_tokens=len(tokens), sampling=Sampling())
        session.start(prompt)
        while session.finished is None:
            session.step(FALLBACK)
        assert tokens == session.tokens and distance == 0
    lossy = write_answers(pair, prompts, TopK(32), 4, **how)
    likely = {}
    own = judge_answers(pair, problems, prompts, lossy, likely)
    plain = judge_answers(pair, problems, prompts, exact, likely)
    assert list(own) == [problem.id for problem in problems]
    assert sum(text.distance for text in own.values()) > 0
    mean = {n: sum(t.log_likelihood / len(t.tokens) for t in d.values()) for n, d in
            (("own", own), ("plain", plain))}  # fmt: skip
    assert mean["own"] < mean["plain"]  # what the target finds less likely
