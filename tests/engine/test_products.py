"""The choice between ways to multiply a few rows by a matrix."""

import json

import pytest
import torch
import torch.nn.functional as F

from adaspec_rl.engine import products
from adaspec_rl.engine.products import Products, measured_products, transposed


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "adaspec_rl" / "narrow_products.json"


@pytest.mark.parametrize("columns", [0, 4, 8])
@pytest.mark.parametrize("bias", [None, torch.randn(7)])
@pytest.mark.parametrize("shape", [(1, 5), (2, 3, 5)])
def test_all_ways_give_the_same_product(shape, bias, columns):
    x, weight = torch.randn(shape), torch.randn(7, 5)
    found = transposed(x, weight, bias, columns=columns)
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.linear(x, weight, bias))


def test_each_width_goes_by_the_next_one_that_was_measured():
    chosen, weight = Products({(7, 5): (4, 0, 4, 0, 16)}), torch.empty(7, 5)

    def columns(rows):
        way = chosen.linear(weight, rows)
        return 0 if way is F.linear else way.keywords["columns"]

    assert [columns(rows) for rows in (1, 2, 3, 4, 5, 8, 9, 16, 17)] == [
        4,
        0,
        4,
        4,
        0,
        0,
        16,
        16,
        0,
    ]
    assert chosen.linear(torch.empty(5, 7), 4) is F.linear


def test_the_quickest_way_is_chosen_and_remembered(cache, monkeypatch):
    asked = []

    def judge(matrices, width):
        asked.append((len(matrices), width))
        return 4 if width == 1 else 0

    monkeypatch.setattr(products, "_fastest", judge)
    matrices = [torch.empty(512, 256), torch.empty(512, 256), torch.empty(8, 8)]
    assert measured_products(matrices).columns == {(512, 256): [4, 0, 0, 0, 0]}
    assert asked == [(2, width) for width in products.WIDTHS]  # nothing of the small one
    asked.clear()
    assert measured_products(matrices).columns == {(512, 256): (4, 0, 0, 0, 0)}
    assert not asked
    assert list(json.loads(cache.read_text()).values()) == [[4, 0, 0, 0, 0]]


def test_ways_that_are_three_times_as_slow_are_not_chosen(monkeypatch):
    matrices = [torch.randn(512, 512) for _ in range(4)]

    def slow(x, weight, bias=None, *, columns=0):
        return [F.linear(x, weight, bias) for _ in range(3)][0]

    monkeypatch.setattr(products, "transposed", slow)
    assert products._fastest(matrices, 4) == 0


@pytest.mark.parametrize("content", ["{", '{"a": "b"}', ""])
def test_a_damaged_memory_is_made_again(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert set(measured_products([torch.randn(256, 256)]).columns) == {(256, 256)}
    json.loads(cache.read_text())


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(measured_products([torch.randn(256, 256)]).columns) == {(256, 256)}
