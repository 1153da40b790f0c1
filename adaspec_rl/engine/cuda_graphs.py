"""Forward passes recorded once and replayed, so that launching them costs nothing."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch

Inputs = tuple[torch.Tensor, ...]
Outputs = tuple[torch.Tensor, ...]
_WARM_UPS = 3  # runs before capture, for libraries that set themselves up on first use


class Graph(Protocol):
    """One recorded call: write its inputs, replay it, read its outputs."""

    inputs: Inputs
    outputs: Outputs
    bytes: int

    def replay(self) -> None:
        """Compute `outputs` from what `inputs` hold now."""
        ...


Record = Callable[[Callable[..., Outputs], Inputs], Graph]


class GraphPool:
    """Graphs by key, the least recently used given up when they outgrow the memory budget.

    A key is recorded when it is asked for the second time: what happens once is not worth it.
    """

    def __init__(self, function: Callable[..., Outputs], record: Record, *, budget: int) -> None:
        """`budget`: bytes that all graphs may take together; 0 runs every call as it comes."""
        self._function = function
        self._record = record
        self._budget = budget
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._too_large: set[Hashable] = set()

    @property
    def bytes(self) -> int:
        return sum(graph.bytes for graph in self._graphs.values())

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def run(self, key: Hashable, inputs: Inputs, *constants: int) -> Outputs:
        """`function(*inputs, *constants)`. The key determines the shapes and the constants.

        The outputs are valid until the next call.
        """
        graph = self._graphs.get(key)
        if graph is None and key in self._seen and self._budget and key not in self._too_large:
            graph = self._add(key, inputs, constants)
        if graph is None:
            self._seen.add(key)
            return self._function(*inputs, *constants)
        self._graphs.move_to_end(key)
        for static, value in zip(graph.inputs, inputs):
            static.copy_(value)
        graph.replay()
        return graph.outputs

    def clear(self) -> None:
        """Forget every graph; the memory that they point to has moved."""
        self._graphs.clear()
        self._seen.clear()
        self._too_large.clear()

    def _add(self, key: Hashable, inputs: Inputs, constants: tuple[int, ...]) -> Graph | None:
        graph = self._record(lambda *tensors: self._function(*tensors, *constants), inputs)
        if graph.bytes > self._budget:
            self._too_large.add(key)
            return None
        while self.bytes + graph.bytes > self._budget:
            self._graphs.popitem(last=False)
        self._graphs[key] = graph
        return graph


class CudaGraph:
    """A `Graph` of CUDA kernels."""

    def __init__(self, function: Callable[..., Outputs], inputs: Inputs) -> None:
        self.inputs = tuple(tensor.clone() for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        before = torch.cuda.memory_reserved()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.outputs = function(*self.inputs)
        self.bytes = max(torch.cuda.memory_reserved() - before, 1 << 20)

    def replay(self) -> None:
        self._graph.replay()


def record_cuda_graph(function: Callable[..., Outputs], inputs: Inputs) -> Graph:
    """Capture `function(*inputs)`. It may touch nothing but tensors that stay where they are."""
    return CudaGraph(function, inputs)
