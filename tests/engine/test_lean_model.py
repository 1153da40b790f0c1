"""The lean engine computes what transformers computes, however its calls are cut up."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import (
    CONTEXT,
    VOCAB,
    lean_configs,
    new_model,
    random_tokens,
    reference,
    relative_error,
    spoil,
)

TOLERANCE = 1e-4
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 6}
quick = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test goes with both."""
    monkeypatch.setitem(KERNELS, "kernels", request.param)


KERNELS = {"kernels": "auto"}


def lean(model: PreTrainedModel, **options: Any) -> LeanModel:
    config = model.config.to_dict()
    return LeanModel.from_tensors(
        config, model.state_dict().items(), "small", **{**KERNELS, **options}
    )


def lean_pair(config: dict[str, Any], **options: Any) -> tuple[LeanModel, PreTrainedModel]:
    theirs = new_model(**config)
    return lean(theirs, **options), theirs


@settings(parent=quick, max_examples=40)
@given(config=lean_configs(), seed=st.integers(0, 99), widths=st.data())
def test_same_logits_as_transformers(
    config: dict[str, Any], seed: int, widths: st.DataObject
) -> None:
    theirs = new_model(seed=seed, **config)
    ours = lean(theirs, prefill_chunk=widths.draw(st.sampled_from([16, 512])))
    tokens = random_tokens(1, 90, seed)
    expected = reference(theirs, tokens)
    prompt = widths.draw(st.integers(1, 60))
    logits = [ours.prefill(tokens[:, :prompt])[:, None]]
    done = prompt
    while done < 90:
        width = min(widths.draw(st.sampled_from([1, 2, 7, 40])), 90 - done)
        logits.append(ours.extend(tokens[:, done : done + width]))
        done += width
    assert relative_error(torch.cat(logits, 1), expected[:, prompt - 1 :]) <= TOLERANCE


