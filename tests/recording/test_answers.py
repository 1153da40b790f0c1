"""Answers between turns: plain decoding, once."""

from dataclasses import replace

import pytest

from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.recording import answers as kept
from adaspec_rl.recording.answers import Answering, answers
from tests.toy import ToyModel, greedy_text

QUESTIONS = [[1, 2, 3], [4], [5, 6], [1, 2]]
GREEDY = Answering("pair", Sampling(0.0), (0,), 12, seed=3)
SAMPLED = replace(GREEDY, sampling=Sampling(1.0))


def test_answers_are_the_targets_own_text(tmp_path):
    model, told = ToyModel(), []
    found = answers(
        model, GREEDY, QUESTIONS, tmp_path, progress=lambda done, total: told.append((done, total))
    )
    assert found == [greedy_text(model, question, 12, (0,)) for question in QUESTIONS]
    assert told[0] == (0, 4) and told[-1] == (4, 4)


@pytest.mark.parametrize("answering", [GREEDY, SAMPLED])
def test_kept_answers_are_not_made_again(tmp_path, answering):
    model = ToyModel()
    first = answers(model, answering, QUESTIONS[:2], tmp_path)
    done = len(model.forwards)
    again = answers(model, answering, QUESTIONS[:2][::-1], tmp_path)
    assert again == first[::-1] and len(model.forwards) == done
    whole = answers(model, answering, QUESTIONS, tmp_path)
    assert whole[:2] == first and len(model.forwards) > done
    assert whole == answers(model, answering, QUESTIONS, tmp_path / "elsewhere")


def test_an_answer_depends_on_settings_and_seed(tmp_path):
    model = ToyModel()
    one = answers(model, SAMPLED, QUESTIONS, tmp_path)
    for other in (
        replace(SAMPLED, seed=4), replace(SAMPLED, sampling=Sampling(0.5)),
        replace(SAMPLED, max_new_tokens=3), replace(SAMPLED, eos_ids=()),
    ):  # fmt: skip
        assert answers(model, other, QUESTIONS, tmp_path) != one
    done = len(model.forwards)
    answers(model, replace(SAMPLED, pair="another"), QUESTIONS, tmp_path)
    assert len(model.forwards) > done


def test_answers_of_another_sampler_are_made_again(tmp_path, monkeypatch):
    model = ToyModel()
    answers(model, SAMPLED, QUESTIONS, tmp_path)
    done = len(model.forwards)
    monkeypatch.setattr(kept, "SAMPLER", kept.SAMPLER + 1)
    answers(model, SAMPLED, QUESTIONS, tmp_path)
    assert len(model.forwards) > done


def test_a_damaged_answer_is_named(tmp_path):
    answers(ToyModel(), GREEDY, QUESTIONS[:1], tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*: delete it"):
        answers(ToyModel(), GREEDY, QUESTIONS[:1], tmp_path)
