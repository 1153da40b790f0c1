import copy
import gc
import weakref

import pytest
import torch
from transformers import AutoModelForCausalLM

import adaspec_rl.interop as interop
from adaspec_rl.interop.custom_generate.prepared import prepare
from tests.interop.models import LEAN, fresh, prompts


def generated(model, **options):
    tokens, _ = prompts(1)
    return model.generate(
        tokens,
        max_new_tokens=12,
        do_sample=False,
        pad_token_id=0,
        custom_generate=interop.generate,
        **options,
    )


@pytest.mark.parametrize("family", LEAN)
def test_only_queries_and_keys_exist_twice(family):
    model = fresh(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens, _ = prompts(1)
    expected = model(tokens).logits
    memory = prepare(model, []).memory
    doubled = ("q_proj", "k_proj", "q_norm", "k_norm")
    twice = sum(t.nbytes for n, t in before.items() if any(part in n for part in doubled))
    norms = 0 if family != "qwen3" else 2 * (4 + 2 - 2) * 8 * 4  # a row for each head
    biases = 0
    assert twice <= memory.added <= twice + norms + biases
    assert memory.added < 0.25 * memory.model
    assert memory.drafters == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    torch.testing.assert_close(model(tokens).logits, expected)


def test_a_model_can_be_saved_and_copied_afterwards(tmp_path):
    model = fresh("llama")
    found = generated(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert torch.equal(generated(again), found)
    assert torch.equal(generated(copy.deepcopy(model)), found)


@pytest.mark.parametrize("weights", ["shared", "packed"])
def test_changed_weights_are_read_anew(weights):
    model = fresh("llama")
    before = generated(model, weights=weights)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(-2.0)
    after = generated(model, weights=weights)
    assert not torch.equal(after, before)
    assert torch.equal(after, generated(model, weights="transformers"))


def test_a_second_copy_is_made_only_when_it_is_asked_for():
    model = fresh("qwen2")
    size = prepare(model, [], "transformers").memory.model
    assert prepare(model, [], "transformers").memory.added == 0
    assert prepare(model, []).memory.added < size / 4
    assert prepare(model, [], "packed").memory.added > size / 2
    assert "MiB were added" in str(prepare(model, []).memory)


def test_what_was_prepared_serves_the_next_call_and_keeps_no_model_alive():
    model = fresh("gpt2")
    assert prepare(model, []) is prepare(model, [])
    assert prepare(model, []).target is prepare(model, ["ngram"][:0]).target
    generated(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_packed_weights_need_an_architecture_of_the_lean_engine():
    with pytest.raises(ValueError, match="packed.*lean engine.*gpt2"):
        prepare(fresh("gpt2"), [], "packed")


def test_weights_on_several_devices_or_under_hooks_are_left_alone():
    model = fresh("llama")
    model.model.layers[0]._hf_hook = object()
    assert prepare(model, []).memory.added == 0


def test_a_module_that_computes_otherwise_runs_by_itself(caplog):
    model = fresh("llama")
    forward = model.model.norm.forward
    model.model.norm.forward = lambda x: forward(x) * 1.5
    assert prepare(model, []).memory.runs.startswith("transformers")
    assert "differ from its own" in caplog.text
