"""Which forwards are recorded, replayed and given up. CUDA itself is stood in for on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from adaspec_rl.engine.cuda_graphs import CudaRecorder, Function, GraphPool, Inputs, Outputs
from adaspec_rl.engine.lean_model import LeanModel
from tests.device import DEVICE, Replayer, stand_in
from tests.engine.checkpoints import new_model, random_tokens, reference, relative_error, spoil

LLAMA: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2000,
    "sliding_window": 9,
}


def double(tensor: torch.Tensor, plus: int) -> Outputs:
    return (2 * tensor + plus,)


def pool_of(budget: int) -> tuple[GraphPool, list[Replayer]]:
    """Graphs take as many bytes as their input has values."""
    records: list[Replayer] = []

    def record(function: Function, inputs: Inputs) -> Replayer:
        records.append(Replayer(function, inputs))
        return records[-1]

    return GraphPool(lambda: record, budget=budget), records


def test_recorded_at_the_second_call_and_replayed_from_then_on() -> None:
    pool, records = pool_of(budget=100)
    for call in range(4):
        values = torch.arange(3) + call
        assert pool.run("a", double, (values,), 5)[0].tolist() == (2 * values + 5).tolist()
        assert len(records) == min(call, 1)
    assert records[0].replays == 3
    pool.clear()
    pool.run("a", double, (torch.arange(3),), 5)
    assert len(records) == 1 and "a" not in pool


def test_recorded_ahead_and_replayed_from_the_first_call_on() -> None:
    pool, records = pool_of(budget=100)
    for _ in range(2):  # once is enough
        pool.record("a", double, (torch.zeros(3),), 5)
    assert "a" in pool and len(records) == 1 and records[0].replays == 0
    assert pool.run("a", double, (torch.ones(3),), 5)[0].tolist() == [7.0] * 3
    assert len(records) == 1 and records[0].replays == 1


def test_the_budget_is_never_exceeded() -> None:
    pool, records = pool_of(budget=10)
    for key, size in (("a", 4), ("b", 5), ("c", 4), ("d", 1)):
        pool.record(key, double, (torch.zeros(size),), 0)
    assert [key in pool for key in "abcd"] == [True, True, False, False]
    assert pool.bytes == 9 and pool.full
    assert len(records) == 3  # what "c" takes is known once it is recorded; "d" is not even tried
    for _ in range(3):
        assert pool.run("c", double, (torch.ones(4),), 1)[0].sum() == 12
        assert pool.run("a", double, (torch.ones(4),), 1)[0].sum() == 8  # recorded with 0
    assert len(records) == 3
    pool.clear()
    assert pool.bytes == 0 and not pool.full
    pool.record("c", double, (torch.zeros(4),), 0)
    assert "c" in pool


def test_graphs_that_are_forgotten_leave_their_memory_to_nobody() -> None:
    """A memory pool ends with the last of its graphs, so that new ones need a new recorder."""
    made: list[int] = []

    def recorder() -> Any:
        made.append(len(made))
        return Replayer

    pool = GraphPool(recorder, budget=10)
    pool.record("a", double, (torch.zeros(1),), 0)
    pool.record("b", double, (torch.zeros(1),), 0)
    assert made == [0]  # both share their scratch memory
    pool.clear()
    assert made == [0, 1]


def test_no_budget_records_nothing() -> None:
    pool, records = pool_of(budget=0)
    pool.record("a", double, (torch.ones(1),), 0)
    for _ in range(3):
        assert pool.run("a", double, (torch.ones(1),), 0)[0].item() == 2
    assert not records


class FakeCuda:
    """Writes down what a `CudaRecorder` asks of torch.cuda; freeing gives back 100 bytes."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reserved = 1000
        self.pools: list[Any] = []
        self.streams: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("device", "stream", "graph"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "Stream", self.new_stream)
        patch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph())
        patch.setattr(torch.cuda, "current_stream", lambda: FakeStream())
        patch.setattr(torch.cuda, "synchronize", lambda: self.said.append("synchronize"))
        patch.setattr(torch.cuda, "empty_cache", self.empty_cache)
        patch.setattr(torch.cuda, "memory_reserved", lambda: self.reserved)

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.said.append(f"on {device}")
        yield
        self.said.append("back")

    def new_stream(self) -> "FakeStream":
        self.streams.append(self.said[-1])
        return FakeStream()

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: "FakeGraph", pool: Any, stream: "FakeStream") -> Iterator[None]:
        self.pools.append(pool)
        self.empty_cache()  # as torch does
        yield
        self.reserved += 40

    def empty_cache(self) -> None:
        self.reserved = min(self.reserved, 900)


