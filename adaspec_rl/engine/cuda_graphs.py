"""Forward passes recorded once and replayed, so that launching them costs almost nothing."""

import logging
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

from adaspec_rl.engine.memory import MIB

Inputs = tuple[torch.Tensor, ...]
Outputs = tuple[torch.Tensor, ...]
Function = Callable[..., Outputs]
_WARM_UPS = 3  # runs before capture, for libraries that set themselves up on first use

logger = logging.getLogger(__name__)


class Graph(Protocol):
    """One recorded call: write its inputs, replay it, read its outputs."""

    inputs: Inputs
    outputs: Outputs
    bytes: int  # bytes of device memory that recording it took

    def replay(self) -> None:
        """Compute `outputs` from what `inputs` hold now."""
        ...


Record = Callable[[Function, Inputs], Graph]


class GraphPool:
    """Graphs by key, recorded ahead or when a key is asked for the second time.

    A call that happens once is not worth recording. Graphs share their scratch memory, so freeing
    one of them would gain next to nothing: once the budget is used up, no more are recorded, and
    calls with other keys run directly.
    """

    def __init__(self, recorder: Callable[[], Record], *, budget: int) -> None:
        """`recorder` makes a recorder of graphs that share memory; `budget` is in bytes."""
        self._recorder = recorder
        self._budget = budget
        self.full = False  # whether recording has stopped
        self.clear()

    @property
    def bytes(self) -> int:
        return sum(graph.bytes for graph in self._graphs.values())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def run(self, key: Hashable, function: Function, inputs: Inputs, *constants: int) -> Outputs:
        """`function(*inputs, *constants)`. The key determines all but the values of `inputs`.

        The outputs are valid until the next call.
        """
        if key not in self._graphs and key in self._seen:
            self.record(key, function, inputs, *constants)
        graph = self._graphs.get(key)
        if graph is None:
            self._seen.add(key)
            return function(*inputs, *constants)
        for static, value in zip(graph.inputs, inputs):
            static.copy_(value)
        graph.replay()
        return graph.outputs

    def record(self, key: Hashable, function: Function, inputs: Inputs, *constants: int) -> None:
        """Record a graph for `key`, if there is memory left; this runs the function."""
        if key in self._graphs or self.full:
            return
        graph = self._record(lambda *tensors: function(*tensors, *constants), inputs)
        if self.bytes + graph.bytes <= self._budget:
            self._graphs[key] = graph
        else:  # the memory it takes is only known afterwards
            self.full = True
            logger.info(
                "captured forwards take %d MiB, and one more would exceed their %d MiB: others "
                "are launched kernel by kernel",
                self.bytes // MIB,
                self._budget // MIB,
            )

    def clear(self) -> None:
        """Forget every graph, as the memory that they point to has moved."""
        self._graphs: dict[Hashable, Graph] = {}
        self._seen: set[Hashable] = set()
        self._record = self._recorder()
        self.full = not self._budget


class CudaRecorder:
    """Captures CUDA kernels on one device, in graphs that share their scratch memory.

    The graphs must be replayed one after another, and the outputs of each read before the next
    replay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None  # a handle; None before the first graph

    def __call__(self, function: Function, inputs: Inputs) -> Graph:
        """Capture `function(*inputs)`, which may only use tensors that do not move."""
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            return self._capture(function, inputs, self._stream)

    def _capture(self, function: Function, inputs: Inputs, stream: torch.cuda.Stream) -> Graph:
        static = tuple(tensor.clone() for tensor in inputs)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*static)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # as capturing does: what it frees would hide what is taken
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            outputs = function(*static)
        self._pool = graph.pool()
        return CudaGraph(graph, static, outputs, torch.cuda.memory_reserved() - before)


class CudaGraph:
    """A `Graph` of CUDA kernels."""

    def __init__(
        self, graph: torch.cuda.CUDAGraph, inputs: Inputs, outputs: Outputs, bytes: int
    ) -> None:
        self._graph = graph
        self.inputs, self.outputs = inputs, outputs
        self.bytes = bytes

    def replay(self) -> None:
        self._graph.replay()
