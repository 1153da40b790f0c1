"""Tokenizers with a chat template."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from adaspec_rl.pairs.sources import EMBEDDED

# Begins every conversation with the begin token, as Llama's do.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer_with(template: str | None = TEMPLATE) -> PreTrainedTokenizerBase:
    """The embedded pair's, which puts a begin token (id 0) before every text."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "target")
    tokenizer.chat_template = template
    return tokenizer
