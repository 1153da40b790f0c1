"""From the configuration to conversations with the target's own answers."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from adaspec_rl.config import Config, DataConfig, EnvConfig, ReplayConfig
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.prompts import asked_prompts, prompts_from
from adaspec_rl.recording import answers
from tests.data.tokenizers import tokenizer_with

ROWS = [
    {"question_id": 81, "category": "writing", "turns": ["One?", "Two?", "Three?"]},
    {"question_id": 82, "category": "writing", "turns": ["Four?"]},
    {
        "question_id": 83,
        "category": "qa",
        "messages": [
            {"role": "user", "content": "Five?"},
            {"role": "assistant", "content": "Six."},
            {"role": "user", "content": "Seven?"},
        ],
    },
    {"question_id": 84, "category": "code", "text": "def main():"},
]


@pytest.fixture(scope="module")
def pair():
    return replace(load_pair("tiny", "tiny:target", ["ngram"]), tokenizer=tokenizer_with())


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return Config(
        data=DataConfig("jsonl", str(path), test_share=1),
        env=EnvConfig(max_new_tokens=8),
        replay=ReplayConfig(cache=str(tmp_path / "cache")),
    )


def found(config, pair, per_domain=None):
    prompts = prompts_from(config, "test", pair, Console(quiet=True), per_domain)
    return {item.prompt.id: item for item in prompts}


def continued(pair, ids, count=8):
    """The target's greedy continuation, by a session that never drafts."""
    session = pair.session(max_new_tokens=count, sampling=Sampling(0.0))
    session.start(ids)
    tokens = []
    while not session.finished:
        tokens += session.step(Action(0)).tokens
    return pair.tokenizer.decode(tokens, skip_special_tokens=True)


def test_later_turns_follow_the_targets_own_answers(pair, config):
    prompts = found(config, pair)
    assert set(prompts) == {"81", "81/2", "81/3", "82", "83", "83/2", "84"}
    one = continued(pair, prompts["81"].ids)
    two = continued(pair, prompts["81/2"].ids)
    assert one and prompts["81/3"].prompt.text == (
        f"<|endoftext|><user>One?\n<assistant>{one}\n<user>Two?\n<assistant>{two}\n"
        "<user>Three?\n<assistant>"
    )
    assert prompts["83/2"].prompt.text == (
        "<|endoftext|><user>Five?\n<assistant>Six.\n<user>Seven?\n<assistant>"
    )
    assert prompts["84"].prompt.text == "def main():" and not prompts["84"].prompt.turns
    for item in prompts.values():
        assert item.ids[0] == 0 and item.ids.count(0) == 1


def test_answers_are_made_once_and_only_for_chosen_prompts(pair, config, monkeypatch):
    asked = []
    generate = answers.generate_texts
    monkeypatch.setattr(
        answers, "generate_texts", lambda *a, **k: asked.append(len(a[1])) or generate(*a, **k)
    )
    assert len(found(config, pair, 1)) == 3 and asked == []  # the first turn of each
    assert len(found(config, pair, 2)) == 5 and asked == [1]
    first = found(config, pair)
    assert asked == [1, 1] and found(config, pair) == first and asked == [1, 1]
    found(replace(config, seed=1), pair)
    assert asked == [1] * 4


def test_turns_that_grow_too_long_are_left_out_and_counted(pair, config, caplog):
    whole = found(config, pair)
    longest = len(whole["81/3"].ids) - 1
    shorter = replace(config, data=replace(config.data, max_prompt_tokens=8))
    asked_prompts(shorter, "test", pair)
    assert not caplog.messages  # those who only ask are told nothing
    kept = found(replace(config, data=replace(config.data, max_prompt_tokens=longest)), pair)
    assert list(kept) == [name for name in whole if name != "81/3"]
    assert caplog.messages == [
        f"left out 1 of 7 prompts, longer than data.max_prompt_tokens={longest}: 1 of writing"
    ]


def test_a_turn_beyond_the_context_is_refused(pair, config):
    room = len(found(config, pair)["81/3"].ids)
    short = replace(pair, target=Short(pair.target, room))
    with pytest.raises(ValueError, match=f"prompt 81/3 has {room} tokens .*data.max_prompt_tokens"):
        found(config, short)


class Short:
    """A model whose context holds less."""

    def __init__(self, model, context_length):
        self.model, self.context_length = model, context_length

    def __getattr__(self, name):
        return getattr(self.model, name)


def test_ids_that_turns_would_share_are_refused(pair, config, tmp_path):
    rows = [*ROWS, {"id": "81/2", "text": "Once"}]
    (tmp_path / "talk.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(ValueError, match="has 2 prompts with the id 81/2: ids must differ"):
        found(config, pair)
