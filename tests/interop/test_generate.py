import itertools
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

import adaspec_rl.interop as interop
from adaspec_rl.control.baselines.fixed import FixedLength
from tests.engine.checkpoints import VOCAB, new_model
from tests.interop.models import FAMILIES, LEAN, drafter_of, fresh, model_of, prompts


def both(family, rows=1, length=3, drafter=0, **options):
    """Texts of transformers, and ours by drafts of fixed length, with the same options."""
    tokens, mask = prompts(rows)
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, **options}
    given = {"input_ids": tokens, "attention_mask": mask}
    expected = model_of(family).generate(**given, **options)
    found = model_of(family).generate(
        **given,
        **options,
        custom_generate=interop.generate,
        draft_model=drafter_of(family),
        policy=FixedLength(length, drafter),
    )
    return expected, found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 3])
def test_greedy_texts_are_those_of_generate(family, rows):
    expected, found = both(family, rows, return_dict_in_generate=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert sum(map(sum, found.accepted)) > 0, "nothing was accepted, so nothing was tested"
    if family != "gemma2":  # whose text repeats one token
        assert sum(map(sum, found.accepted)) < sum(map(sum, found.drafted))
    runs = "transformers" if family not in LEAN else "torch"
    assert found.memory.runs.startswith(runs)


class Biased(LogitsProcessor):
    """Prefers tokens by how long the text is: wrong where it sees another text than it should."""

    def __call__(self, input_ids, scores):
        preferred = (input_ids.sum(1) + input_ids.shape[1]) % scores.shape[1]
        return scores.scatter_add(1, preferred[:, None], torch.full((len(scores), 1), 4.0))


class Third(StoppingCriteria):
    """Ends at the third token divisible by 5 that was written."""

    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, 9:] % 5 == 0).sum(1) >= 3


OPTIONS = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "no_repeat_ngram": {"no_repeat_ngram_size": 2},
    "bad_words": {"bad_words_ids": [[5], [7, 11], [20]]},
    "min_new_tokens": {"min_new_tokens": 12},
    "forced_eos": {"forced_eos_token_id": 2},
    "suppressed": {"suppress_tokens": [3, 4, 9], "begin_suppress_tokens": [8]},
    "sequence_bias": {"sequence_bias": [[[6], 2.5], [[9, 10], -3.0]]},
    "eos": {"eos_token_id": [2, 13, 17, 30, 44]},
    "max_length": {"max_length": 22, "max_new_tokens": None},
    "processor": {"logits_processor": LogitsProcessorList([Biased()])},
    "criteria": {"stopping_criteria": StoppingCriteriaList([Third()])},
    "decay": {"exponential_decay_length_penalty": (4, 1.2), "eos_token_id": [2, 13]},
    "allowed": {"prefix_allowed_tokens_fn": lambda row, text: list(range(row, VOCAB, 2))},
}


def merged(names):
    options = {}
    for name in names:
        options |= OPTIONS[name]
    return options


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_every_option_by_itself(family, rows, name):
    expected, found = both(family, rows, **OPTIONS[name])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("names", itertools.combinations(OPTIONS, 2), ids="+".join)
