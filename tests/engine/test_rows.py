"""Rows of a batch that read different tokens: each as if it were alone."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaspec_rl.engine.extension import Extension, passes
from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import (
    CONTEXT,
    lean_configs,
    new_model,
    random_tokens,
    relative_error,
    spoil,
)

ROWS = 4
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def models(
    config: dict[str, Any], kernels: str, dtype: torch.dtype = torch.float32, bad: int | None = None
) -> tuple[LeanModel, LeanModel]:
    """The same model twice."""
    theirs = new_model(**config)
    if bad is not None:
        spoil(theirs, bad)
    made = [
        LeanModel.from_tensors(
            theirs.config.to_dict(),
            theirs.state_dict().items(),
            "small",
            kernels=kernels,
            dtype=dtype,
            prefill_chunk=24,
        )
        for _ in range(2)
    ]
    return made[0], made[1]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=lean_configs(), data=st.data())
@pytest.mark.parametrize("kernels", ["compiled", "torch"])
def test_rows_read_what_they_read_alone(
    kernels: str, config: dict[str, Any], data: st.DataObject
) -> None:
    batch, single = models(config, kernels)
    texts = random_tokens(ROWS, 80, data.draw(st.integers(0, 99)))
    wanted = []
    for text in texts:
        single.reset()
        wanted.append(single.extend(text[None])[0])
    batch.reset(ROWS)
    read = [0] * ROWS
    for _ in range(6):
        chosen = data.draw(st.sets(st.integers(0, ROWS - 1), min_size=1))
        parts = []
        for row in chosen:
            width = data.draw(st.sampled_from([1, 2, 5, 11, 30]))
            tokens = texts[row, read[row] : read[row] + width]
            if len(tokens):
                keep = data.draw(st.integers(0, len(tokens)))
                parts.append(Extension(row, tokens, keep, len(tokens)))
        for part, found in zip(parts, batch.extend_rows(parts) if parts else []):
            read[part.row] += part.width
            expected = wanted[part.row][read[part.row] - part.keep : read[part.row]]
            assert found.finite and len(found.hidden) == part.width
            if kernels == "compiled":
                assert torch.equal(found.logits, expected)
            elif part.keep:
                assert relative_error(found.logits, expected) <= 1e-4
        forgotten = data.draw(st.integers(0, ROWS - 1))
        read[forgotten] = data.draw(st.integers(0, read[forgotten]))
        batch.rollback_row(forgotten, read[forgotten])


def test_bits_are_those_of_one_row_in_bfloat16() -> None:
    batch, single = models(LLAMA, "compiled", torch.bfloat16)
    texts = random_tokens(ROWS, 60)
    batch.reset(ROWS)
    batch.extend_rows([Extension(row, texts[row, : 9 + row], 0) for row in range(ROWS)])
    parts = [Extension(row, texts[row, 9 + row : 20 + 4 * row], 3) for row in (3, 1)]
    for part, found in zip(parts, batch.extend_rows(parts)):
        single.reset()
        expected = single.extend(texts[part.row, None, : 20 + 4 * part.row], keep=3)[0]
        assert torch.equal(found.logits, expected)


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
def test_a_bad_row_spoils_no_other_and_can_be_taken_again(kernels: str) -> None:
    bad = 7
    batch, single = models(LLAMA, kernels, bad=bad)
    texts = random_tokens(3, 20)
    texts[texts == bad] = bad + 1
    batch.reset(2)
    spoiled = texts[1].clone()
    spoiled[5] = bad
    found = batch.extend_rows([Extension(0, texts[0], 20), Extension(1, spoiled, 20)])
    assert [part.finite for part in found] == [True, False]
    batch.free_row(1, erase=True)
    (again,) = batch.extend_rows([Extension(1, texts[2], 20)])
    (more,) = batch.extend_rows([Extension(0, texts[2], 20)])
    single.reset()
    expected = single.extend(torch.cat([texts[0], texts[2]])[None])[0]
    assert relative_error(torch.cat([found[0].logits, more.logits]), expected) <= 1e-4
    single.reset()
    assert again.finite
    assert relative_error(again.logits, single.extend(texts[2, None])[0]) <= 1e-4


@pytest.mark.parametrize("kernels", ["compiled", "torch"])
def test_every_row_may_be_as_long_as_the_context(kernels: str) -> None:
    batch, _ = models(LLAMA, kernels)
    text = random_tokens(1, CONTEXT)[0]
    batch.reset(2)
    batch.extend_rows([Extension(0, text[: CONTEXT - 1], 0), Extension(1, text[:3], 1)])
    batch.extend_rows([Extension(0, text[-1:], 1), Extension(1, text[3:13], 1)])
    with pytest.raises(ValueError, match=f"holds {CONTEXT} tokens: {CONTEXT} are in row 0 and 1"):
        batch.extend_rows([Extension(0, text[:1], 1)])


def test_passes_hold_no_more_than_they_may() -> None:
    tokens = torch.arange(30)
    parts = [Extension(0, tokens, 4, 20), Extension(1, tokens[:5], 5), Extension(2, tokens[:7], 1)]
    for padded, most in ((False, 8), (True, 8)):
        made = list(passes(parts, most, padded=padded))
        for together in made:
            widths = [part.width for part in together]
            assert max(widths) <= most and (padded or sum(widths) <= most)
        for part in parts:
            own = [cut for together in made for cut in together if cut.row == part.row]
            assert torch.equal(torch.cat([cut.tokens for cut in own]), part.tokens)
            assert sum(cut.keep for cut in own) == part.keep
            assert sum(cut.states for cut in own) == part.states


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bad_token_reaches_none_before_it(dtype: torch.dtype) -> None:
    bad = 7
    batch, single = models(LLAMA, "compiled", dtype, bad=bad)
    text = random_tokens(1, 9)[0]
    text[text == bad] = bad + 1
    for position in range(9):
        spoiled = text.clone()
        spoiled[position] = bad
        batch.reset()
        (found,) = batch.extend_rows([Extension(0, spoiled, 9)])
        finite = found.logits.isfinite().all(-1).tolist()
        assert finite == [True] * position + [False] * (9 - position)
