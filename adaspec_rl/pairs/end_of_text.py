"""The tokens at which a model's texts end."""

from transformers import PreTrainedTokenizerBase

from adaspec_rl.engine.checkpoint import Checkpoint

_ANSWER = "ANSWER"  # stands for the model's answer


def end_of_text_ids(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a text.

    These are the ids in the generation config, else in the model configuration, else in the
    tokenizer. With a chat template, the token that ends the template's turns also ends a text.
    """
    ids = checkpoint.generation_config().get("eos_token_id")
    if ids is None:
        ids = checkpoint.config().get("eos_token_id")
    if ids is None:
        ids = tokenizer.eos_token_id
    found = {*ids} if isinstance(ids, list) else {ids}
    return tuple(sorted(int(end) for end in found | {end_of_turn(tokenizer)} if end is not None))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts after an answer; None if there is none."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template is a program; it may fail here and work on other messages
        return None
    _, _, rest = text.rpartition(_ANSWER)
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"]
    first = ids[0] if ids else None
    return first if first in tokenizer.added_tokens_decoder else None
