"""Draft models with a vocabulary of their own draft the tokens that both have."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.pairs.sources import EMBEDDED
from adaspec_rl.pairs.vocabularies import difference, translation
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer
from tests.engine.checkpoints import new_model, save

PROMPT = "def write(path, text):\n    with open(path"
COST = CostFeatures(0.0, 0.0, 0.0)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def write(pair: Pair, length: int, temperature: float = 0.0, rule: str = "coupled"):
    sampling = Sampling(temperature)
    session = pair.session(max_new_tokens=60, sampling=sampling, verification=rule)
    return generate(session, FixedLength(length), pair.tokenizer(PROMPT).input_ids, cost=COST)


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded draft model, with other numbers for most tokens."""
    folder = tmp_path_factory.mktemp("models") / "permuted"
    shutil.copytree(EMBEDDED / "draft", folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    plain = [number for number in vocab.values() if number not in special]
    places = np.arange(max(vocab.values()) + 1)
    places[plain] = np.random.default_rng(0).permutation(plain)
    tokenizer["model"]["vocab"] = {token: int(places[n]) for token, n in vocab.items()}
    path.write_text(json.dumps(tokenizer))
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            moved = weights[name].clone()
            moved[torch.from_numpy(places)] = weights[name][: len(places)]
            weights[name] = moved
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a vocabulary of some 300 tokens."""
    tokenizer = train_tokenizer(["def some(other): return text " * 50], 300)
    model = new_model("llama", vocab_size=len(tokenizer.get_vocab()), **SHAPE)
    folder = save(model, tmp_path_factory.mktemp("models") / "stranger")
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.mark.parametrize(
    ("kernels", "quantize"), [("compiled", None), ("compiled", "int8"), ("torch", None)]
)
def test_only_numbers_differ(permuted: Path, kernels: str, quantize: str | None) -> None:
    """Then the drafter drafts what it drafts in its own vocabulary."""
    options = LoadOptions(kernels=kernels, quantize=quantize)
    rounds = []
    for drafter in ("tiny:draft", str(permuted)):
        made = write(load_pair("x", "tiny:target", [drafter], options), 4, temperature=0.8)
        rounds.append([(round_.tokens, round_.accepted, round_.rejected) for round_ in made.rounds])
    assert rounds[0] == rounds[1]
    assert sum(accepted for _, accepted, _ in rounds[0]) > 5


def test_few_tokens_in_common(stranger: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        pair = load_pair("x", "tiny:target", [str(stranger)])
    assert "tokens that both have" in caplog.text and "4096 tokens against 2" in caplog.text
    common = set(pair.drafters[0].model.output_tokens.tolist())
    assert 100 < len(common) < 400
    for temperature in (0.0, 0.8):
        plain, drafted = (write(pair, length, temperature) for length in (0, 4))
        assert plain.tokens == drafted.tokens
        assert {token for round_ in drafted.rounds for token in round_.rejected} <= common
        assert len(drafted.rounds) > 10
    assert len(write(pair, 4, 0.8, "rejection").tokens) == 60


def test_what_a_token_is_read_as() -> None:
    """As the same token, or as the last one of those that spell it."""
    ours = load_pair("x", "tiny:target", ["ngram"]).tokenizer
    theirs = train_tokenizer(["def some(other): return text " * 50], 300)
    found = translation(ours, theirs, 4100)
    names = theirs.convert_ids_to_tokens(found.reads.tolist())
    shared = set(ours.get_vocab()) & set(theirs.get_vocab())
    assert {ours.convert_ids_to_tokens(n) for n in found.common.tolist()} >= shared
    assert all(names[ours.get_vocab()[token]] == token for token in shared)
    long = next(token for token in ours.get_vocab() if token.endswith("port") and len(token) > 5)
    assert names[ours.get_vocab()[long]] == "t"
    assert names[4099] == theirs.eos_token
    assert found.common.diff().min() > 0


def test_how_vocabularies_differ(permuted: Path, stranger: Path) -> None:
    ours = load_pair("x", "tiny:target", ["ngram"]).tokenizer
    assert difference(ours, ours) is None
    for folder, message in ((permuted, r"token .* is \d+ in one and \d+ in"), (stranger, "4096 t")):
        with pytest.raises(ValueError, match=f"differ .{message}.*choose a drafter of the target"):
            load_pair("x", "tiny:target", [str(folder)], LoadOptions(engine="transformers"))


def test_a_tokenizer_of_another_checkpoint_is_refused(stranger: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stranger, tmp_path / "mixed")
    save_tokenizer(train_tokenizer(["def other words in here " * 50], 320), folder)
    model = new_model("llama", vocab_size=100, **SHAPE)
    save(model, folder)
    with pytest.raises(ValueError, match="has 100 rows, but the tokenizer has a token"):
        load_pair("x", "tiny:target", [str(folder)])
