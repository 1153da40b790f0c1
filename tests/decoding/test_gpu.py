"""The same decoding on a GPU, where one is present."""

import pytest
import torch

from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import Pair, load_pair

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPT = "def main(arguments):\n    "


def decode(pair: Pair, action: Action, temperature: float) -> list[int]:
    session = pair.session(
        max_new_tokens=48, sampling=Sampling(temperature), verification="coupled"
    )
    session.start(pair.encode(PROMPT), seed=3)
    while not session.finished:
        session.step(action)
    return session.tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_float32_texts_are_those_of_the_cpu(temperature):
    cpu, gpu = (
        load_pair("tiny", "tiny:target", ["tiny:draft"], LoadOptions(device=device))
        for device in ("cpu", "cuda")
    )
    expected = decode(cpu, Action(0), temperature)
    for length in (0, 1, 4, 8):
        assert decode(gpu, Action(length), temperature) == expected
    assert decode(gpu, Action(8, threshold=0.4), temperature) == expected


def test_a_round_waits_for_the_device_only_where_it_reports():
    pair = load_pair("tiny", "tiny:target", ["tiny:draft"], LoadOptions(device="cuda"))
    session = pair.session(max_new_tokens=64, sampling=Sampling())
    session.start(pair.encode(PROMPT))
    assert session.target._graphs.bytes > 0  # captured ahead
    for action in (Action(4), Action(0), Action(4, threshold=0.4)):
        session.step(action)
        with torch.profiler.profile() as profile:
            session.step(action)
        waits = [event for event in profile.events() if event.name == "cudaStreamSynchronize"]
        assert len(waits) <= 1
