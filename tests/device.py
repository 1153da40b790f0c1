"""A device that is none: the code paths of a GPU on the CPU, with every wait for it counted.

Tensors on it call themselves `meta` and hold a tensor of the CPU. Torch's own stand-in, a
`FakeTensorMode` with device `cuda`, holds no values, and a build of torch without CUDA refuses to
index its tensors ("PyTorch is not linked with support for cuda devices").
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from adaspec_rl.engine.cuda_graphs import Inputs, Outputs

DEVICE = torch.device("meta")
aten = torch.ops.aten
# What can't be launched before the device has said how large its result is, or what is in it.
WAITS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default,
    aten._unique2.default,
    aten._assert_async.msg,
}
SCALARS = {aten.fill_.Tensor, aten.masked_fill.Tensor, aten.masked_fill_.Tensor}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class OnDevice(torch.Tensor):
    """A tensor of the stand-in."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{op} outside of the stand-in device")


class StandIn(TorchDispatchMode):
    """Runs what is on the device, and refuses what mixes it with the CPU.

    Attributes:
        waits: operations so far that made the host wait for the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        with self:  # of operations that are made of others, look at those
            found = op.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)]
        there = [item for item in tensors if isinstance(item, OnDevice)]
        to_device = bool(there)
        kwargs["pin_memory"] = False
        if not any(argument.name == "pin_memory" for argument in op._schema.arguments):
            del kwargs["pin_memory"]
        if kwargs.get("device") is not None:
            to_device = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        crosses = op in (aten._to_copy.default, aten.copy_.default)
        if crosses:
            ends = {isinstance(item, OnDevice) for item in tensors} | {to_device}
            if len(ends) > 1 and not (kwargs.get("non_blocking") or True in args[2:]):
                self.waits.append(str(op))
        elif there and any(item.dim() and not isinstance(item, OnDevice) for item in tensors):
            raise AssertionError(f"{op} mixes tensors of the device and of the CPU")
        numbers = not crosses and len(there) < len(tensors) and not _as_argument(op)
        if there and (op in WAITS or (op in INDEXED and _masks(args[1])) or numbers):
            self.waits.append(str(op))
        args, kwargs = tree_map_only(OnDevice, lambda item: item.here, (args, kwargs))
        out = op(*args, **kwargs)
        if crosses and op is aten.copy_.default:
            return tensors[0]
        if to_device and op is not aten._local_scalar_dense.default:
            out = tree_map_only(torch.Tensor, OnDevice, out)
        return out


def _as_argument(op: Any) -> bool:
    """Whether a kernel is given a number of the CPU as it is, and not as a copy on the device."""
    return op in SCALARS or (torch.Tag.pointwise in op.tags and op is not aten.where.self)


def _masks(indices: Any) -> bool:
    return any(item is not None and item.dtype == torch.bool for item in indices)


class Event:
    """CUDA's, for a device that has always done everything."""

    def record(self, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Replayer:
    """A recorded call on the CPU: the same static inputs, the same overwritten outputs."""

    def __init__(self, function: Callable[..., Outputs], inputs: Inputs) -> None:
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        self.outputs = function(*self.inputs)
        self.bytes = inputs[0].numel()
        self.replays = 0
        self._function = function

    def replay(self) -> None:
        self.replays += 1
        for static, value in zip(self.outputs, self._function(*self.inputs)):
            static.copy_(value)


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Let there be a device."""
    generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(), StandIn() as mode:
        patch.setattr("adaspec_rl.engine.lean_model.CudaRecorder", lambda device: Replayer)
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        patch.setattr(torch, "Generator", lambda device="cpu": generator())
        yield mode
