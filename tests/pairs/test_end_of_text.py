"""Texts end where the checkpoint says, whichever of its files says it."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.pairs.end_of_text import end_of_text_ids, end_of_turn
from adaspec_rl.pairs.sources import EMBEDDED

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    folder = shutil.copytree(EMBEDDED / "draft", tmp_path / "draft")
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def change(folder: Path, name: str, **values) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}))


def ends(folder: Path) -> tuple[int, ...]:
    return end_of_text_ids(Checkpoint(folder), AutoTokenizer.from_pretrained(folder))


def test_what_is_null_hides_nothing(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(folder, "config.json", eos_token_id=None)
    assert ends(folder) == (tokenizer.eos_token_id,)
    change(folder, "config.json", eos_token_id=[7, 5])
    change(folder, "generation_config.json", eos_token_id=None)
    assert ends(folder) == (5, 7)
    change(folder, "generation_config.json", eos_token_id=[9, 8])
    assert ends(folder) == (8, 9)
    change(folder, "generation_config.json", eos_token_id=0)
    assert ends(folder) == (0,)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (CHATML.replace("<|im_end|>", " </s>"), "</s>"),
        (CHATML.replace("<|im_end|>", " END "), None),  # no token of its own
        ("{{ raise_exception('only system messages') }}", None),
        ("{{ messages[0].content }}", None),
    ],
)
def test_a_chat_ends_where_its_template_ends_a_turn(folder, template, end):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = ends(folder)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "</s>"]}
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    expected = None if end is None else tokenizer.convert_tokens_to_ids(end)
    assert end_of_turn(AutoTokenizer.from_pretrained(folder)) == expected
    assert set(ends(folder)) == {*before, expected} - {None}


def test_a_damaged_generation_config_is_named(folder):
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match="generation_config.json is not JSON"):
        ends(folder)
