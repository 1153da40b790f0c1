"""Whether a target and a draft model have the same tokens, and which ones they share if not."""

import torch
from transformers import PreTrainedTokenizerBase

from adaspec_rl.engine.translated import Translation

_SPACES = {"\u2581": "\u0120"}  # SentencePiece's sign of a space, and that of byte-level BPE


def difference(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> str | None:
    """How the vocabularies differ, in a few words; None if they are the same."""
    wanted, found = ours.get_vocab(), theirs.get_vocab()
    if wanted == found:
        return None
    if len(wanted) != len(found):
        return f"{len(wanted)} tokens against {len(found)}"
    token = next(token for token in wanted if found.get(token) != wanted[token])
    other = found.get(token, "absent")
    return f"token {token!r} is {wanted[token]} in one and {other} in the other"


def translation(
    ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, vocab_size: int
) -> Translation:
    """What the tokens of a target, whose tokenizer is `ours`, are to a drafter.

    A common token has the same spelling, or ends a text. In place of any other token, the drafter
    reads the last one of those that spell it.

    Args:
        vocab_size: the target's, which may have more tokens than its tokenizer.
    """
    spelled = {_spelling(token): number for token, number in theirs.get_vocab().items()}
    common, missing = {}, []
    for token, number in ours.get_vocab().items():
        if number >= vocab_size:
            continue
        if (other := spelled.get(_spelling(token))) is not None:
            common[number] = other
        else:
            missing.append(number)
    end = theirs.eos_token_id
    if end is not None and ours.eos_token_id is not None:
        common[ours.eos_token_id] = end
    reads = torch.full((vocab_size,), end or 0, dtype=torch.long)
    texts = [str(ours.decode([number])) for number in missing]
    pieces = theirs(texts, add_special_tokens=False)["input_ids"] if texts else []
    for number, ids in zip(missing, pieces):
        if ids:
            reads[number] = ids[-1]
    numbers = torch.tensor(sorted(common), dtype=torch.long)
    reads[numbers] = torch.tensor([common[number] for number in numbers.tolist()])
    return Translation(reads, numbers)


def _spelling(token: str) -> str:
    for sign, other in _SPACES.items():
        token = token.replace(sign, other)
    return token