def test_options_in_pairs(names):
    number = list(itertools.combinations(OPTIONS, 2)).index(names)
    family, rows = ("llama", "opt")[number % 2], (1, 3)[number // 2 % 2]
    expected, found = both(family, rows, **merged(names))
    assert torch.equal(found, expected)


def test_several_texts_of_a_prompt():
    expected, found = both("qwen2", rows=2, num_return_sequences=2, do_sample=True, top_k=1)
    assert found.shape == expected.shape == (4, found.shape[1])
    assert torch.equal(found, expected)


def test_scores_and_logits_are_those_of_generate():
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    expected, found = both("llama", repetition_penalty=1.2, **wanted)
    assert len(found.scores) == len(found.logits) == len(expected.scores) == 24
    for ours, theirs in zip((*found.scores, *found.logits), (*expected.scores, *expected.logits)):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert sum(found.emitted[0]) == 24
    assert len(found.emitted[0]) == len(found.drafted[0]) == len(found.accepted[0]) < 24


def test_scores_of_a_row_that_has_ended_leave_padding_alone():
    wanted = {"return_dict_in_generate": True, "output_scores": True}
    _, found = both("llama", rows=3, eos_token_id=[2, 13, 17, 30, 44], **wanted)
    steps = found.sequences.shape[1] - 9
    assert len(found.scores) == steps
    for step, scores in enumerate(found.scores):
        padded = found.sequences[:, 9 + step] == 0
        assert (scores[padded].softmax(-1)[:, 0] == 1).all()


def test_sampling_has_the_distribution_of_the_target():
    model = fresh("llama", seed=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)
    options = {"do_sample": True, "temperature": 1.2, "top_k": 4, "min_p": 0.02, "top_p": 0.95}
    tokens, _ = prompts(1)
    count = 400
    torch.manual_seed(5)
    found = model.generate(
        tokens.expand(count, -1),
        max_new_tokens=2,
        pad_token_id=0,
        custom_generate=interop.generate,
        draft_model=drafter_of("llama"),
        policy=FixedLength(2),
        repetition_penalty=1.3,
        **options,
    )[:, -2:]
    exact = distribution(model, tokens, repetition_penalty=1.3, **options)
    seen = torch.zeros_like(exact).index_put_(tuple(found.T), torch.ones(count), accumulate=True)
    assert seen[exact == 0].sum() == 0
    common = exact * count >= 5
    expected = torch.cat([exact[common], exact[~common].sum()[None]]) * count
    observed = torch.cat([seen[common], seen[~common].sum()[None]])
    kept = expected > 0
    statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
    freedom = int(kept.sum()) - 1
    assert freedom > 7
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def distribution(model, tokens, **options):
    """Probability of every continuation of two tokens, by transformers' own scores, `[V, V]`."""

    def after(text):
        made = model.generate(
            text,
            max_new_tokens=1,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        return made.scores[0][0].softmax(-1)

    first = after(tokens)
    exact = torch.zeros(VOCAB, VOCAB)
    for token in first.nonzero()[:, 0].tolist():
        exact[token] = first[token] * after(torch.cat([tokens, torch.tensor([[token]])], 1))
    return exact


def sampled(seed, model=None, **options):
    model, drafter = model or model_of("mistral"), drafter_of("mistral")
    tokens, mask = prompts(2)
    torch.manual_seed(seed)  # now, as the models are made of random numbers
    return model.generate(
        tokens,
        attention_mask=mask,
        pad_token_id=0,
        max_new_tokens=16,
        do_sample=True,
        typical_p=0.9,
        custom_generate=interop.generate,
        draft_model=drafter,
        **options,
    )


def test_a_sampled_text_depends_on_the_seed_and_not_on_the_drafts():
    plain = sampled(1, policy=FixedLength(0))
    assert torch.equal(sampled(1, policy=FixedLength(3)), plain)
    assert torch.equal(sampled(1), plain)
    assert torch.equal(sampled(1, fresh("mistral")), plain)  # of a model that is made ready first
    assert not torch.equal(sampled(2), plain)


class Listener:
    """A streamer that writes down what it is told."""

    def __init__(self):
        self.told, self.ends = [], 0

    def put(self, value):
        self.told.append(value.tolist())

    def end(self):
        self.ends += 1


def test_a_streamer_hears_each_accepted_run_and_the_end():
    listener = Listener()
    _, found = both("llama", return_dict_in_generate=True)
    _, streamed = both("llama", streamer=listener)
    # Transformers' own run has told it, too: its prompt, 24 tokens and the end.
    own = listener.told[25:]
    assert own[0] == streamed[:, :9].tolist()
    assert sum(own[1:], []) == streamed[0, 9:].tolist()
    assert tuple(map(len, own[1:])) == found.emitted[0]
    assert listener.ends == 2


def test_a_streamer_of_several_texts_hears_them_column_by_column():
    listener = Listener()
    expected, found = both("gpt2", rows=3, streamer=listener, eos_token_id=[2, 13, 17, 30])
    half = len(listener.told) // 2
    assert listener.told[:half] == listener.told[half:]
    assert torch.equal(found, expected)


REFUSED = {
    "beam search": {"num_beams": 2},
    "use_cache=False": {"use_cache": False},
    "cache_implementation='static'": {"cache_implementation": "static"},
    "a cache of your own": {"past_key_values": DynamicCache()},
    "output_attentions": {"output_hidden_states": True, "return_dict_in_generate": True},
    "gaps": {"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1, 0]])},
    "position_ids": {"position_ids": torch.arange(3, 12)[None], "attention_mask": None},
    "the model input inputs_embeds": {"inputs_embeds": torch.zeros(1, 9, 32), "input_ids": None},
    "expected one of shared": {"weights": "copied"},
    "the context of": {"max_new_tokens": 1000},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_is_refused_in_a_sentence(what):
    tokens, _ = prompts(1)
    options = {"input_ids": tokens, "max_new_tokens": 4, "pad_token_id": 0, **REFUSED[what]}
    with pytest.raises(ValueError, match=what) as caught:
        model_of("gpt2").generate(custom_generate=interop.generate, **options)
    assert "\n" not in str(caught.value)


def test_stateful_and_encoder_decoder_models_are_refused():
    for kind, model in (("recurrent", MAMBA), ("encoder-decoder", T5)):
        made = model()
        with pytest.raises(ValueError, match=kind):
            made.generate(torch.tensor([[5, 6]]), custom_generate=interop.generate)


def MAMBA():
    return new_model("mamba", hidden_size=16, num_hidden_layers=1, state_size=4)


def T5():
    config = AutoConfig.for_model(
        "t5",
        d_model=16,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        d_kv=8,
        vocab_size=VOCAB,
        decoder_start_token_id=0,
    )
    return AutoModelForSeq2SeqLM.from_config(config)


def test_processors_of_a_whole_batch_are_refused():
    with pytest.raises(ValueError, match="EncoderRepetitionPenalty.*one prompt"):
        both("llama", rows=2, encoder_repetition_penalty=1.2)


def test_a_long_prompt_and_long_texts_with_a_window():
    for family in ("gemma2", "mistral"):
        tokens = torch.arange(180).remainder(VOCAB - 3).reshape(2, 90) + 3
        options = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": 0}
        expected = model_of(family).generate(tokens, **options)
        found = model_of(family).generate(
            tokens,
            custom_generate=interop.generate,
            draft_model=drafter_of(family),
            policy=FixedLength(4),
            weights="transformers",
            **options,
        )
        assert torch.equal(found, expected)


def test_the_default_policy_learns_what_pays_and_leaves_the_text_alone():
    tokens, mask = prompts(3)
    for rows in (1, 3):
        given = {"input_ids": tokens[:rows], "attention_mask": mask[:rows]}
        options = {"max_new_tokens": 60, "do_sample": False, "pad_token_id": 0}
        expected = model_of("llama").generate(**given, **options)
        for _ in range(2):
            found = model_of("llama").generate(
                **given,
                **options,
                custom_generate=interop.generate,
                draft_model=[drafter_of("llama"), "early_exit:1"] if rows == 1 else None,
            )
            assert torch.equal(found, expected)


def test_importing_is_light():
    code = """
import sys, adaspec_rl.interop
loaded = {name.split(".")[0] for name in sys.modules}
print(loaded & {"torch", "transformers", "hydra", "wandb", "stable_baselines3"})
adaspec_rl.interop.generate
loaded = {name.split(".")[0] for name in sys.modules}
print(loaded & {"hydra", "wandb", "stable_baselines3"})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["set()", "set()"]
