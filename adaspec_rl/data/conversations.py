"""Conversations: messages of a user and a model."""

from dataclasses import dataclass, replace

SYSTEM, USER, ASSISTANT = ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: str
    text: str


Conversation = tuple[Message, ...]


def read_conversation(turns: list[object]) -> Conversation:
    """A list of texts (user turns) or of messages with a `role` and `content`.

    Raises:
        ValueError: `turns` is neither, a message is empty, or there is no user turn.
    """
    found = tuple(_message(turn, number) for number, turn in enumerate(turns, 1))
    if not any(message.role == USER for message in found):
        raise ValueError("holds no user turn")
    return found


def _message(turn: object, number: int) -> Message:
    role, text = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (USER, turn)
    if role not in ROLES:
        raise ValueError(
            f"has the role {role!r:.40} in turn {number}: expected one of {', '.join(ROLES)}"
        )
    if not isinstance(text, str):
        raise ValueError(
            f"has no text in turn {number}: expected a text, or an object with a role and a "
            "content that is a text"
        )
    if not text and role != ASSISTANT:
        raise ValueError(f"is empty in turn {number}: give it a text")
    return Message(role, text)


def first_user_text(conversation: Conversation) -> str:
    """The first user turn's text."""
    return next(message.text for message in conversation if message.role == USER)


def up_to_each_user_turn(conversation: Conversation) -> list[Conversation]:
    """For each user turn, the conversation up to and including it."""
    return [conversation[: n + 1] for n, message in enumerate(conversation) if message.role == USER]


def unanswered(conversation: Conversation) -> Conversation | None:
    """The conversation up to its first unanswered user turn, which another user turn follows.

    None if every user turn but the last is answered."""
    for n, (message, following) in enumerate(zip(conversation, conversation[1:]), 1):
        if message.role == following.role == USER:
            return conversation[:n]
    return None


def with_answer(conversation: Conversation, text: str) -> Conversation:
    """The conversation with `text` inserted as its first missing answer."""
    asked = unanswered(conversation)
    assert asked is not None
    return (*asked, Message(ASSISTANT, text), *conversation[len(asked) :])


def dressed(conversation: Conversation, template: str) -> Conversation:
    """The conversation with each user turn put into `template`, at `{text}`."""
    return tuple(
        replace(message, text=template.replace("{text}", message.text))
        if message.role == USER
        else message
        for message in conversation
    )
