"""Who takes part in a comparison, by the configuration alone."""

from types import SimpleNamespace

import pytest

from adaspec_rl.comparison.contestants import chosen_names
from adaspec_rl.config import EvaluateConfig

PAIR = SimpleNamespace(drafters=(SimpleNamespace(name="draft"), SimpleNamespace(name="ngram")))


@pytest.mark.parametrize(
    ("rule", "temperature", "mode", "bounds"),
    [
        ("coupled", 0.0, "live", {"oracle"}),
        ("coupled", 0.8, "live", {"foreseeable", "oracle"}),
        ("rejection", 0.0, "live", {"oracle"}),
        ("rejection", 0.8, "live", set()),
        ("rejection", 0.8, "both", set()),
        ("rejection", 0.8, "replay", {"foreseeable", "oracle"}),
        ("lossy.top_k", 0.0, "live", set()),
    ],
)
def test_all_has_the_bounds_that_recorded_texts_allow(rule, temperature, mode, bounds):
    config = EvaluateConfig(controllers="all")
    config.env.verification, config.env.temperature = rule, temperature
    config.evaluation.mode = mode
    names = chosen_names(config, PAIR)
    assert {"foreseeable", "oracle"} & set(names) == bounds
    assert {"learned", "svip", "together"} <= set(names)
