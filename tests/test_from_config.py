"""From a configuration to what it asks for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from adaspec_rl import from_config
from adaspec_rl.config import Config


@pytest.mark.parametrize(
    ("verification", "temperature", "serves"),
    [("rejection", 0.8, "rejection"), ("rejection", 0.0, "coupled"), ("coupled", 0.8, "coupled")],
)
def test_a_recording_serves_the_rule_that_decodes(monkeypatch, verification, temperature, serves):
    seen = []

    def recorded(pair, recording, *_, **__):
        seen.append(recording)

    monkeypatch.setattr(from_config, "record", recorded)
    config = Config()
    env = replace(config.env, verification=verification, temperature=temperature)
    pair = SimpleNamespace(fingerprint="x", eos_ids=())
    from_config.recording_from(replace(config, env=env), pair, [], Console(quiet=True))
    assert (seen[0].verification, seen[0].serves) == ("coupled", serves)
