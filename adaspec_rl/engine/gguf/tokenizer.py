"""The tokenizer that a GGUF file's metadata describe.

The file names how its vocabulary splits text before merging (`tokenizer.ggml.pre`); the splits here
are those of the families' own `tokenizer.json`.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # token types

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_BYTE_LEVEL = ("gpt-2", "smollm")  # GPT-2's split; SmolLM first separates all digits
_WHOLE_FIRST = {"llama3", "llama-v3", "llama-bpe", "tekken"}  # whole words before any merge


def tokenizer_of(metadata: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer, with special tokens and chat template.

    Raises:
        ValueError: the kind of tokenizer or of splitting is not known.
    """
    about = {k.removeprefix("tokenizer.ggml."): v for k, v in metadata.items()}
    kind, split = about.get("model"), about.get("pre")
    if kind == "gpt2":
        tokenizer = _byte_level(about, split)
    elif kind == "llama":
        tokenizer = _sentencepiece(about)
    else:
        raise ValueError(f"tokenizer.ggml.model={kind!r} is not supported: expected gpt2 or llama")
    _add_tokens(tokenizer, about)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {
        f"{name}_token": about["tokens"][place]
        for name, key in names.items()
        if (place := about.get(f"{key}_token_id")) is not None
    }
    begins = about.get("add_bos_token", kind == "llama" or split in _WHOLE_FIRST)
    if begins and "bos_token" in special:
        begin = special["bos_token"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, about["bos_token_id"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def _vocabulary(about: Mapping[str, Any]) -> dict[str, int]:
    types = about.get("token_type") or [1] * len(about["tokens"])
    return {t: n for n, (t, kind) in enumerate(zip(about["tokens"], types)) if kind != UNUSED}


def _byte_level(about: Mapping[str, Any], split: str | None) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in about["merges"]]
    tokenizer = Tokenizer(
        models.BPE(_vocabulary(about), merges, ignore_merges=split in _WHOLE_FIRST)
    )
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    if split in ("qwen2", "deepseek-r1-qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre_tokenizer(split: str | None) -> pre.PreTokenizer:
    if split in _SPLITS:
        pattern = pre.Split(Regex(_SPLITS[split]), behavior="isolated")
        return pre.Sequence([pattern, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    byte_level = pre.ByteLevel(add_prefix_space=False)
    if split == "smollm":
        return pre.Sequence([pre.Digits(individual_digits=True), byte_level])
    if split == "gpt-2":
        return byte_level
    known = ", ".join((*_BYTE_LEVEL, *_SPLITS))
    raise ValueError(f"tokenizer.ggml.pre={split!r} is not supported: expected one of {known}")


def _sentencepiece(about: Mapping[str, Any]) -> Tokenizer:
    vocabulary = _vocabulary(about)
    unknown = about["tokens"][about.get("unknown_token_id", 0)]
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(vocabulary, about["scores"]),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    if about.get("add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to merge two tokens into another one, best scores first."""
    found = []
    for token, number in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                order = (-scores[number], vocabulary[left], vocabulary[right])
                found.append((order, (left, right)))
    return [merge for _, merge in sorted(found)]


def _add_tokens(tokenizer: Tokenizer, about: Mapping[str, Any]) -> None:
    typed = list(zip(about["tokens"], about.get("token_type") or ()))
    for kind, add in (
        (CONTROL, tokenizer.add_special_tokens),
        (USER_DEFINED, tokenizer.add_tokens),
    ):
        special = kind == CONTROL
        add([AddedToken(t, special=special, normalized=False) for t, k in typed if k == kind])
