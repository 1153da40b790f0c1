"""Any architecture through transformers' own forward."""

import inspect
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaspec_rl.engine.transformers_model import TransformersModel
from tests.engine.checkpoints import new_model, random_tokens, reference, relative_error, spoil

CONTEXT = 64
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **SMALL},
    "gpt_neox": {"model_type": "gpt_neox", "intermediate_size": 40, **SMALL},
    "gemma3": {
        "model_type": "gemma3_text",
        "intermediate_size": 40,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
        **SMALL,
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_extend_and_rollback_leave_no_trace(config: dict[str, Any], data: st.DataObject) -> None:
    theirs = new_model(**config)
    ours = TransformersModel(theirs, "small", prefill_chunk=data.draw(st.sampled_from([4, 512])))
    text = random_tokens(1, 0)
    for step in range(6):
        width = min(data.draw(st.integers(1, 20)), CONTEXT - text.shape[1])
        if width < 1:
            break
        keep = data.draw(st.integers(1, width))
        text = torch.cat([text, random_tokens(1, width, seed=step)], dim=1)
        logits = ours.extend(text[:, -width:], keep=keep)
        assert relative_error(logits, reference(theirs, text)[:, -keep:]) <= 1e-4
        kept = data.draw(st.integers(0, text.shape[1]))
        ours.rollback(kept)
        text = text[:, :kept]
        assert ours.lengths.tolist() == [kept]


def test_rows_of_one_length() -> None:
    theirs = new_model(**CONFIGS["gemma3"])
    ours = TransformersModel(theirs, "small")
    tokens = random_tokens(3, 20)
    expected = reference(theirs, tokens)
    assert relative_error(ours.prefill(tokens[:, :12]), expected[:, 11]) <= 1e-4
    ours.extend(random_tokens(3, 4))
    ours.rollback(torch.tensor([12, 12, 12]))
    assert relative_error(ours.extend(tokens[:, 12:]), expected[:, 12:]) <= 1e-4
    with pytest.raises(ValueError, match=r"all rows have one length.*\[3, 4, 4\]"):
        ours.rollback(torch.tensor([3, 4, 4]))


def test_limits_are_kept() -> None:
    ours = TransformersModel(new_model(**CONFIGS["gpt2"]), "small")
    ours.prefill(random_tokens(1, CONTEXT))
    with pytest.raises(ValueError, match=f"context of small holds {CONTEXT} tokens"):
        ours.extend(random_tokens(1, 1))
    with pytest.raises(ValueError, match="roll back to 65 tokens: expected 0 to 64"):
        ours.rollback(65)


def test_bad_logits_name_the_model_and_the_position() -> None:
    theirs = new_model(**CONFIGS["gpt_neox"])
    spoil(theirs, token=7)
    ours = TransformersModel(theirs, "small")
    ours.prefill(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(FloatingPointError, match="small: .*position 4"):
        ours.extend(torch.tensor([[7]]))


def test_recurrent_models_are_refused() -> None:
    theirs = new_model("mamba", hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match="mamba.* recurrent state"):
        TransformersModel(theirs, "small")


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_either_name(name: str) -> None:
    """Transformers renames the argument in 5.40, and warns about the old name before."""
    theirs = new_model(**CONFIGS["gpt_neox"])
    own = type(theirs)
    accepted = inspect.signature(own.forward).parameters
    native = "cache" if "cache" in accepted else "past_key_values"

    class Cached(own):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Any, cache: Any = None, **options: Any) -> Any:
            return own.forward(self, input_ids, **{native: cache}, **options)

    class Past(own):  # type: ignore[misc, valid-type]
        def forward(self, input_ids: Any, past_key_values: Any = None, **options: Any) -> Any:
            return own.forward(self, input_ids, **{native: past_key_values}, **options)

    theirs.__class__ = Cached if name == "cache" else Past
    ours, tokens = TransformersModel(theirs, "small"), random_tokens(1, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = [ours.extend(tokens[:, start : start + 5]) for start in range(0, 20, 5)]
    assert relative_error(torch.cat(parts, dim=1), reference(theirs, tokens)) <= 1e-4


def test_a_tuple_as_the_configured_result_does_not_matter() -> None:
    ours = TransformersModel(new_model(**CONFIGS["gpt2"], return_dict=False), "small")
    assert ours.prefill(random_tokens(1, 4)).shape == (1, 61)