class FakeStream:
    def wait_stream(self, other: "FakeStream") -> None:
        pass


class FakeGraph:
    def pool(self) -> str:
        return "pool"


def test_a_recorder_counts_what_capturing_takes_on_the_models_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    record = CudaRecorder(torch.device("cuda:1"))
    calls: list[int] = []

    def function(x: torch.Tensor) -> Outputs:
        calls.append(1)
        return (x + 1,)

    first = record(function, (torch.zeros(2),))
    assert first.bytes == 40  # though 100 bytes were freed meanwhile
    assert cuda.streams == ["on cuda:1"]
    record(function, (torch.zeros(2),))
    assert cuda.pools == [None, "pool"] and len(cuda.streams) == 1
    assert cuda.said[-1] == "back"
    assert len(calls) == 8  # three to warm up, one to capture


def model_on_device(theirs: PreTrainedModel, **options: Any) -> LeanModel:
    state = theirs.state_dict().items()
    return LeanModel.from_tensors(theirs.config.to_dict(), state, "small", device=DEVICE, **options)


def test_model_through_recorded_forwards() -> None:
    """The path that CUDA takes gives transformers' logits, whatever the rows' lengths."""
    theirs = new_model(**LLAMA)
    tokens, new, long = random_tokens(2, 30), random_tokens(2, 12, seed=1), random_tokens(1, 1500)
    with stand_in():
        ours = model_on_device(theirs, prefill_chunk=800)
        for _ in range(3):
            ours.reset(2)
            ours.prefill(tokens[:, :25])
            ours.extend(tokens[:, 25:])
            ours.rollback(torch.tensor([28, 11]))
            found = [ours.extend(new[:, i : i + 3]).cpu() for i in range(0, 12, 3)]
            for row, length in enumerate([28, 11]):
                text = torch.cat([tokens[row, :length], new[row]])[None]
                expected = reference(theirs, text)[:, length:]
                assert relative_error(torch.cat(found, 1)[row : row + 1], expected) <= 1e-4
        assert ours._graphs.bytes > 0
        ours.reset()  # another batch: the memory has moved
        assert ours._graphs.bytes == 0
        ours.prefill(long[:, :1480])
        logits = ours.extend(long[:, 1480:]).cpu()
    assert relative_error(logits, reference(theirs, long)[:, 1480:]) <= 1e-4


@pytest.mark.parametrize("width", [1, 3, 8, 16])
def test_one_graph_serves_all_narrow_widths_with_the_same_bits(width: int) -> None:
    theirs = new_model(**LLAMA)
    tokens = random_tokens(1, 64)
    with stand_in():
        ours = model_on_device(theirs)
        ours.prepare(100)
        graph = next(iter(ours._graphs._graphs.values()))
        assert isinstance(graph, Replayer)
        ours.prefill(tokens[:, :16])
        single = [ours.extend(token).cpu() for token in tokens[:, 16:].split(1, 1)]
        ours.rollback(16)
        replays = graph.replays
        wide = [ours.extend(part).cpu() for part in tokens[:, 16:].split(width, 1)]
        assert graph.replays == replays + len(wide)
        assert len(ours._graphs._graphs) == 1
    assert torch.equal(torch.cat(single, 1), torch.cat(wide, 1))


def test_forwards_up_to_a_length_are_recorded_ahead() -> None:
    """And neither the memory nor the graphs change while a text of that length is read."""
    theirs = new_model(**LLAMA)
    tokens = random_tokens(1, 1300)
    with stand_in():
        ours = model_on_device(theirs, prefill_chunk=100)
        told: list[float] = []
        ours.prepare(1300, progress=told.append)
        assert told == pytest.approx([0.25, 0.5, 0.75, 1.0])  # 256, 512, 1024 and 2016 keys
        ours.prepare(1300, layers=1)
        known, resets = dict(ours._graphs._graphs), ours.resets
        ours.prepare(900, progress=told.append)  # is there
        assert len(told) == 4 and ours.resets == resets
        for length in (200, 300, 700, 1290):
            ours.prefill(tokens[:, :length])
            found = torch.cat(
                [ours.extend(part).cpu() for part in tokens[:, length:][:, :8].split(4, 1)], 1
            )
            assert relative_error(found, reference(theirs, tokens[:, : length + 8])[:, -8:]) <= 1e-4
            ours.rollback(length)
            ours.forward(tokens[:, length : length + 1], layers=1)
        assert ours._graphs._graphs == known


