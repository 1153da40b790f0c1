"""Exports of one policy to everywhere, made once."""

from dataclasses import replace
from pathlib import Path

import pytest

from adaspec_rl.interop import export, to_sglang
from adaspec_rl.interop.exported import Export
from adaspec_rl.interop.workshop import Workshop
from tests.interop.shop import profile, shop


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory) -> Workshop:
    """Verification costs enough that one length is not best everywhere."""
    costs = profile(sizes=(1, 4), rise=0.1)
    return shop(tmp_path_factory.mktemp("shop"), noise=0.45, costs=costs)


@pytest.fixture(scope="session")
def exports(small_shop, tmp_path_factory) -> dict[str, tuple[Path, Export]]:
    """Folder and content by engine; `onnx` where its package is."""
    found = {}
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        quick = replace(to_sglang.REGRESSION, total_steps=12_000, n_epochs=3, hidden=[16])
        patch.setattr(to_sglang, "REGRESSION", quick)
        for to in export.KINDS:
            if to != "onnx":
                found[to] = folder / to, export.written(to, small_shop, folder / to)
    return found
