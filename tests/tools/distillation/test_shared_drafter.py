"""Drafters that share their target's embeddings, as they are trained."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.sharing import load_sharing
from adaspec_rl.tools.distillation.drafter_folder import write_drafter
from adaspec_rl.tools.distillation.shared_drafter import Batch, SharedDrafter

SHAPE = dict(
    vocab_size=50,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
)


def drafter(config, *, reads_hidden: bool):
    """A random model, and a drafter of all its layers that speaks 30 of its 50 tokens."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = dict(model.state_dict())
    embedding = tensors.pop("model.embed_tokens.weight")
    head = tensors.pop("lm_head.weight", embedding)
    if reads_hidden:
        tensors["feature_norm.weight"] = torch.rand(48) + 0.5
        tensors["feature.weight"] = 0.3 * torch.randn(48, 48)
    architecture = Architecture.from_config(config.to_dict())
    made = SharedDrafter(architecture, tensors, embedding, head[:30], reads_hidden=reads_hidden)
    return model, made


def batch(lengths: list[int], features: bool) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size = sum(lengths)
    return Batch(
        tokens=torch.randint(50, (1, size), generator=generator),
        features=torch.randn(1, size, 48, generator=generator) if features else None,
        texts=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))[None],
        places=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
    )


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_the_layers_are_those_of_the_family(kind):
    shape = dict(SHAPE, head_dim=12) if kind is Qwen3Config else SHAPE
    model, made = drafter(kind(**shape), reads_hidden=False)
    packed = batch([9, 5, 12], features=False)
    with torch.no_grad():
        (states,) = made(packed, steps=1)
        logits = (states @ made.head.T)[0]
        for number in range(3):
            own = packed.texts[0] == number
            wanted = model(packed.tokens[:, own]).logits[0, :, :30]
            torch.testing.assert_close(logits[own], wanted, atol=2e-5, rtol=1e-4)


def test_a_step_reads_what_the_steps_before_it_made():
    _, made = drafter(LlamaConfig(**SHAPE), reads_hidden=True)
    packed = batch([14], features=True)
    assert packed.features is not None
    with torch.no_grad():
        states = made(packed, steps=4)
        for start in range(11):
            features = packed.features.clone()
            for step in range(4):
                drafted = Batch(packed.tokens, features, packed.texts, packed.places)
                place = start + step
                alone = made(drafted, steps=1)[0][:, place]
                torch.testing.assert_close(states[step][:, place], alone, atol=2e-5, rtol=1e-4)
                if place + 1 < 14:
                    features[:, place + 1] = alone


@pytest.mark.parametrize("rows", [None, [1, 4, 5, 20, 31, 49]])
@pytest.mark.parametrize("reads_hidden", [False, True])
def test_the_engine_computes_what_was_trained(reads_hidden, rows, tmp_path):
    config = LlamaConfig(**SHAPE, tie_word_embeddings=True)
    model, made = drafter(config, reads_hidden=reads_hidden)
    model.save_pretrained(tmp_path / "target")
    tokens = None if rows is None else np.array(rows)
    kept = range(50) if rows is None else rows
    write_drafter(
        tmp_path / "draft",
        config.to_dict(),
        made.tensors(),
        reads_hidden=reads_hidden,
        output_tokens=tokens,
        dtype=torch.float32,
    )
    target = load_model(
        str(tmp_path / "target"), LoadOptions(dtype=torch.float32, device="cpu"), name="target"
    )
    assert isinstance(target, LeanModel)
    engine = load_sharing(Checkpoint(tmp_path / "draft"), target, name="draft")
    packed = batch([12], features=reads_hidden)
    engine.reset()
    found = engine.extend(packed.tokens, features=packed.features)
    with torch.no_grad():
        (states,) = made(packed, steps=1)
    wanted = states @ made.embedding[list(kept)].T
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-4)
