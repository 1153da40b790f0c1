"""Texts of the target with what it knew at each token: written, stored, and read again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.tools.distillation import self_prompts, teacher_decoding, teacher_writer
from adaspec_rl.tools.distillation.self_prompts import around_the_user, self_written_prompts
from adaspec_rl.tools.distillation.teacher_decoding import Task, largest, sampled, write_texts
from adaspec_rl.tools.distillation.teacher_writer import Assignment, write_shards
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer

VOCAB = 280
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A random Llama with a chat template."""
    folder = tmp_path_factory.mktemp("target")
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = train_tokenizer(["some words to learn a tokenizer from"], VOCAB)
    tokenizer.chat_template = TEMPLATE
    save_tokenizer(tokenizer, folder)
    return load_pair("x", str(folder), ["ngram"])


def lean(pair: Pair) -> LeanModel:
    assert isinstance(pair.target, LeanModel)
    return pair.target


def assignment(pair: Pair, **changes) -> Assignment:
    prompts = [pair.encode(f"words {number}") for number in range(5)]
    given = dict(target=pair.fingerprint, self_written=0.0, max_new_tokens=12, seed=3)
    return Assignment(prompts, **{**given, **changes})


def test_what_is_stored_is_what_the_target_knew(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_writer, "SHARD", 6)
    texts = write_shards(pair, assignment(pair), tmp_path, 2).read_all()
    assert len(texts) == 12 and len({text.temperature for text in texts}) == 3
    for text in texts:
        size = len(text.tokens)
        assert size - text.prompt_length in range(1, 13) and text.hidden.shape == (size - 1, 48)
        pair.target.reset()
        tokens = torch.from_numpy(text.tokens[:-1]).long()[None]
        logits = pair.target.extend(tokens)[0]
        states = torch.from_numpy(text.hidden.view(np.int16)).view(torch.bfloat16)
        torch.testing.assert_close(states, lean(pair).last_hidden[0].bfloat16(), atol=0.05, rtol=0)
        wanted = logits.log_softmax(-1)[text.prompt_length - 1 :]
        stored = torch.from_numpy(text.choice_log_probs).float()
        torch.testing.assert_close(stored, wanted.topk(64).values, atol=0.01, rtol=0)
        listed = wanted.gather(1, torch.from_numpy(text.choice_ids).long())
        torch.testing.assert_close(stored, listed, atol=0.01, rtol=0)
        if text.temperature == 0:
            assert text.tokens[text.prompt_length :].tolist() == text.choice_ids[:, 0].tolist()


def test_rows_go_on_with_the_next_text_and_do_not_change_it(pair):
    tasks = [Task([5, 6, 7 + n][n % 3 :], n % 2, (0, n), 4 + n) for n in range(7)]
    made = [write_texts(lean(pair), tasks, rows=rows, end_ids=[0]) for rows in (1, 3, 7)]
    for other in made[1:]:
        assert [text.tokens for text in other] == [text.tokens for text in made[0]]
    assert all(text.finished for text in made[0])


def test_a_killed_run_writes_the_same_shards(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_writer, "SHARD", 4)
    wanted = assignment(pair)
    whole = write_shards(pair, wanted, tmp_path / "whole", 3)
    assert write_shards(pair, wanted, tmp_path / "again", 1).shards == 1
    again = write_shards(pair, wanted, tmp_path / "again", 3)
    for number in range(3):
        assert whole.path(number).read_bytes() == again.path(number).read_bytes()
    again.path(1).write_bytes(b"no shard")
    with pytest.raises(ValueError, match="damaged"):
        again.read_all()


def test_every_prompt_has_its_turn_before_one_comes_again(pair, monkeypatch):
    monkeypatch.setattr(teacher_writer, "SHARD", 5)
    rounds = [assignment(pair).data_prompts(number) for number in (0, 1)]
    assert sorted(rounds[0]) == sorted(rounds[1]) and rounds[0] != rounds[1]


def test_the_target_writes_prompts_of_its_own(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_writer, "SHARD", 8)
    monkeypatch.setattr(self_prompts, "_is_prompt", lambda tokenizer, turn: len(turn) > 2)
    texts = write_shards(pair, assignment(pair, self_written=0.5), tmp_path, 2).read_all()
    own = [text for text in texts if text.self_written]
    before, after = around_the_user(pair.tokenizer)
    prompts = [text.tokens[: text.prompt_length].tolist() for text in own]
    assert own and len({tuple(prompt) for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt[: len(before)] == before and prompt[-len(after) :] == after
        assert 0 not in prompt[len(before) : -len(after)]
    known = [tuple(prompt) for prompt in prompts]
    fresh = self_written_prompts(
        lean(pair), pair.tokenizer, 4, seed=(3, 0, 0), rows=4, end_ids=[0], known=known
    )
    assert not {tuple(prompt) for prompt in fresh} & set(known)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("please tell me a story of the sea", True),
        ("hello there", False),
        ("no no no no no no no no no no no no", False),
        ("1 2 3 4 5 6 7", False),
        ("please tell me <|endoftext|> a story", False),
    ],
)
def test_turns_that_are_short_or_repeat_themselves_are_no_prompts(pair, text, expected):
    turn = pair.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert self_prompts._is_prompt(pair.tokenizer, turn) is expected


def test_without_a_template_the_target_cannot_open_a_users_turn(pair, monkeypatch):
    monkeypatch.setattr(pair.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="needs a tokenizer with a chat template"):
        around_the_user(pair.tokenizer)


def test_the_largest_logits_are_found_in_blocks():
    logits = torch.randn(3, 5 * 64 * 64 + 7, generator=torch.Generator().manual_seed(0))
    for found, wanted in zip(largest(logits, 64), logits.topk(64)):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_from_the_whole_distribution(temperature):
    logits = 3 * torch.randn(1, 200, generator=torch.Generator().manual_seed(0))
    best, ids = logits.topk(teacher_decoding.CHOICES)
    draws = (np.arange(4000) + 0.5) / 4000
    found = [sampled(logits, best, ids, [temperature], [draw])[0] for draw in draws]
    counts = torch.bincount(torch.tensor(found), minlength=200) / 4000
    torch.testing.assert_close(counts, (logits[0] / temperature).softmax(-1), atol=6e-4, rtol=0)
    assert sampled(logits, best, ids, [0.0], [0.9]) == [int(logits.argmax())]


def test_what_is_held_out_goes_by_the_prompt(pair, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(teacher_writer, "SHARD", 10)
    texts = write_shards(pair, assignment(pair), tmp_path, 1).read_all()
    shares = {tuple(text.tokens[: text.prompt_length].tolist()): text.share for text in texts}
    assert len(set(shares.values())) == 5
    assert all(
        shares[tuple(text.tokens[: text.prompt_length].tolist())] == text.share for text in texts
    )
