"""Workers in other processes make the same shards."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch

from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.recording.recorder import Job, Models, Recording, record
from adaspec_rl.recording.workers import RayWorkers
from tests.recording.recordings import PROMPTS, toy_recording, toys
from tests.recording.test_shards import contents

load_tiny = partial(load_pair, "tiny", "tiny:target", ["tiny:code"])


def load_nothing() -> Models:
    raise OSError("the folder /models is gone")


class Suicidal:
    def __call__(self) -> Models:
        import os

        os._exit(1)


def test_without_ray_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    message = r'^replay.workers=2 needs Ray: pip install "adaspec_rl\[cluster\]", or set .*=1$'
    with pytest.raises(ValueError, match=message):
        RayWorkers(toys, toy_recording(), "abc", count=2)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recorded(load, recording: Recording, prompts, folder: Path, **options) -> dict[str, bytes]:
    """The files that two workers write."""
    with ExitStack() as stack:

        def workers(fingerprint: str) -> RayWorkers:
            pool = RayWorkers(load, recording, fingerprint, count=2, **options)
            return stack.enter_context(pool)

        record(load(), recording, prompts, ["any"] * len(prompts), folder, workers=workers)
    return contents(folder)


@pytest.mark.parametrize("ordered", [False, True])
def test_toys_in_two_workers_give_the_same_bytes(ray, one_thread, tmp_path, monkeypatch, ordered):
    # Toys load no compiled code, but another test of this process may have loaded it.
    monkeypatch.setattr("adaspec_rl.decoding.signals.loaded", lambda: None)
    recording = toy_recording(0.8, shard=1, survival="head")
    record(toys(), recording, PROMPTS, ["any"] * 5, tmp_path / "here")
    found = recorded(toys, recording, PROMPTS, tmp_path / "there", ordered=ordered)
    assert found == contents(tmp_path / "here")
    assert ray.is_initialized()  # it was started elsewhere


def test_a_pair_in_two_workers_gives_the_same_bytes(ray, one_thread, tmp_path):
    pair = load_tiny()
    recording = Recording(
        pair.fingerprint, toy_recording(0.8).sampling, "coupled", pair.eos_ids, 24, 4, shard=2
    )
    prompts = [pair.encode(text) for text in ("def add(", "Once upon", "3 + 4 =", "A cat", "1")]
    record(pair, recording, prompts, ["any"] * 5, tmp_path / "here")
    found = recorded(load_tiny, recording, prompts, tmp_path / "there")
    assert found == contents(tmp_path / "here") and len(found) == 8


def test_results_come_in_order_if_asked(ray):
    recording = toy_recording(shard=1)
    jobs = [Job("texts", ([prompt], number)) for number, prompt in enumerate(PROMPTS)]
    with RayWorkers(toys, recording, "abc", count=2, threads=1, ordered=True) as pool:
        assert [number for number, _ in pool.run(jobs)] == [0, 1, 2, 3, 4]
        texts = [number for number, _ in pool.run(jobs[:1])]  # the same actors
        assert texts == [0] and list(pool.run([])) == []


@pytest.mark.parametrize(
    ("load", "job", "message"),
    [
        (load_nothing, Job("texts", ([[1]], 0)), "worker failed: OSError: the folder /models is"),
        (toys, Job("drafts", ((), 7)), "worker failed: IndexError: "),
        (Suicidal(), Job("texts", ([[1]], 0)), "a replay worker died .* run the same command"),
    ],
)
def test_what_fails_in_a_worker_is_said_here(ray, load, job, message):
    with (
        RayWorkers(load, toy_recording(), "abc", count=1, threads=1) as pool,
        pytest.raises(ValueError, match=message),
    ):
        list(pool.run([job]))


def test_more_than_ray_has_is_refused(ray):
    job = Job("texts", ([[1]], 0))
    with pytest.raises(ValueError, match="replay.workers=3 needs 6 CPUs but Ray has 2: set"):
        next(RayWorkers(toys, toy_recording(), "abc", count=3, threads=2).run([job]))
    with pytest.raises(ValueError, match="replay.workers=0|at least 1, got 0"):
        RayWorkers(toys, toy_recording(), "abc", count=0)
