import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StopStringCriteria

import adaspec_rl.interop as interop


@pytest.fixture(scope="module")
def tiny():
    folder = interop.checkpoint("tiny:target")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("def main(", return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0, 20:40]
    return model, tokenizer, inputs, tokenizer.decode(written)[3:7]


def test_a_folder_in_the_hubs_form_generates_the_same(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model, tokenizer, inputs, stop = tiny
    folder = interop.push(tmp_path / "mine", draft_model="tiny:draft")
    options = {"max_new_tokens": 48, "do_sample": False, "stop_strings": [stop]}
    expected = model.generate(**inputs, **options, tokenizer=tokenizer)
    found = model.generate(
        **inputs,
        **options,
        tokenizer=tokenizer,
        custom_generate=str(folder),
        trust_remote_code=True,
    )
    assert torch.equal(found, expected)
    assert expected.shape[1] < inputs["input_ids"].shape[1] + 48, "the stop string did not come"


def test_stop_strings_end_a_text_at_the_very_token(tiny):
    model, tokenizer, inputs, stop = tiny
    options = {"max_new_tokens": 48, "do_sample": False}
    expected = model.generate(**inputs, **options, stop_strings=[stop], tokenizer=tokenizer)
    mine = {"custom_generate": interop.generate, "draft_model": "tiny:draft"}
    found = model.generate(**inputs, **options, **mine, stop_strings=[stop])
    assert torch.equal(found, expected)
    assert expected.shape[1] < inputs["input_ids"].shape[1] + 48
    criteria = [StopStringCriteria(tokenizer, [stop])]
    found = model.generate(**inputs, **options, **mine, stopping_criteria=criteria)
    assert torch.equal(found, expected)
    found = interop.generate_with(
        model, **inputs, **options, stop_strings=[stop], tokenizer=tokenizer
    )
    assert torch.equal(found, expected)


def test_a_folder_that_is_no_policy_is_refused(tiny, tmp_path):
    model, tokenizer, inputs, stop = tiny
    with pytest.raises(ValueError, match="no policy.json|not a policy bundle"):
        interop.push(tmp_path / "mine", policy=tmp_path)
    with pytest.raises(ValueError, match="expected the folder of a policy bundle"):
        model.generate(
            **inputs,
            custom_generate=interop.generate,
            policy=str(tmp_path / "nowhere"),
        )
