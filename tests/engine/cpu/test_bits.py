"""Logits of the compiled decoder are the same bits, however a text is read."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import new_model, random_tokens

CONTEXT = 2100
SHAPE: dict[str, Any] = {
    "hidden_size": 36,  # no multiple of a vector, and heads neither
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "max_position_embeddings": CONTEXT,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SHAPE},
    "qwen2": {"model_type": "qwen2", **SHAPE, "head_dim": 32, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **SHAPE, "num_attention_heads": 10},
    "window": {"model_type": "mistral", **SHAPE, "sliding_window": 50},
}
EXECUTIONS = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}
every_execution = pytest.mark.parametrize("execution", EXECUTIONS)


def new(family: str = "llama", execution: str = "float32") -> LeanModel:
    model = new_model(**MODELS[family])
    config, tensors = model.config.to_dict(), model.state_dict().items()
    options = {"kernels": "compiled", **EXECUTIONS[execution]}
    return LeanModel.from_tensors(config, tensors, family, **options)


def step_by_step(model: LeanModel, text: torch.Tensor) -> torch.Tensor:
    """Logits `[W, V]` after each token of `text` `[1, W]`, read one at a time."""
    model.reset()
    return torch.cat([model.extend(text[:, i : i + 1])[0] for i in range(text.shape[1])])


@every_execution
@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_however_a_text_is_cut(family: str, execution: str, data: st.DataObject) -> None:
    model = new(family, execution)
    text = random_tokens(1, 150)
    expected = step_by_step(model, text)
    model.reset()
    parts, start = [], 0
    while start < 150:
        width = data.draw(st.one_of(st.integers(1, 17), st.integers(1, 90)))
        parts.append(model.extend(text[:, start : start + width])[0])
        start += width
    assert torch.equal(torch.cat(parts), expected)


@every_execution
@pytest.mark.parametrize("family", MODELS)
def test_whatever_is_read_beside_it(family: str, execution: str) -> None:
    model = new(family, execution)
    texts = random_tokens(8, 80)
    alone = torch.stack([step_by_step(model, text[None]) for text in texts])
    for batch in (2, 3, 8):
        model.reset(batch)
        lengths = torch.arange(batch) * 7 + 3
        model.extend(texts[:batch, :60])
        model.rollback(lengths)  # rows of different lengths
        for width in (1, 2, 5):
            new_tokens = torch.stack([texts[b, n : n + width] for b, n in enumerate(lengths)])
            logits = model.extend(new_tokens)
            for b, n in enumerate(lengths):
                assert torch.equal(logits[b], alone[b, n : n + width]), (batch, width, b)
            lengths = lengths + width


@every_execution
def test_far_into_a_text(execution: str) -> None:
    model = new(execution=execution)
    text = random_tokens(1, 2000)
    model.prefill(text)
    for start in (1984, 1023, 500, 128, 127):
        found = {}
        for width in (1, 2, 3, 8, 16):
            model.rollback(start)
            cuts = range(start, start + 16, width)
            found[width] = torch.cat(
                [model.extend(text[:, i : min(i + width, start + 16)])[0] for i in cuts]
            )
        assert all(torch.equal(found[1], other) for other in found.values()), start


@every_execution
def test_with_any_number_of_threads(execution: str) -> None:
    model, text = new(execution=execution), random_tokens(1, 700)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            wide = model.prefill(text)
            model.rollback(699)
            found.append((wide, model.extend(text[:, -1:])[:, 0]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(logits, found[0][0]) for pair in found for logits in pair)


@every_execution
@pytest.mark.parametrize("family", MODELS)
def test_on_the_branches_of_a_tree(family: str, execution: str) -> None:
    """Two branches side by side, whose tokens lie in other slots than in a text of their own."""
    model = new(family, execution)
    text, first, second = random_tokens(1, 70), random_tokens(1, 3, 1), random_tokens(1, 3, 2)
    expected = []
    for branch in (first, second):
        model.prefill(text)
        expected.append(torch.cat([model.extend(branch[:, i : i + 1])[0] for i in range(3)]))
    model.prefill(text)
    tokens = torch.cat([first, second], dim=1)
    positions = torch.tensor([[70, 71, 72, 70, 71, 72]])
    mask = torch.zeros(1, 6, 76, dtype=torch.bool)
    mask[:, :, :70] = True
    mask[:, :3, 70:73] = mask[:, 3:, 73:] = torch.ones(3, 3).tril().bool()
    logits = model.forward(tokens, positions=positions, mask=mask)[0]
    assert torch.equal(logits, torch.cat(expected))


def test_a_copy_gives_the_same() -> None:
    import copy

    model, text = new(), random_tokens(1, 30)
    expected = model.prefill(text)
    twin = copy.deepcopy(model)
    del model
    assert torch.equal(twin.prefill(text), expected)


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    model = new()
    for token in (-1, 61):
        with pytest.raises(IndexError, match="expected 0 to 60"):
            model.prefill(torch.tensor([[3, token]]))
