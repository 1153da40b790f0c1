"""From prompts to token ids: plain texts, and conversations through the tokenizer's template."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from adaspec_rl.data.conversations import (
    USER,
    Conversation,
    Message,
    unanswered,
    up_to_each_user_turn,
    with_answer,
)
from adaspec_rl.data.prompts import EncodedPrompt, Prompt

AUTO, ON, OFF = CHAT = ("auto", "on", "off")
# Some templates write today's date; this macro fixes the day, so that prompts do not change.
DAY = datetime(2025, 1, 1, tzinfo=timezone.utc)
DATES = "".join(
    f".replace('%{code}', '{DAY.strftime('%' + code)}')" for code in [*"aAbBdmyYjHIMSp", "-d", "-m"]
)
SAME_DAY = "{%- macro strftime_now(form) %}{{ form" + DATES + " }}{% endmacro +%}"

logger = logging.getLogger(__name__)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text, with one begin token where the tokenizer adds one or the text has it."""
    begin = tokenizer.bos_token
    if begin and text.lstrip().startswith(begin):
        own = _ids(tokenizer, text, special=False)
        if own[:1] == [tokenizer.bos_token_id]:
            return own
    return _ids(tokenizer, text, special=True)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> EncodedPrompt:
    """A prompt with its ids; a conversation's text becomes the template's output.

    Turns without an answer are encoded as if the answer were empty.

    Raises:
        ValueError: the template refuses the conversation.
    """
    if not prompt.turns:
        return EncodedPrompt(prompt, encode_text(tokenizer, prompt.text))
    turns = prompt.turns
    while unanswered(turns) is not None:
        turns = with_answer(turns, "")
    try:
        text, ids = encode_turns(tokenizer, turns)
    except TemplateError as error:
        raise ValueError(
            f"the tokenizer's chat template refuses prompt {prompt.id} ({error}): leave it out, or "
            "set data.chat=off"
        ) from None
    return EncodedPrompt(replace(prompt, text=text), ids)


def encode_turns(tokenizer: PreTrainedTokenizerBase, turns: Conversation) -> tuple[str, list[int]]:
    """The text that the model reads before it answers the last of `turns`, and its token ids.

    The template itself writes the begin token, if the model wants one.

    Raises:
        TemplateError: the template refuses them.
    """
    text = rendered(tokenizer, turns)
    return text, _ids(tokenizer, text, special=False)


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Conversation) -> str:
    """The text that the model reads before it answers the last of `turns`."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = SAME_DAY + template
    return str(
        tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.text} for message in turns],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    )


def as_asked(
    prompts: Sequence[Prompt],
    chat: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    warn: bool = True,
) -> list[Prompt]:
    """The prompts as the model gets them: each user turn of a conversation, or plain texts.

    The second user turn of a conversation is a prompt of its own, with `/2` after the id.

    Args:
        chat: `auto`: prompts with turns are conversations if the tokenizer has a chat template;
            other prompts are their text or first user turn, unchanged. `on`: plain texts become
            user turns, too. `off`: there are no conversations.
        warn: log how many conversations lose turns because there is no template.

    Raises:
        ValueError: `chat` is none of these, or `on` without a template.
    """
    if chat not in CHAT:
        raise ValueError(f"unknown data.chat {chat!r}: expected one of {', '.join(CHAT)}")
    has_template = bool(tokenizer.chat_template)
    if chat == ON:
        if not has_template:
            raise ValueError(
                "data.chat=on needs a tokenizer with a chat template, and the target's has none: "
                "set data.chat=off, or choose an instruct model"
            )
        prompts = [
            prompt if prompt.turns else replace(prompt, turns=(Message(USER, prompt.text),))
            for prompt in prompts
        ]
    if chat == OFF or not has_template:
        if warn and chat == AUTO:
            _report_lost_turns(prompts)
        return [replace(prompt, turns=()) for prompt in prompts]
    return [turn for prompt in prompts for turn in _turns(prompt)]


def _turns(prompt: Prompt) -> list[Prompt]:
    if not prompt.turns:
        return [prompt]
    return [
        replace(prompt, id=prompt.id if number == 1 else f"{prompt.id}/{number}", turns=turns)
        for number, turns in enumerate(up_to_each_user_turn(prompt.turns), 1)
    ]


def _report_lost_turns(prompts: Sequence[Prompt]) -> None:
    longer = [prompt for prompt in prompts if len(up_to_each_user_turn(prompt.turns)) > 1]
    if longer:
        logger.warning(
            "only the first user turn of %d conversations is a prompt: the target's tokenizer has "
            "no chat template",
            len(longer),
        )


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """How prompts were presented to the model, for results."""

    mode: str  # of `CHAT`
    conversations: int  # prompts that went through the chat template
    template: str | None  # its hash; None: no prompt needed one


def chat_facts(
    chat: str, prompts: Sequence[EncodedPrompt], tokenizer: PreTrainedTokenizerBase
) -> ChatFacts:
    """How these prompts are presented to the model."""
    count = sum(bool(item.prompt.turns) for item in prompts)
    return ChatFacts(chat, count, template_hash(tokenizer) if count else None)


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short hash of the tokenizer's chat template."""
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()[:16]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
