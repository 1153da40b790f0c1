"""The embedded pair is what it claims to be, and pairs that do not fit are refused."""

import itertools
import json
import shutil
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaspec_rl.config import EngineConfig, ModelConfig
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.corpus import DOMAINS
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.memory import GIB, weight_bytes
from adaspec_rl.from_config import drafter_source, pair_from
from adaspec_rl.pairs.fingerprint import fingerprint
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import EMBEDDED

COST = CostFeatures(0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", "tiny:target", ["tiny:draft", "tiny:code"])


def test_the_embedded_weights_are_small_and_load_in_transformers():
    files = list(EMBEDDED.rglob("*.safetensors"))
    assert len(files) == 4 and sum(path.stat().st_size for path in files) <= 32 * 2**20
    sizes = {}
    for name in ("target", "draft", "code"):
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED / name)
        assert AutoTokenizer.from_pretrained(EMBEDDED / name).vocab_size == 4096
        assert model.dtype == torch.bfloat16 and model.config.max_position_embeddings >= 1024
        sizes[name] = model.num_parameters()
    assert 9e6 <= sizes["target"] <= 12e6
    assert 0.7e6 <= sizes["draft"] <= 1.2e6 and 0.7e6 <= sizes["code"] <= 1.2e6


@pytest.mark.slow
def test_greedy_text_is_that_of_generate_for_every_draft_length(pair):
    reference = AutoModelForCausalLM.from_pretrained(EMBEDDED / "target", dtype=torch.float32)
    session = pair.session(max_new_tokens=48, sampling=Sampling())
    for prompt in balanced(embedded_prompts("test"), 3):
        ids = pair.encode(prompt.text)
        wanted = reference.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=48,
            do_sample=False,
        )[0, len(ids) :].tolist()
        for length, drafter in itertools.product((0, 1, 3, 8), (0, 1)):
            made = generate(session, FixedLength(length, drafter), ids, cost=COST)
            assert made.tokens == wanted, (prompt.id, length, drafter)


def test_drafters_are_useful_in_every_domain(pair):
    session = pair.session(max_new_tokens=48, sampling=Sampling())
    for domain in DOMAINS:
        prompts = [p for p in embedded_prompts("test") if p.domain == domain][:6]
        rounds = []
        for prompt in prompts:
            session.start(pair.encode(prompt.text))
            while not session.finished:
                rounds.append(session.step(Action(3)))
        assert sum(r.accepted for r in rounds) / sum(r.reached for r in rounds) > 0.25


def test_prompts_round_trip_through_the_tokenizer(pair):
    for prompt in embedded_prompts("test")[::16]:
        ids = pair.encode(prompt.text)
        assert ids[0] == pair.tokenizer.bos_token_id
        assert pair.tokenizer.decode(ids[1:]) == prompt.text


