"""A draft made in one call is what forward passes one by one would make it, bit for bit."""

import pytest
import torch

from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import random_tokens
from tests.engine.cpu.test_bits import MODELS, every_execution, new

LENGTH = 6


def one_by_one(
    model: LeanModel, text: torch.Tensor, temperature: float, noise: torch.Tensor | None
) -> tuple[list[int], torch.Tensor]:
    """Drafted tokens, and the logits that each was chosen from."""
    unread, tokens, rows = text, [], []
    for depth in range(LENGTH):
        rows.append(model.extend(unread, keep=1)[0, 0])
        scores = rows[-1] / temperature + (0 if noise is None else noise[depth])
        tokens.append(int(scores.argmax()))
        unread = torch.tensor([tokens[-1:]])
    return tokens, torch.stack(rows)


@every_execution
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("width", [1, 40])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_one_call(family: str, execution: str, width: int, temperature: float) -> None:
    model = new(family, execution)
    text = random_tokens(1, 60)
    noise = torch.randn(LENGTH, model.vocab_size) if temperature < 1 else None
    model.prefill(text[:, :-width])
    tokens, logits = one_by_one(model, text[:, -width:], temperature, noise)
    length, hidden = model.lengths, model.last_hidden
    model.rollback(60 - width)
    drafted = model.draft(
        text[:, -width:], LENGTH, choices=model.vocab_size, temperature=temperature, noise=noise
    )
    assert drafted.tokens.tolist() == tokens and drafted.places is None
    assert torch.equal(drafted.logits, logits)
    assert torch.equal(drafted.hidden[-1:], hidden[0])
    assert torch.equal(model.lengths, length)
    # What stands in the cache is the same, too.
    assert torch.equal(model.extend(drafted.tokens[-1:, None]), model_after(model, text, tokens))


def model_after(model: LeanModel, text: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Logits after `text` and `tokens`, read anew."""
    model.reset()
    return model.extend(torch.cat([text, torch.tensor([tokens])], dim=1), keep=1)


def test_only_among_the_first_choices() -> None:
    model = new()
    text = random_tokens(1, 9)
    few = model.draft(text, 3, choices=5, temperature=1.0, noise=None)
    assert max(few.tokens.tolist()) < 5
    assert few.tokens.tolist() == few.logits[:, :5].argmax(-1).tolist()


def test_of_equal_scores_the_first_is_chosen() -> None:
    model = new()
    model.weights.head.data.zero_()
    assert model.draft(
        random_tokens(1, 3), 2, choices=40, temperature=1.0, noise=None
    ).tokens.tolist() == [0, 0]


def test_a_text_of_several_chunks_is_read_first() -> None:
    model = new()
    text = random_tokens(1, 1200)
    tokens, _ = one_by_one(model, text, 1.0, None)
    model.reset()
    drafted = model.draft(text, LENGTH, choices=model.vocab_size, temperature=1.0, noise=None)
    assert drafted.tokens.tolist() == tokens


def test_a_draft_beyond_the_context_is_refused() -> None:
    model = new()
    text = random_tokens(1, model.context_length - 2)
    model.draft(text, 3, choices=9, temperature=1.0, noise=None)
    model.rollback(0)
    with pytest.raises(ValueError, match="the context of llama holds 2100 tokens"):
        model.draft(text, 4, choices=9, temperature=1.0, noise=None)


def test_a_draft_from_what_is_not_finite_is_refused() -> None:
    model = new()
    model.weights.norm.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="llama"):
        model.draft(random_tokens(1, 3), 2, choices=40, temperature=1.0, noise=None)
