"""What models take, what they share, and weights that leave the device and come back."""

import gc

import pytest
import torch

from adaspec_rl.engine import memory
from adaspec_rl.engine.host_copy import HostCopy
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.memory import PeakMemory, place, share_embeddings, slots, weight_bytes
from adaspec_rl.engine.transformers_model import TransformersModel
from tests.engine.checkpoints import new_model, random_tokens

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]


def new(layers: int = 2, *, seed: int = 0, tied: bool = False, device: str = "cpu", **shape):
    options = {**SHAPE, "num_hidden_layers": layers, "tie_word_embeddings": tied, **shape}
    model = new_model("llama", seed, **options)
    return LeanModel.from_tensors(
        model.config.to_dict(),
        model.state_dict().items(),
        f"m{seed}",
        device=torch.device(device),
    )


def test_every_tensor_is_counted_once_and_tied_ones_too():
    free, tied = new(), new(tied=True)
    matrix = 4 * 96 * 32
    assert weight_bytes(free.weights) - weight_bytes(tied.weights) == matrix
    model = new_model("llama", **SHAPE)
    assert weight_bytes(model) == 4 * sum(p.numel() for p in model.parameters())
    assert weight_bytes(free.weights, free.weights) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_equal_embeddings_are_shared_and_nothing_else_changes(tied):
    target, draft = new(3, tied=tied), new(1, seed=1, tied=tied)
    tokens = random_tokens(1, 12)
    draft.weights.embedding.data.copy_(target.weights.embedding.data)
    if not tied:
        draft.weights.head.data.copy_(target.weights.head.data)
    before = draft.prefill(tokens)
    size = weight_bytes(draft.weights)
    freed = share_embeddings(draft.weights, target.weights)
    draft.weights_moved()
    assert freed == 4 * 96 * 32 * (1 if tied else 2)
    assert weight_bytes(draft.weights, target.weights) == size - freed
    assert place(draft.weights.head.data) == place(target.weights.head.data)
    assert (draft.weights.head is draft.weights.embedding) == tied
    assert torch.equal(draft.prefill(tokens), before)


def test_other_embeddings_stay_as_they_are():
    target, draft = new(3), new(1, seed=1)
    assert share_embeddings(draft.weights, target.weights) == 0
    draft.weights.embedding.data.copy_(target.weights.embedding.data)
    draft.weights.embedding.data.view(-1)[7] += 1e-3
    assert share_embeddings(draft.weights, target.weights) == 0
    assert share_embeddings(new(1, hidden_size=64).weights, target.weights) == 0
    assert share_embeddings(new_model("llama", **SHAPE), target.weights) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_weights_that_left_come_back_as_they_were(device):
    model = new(tied=True, device=device)
    tokens = random_tokens(1, 20)
    expected = model.prefill(tokens).cpu()
    copy = HostCopy(model)
    assert copy.here and copy.bytes == weight_bytes(model.weights)
    for _ in range(3):
        copy.leave()
        assert not copy.here and not copy.arrive()
        assert {getattr(*slot).device.type for slot in slots(model.weights)} == {"cpu"}
        copy.fetch()
        assert copy.coming and copy.arrive(wait=True) and copy.here and not copy.coming
        assert model.weights.head is model.weights.embedding
        assert model.weights.norm.device.type == device
        assert torch.equal(model.prefill(tokens).cpu(), expected)


@pytest.mark.gpu
@needs_cuda
def test_a_model_that_is_away_takes_no_memory_and_refuses_to_run():
    model = new(8, device="cuda")
    tokens = random_tokens(1, 20)
    model.prefill(tokens)
    copy = HostCopy(model)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    copy.leave()
    assert held - torch.cuda.memory_allocated() >= copy.bytes
    with pytest.raises(RuntimeError, match="device"):
        model.prefill(tokens)


def test_shared_tensors_do_not_move():
    target, draft = new(3), new(1, seed=1)
    draft.weights.embedding = target.weights.embedding
    copy = HostCopy(draft, besides=target.weights)
    assert copy.bytes == weight_bytes(draft.weights) - 4 * 96 * 32
    copy.leave()
    assert draft.weights.embedding is target.weights.embedding
    assert place(draft.weights.head.data) in {place(tensor) for tensor in copy._host}


def test_a_model_of_transformers_moves_too():
    model = TransformersModel(new_model("llama", **SHAPE), "m")
    tokens = random_tokens(1, 10)
    expected = model.prefill(tokens)
    copy = HostCopy(model)
    copy.leave()
    assert model.lengths.tolist() == [0]
    copy.fetch()
    assert copy.arrive()
    assert torch.equal(model.prefill(tokens), expected)


def test_quantised_weights_stay_where_they_are():
    class Packed(torch.Tensor):
        pass

    model = new()
    model.weights.norm = model.weights.norm.as_subclass(Packed)
    with pytest.raises(ValueError, match="quantized"):
        HostCopy(model)


@pytest.mark.skipif(
    not PeakMemory(torch.device("cpu")).known, reason="this system does not tell a process's peak"
)
def test_the_peak_is_of_the_time_since_it_began():
    gc.collect()  # models of other tests
    peak = PeakMemory(torch.device("cpu"))
    peak.begin()
    before = peak.bytes()
    held = torch.ones(16 << 20)
    assert peak.bytes() > before + (60 << 20)
    del held
    peak.begin()
    assert peak.bytes() < before + (30 << 20)


def test_a_system_that_does_not_tell_the_peak_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    peak = PeakMemory(torch.device("cpu"))
    peak.begin()
    assert peak.bytes() is None


@pytest.mark.gpu
@needs_cuda
def test_the_peak_on_cuda_is_the_allocators():
    peak = PeakMemory(torch.device("cuda"))
    peak.begin()
    before = peak.bytes()
    held = torch.ones(16 << 20, device="cuda")
    del held
    assert peak.bytes() >= before + (64 << 20)
    peak.begin()
    assert peak.bytes() <= before
