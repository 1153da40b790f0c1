"""Token ids of texts and conversations."""

import pytest

from adaspec_rl.data.conversations import Message, read_conversation
from adaspec_rl.data.encoding import (
    ChatFacts,
    as_asked,
    chat_facts,
    encode,
    encode_text,
    template_hash,
)
from adaspec_rl.data.prompts import Prompt
from tests.data.tokenizers import TEMPLATE, tokenizer_with

BEGIN = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_with()


@pytest.mark.parametrize("text", ["Hi", f"{BEGIN}Hi", f"Hi{BEGIN}"])
def test_a_text_begins_with_one_begin_token(tokenizer, text):
    ids = encode_text(tokenizer, text)
    assert ids[0] == 0 != ids[1]
    assert tokenizer.decode(ids) == (text if text.startswith(BEGIN) else BEGIN + text)


def test_begin_tokens_of_the_text_itself_are_kept(tokenizer):
    once = encode_text(tokenizer, "Hi")
    assert encode_text(tokenizer, f"{BEGIN}{BEGIN}Hi") == [0, *once]


def test_a_conversation_has_the_begin_token_of_its_template_alone(tokenizer):
    turns = read_conversation(["Hello", {"role": "assistant", "content": "Hi"}, "More"])
    found = encode(tokenizer, Prompt("a", "d", "Hello", turns))
    assert found.prompt.text == f"{BEGIN}<user>Hello\n<assistant>Hi\n<user>More\n<assistant>"
    assert found.ids.count(0) == 1 and found.ids[0] == 0
    assert tokenizer.decode(found.ids) == found.prompt.text
    assert (
        found.ids
        == tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.text} for m in turns], add_generation_prompt=True
        ).input_ids
    )
    bare = tokenizer_with(TEMPLATE.replace("{{ bos_token }}", ""))
    assert encode(bare, Prompt("a", "d", "Hello", turns)).ids == found.ids[1:]


def test_a_template_with_a_date_gives_the_same_prompt_every_day():
    template = (
        "\n{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}\n{{ date_string }} {{ messages[0]['content'] }}"
    )
    found = encode(tokenizer_with(template), Prompt("a", "d", "Hi", (Message("user", "Hi"),)))
    assert found.prompt.text == "01 Jan 2025 Hi"


def test_a_conversation_that_the_template_refuses_is_named(tokenizer):
    tokenizer = tokenizer_with("{{ raise_exception('System role not supported') }}")
    with pytest.raises(
        ValueError, match=r"refuses prompt 7 \(System role not supported\): .*data.chat=off"
    ):
        encode(tokenizer, Prompt("7", "d", "Hi", (Message("user", "Hi"),)))


TALK = Prompt("81", "writing", "One", read_conversation(["One", "Two", "Three"]))
TEXT = Prompt("t", "code", "def f():")


def test_each_user_turn_is_asked(tokenizer):
    found = as_asked([TALK, TEXT], "auto", tokenizer)
    assert [(prompt.id, len(prompt.turns)) for prompt in found] == [
        ("81", 1), ("81/2", 2), ("81/3", 3), ("t", 0),
    ]  # fmt: skip
    assert found[1].turns == (Message("user", "One"), Message("user", "Two"))
    facts = chat_facts("auto", [encode(tokenizer, prompt) for prompt in found], tokenizer)
    assert facts == ChatFacts("auto", 3, template_hash(tokenizer))


def test_given_answers_stay_and_the_last_is_left_out(tokenizer):
    rows = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"),
            ("assistant", "See you")]  # fmt: skip
    turns = read_conversation([{"role": role, "content": text} for role, text in rows])
    first, second = as_asked([Prompt("9", "d", "Hi", turns)], "auto", tokenizer)
    assert [message.role for message in first.turns] == ["system", "user"]
    assert second.id == "9/2" and second.turns == turns[:4]


def test_on_sends_texts_as_user_turns(tokenizer):
    (found,) = as_asked([TEXT], "on", tokenizer)
    assert found.turns == (Message("user", "def f():"),)
    with pytest.raises(ValueError, match="data.chat=on needs a tokenizer with a chat template"):
        as_asked([TEXT], "on", tokenizer_with(None))
    with pytest.raises(ValueError, match="unknown data.chat 'yes': expected one of auto, on, off"):
        as_asked([TEXT], "yes", tokenizer)


def test_without_chat_the_first_turn_is_a_plain_text(tokenizer, caplog):
    (found,) = as_asked([TALK], "off", tokenizer)
    assert found == Prompt("81", "writing", "One") and not caplog.messages
    assert as_asked([TALK, TEXT], "auto", tokenizer_with(None)) == [found, TEXT]
    assert caplog.messages == [
        "only the first user turn of 1 conversations is a prompt: the target's tokenizer has no "
        "chat template"
    ]
    facts = chat_facts("off", [encode(tokenizer, found)], tokenizer)
    assert facts == ChatFacts("off", 0, None)