def test_branches_of_a_tree_are_recorded_too() -> None:
    theirs = new_model(**LLAMA)
    text, branches = random_tokens(1, 10), random_tokens(9, 2, seed=3)
    sees_text = torch.arange(10)[None] <= torch.arange(9)[:, None]
    own, starts = torch.eye(9, dtype=torch.bool), torch.arange(1, 10)[None]
    with stand_in():
        ours = model_on_device(theirs)
        for _ in range(3):
            ours.reset()
            ours.prefill(text)
            made = []
            for depth in range(2):
                mask = torch.cat([sees_text, *[own] * (depth + 1)], 1)[None]
                logits = ours.forward(branches[None, :, depth], positions=starts + depth, mask=mask)
                made.append(logits.cpu())
        assert len(ours._graphs._graphs) == 2  # one for branches, one for plain forwards
    for branch in range(9):
        whole = torch.cat([text[0, : branch + 1], branches[branch]])[None]
        logits = torch.stack([made[0][0, branch], made[1][0, branch]])[None]
        assert relative_error(logits, reference(theirs, whole)[:, -2:]) <= 1e-4


def test_the_last_tokens_of_the_context_are_read_like_all_others() -> None:
    theirs = new_model(**{**LLAMA, "max_position_embeddings": 70})
    tokens = random_tokens(1, 70)
    with stand_in():
        ours = model_on_device(theirs)
        ours.prefill(tokens[:, :60])
        logits = torch.cat([ours.extend(token).cpu() for token in tokens[:, 60:].split(1, 1)], 1)
        with pytest.raises(ValueError, match="holds 70 tokens"):
            ours.extend(tokens[:, :1])
    assert relative_error(logits, reference(theirs, tokens)[:, 60:]) <= 1e-4


def test_bad_logits_wait_for_check() -> None:
    theirs = new_model(**LLAMA)
    spoil(theirs, token=7)
    with stand_in():
        ours = model_on_device(theirs)
        ours.prefill(torch.ones(1, 1400, dtype=torch.long))
        ours.check()
        for _ in range(3):  # as it comes, recorded and replayed
            ours.extend(torch.tensor([[7]]))
            ours.extend(torch.tensor([[1]]))
            with pytest.raises(FloatingPointError, match="small: .*position 1400"):
                ours.check()
            ours.reset()
            ours.extend(torch.ones(1, 1400, dtype=torch.long))
            ours.check()


def test_tokens_that_fill_a_forward_up_spoil_nothing() -> None:
    theirs = new_model(**LLAMA)
    spoil(theirs, token=0)
    with stand_in():
        ours = model_on_device(theirs)
        ours.prepare(100)  # with tokens that are in no text
        for width in (1, 3, 16):
            ours.extend(torch.ones(1, width, dtype=torch.long))
        ours.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_model_on_cuda() -> None:
    theirs = new_model(**LLAMA)
    ours = LeanModel.from_tensors(
        theirs.config.to_dict(), theirs.state_dict().items(), "small", device=torch.device("cuda")
    )
    tokens = random_tokens(1, 400)
    expected = reference(theirs, tokens)
    for _ in range(3):
        logits = [ours.prefill(tokens[:, :300])[:, None]]
        logits += [ours.extend(tokens[:, i : i + 5]) for i in range(300, 400, 5)]
        assert relative_error(torch.cat(logits, 1).cpu(), expected[:, 299:]) <= 1e-3
    ours.check()
    assert ours._graphs.bytes > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bad_logits_on_cuda_are_raised_by_check() -> None:
    theirs = new_model(**LLAMA)
    spoil(theirs, token=7)
    ours = LeanModel.from_tensors(
        theirs.config.to_dict(), theirs.state_dict().items(), "small", device=torch.device("cuda")
    )
    ours.prefill(torch.zeros(1, 4, dtype=torch.long))
    ours.check()
    ours.extend(torch.tensor([[7]]))
    ours.extend(torch.tensor([[1]]))
    with pytest.raises(FloatingPointError, match="small: .*position 4"):
        ours.check()
    ours.reset()
    ours.prefill(torch.zeros(1, 4, dtype=torch.long))
    ours.check()