def test_chunked_prefill_is_one_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = lean_pair(LLAMA, prefill_chunk=8)
    forward, sizes = ours.forward, []

    def counted(tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        sizes.append(tokens.numel())
        return forward(tokens, **options)

    monkeypatch.setattr(ours, "forward", counted)
    tokens = random_tokens(2, 29)
    expected = reference(theirs, tokens)
    assert relative_error(ours.prefill(tokens), expected[:, -1]) <= TOLERANCE
    for keep in (None, 1, 11, 29):
        ours.reset(2)
        logits = ours.extend(tokens, keep=keep)
        assert relative_error(logits, expected[:, 29 - (keep or 29) :]) <= TOLERANCE
    assert sizes == 5 * [*7 * [8], 2]  # of all rows together


@pytest.mark.parametrize("config", [LLAMA, MISTRAL], ids=["full", "windows"])
@quick
@given(data=st.data())
def test_rollback_leaves_no_trace(config: dict[str, Any], data: st.DataObject) -> None:
    ours, theirs = lean_pair(config)
    text = random_tokens(1, 0)
    for step in range(8):
        width = min(data.draw(st.integers(1, 20)), CONTEXT - text.shape[1])
        if width < 1:
            break
        text = torch.cat([text, random_tokens(1, width, seed=step)], dim=1)
        logits = ours.extend(text[:, -width:])
        assert relative_error(logits, reference(theirs, text)[:, -width:]) <= TOLERANCE
        kept = data.draw(st.integers(0, text.shape[1]))
        ours.rollback(kept)
        text = text[:, :kept]
        assert ours.lengths.tolist() == [kept]


@pytest.mark.parametrize("config", [LLAMA, MISTRAL], ids=["full", "windows"])
@quick
@given(data=st.data())
def test_rows_of_different_lengths_are_independent(
    config: dict[str, Any], data: st.DataObject
) -> None:
    ours, theirs = lean_pair(config)
    batch = data.draw(st.integers(2, 4))
    tokens = random_tokens(batch, 25)
    ours.prefill(tokens)
    kept = data.draw(st.lists(st.integers(0, 25), min_size=batch, max_size=batch))
    ours.rollback(torch.tensor(kept))
    new = random_tokens(batch, 12, seed=1)
    logits = torch.cat([ours.extend(new[:, :5]), ours.extend(new[:, 5:])], dim=1)
    for row, length in enumerate(kept):
        text = torch.cat([tokens[row, :length], new[row]])[None]
        expected = reference(theirs, text)[:, length:]
        assert relative_error(logits[row : row + 1], expected) <= TOLERANCE
    assert ours.lengths.tolist() == [length + 12 for length in kept]


@pytest.mark.parametrize("config", [LLAMA, MISTRAL], ids=["full", "windows"])
def test_branches_of_a_tree_run_side_by_side(config: dict[str, Any]) -> None:
    """Two-token branches off every prefix of a text, in two forwards over one cache."""
    ours, theirs = lean_pair(config)
    prefix, branches = 10, 9  # branch b continues the first b + 1 tokens
    text = random_tokens(1, prefix)
    ours.prefill(text)
    branch_tokens = random_tokens(branches, 2, seed=3)
    sees_text = torch.arange(prefix)[None] <= torch.arange(branches)[:, None]
    own = torch.eye(branches, dtype=torch.bool)
    starts = torch.arange(1, branches + 1)[None]
    first = ours.forward(
        branch_tokens[None, :, 0], positions=starts, mask=torch.cat([sees_text, own], 1)[None]
    )
    mask = torch.cat([sees_text, own, own], 1)[None]
    second = ours.forward(branch_tokens[None, :, 1], positions=starts + 1, mask=mask)
    for branch in range(branches):
        whole = torch.cat([text[0, : branch + 1], branch_tokens[branch]])[None]
        logits = torch.stack([first[0, branch], second[0, branch]])[None]
        assert relative_error(logits, reference(theirs, whole)[:, -2:]) <= TOLERANCE
    ours.rollback(prefix)  # and the tree leaves no trace
    more = random_tokens(1, 15, seed=4)
    expected = reference(theirs, torch.cat([text, more], 1))[:, prefix:]
    assert relative_error(ours.extend(more), expected) <= TOLERANCE


def test_early_exit_shares_the_cache_of_the_first_layers() -> None:
    theirs = new_model(**LLAMA)
    ours = lean(theirs)
    tokens = random_tokens(1, 20)
    ours.prefill(tokens[:, :15])
    early = ours.forward(tokens[:, 15:], layers=2)
    ours.rollback(15)
    whole = ours.extend(tokens[:, 15:])
    theirs_whole = reference(theirs, tokens)[:, 15:]
    theirs.model.layers = theirs.model.layers[:2]
    theirs.config.num_hidden_layers = 2
    theirs_early = reference(theirs, tokens)[:, 15:]
    assert relative_error(early, theirs_early) <= TOLERANCE
    assert relative_error(whole, theirs_whole) <= TOLERANCE
    assert relative_error(theirs_early, theirs_whole) > 0.01


def test_last_hidden_is_what_the_logits_come_from() -> None:
    ours, theirs = lean_pair(LLAMA)
    logits = ours.extend(random_tokens(1, 9), keep=3)
    assert ours.last_hidden is not None and ours.last_hidden.shape == (1, 3, 24)
    head = theirs.get_output_embeddings().weight.detach()
    assert relative_error(ours.last_hidden @ head.T, logits) <= TOLERANCE


def test_bfloat16_is_close() -> None:
    theirs = new_model(**LLAMA)
    ours = lean(theirs, dtype=torch.bfloat16)
    tokens = random_tokens(1, 40)
    logits = torch.cat([ours.extend(tokens[:, :30]), ours.extend(tokens[:, 30:])], dim=1)
    assert logits.dtype == torch.float32
    assert relative_error(logits, reference(theirs, tokens)) < 0.1


def test_cache_grows_up_to_the_context() -> None:
    ours, theirs = lean_pair({**LLAMA, "max_position_embeddings": 3000}, prefill_chunk=700)
    tokens = random_tokens(1, 2100)
    ours.prefill(tokens[:, :900])
    logits = ours.extend(tokens[:, 900:], keep=50)
    assert relative_error(logits, reference(theirs, tokens)[:, -50:]) <= TOLERANCE


def test_memory_that_is_asked_for_does_not_move() -> None:
    ours, _ = lean_pair({**LLAMA, "max_position_embeddings": 3000})
    ours.reset(2, 1500)
    before = ours._cache.data.data_ptr()
    ours.prefill(random_tokens(2, 1499))
    ours.extend(random_tokens(2, 1))
    assert ours._cache.data.data_ptr() == before
    assert ours._cache.capacity < 1600


def test_context_is_a_limit() -> None:
    ours, _ = lean_pair(LLAMA)
    ours.prefill(random_tokens(1, CONTEXT - 1))
    ours.extend(random_tokens(1, 1))
    with pytest.raises(ValueError, match=f"holds {CONTEXT} tokens"):
        ours.extend(random_tokens(1, 1))
    with pytest.raises(ValueError, match=f"holds {CONTEXT} tokens"):
        ours.prefill(random_tokens(1, CONTEXT + 1))


def test_bad_shapes_and_rollbacks_are_refused() -> None:
    ours, _ = lean_pair(LLAMA)
    with pytest.raises(ValueError, match=r"expected \[1, at least 1\]"):
        ours.extend(random_tokens(2, 3))
    with pytest.raises(ValueError, match=r"expected \[1, at least 1\]"):
        ours.extend(random_tokens(1, 0))
    ours.extend(random_tokens(1, 3))
    with pytest.raises(ValueError, match=r"roll back to \[4\] tokens: the rows hold \[3\]"):
        ours.rollback(4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_logits_name_the_model_and_the_position(bad: float) -> None:
    theirs = new_model(**LLAMA, tie_word_embeddings=False)
    spoil(theirs, token=7, value=bad)
    ours = lean(theirs)
    ours.prefill(torch.zeros(2, 5, dtype=torch.long))
    ours.extend(torch.tensor([[1, 2], [3, 4]]))
    with pytest.raises(FloatingPointError, match="small: .*position 7"):
        ours.extend(torch.tensor([[1], [7]]))
    ours.reset(2)  # and nothing of it stays in the cache, not even behind a mask
    ours.extend(torch.zeros(2, 6, dtype=torch.long))
    ours.rollback(torch.tensor([6, 0]))
    assert ours.extend(torch.ones(2, 1, dtype=torch.long)).isfinite().all()


def test_vocabulary_and_names() -> None:
    ours, _ = lean_pair(LLAMA)
    assert (ours.name, ours.vocab_size, ours.context_length) == ("small", VOCAB, CONTEXT)
    assert ours.device == torch.device("cpu")


def test_dynamic_scaling_beyond_the_trained_context_is_refused() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    theirs = new_model(**LLAMA, rope_parameters=rope)
    with pytest.raises(ValueError, match="dynamic"):
        lean(theirs, context_length=CONTEXT + 1)
