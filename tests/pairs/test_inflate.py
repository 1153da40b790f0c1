"""Inflation: the same function in a bigger shape, and the bytes of the real models."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.pairs.inflate import SHAPES, Inflation, Shape, load_inflated, write_inflated
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer

VOCAB = 300
TEXTS = ["a small text to learn a small tokenizer from", "and another one, just as small"]
GROWN = Shape(
    vocab_size=320,
    hidden_size=80,
    intermediate_size=112,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=24,
    tie_word_embeddings=False,
    max_position_embeddings=512,
)
SAME_VOCABULARY = replace(GROWN, vocab_size=VOCAB)
TIED = replace(GROWN, tie_word_embeddings=True)
SPLIT_GROUPS = replace(GROWN, num_key_value_heads=8)  # one query each: old keys are copied


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama, sharp enough that its greedy text wanders."""
    folder = tmp_path_factory.mktemp("source")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    save_tokenizer(train_tokenizer(TEXTS, VOCAB), folder)
    return folder


def inflate(source: Path, shape: Shape, folder: Path) -> LlamaForCausalLM:
    write_inflated(Checkpoint(source), shape, folder, dtype=torch.float32, shard_bytes=100_000)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("shape", [GROWN, SAME_VOCABULARY, TIED, SPLIT_GROUPS])
def test_inflation_preserves_logits_and_greedy_text(
    source: Path, shape: Shape, tmp_path: Path
) -> None:
    small = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    big = inflate(source, shape, tmp_path)
    tokens = torch.randint(VOCAB, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = small(tokens).logits, big(tokens).logits
    assert found.shape[-1] == shape.vocab_size
    scale = float(expected.abs().max())
    torch.testing.assert_close(found[..., :VOCAB], expected, rtol=0, atol=1e-5 * scale)
    assert found.softmax(-1)[..., VOCAB:].sum() == 0
    options = dict(max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0)
    mask = torch.ones_like(tokens)
    texts = [model.generate(tokens, attention_mask=mask, **options) for model in (small, big)]
    assert texts[0].tolist() == texts[1].tolist()
    assert len(set(texts[0][0, 40:].tolist())) > 5  # a constant text would prove little


def test_every_weight_is_used_but_output_projections(source: Path) -> None:
    """No cost is saved by zeros: only output projections, and rows that they need, hold them."""
    tensors = _tensors(source, GROWN)
    for name, tensor in tensors.items():
        zeros = float((tensor == 0).float().mean())
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert zeros > 0.3, name
        elif name.endswith(
            ("k_proj.weight", "v_proj.weight", "gate_proj.weight", "lm_head.weight")
        ):
            assert zeros < 0.02, name


def test_original_layers_are_spread_evenly(source: Path) -> None:
    tensors = _tensors(source, GROWN)  # 3 layers become 5
    live = [
        index
        for index in range(GROWN.num_hidden_layers)
        if tensors[f"model.layers.{index}.mlp.down_proj.weight"].any()
    ]
    assert live == [0, 1, 3]


def _tensors(source: Path, shape: Shape) -> dict[str, torch.Tensor]:
    small = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    inflation = Inflation(Checkpoint(source).config(), shape)
    made = inflation.tensors(
        small.state_dict(), dtype=torch.float32, device=torch.device("cpu"), seed=3
    )
    return dict(made)


def test_lean_engine_runs_the_same_model(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "grown", GROWN)
    small = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    big = load_inflated(
        Checkpoint(source), "grown", dtype=torch.float32, device=torch.device("cpu"), name="small"
    )
    tokens = torch.randint(VOCAB, (1, 30), generator=torch.Generator().manual_seed(2))
    big.reset()
    found = big.extend(tokens)
    with torch.inference_mode():
        expected = small(tokens).logits
    scale = float(expected.abs().max())
    torch.testing.assert_close(found[..., :VOCAB], expected, rtol=0, atol=1e-5 * scale)
    assert "inflated" in big.name


def test_inflated_pair_is_labelled_and_has_its_own_fingerprint(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, "grown", GROWN)
    plain = load_pair("mine", str(source), [str(source)])
    grown = load_pair("mine", str(source), [str(source)], shape="grown", drafter_shape="grown")
    assert "inflated" in grown.name
    assert grown.fingerprint != plain.fingerprint
    assert grown.target.vocab_size == GROWN.vocab_size


@pytest.mark.parametrize(("name", "billions"), [("llama8b", 8.0303), ("llama1b", 1.2358)])
def test_shapes_have_the_real_models_parameters(name: str, billions: float) -> None:
    shape = SHAPES[name]
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.03)
    config = AutoConfig.for_model(
        "llama", **{key: getattr(shape, key) for key in Shape.__dataclass_fields__}
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert shape.tensor_shapes() == shapes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 40}, "hidden_size=48 of the source does not fit"),
        ({"head_dim": 20}, "no multiple of the source's 12"),
        ({"num_attention_heads": 1, "num_key_value_heads": 1}, "needs num_key_value_heads=4"),
        ({"hidden_size": 48}, "larger hidden_size"),
    ],
)
def test_refuses_what_does_not_fit(source: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Inflation(Checkpoint(source).config(), replace(GROWN, **changes))


def test_refuses_other_families(source: Path) -> None:
    with pytest.raises(ValueError, match="needs a Llama, got model_type='gpt2'"):
        Inflation({**Checkpoint(source).config(), "model_type": "gpt2"}, GROWN)


def test_refuses_half_precision(source: Path) -> None:
    inflation = Inflation(Checkpoint(source).config(), GROWN)
    with pytest.raises(ValueError, match="float32, bfloat16, got torch.float16"):
        next(inflation.tensors({}, dtype=torch.float16, device=torch.device("cpu")))
