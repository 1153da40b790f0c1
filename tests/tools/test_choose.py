"""Choosing drafters: sets that grow as long as it pays, and the command from end to end."""

import json
from dataclasses import replace

import pytest
import torch

from adaspec_rl.engine.memory import weight_bytes
from adaspec_rl.engine.weights import Weights
from adaspec_rl.tools import choose

SPEEDS = {(0,): 1.2, (1,): 1.5, (2,): 0.8, (1, 0): 1.6, (1, 2): 1.5, (1, 0, 2): 1.605}


def test_a_set_grows_by_what_helps_most_while_it_helps_enough():
    asked = []

    def speedup(some):
        asked.append(some)
        return SPEEDS[some]

    found = choose.grow(3, speedup, least_gain=0.01)
    assert found == [((1,), 1.5), ((1, 0), 1.6)]
    assert asked == list(SPEEDS)
    assert choose.grow(3, SPEEDS.get, least_gain=0.001)[-1] == ((1, 0, 2), 1.605)
    assert choose.grow(3, SPEEDS.get, least_gain=0.6) == []  # plain decoding is good enough


def test_shared_tensors_are_counted_once():
    embedding = torch.zeros(10, 4)
    tied = Weights(embedding, [], torch.zeros(4), embedding)
    assert weight_bytes(tied) == 4 * (40 + 4)
    assert weight_bytes(replace(tied, head=torch.zeros(10, 4))) == 4 * (40 + 4 + 40)
    assert weight_bytes(None) == 0


def test_the_command_recommends_drafters_and_draws_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        choose, "REGRESSION", replace(choose.REGRESSION, total_steps=20_000, n_epochs=2)
    )
    choose.main(
        [
            "model.target=tiny:target", "model.dtype=float32", "prompts=2",
            "candidates=[tiny:draft,early_exit:3,ngram]",
            "max_new_tokens=32", "max_length=3", "samples=2", "least_gain=0.001",
            f"out={tmp_path}", "threads=1",
        ]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "drafters by themselves" in printed and "recommended: " in printed
    found = json.loads((tmp_path / "choice.json").read_text())
    alone = {item["name"]: item for item in found["candidates"]}
    assert alone["ngram"]["mebibytes"] == alone["early_exit:3"]["mebibytes"] == 0
    assert alone["tiny:draft"]["mebibytes"] > 4
    assert alone["ngram"]["draft_step"] < alone["tiny:draft"]["draft_step"] < 1
    assert all(0 < item["acceptance"] < 1 and item["speedup"] > 0.5 for item in alone.values())
    assert [len(some) for some, _ in found["sets"]] == list(range(1, 1 + len(found["chosen"])))
    assert (tmp_path / "choice.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.target=tiny:target", "candidates=[]"],
            "candidates must be a list of 1 to 32 different items",
        ),
        (["model.target=tiny:target", "candidates=[ngram,ngram]"], "got ['ngram', 'ngram']"),
        (["model.target=tiny:target", "candidates=[early_exit:40]"], "layer 1 to 11 of its 12"),
        (["candidates=[ngram]"], "model.target must be set"),
        (["model.target=tiny:target", "speed=1"], "unknown key 'speed'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        choose.main([*arguments, f"out={tmp_path / 'choice'}"])
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and message in printed and printed.count("\n") == 1
    assert not (tmp_path / "choice").exists()