def test_the_fingerprint_changes_with_weights_and_configuration(tmp_path):
    folder = shutil.copytree(EMBEDDED / "draft", tmp_path / "draft")
    original = fingerprint([Checkpoint(folder)])
    assert original == fingerprint([Checkpoint(EMBEDDED / "draft")])
    weights = folder / "model.safetensors"
    packed = bytearray(weights.read_bytes())
    packed[len(packed) // 2 + 10] ^= 1
    weights.write_bytes(packed)
    assert fingerprint([Checkpoint(folder)]) != original
    shutil.copy(EMBEDDED / "draft" / "model.safetensors", weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert fingerprint([Checkpoint(folder)]) != original


def test_models_that_cannot_be_had_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no folder /no/such"):
        load_pair("x", "/no/such", ["tiny:draft"])
    with pytest.raises(ValueError, match="no embedded model 'tiny:huge': expected one of tiny:"):
        load_pair("x", "tiny:huge", ["tiny:draft"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot load 'Qwen/Qwen3-8B'.*HF_HUB_OFFLINE"):
        load_pair("x", "Qwen/Qwen3-8B", ["tiny:draft"])


def test_drafters_come_in_the_order_in_which_they_were_named():
    pair = load_pair("tiny", "tiny:target", ["ngram", "tiny:code", "early_exit:3", "tiny:draft"])
    names = [drafter.name for drafter in pair.drafters]
    assert names == ["ngram", "tiny:code", "early_exit:3", "tiny:draft"]
    assert pair.drafters[2].model is pair.target and pair.drafters[2].layers == 3
    assert load_pair("tiny", "tiny:target", ["early_exit"]).drafters[0].layers == 3  # a quarter


def test_the_fingerprint_knows_how_models_run():
    def of(**options: Any) -> str:
        return load_pair("tiny", "tiny:target", ["ngram"], LoadOptions(**options)).fingerprint

    found = [
        of(),
        of(dtype="bfloat16"),
        of(engine="transformers"),
        of(kernels="torch"),
        of(quantize="int8"),
        of(quantize="int4"),
    ]
    assert len(set(found)) == len(found)
    assert of(engine="lean") == found[0]  # what runs counts, not what was asked for


def test_a_pair_needs_no_draft_model():
    config = ModelConfig("pair", "tiny:target", drafters=["ngram"])
    pair = pair_from(config, EngineConfig())
    assert [drafter.name for drafter in pair.drafters] == ["ngram"]
    with pytest.raises(ValueError, match="names draft, but model.drafter is not set: add model"):
        pair_from(ModelConfig("pair", "tiny:target"), EngineConfig())


def test_the_fingerprint_knows_every_drafter():
    def of(*drafters: str) -> str:
        return load_pair("tiny", "tiny:target", drafters).fingerprint

    found = [
        of("tiny:draft"), of("tiny:draft", "ngram"), of("ngram", "tiny:draft"),
        of("tiny:draft", "early_exit:3"), of("tiny:draft", "early_exit:4"),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("drafters", "options", "message"),
    [
        (["ngram", "ngram"], {}, "expected drafters that differ, got ngram, ngram"),
        (
            ["early_exit", "early_exit:3"],
            {},
            "expected drafters that differ, got early_exit:3, early",
        ),
        (["early_exit:12"], {}, "after layer 1 to 11 of its 12, got 12"),
        (["early_exit:deep"], {}, "expected early_exit:LAYERS, got 'early_exit:deep'"),
        (["early_exit"], {"engine": "transformers"}, "needs the lean engine"),
    ],
)
def test_drafters_that_cannot_be_are_refused(drafters, options, message):
    with pytest.raises(ValueError, match=message):
        load_pair("tiny", "tiny:target", drafters, LoadOptions(**options))


def test_the_configuration_names_drafters():
    config = ModelConfig(drafter="a/draft", specialists={"code": "tiny:code"}, exit_layer=3)
    named = ["draft", "code", "early_exit", "ngram", "some/folder"]
    sources = ["a/draft", "tiny:code", "early_exit:3", "ngram", "some/folder"]
    assert [drafter_source(config, name) for name in named] == sources
    assert drafter_source(ModelConfig(), "early_exit") == "early_exit"


def test_memory_is_shared_kept_or_limited(tmp_path):
    copy = shutil.copytree(EMBEDDED / "target", tmp_path / "twin")

    def own(memory: str) -> int:
        pair = load_pair("x", "tiny:target", [str(copy)], memory=memory)
        return weight_bytes(pair.drafters[0].model.weights, pair.target.weights)

    matrix = 4 * 4096 * 256
    assert own("resident") - own("shared") == matrix and own("offload") == own("shared")
    with pytest.raises(ValueError, match=r"take 0\.0\d+ GiB \(.*more than model.memory_limit=0.04"):
        load_pair("x", "tiny:target", ["tiny:draft"], memory_limit=0.04)
    with pytest.raises(ValueError, match="unknown model.memory 'lent': expected one of shared"):
        load_pair("x", "tiny:target", ["tiny:draft"], memory="lent")


def test_with_a_limit_the_drafters_named_first_stay():
    pair = load_pair("x", "tiny:target", ["tiny:code", "tiny:draft"])
    target, *sizes = [
        weight_bytes(model.weights) for model in (pair.target, *(d.model for d in pair.drafters))
    ]
    pair = load_pair(
        "x",
        "tiny:target",
        ["tiny:code", "ngram", "tiny:draft"],
        memory="offload",
        memory_limit=(target + max(sizes) + 1000) / GIB,
    )
    assert pair.offloading is not None and pair.offloading.resident == ["tiny:code"]


def test_offloading_needs_a_gpu():
    config = ModelConfig("tiny", "tiny:target", "tiny:draft", memory="offload")
    with pytest.raises(ValueError, match="model.device is cpu: set model.memory=shared"):
        pair_from(config, EngineConfig())
