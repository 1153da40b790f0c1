"""An outlook survives a file, and what does not fit is refused."""

import json

import numpy as np
import pytest

from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.outlook_file import load_outlook, save_outlook
from adaspec_rl.control.learned import Actor
from adaspec_rl.control.observation import ObservationSpec

SPEC = ObservationSpec(("context", "lookup"), 4, 16, 2)


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    widths = (len(SPEC) + 2, 8, 2 * 2 * 4)
    weights = [rng.normal(size=pair).astype(np.float32) for pair in zip(widths, widths[1:])]
    biases = [rng.normal(size=width).astype(np.float32) for width in widths[1:]]
    outlook = Outlook(Actor(tuple(weights), tuple(biases)), SPEC, 4)
    save_outlook(outlook, "pair", tmp_path / "outlook")
    return outlook, tmp_path / "outlook"


def test_it_is_its_network_at_every_pair_of_prices(saved):
    outlook, _ = saved
    seen = np.random.default_rng(1).normal(size=(5, len(SPEC))).astype(np.float32)
    prices = [(0.3, 0.5), (0.0, 0.1)]
    worth, drafted = outlook(seen, prices)
    for number, pair in enumerate(prices):
        inputs = np.concatenate([seen, np.tile(np.float32(pair), (5, 1))], axis=1)
        expected = outlook.network(inputs).reshape(5, 2, 2, 4)
        np.testing.assert_allclose(worth[number], expected[:, 0], atol=1e-5)
        np.testing.assert_allclose(drafted[number], expected[:, 1].clip(0, 1), atol=1e-5)


def test_it_expects_the_same_after_loading(saved):
    outlook, folder = saved
    seen = np.random.default_rng(1).normal(size=(5, len(SPEC))).astype(np.float32)
    for made, expected in zip(
        load_outlook(folder, "pair")(seen, [(0.3, 0.5)]), outlook(seen, [(0.3, 0.5)])
    ):
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("schema", 2, "schema 2, expected 1"),
        ("depth", 3, "inputs and 16 outputs"),
        ("layers", 3, "does not hold the 3 layers"),
        ("features", ["generated"], "not those of this version"),
        ("fingerprint", "other", "was trained for the pair 'other'"),
    ],
)
def test_what_does_not_fit_is_refused(saved, name, value, message):
    path = saved[1] / "outlook.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=message):
        load_outlook(saved[1], "pair")


def test_damaged_weights_are_refused(saved):
    path = saved[1] / "outlook.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        load_outlook(saved[1], "pair")
