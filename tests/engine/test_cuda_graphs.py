"""Which forwards are recorded, replayed and given up. CUDA itself is stood in for on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adaspec_rl.engine.cuda_graphs import GraphPool, Inputs, Outputs
from adaspec_rl.engine.lean_model import LeanModel
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


def double(tensor: torch.Tensor, plus: int) -> Outputs:
    return (2 * tensor + plus,)


def test_recorded_at_the_second_call_and_replayed_from_then_on() -> None:
    records: list[Replayer] = []

    def record(function: Callable[..., Outputs], inputs: Inputs) -> Replayer:
        records.append(Replayer(function, inputs))
        return records[-1]

    pool = GraphPool(double, record, budget=100)
    for call in range(4):
        values = torch.arange(3) + call
        assert pool.run("a", (values,), 5)[0].tolist() == (2 * values + 5).tolist()
        assert len(records) == min(call, 1)
    assert records[0].replays == 3
    pool.clear()
    pool.run("a", (torch.arange(3),), 5)
    assert len(records) == 1 and "a" not in pool


def test_least_recently_used_gives_way_to_the_budget() -> None:
    pool = GraphPool(double, Replayer, budget=10)

    def use(key: str, size: int) -> None:
        for _ in range(2):
            pool.run(key, (torch.zeros(size),), 0)

    use("a", 4)
    use("b", 4)
    use("a", 4)  # now b is the older one
    use("c", 5)
    assert "a" in pool and "c" in pool and "b" not in pool
    assert pool.bytes == 9
    use("large", 11)  # never fits: runs as it comes, and drives nobody out
    assert "large" not in pool and pool.bytes == 9
    assert pool.run("large", (torch.ones(11),), 1)[0].sum() == 33


def test_no_budget_records_nothing() -> None:
    def record(function: Callable[..., Outputs], inputs: Inputs) -> Replayer:
        raise AssertionError("recorded without a budget")

    pool = GraphPool(double, record, budget=0)
    for _ in range(3):
        assert pool.run("a", (torch.ones(1),), 0)[0].item() == 2


def test_model_through_recorded_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that CUDA takes gives transformers' logits, whatever the rows' lengths."""
    monkeypatch.setattr("adaspec_rl.engine.lean_model.record_cuda_graph", Replayer)
    theirs = new_model(**LLAMA)
    ours = LeanModel.from_tensors(
        theirs.config.to_dict(), theirs.state_dict().items(), "small", kernels="torch"
    )
    monkeypatch.setattr(ours, "_on_cpu", False)
    monkeypatch.setattr(ours, "_chunk", 400)
    tokens, new = random_tokens(2, 30), random_tokens(2, 12, seed=1)
    for _ in range(3):
        ours.reset(2)
        ours.prefill(tokens[:, :25])
        ours.extend(tokens[:, 25:])
        ours.rollback(torch.tensor([28, 11]))
        logits = torch.cat([ours.extend(new[:, i : i + 3]) for i in range(0, 12, 3)], dim=1)
        for row, length in enumerate([28, 11]):
            text = torch.cat([tokens[row, :length], new[row]])[None]
            expected = reference(theirs, text)[:, length:]
            assert relative_error(logits[row : row + 1], expected) <= 1e-4
    assert ours._graphs.bytes > 0
    ours.reset()  # another batch: the memory has moved
    assert ours._graphs.bytes == 0
    long = random_tokens(1, 1500)
    ours.prefill(long[:, :1480])
    assert relative_error(ours.extend(long[:, 1480:]), reference(theirs, long)[:, 1480:]) <= 1e-4


def test_bad_logits_wait_for_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaspec_rl.engine.lean_model.record_cuda_graph", Replayer)
    theirs = new_model(**LLAMA)
    spoil(theirs, token=7)
    ours = LeanModel.from_tensors(
        theirs.config.to_dict(), theirs.state_dict().items(), "small", kernels="torch"
    )
    monkeypatch.setattr(ours, "_on_cpu", False)
    monkeypatch.setattr(ours._finite, "pending", torch.tensor(1 << 40))
    ours.prefill(torch.zeros(1, 1400, dtype=torch.long))
    ours.check()
    ours.extend(torch.tensor([[7]]))
    ours.extend(torch.tensor([[1]]))
    with pytest.raises(FloatingPointError, match="small: .*position 1400"):
        ours.check()
    ours.reset()
    ours.extend(torch.zeros(1, 5, dtype=torch.long))
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
