"""Trees are read in one forward pass and their accepted path is kept, as if read step by step."""

import pytest
import torch

from adaspec_rl.engine.lean_model import LeanModel
from tests.engine.checkpoints import new_model, random_tokens
from tests.engine.cpu.test_bits import EXECUTIONS, MODELS, new

PARENTS = (-1, -1, 0, 0, 1, 3, 4, 6, 2)  # node 0 follows the last token of the text
PATHS = ((0, 3, 5), (1, 4, 6, 7), (0, 2, 8))  # to every leaf
STEM = 70


def torch_model(family: str) -> LeanModel:
    model = new_model(**MODELS[family])
    tensors = model.state_dict().items()
    return LeanModel.from_tensors(model.config.to_dict(), tensors, family, kernels="torch")


def steps(model: LeanModel, text: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """Logits after each of `rest` `[W]`, read one at a time after `text`, `[W, V]`."""
    model.prefill(text)
    return torch.cat([model.extend(token.view(1, 1))[0] for token in rest])


def check(model: LeanModel, same) -> None:
    text, nodes, rest = (
        random_tokens(1, STEM),
        random_tokens(1, 9, 1)[0],
        random_tokens(1, 20, 2)[0],
    )
    model.prefill(text)
    at_once = model.extend_tree(nodes[None], PARENTS)[0]
    model.rollback(STEM)
    parts = [model.extend_tree(nodes[None, a:b], PARENTS[:b])[0] for a, b in ((0, 2), (2, 9))]
    same(torch.cat(parts), at_once)  # level by level, or however
    for path in PATHS:
        same(at_once[list(path)], steps(model, text, nodes[list(path)]))
        for kept in (path, path[:1], ()):
            expected = steps(model, text, torch.cat([nodes[list(kept)], rest]))
            model.prefill(text)
            model.extend_tree(nodes[None], PARENTS)
            model.keep_path(STEM, kept)
            assert model.lengths.tolist() == [STEM + len(kept)]
            found = torch.cat([model.extend(token.view(1, 1))[0] for token in rest])
            same(found, expected[len(kept) :])
            model.rollback(STEM + len(kept))
            same(model.extend(rest[None])[0], found)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("family", MODELS)
def test_compiled(family: str, execution: str) -> None:
    def same(a: torch.Tensor, b: torch.Tensor) -> None:
        assert torch.equal(a, b)

    check(new(family, execution), same)


@pytest.mark.parametrize("family", MODELS)
def test_torch(family: str) -> None:
    check(torch_model(family), torch.testing.assert_close)


def test_a_chain_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model, text, nodes = new(), random_tokens(1, STEM), random_tokens(1, 4, 1)
    model.prefill(text)
    plain = model.extend(nodes)
    model.rollback(STEM)
    monkeypatch.setattr("adaspec_rl.engine.lean_model.tree_mask", None)
    assert torch.equal(model.extend_tree(nodes, (-1, 0, 1, 2)), plain)


def test_what_is_no_path_is_refused() -> None:
    model = new()
    model.prefill(random_tokens(1, 20))
    model.extend_tree(random_tokens(1, 3), (-1, -1, 0))
    for length, nodes in ((20, (3,)), (20, (1, 1)), (20, (2, 0)), (24, ())):
        with pytest.raises(ValueError, match="row 0 holds 23"):
            model.keep_path(length, nodes)
    with pytest.raises(ValueError, match="node 1 has parent 1: expected an earlier node"):
        model.extend_tree(random_tokens(1, 2), (-1, 1))
