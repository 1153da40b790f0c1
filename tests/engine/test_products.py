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
    return tmp_path / "adaspec_rl" / "products.json"


@pytest.mark.parametrize("bias", [None, torch.randn(7)])
@pytest.mark.parametrize("shape", [(1, 5), (2, 3, 5)])
def test_both_ways_give_the_same_product(shape, bias):
    x, weight = torch.randn(shape), torch.randn(7, 5)
    found = transposed(x, weight, bias)
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.linear(x, weight, bias))


def test_each_width_goes_by_the_next_one_that_was_measured():
    chosen, weight = Products({(7, 5): (4,)}), torch.empty(7, 5)
    ways = {rows: chosen.linear(weight, rows) for rows in (1, 2, 3, 4, 5, 100)}
    assert [rows for rows, way in ways.items() if way is transposed] == [3, 4]
    assert chosen.linear(torch.empty(5, 7), 4) is F.linear


def test_the_quicker_way_is_chosen_and_remembered(cache, monkeypatch):
    asked = []

    def judge(matrices, width):
        asked.append((len(matrices), width))
        return width == 2

    monkeypatch.setattr(products, "_transposed_is_faster", judge)
    matrices = [torch.empty(512, 256), torch.empty(512, 256), torch.empty(8, 8)]
    assert measured_products(matrices).faster == {(512, 256): [2]}
    assert asked == [(2, width) for width in products.WIDTHS]  # nothing of the small one
    asked.clear()
    assert measured_products(matrices).faster == {(512, 256): (2,)}
    assert not asked
    assert list(json.loads(cache.read_text()).values()) == [[2]]


def test_measuring_finds_a_way_that_is_twice_as_slow(monkeypatch):
    matrices = [torch.randn(512, 512) for _ in range(4)]

    def twice(x, weight, bias=None):
        F.linear(x, weight)
        return F.linear(x, weight, bias)

    monkeypatch.setattr(products, "transposed", twice)
    assert not products._transposed_is_faster(matrices, 4)


@pytest.mark.parametrize("content", ["{", '{"a": "b"}', ""])
def test_a_damaged_memory_is_made_again(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert set(measured_products([torch.randn(256, 256)]).faster) == {(256, 256)}
    json.loads(cache.read_text())


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(measured_products([torch.randn(256, 256)]).faster) == {(256, 256)}
