"""Packed matrices hold what was packed, as exactly as their precision allows."""

import pytest
import torch

from adaspec_rl.engine.cpu.huge_pages import HugePages
from adaspec_rl.engine.cpu.packing import pack, unpack


def random_matrix(outputs: int = 37, inputs: int = 70) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_floats_come_back_as_they_were(precision: str) -> None:
    matrix = random_matrix().to(getattr(torch, precision))
    packed = pack(matrix, None, precision)
    assert torch.equal(unpack(packed)[:, :70], matrix.float())


def test_int8_is_within_half_a_step_of_each_output() -> None:
    matrix = random_matrix()
    error = (unpack(pack(matrix, None, "int8"))[:, :70] - matrix).abs()
    assert (error <= matrix.abs().amax(1, keepdim=True) / 127 / 2 * 1.001).all()


def test_int4_is_within_half_a_step_of_each_group() -> None:
    matrix = random_matrix(32, 64)
    groups = matrix.view(32, 2, 32)
    step = (groups.amax(2) - groups.amin(2)) / 15
    error = (unpack(pack(matrix, None, "int4")) - matrix).abs().view(32, 2, 32).amax(2)
    assert (error <= step * 0.55).all()  # scale and minimum are rounded to half precision


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_int4_finds_the_blocks_of_a_gguf_file_again(kind: str) -> None:
    from gguf import GGMLQuantizationType, dequantize, quantize

    stored = quantize(random_matrix(32, 96).numpy(), getattr(GGMLQuantizationType, kind))
    values = torch.from_numpy(dequantize(stored, getattr(GGMLQuantizationType, kind)))
    found = unpack(pack(values, None, "int4"))
    if kind == "Q4_1":
        assert torch.equal(found, values)
    else:  # its blocks need not use all 16 numbers
        assert (found - values).abs().max() <= values.abs().max() / 15


def test_biases_and_outputs_that_fill_no_panel() -> None:
    bias = torch.arange(37.0)
    packed = pack(random_matrix(), bias, "float32")
    assert packed.bias is not None
    assert torch.equal(packed.bias.view(-1)[:37], bias) and packed.bias.shape == (3, 16)
    assert packed.outputs == 37 and packed.data.shape == (3, 70, 16, 1)


def test_huge_pages_keep_tensors_apart() -> None:
    pages = HugePages()
    tensors = [torch.full((n, 7), float(n)) for n in (1, 100, 3_000_000, 5)]  # one above a block
    moved = [pages.empty(tensor.shape, tensor.dtype).copy_(tensor) for tensor in tensors]
    assert all(torch.equal(a, b) for a, b in zip(tensors, moved))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in moved)
    assert len({tensor.untyped_storage().data_ptr() for tensor in moved}) == 4
