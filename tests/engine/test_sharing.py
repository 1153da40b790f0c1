"""Drafters that share their target's embedding compute what their folder says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.cpu.packing import PackedWeights, pack, rows_of, unpack
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.loading import load_model
from adaspec_rl.engine.memory import weight_bytes
from adaspec_rl.engine.sharing import load_sharing
from tests.device import DEVICE, stand_in
from tests.engine.checkpoints import new_model, random_tokens, relative_error, save
from tests.sharing import save_sharing

SHAPE: dict[str, Any] = {
    "hidden_size": 36,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "max_position_embeddings": 700,
}
IDS = [0, 3, 4, 7, 19, 20, 21, 22, 35, 36, 37, 38, 39, 40, 41, 50, 60]
KINDS: dict[str, dict[str, Any]] = {
    "trimmed": {"output_tokens": IDS},
    "reads": {"reads_hidden": True},
    "both": {"reads_hidden": True, "output_tokens": IDS},
}
EXECUTIONS: dict[str, dict[str, Any]] = {
    "torch": {"kernels": "torch"},
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}


def pair_in(
    folder: Path, kind: str, *, tied: bool = True, **options: Any
) -> tuple[LeanModel, LeanModel]:
    """A target and its drafter, from folders that are written first."""
    target = save(new_model("llama", **SHAPE, tie_word_embeddings=tied), folder / "target")
    drafter = save_sharing(folder / "drafter", target, layers=2, seed=5, **KINDS[kind])
    loaded = load_model(target, LoadOptions(**options))
    assert isinstance(loaded, LeanModel)
    own = {"quantize": options.get("quantize")}
    return loaded, load_sharing(Checkpoint(drafter), loaded, name="drafter", **own)


def features_of(batch: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, width, 36, generator=torch.Generator().manual_seed(seed))


def options_of(kind: str, width: int, batch: int = 1) -> dict[str, torch.Tensor]:
    return {"features": features_of(batch, width)} if kind != "trimmed" else {}


def expected_logits(folder: Path, kind: str, tokens: torch.Tensor) -> torch.Tensor:
    """Transformers' layers between this file's own first and last steps."""
    target = AutoModelForCausalLM.from_pretrained(folder / "target")
    config = target.config
    config.num_hidden_layers = 2
    model = AutoModelForCausalLM.from_config(config).model
    tensors = load_file(folder / "drafter" / "model.safetensors")
    own = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    own["embed_tokens.weight"] = target.get_input_embeddings().weight
    model.load_state_dict(own)
    x = target.get_input_embeddings()(tokens)
    if kind != "trimmed":
        norm = tensors["feature_norm.weight"]
        read = F.rms_norm(features_of(*tokens.shape), norm.shape, norm, config.rms_norm_eps)
        x = x + read @ tensors["feature.weight"].T
    head = target.get_output_embeddings().weight
    if kind != "reads":
        head = head[tensors["output_tokens"].long()]
    with torch.inference_mode():
        return model(inputs_embeds=x).last_hidden_state @ head.T


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kernels", ["torch", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers(
    tmp_path: Path, kind: str, kernels: str, tied: bool
) -> None:
    target, drafter = pair_in(tmp_path, kind, tied=tied, kernels=kernels)
    tokens = random_tokens(2, 40)
    drafter.reset(2)
    logits = drafter.extend(tokens, **options_of(kind, 40, 2))
    assert relative_error(logits, expected_logits(tmp_path, kind, tokens)) < 1e-4
    ids = drafter.output_tokens
    assert ids is None if kind == "reads" else ids is not None and ids.tolist() == IDS


@pytest.mark.parametrize("execution", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_fewer_bits_are_close(tmp_path: Path, kind: str, execution: str) -> None:
    _, drafter = pair_in(tmp_path, kind, **EXECUTIONS[execution])
    tokens = random_tokens(1, 40)
    logits = drafter.extend(tokens, **options_of(kind, 40))
    error = relative_error(logits, expected_logits(tmp_path, kind, tokens))
    assert 0 < error < {"bfloat16": 0.1, "int8": 0.15, "int4": 0.7}[execution]


def held(weights: Any) -> int:
    return weights.nbytes if isinstance(weights, torch.Tensor) else weight_bytes(weights)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_nothing_is_held_twice(tmp_path: Path, execution: str, tied: bool) -> None:
    target, drafter = pair_in(tmp_path, "both", tied=tied, **EXECUTIONS[execution])
    weights = drafter.weights
    assert weights.embedding is target.weights.embedding
    own = [weights.head, weights.feature, weights.norm, weights.feature_norm, weights.output_tokens]
    total = weight_bytes(weights.layers) + sum(map(held, own))
    assert weight_bytes(weights, target.weights) == total
    assert held(weights.head) < held(target.weights.head) / 1.5
    target, drafter = pair_in(tmp_path, "reads", tied=tied, **EXECUTIONS[execution])
    assert drafter.weights.head is target.weights.head  # all of it


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8", "int4"])
def test_rows_of_a_packed_matrix_are_its_rows(precision: str) -> None:
    matrix = torch.randn(53, 64, generator=torch.Generator().manual_seed(0))
    packed = pack(matrix, torch.arange(53.0), precision)
    ids = torch.tensor([0, 15, 16, 17, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52])
    found = rows_of(packed, ids)
    assert torch.equal(unpack(found), unpack(packed)[ids])
    assert found.outputs == len(ids) and found.bias is not None
    assert found.bias.view(-1)[: len(ids)].tolist() == ids.tolist()
    assert found.data.dtype == packed.data.dtype and found.data.is_contiguous()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_however_a_text_is_cut(tmp_path: Path, kind: str, execution: str) -> None:
    """On the compiled kernels to the last bit, batches and threads included."""
    _, drafter = pair_in(tmp_path, kind, **EXECUTIONS[execution])
    tokens, more = random_tokens(3, 60), options_of(kind, 60, 3)
    drafter.reset(3)
    logits = drafter.extend(tokens, **more)
    hidden = drafter.last_hidden
    assert hidden is not None
    threads = torch.get_num_threads()
    try:
        for width, count in ((1, 1), (4, 2), (7, 3)):
            torch.set_num_threads(count)
            for b in range(3):
                drafter.reset()
                parts, states = [], []
                for i in range(0, 60, width):
                    seen = {key: value[b : b + 1, i : i + width] for key, value in more.items()}
                    parts.append(drafter.extend(tokens[b : b + 1, i : i + width], **seen)[0])
                    states.append(drafter.last_hidden[0])
                if execution == "torch":
                    assert relative_error(torch.cat(parts), logits[b]) < 1e-4
                else:
                    assert torch.equal(torch.cat(parts), logits[b])
                    assert torch.equal(torch.cat(states), hidden[b])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name != "torch"])
def test_branches_with_features_to_the_last_bit(tmp_path: Path, execution: str) -> None:
    _, drafter = pair_in(tmp_path, "both", **EXECUTIONS[execution])
    text, ways = random_tokens(1, 40), random_tokens(2, 3, 1)
    before, beyond = features_of(1, 40), features_of(2, 3, 2)
    expected = []
    for way, features in zip(ways, beyond):
        drafter.reset()
        drafter.extend(text, features=before)
        steps = [
            drafter.extend(way[None, i : i + 1], features=features[None, i : i + 1])[0]
            for i in range(3)
        ]
        expected.append(torch.cat(steps))
    drafter.rollback(40)
    for depth in range(3):  # both ways side by side, one token each
        own = torch.eye(2, dtype=torch.bool).repeat(1, depth + 1)
        mask = torch.cat([torch.ones(2, 40, dtype=torch.bool), own], dim=1)[None]
        logits = drafter.forward(
            ways[None, :, depth],
            features=beyond[None, :, depth],
            positions=torch.full((1, 2), 40 + depth),
            mask=mask,
        )[0]
        assert torch.equal(logits, torch.stack([rows[depth] for rows in expected]))


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
def test_hidden_states_without_logits(tmp_path: Path, kernels: str) -> None:
    target, _ = pair_in(tmp_path, "trimmed", kernels=kernels)
    target._chunk = 64  # of all rows
    tokens = random_tokens(2, 100)
    target.reset(2)
    everything = target.extend(tokens)
    expected = target.last_hidden
    head = target.weights.head
    matrix = unpack(head)[:, :36] if isinstance(target.weights, PackedWeights) else head
    assert expected is not None and expected.shape == (2, 100, 36)
    assert relative_error(expected @ matrix.T, everything) < 1e-4
    for keep, states in ((0, 100), (1, 100), (3, 40), (5, 5), (4, None), (4, 2)):
        target.reset(2)
        logits = target.extend(tokens, keep=keep, states=states)
        count = max(keep, states or 0)
        assert logits.shape[1] == keep
        assert target.last_hidden is not None and target.last_hidden.shape == (2, count, 36)
        assert torch.allclose(logits, everything[:, 100 - keep :], atol=1e-4)
        assert torch.allclose(target.last_hidden, expected[:, 100 - count :], atol=1e-4)


def test_graphs_read_features(tmp_path: Path) -> None:
    """The code paths of a GPU: narrow forwards, recorded and replayed, plain and as branches."""
    target, drafter = pair_in(tmp_path, "both", kernels="torch")
    tokens, features = random_tokens(1, 30), features_of(1, 30)
    expected = drafter.extend(tokens, features=features)
    states = drafter.last_hidden
    assert states is not None
    drafter.rollback(27)
    positions, mask = torch.tensor([[27, 28, 27]]), torch.ones(1, 3, 30, dtype=torch.bool)
    mask[0, :, 27:] = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    branches = {"positions": positions, "mask": mask, "features": features[:, 27:]}
    forked = drafter.forward(tokens[:, 27:], **branches)
    with stand_in():
        there_target = load_model(tmp_path / "target", LoadOptions(device=DEVICE))
        checkpoint = Checkpoint(tmp_path / "drafter")
        there = load_sharing(checkpoint, there_target, name="there")
        there.prepare(64)
        for _ in range(3):
            there.reset()
            for start, stop in ((0, 5), (5, 6), (6, 8), (8, 27)):
                seen = features[:, start:stop].to(DEVICE)
                logits = there.extend(tokens[:, start:stop].to(DEVICE), features=seen, keep=1)
                assert relative_error(logits.cpu(), expected[:, stop - 1 : stop]) < 1e-4
                hidden = there.last_hidden
                assert hidden is not None
                assert relative_error(hidden.cpu(), states[:, stop - 1 : stop]) < 1e-4
            moved = {key: value.to(DEVICE) for key, value in branches.items()}
            found = there.forward(tokens[:, 27:].to(DEVICE), **moved)
            assert relative_error(found.cpu(), forked) < 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 48}, "its hidden_size is 48, expected 36"),
        ({"vocab_size": 99}, "its vocab_size is 99, expected 61"),
    ],
)
def test_drafters_of_another_target_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    target = save(new_model("llama", **SHAPE), tmp_path / "target")
    drafter = save_sharing(tmp_path / "drafter", target, **changes)
    with pytest.raises(ValueError, match=f"does not fit target, .*{message}"):
        load_sharing(Checkpoint(drafter), load_model(target), name="drafter")


def spoiled(tensors: dict[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    if what == "order":
        tensors["output_tokens"] = tensors["output_tokens"].flip(0).contiguous()
    elif what == "range":
        tensors["output_tokens"][-1] = 61
    elif what == "count":
        tensors["output_tokens"] = tensors["output_tokens"][:-1].clone()
    elif what == "feature":
        tensors["feature.weight"] = tensors["feature.weight"][:-1].clone()
    elif what == "norm":
        del tensors["feature_norm.weight"]
    else:
        tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(36, 70)
    return tensors


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("order", "ascending ids from 0 to 60"),
        ("range", "ascending ids from 0 to 60"),
        ("count", r"holds .*'output_tokens': \[16\].*: expected .*'output_tokens': \[17\]"),
        ("feature", r"'feature.weight': \[35, 36\].*: expected .*'feature.weight': \[36, 36\]"),
        ("norm", r"expected .*'feature_norm.weight': \[36\]"),
        ("layer", r"down_proj.weight has shape \[36, 70\]: expected \[36, 72\]"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, what: str, message: str) -> None:
    target = save(new_model("llama", **SHAPE), tmp_path / "target")
    drafter = save_sharing(tmp_path / "drafter", target, **KINDS["both"])
    path = drafter / "model.safetensors"
    save_file(spoiled(load_file(path), what), path)
    with pytest.raises(ValueError, match=message):
        load_sharing(Checkpoint(drafter), load_model(target), name="drafter")


def test_a_drafter_is_no_model_of_its_own(tmp_path: Path) -> None:
    target = save(new_model("llama", **SHAPE), tmp_path / "target")
    drafter = save_sharing(tmp_path / "drafter", target)
    with pytest.raises(ValueError, match="name it among model.drafters"):
        load_model(drafter)
    with pytest.raises(ValueError, match="needs the lean engine, but target runs in transformers"):
        transformers = load_model(target, LoadOptions(engine="transformers"))
        load_sharing(Checkpoint(drafter), transformers, name="drafter")
    config = json.loads((drafter / "config.json").read_text())
    config["adaspec_drafter"]["shares"] = False
    (drafter / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="expected true"):
        load_sharing(Checkpoint(drafter), load_model(target), name="drafter")
