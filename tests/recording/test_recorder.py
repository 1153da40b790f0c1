"""Recordings resume, are what their fingerprint says, and are made once."""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.survival import Evidence, ProductSurvival, SurvivalHead
from adaspec_rl.recording import recorder
from adaspec_rl.recording.drafts import draft_one_by_one
from adaspec_rl.recording.fitting import examples, fit_head, joined, log_loss
from adaspec_rl.recording.recorder import InProcess, Recording, ShardRecorder, record
from adaspec_rl.recording.texts import Text, text_rules
from adaspec_rl.recording.trace import drafts_from_tensors
from tests.engine.checkpoints import random_tokens
from tests.recording.recordings import PROMPTS, Toys, random_head, toy_recording, toys
from tests.recording.test_shards import contents
from tests.replay.test_replay_equals_live import random_drafter
from tests.toy import greedy_text

DOMAINS = ["toy"] * len(PROMPTS)


def equal(first: SurvivalHead, second: SurvivalHead) -> bool:
    pairs = zip(first.tensors().values(), second.tensors().values())
    return all(np.array_equal(a, b) for a, b in pairs)


def test_texts_are_the_targets_own(tmp_path):
    models = toys()
    trace, _ = record(models, toy_recording(), PROMPTS, DOMAINS, tmp_path)
    for text, prompt in zip(trace.texts, PROMPTS):
        assert text.prompt.tolist() == prompt
        assert text.tokens.tolist() == greedy_text(models.target, prompt, 12)
        assert (text.finished, text.budget) == ("length", 12)
    assert trace.domains == tuple(DOMAINS) and trace.starts[-1] == 60


def test_texts_are_seeded_by_their_number(tmp_path):
    recording = replace(toy_recording(1.0), seed=40)
    trace, _ = record(toys(), recording, [[1, 2]] * 6, ["toy"] * 6, tmp_path)
    assert [text.seed for text in trace.texts] == [40, 41, 42, 43, 44, 45]
    assert len({tuple(text.tokens.tolist()) for text in trace.texts}) == 6


@pytest.mark.parametrize("survival", ["product", "head"])
@pytest.mark.parametrize("kept", range(9))
def test_an_interrupted_recording_goes_on_where_it_was(tmp_path, survival, kept):
    """Five prompts in shards of two: three of texts, then each one's of both drafters."""
    recording = toy_recording(0.8, survival=survival)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    complete = record(toys(), recording, PROMPTS, DOMAINS, whole)[0]
    shards_made, seen = [2, 4, 5, 7, 9, 11, 13, 14, 15], []

    def interrupt(done: float, total: float) -> None:
        assert total == 15
        if done == shards_made[kept]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(toys(), recording, PROMPTS, DOMAINS, cut, progress=interrupt)
    before = contents(cut)
    assert len(before) == kept + 1
    models = toys()
    resumed, _ = record(
        models, recording, PROMPTS, DOMAINS, cut, progress=lambda done, total: seen.append(done)
    )
    assert seen == sorted(seen) and seen[-1] == 15
    assert before.items() <= contents(cut).items()
    assert contents(cut) == contents(whole)
    for a, b in zip(resumed.drafters, complete.drafters):
        assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.survival, b.survival)


def test_progress_is_told_within_a_shard(tmp_path):
    """A shard of a slow model takes minutes: its tokens and positions are heard of one by one."""
    recording = toy_recording(shard=len(PROMPTS))
    seen = []
    record(toys(), recording, PROMPTS, DOMAINS, tmp_path, progress=lambda *told: seen.append(told))
    done = [part for part, _ in seen]
    assert done == sorted(done) and seen[-1] == (15, 15)
    for shard in range(3):  # the texts, then each drafter's drafts
        within = {part for part in done if shard * 5 < part < (shard + 1) * 5}
        assert len(within) >= 8


def test_a_finished_recording_costs_no_forward_pass(tmp_path):
    recording = toy_recording(survival="head")
    first, heads = record(toys(), recording, PROMPTS, DOMAINS, tmp_path)
    models = toys()
    second, again = record(models, recording, PROMPTS, DOMAINS, tmp_path)
    assert models.forwards == 0
    assert first.fingerprint == second.fingerprint
    assert all(equal(a, b) for a, b in zip(heads, again))
    for a, b in zip(first.drafters, second.drafters):
        assert a.name == b.name
        for part in ("tokens", "accepted", "signals", "survival"):
            assert np.array_equal(getattr(a, part), getattr(b, part))


def test_a_resumed_recording_makes_only_what_is_missing(tmp_path):
    recording = toy_recording()
    trace, _ = record(toys(), recording, PROMPTS, DOMAINS, tmp_path)
    (tmp_path / trace.fingerprint / "drafts-1-0001.safetensors").unlink()
    models = toys()
    record(models, recording, PROMPTS, DOMAINS, tmp_path)
    assert not models.target.forwards and not models.drafters[0].model.forwards
    assert models.forwards > 0


def test_a_damaged_shard_stops_a_recording(tmp_path):
    trace, _ = record(toys(), toy_recording(), PROMPTS, DOMAINS, tmp_path)
    path = tmp_path / trace.fingerprint / "drafts-0-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="drafts-0-0001.* is damaged"):
        record(toys(), toy_recording(), PROMPTS, DOMAINS, tmp_path)


def test_rejection_at_a_temperature_is_refused():
    with pytest.raises(ValueError, match="cannot be replayed.*use env.verification=coupled"):
        toy_recording(0.8, verification="rejection")
    assert toy_recording(0.0, verification="rejection").verification == "rejection"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"survival": "luck"}, "unknown survival 'luck': expected one of product, head"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"shard": 0}, "shard must be at least 1, got 0"),
    ],
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy_recording(**settings)


def test_anything_that_matters_changes_the_fingerprint():
    recording = toy_recording(0.8)
    changed = [
        replace(recording, pair="others"),
        replace(recording, sampling=Sampling(0.9)),
        replace(recording, sampling=Sampling(0.8, top_p=0.5)),
        replace(recording, eos_ids=(3,)),
        replace(recording, max_new_tokens=13),
        replace(recording, max_length=5),
        replace(recording, survival="head"),
        replace(recording, seed=1),
        replace(recording, shard=3),
    ]
    found = [item.fingerprint(PROMPTS, None) for item in (recording, *changed)]
    found += [recording.fingerprint(prompts, None) for prompts in ([[1, 2]], PROMPTS[::-1], [])]
    product, heads = [ProductSurvival()], [random_head(8, seed) for seed in range(3)]
    found += [recording.fingerprint(PROMPTS, given) for given in (product, product * 2)]
    found += [recording.fingerprint(PROMPTS, [head]) for head in heads]
    assert len(set(found)) == len(found)


def test_recordings_of_another_sampler_are_not_mixed_with_these(monkeypatch):
    recording = toy_recording(0.8)
    now = recording.fingerprint(PROMPTS, None)
    monkeypatch.setattr(recorder, "SAMPLER", recorder.SAMPLER + 1)
    assert recording.fingerprint(PROMPTS, None) != now


def test_the_same_recording_has_the_same_fingerprint():
    prompts = [np.array(prompt).tolist() for prompt in PROMPTS]
    for heads in (None, [ProductSurvival()], [random_head(8), random_head(8)]):
        found = {toy_recording(0.8).fingerprint(prompts, heads) for _ in range(20)}
        assert len(found) == 1


def test_given_heads_are_used_and_not_fitted(tmp_path):
    heads = [random_head(8, 1), random_head(8, 2)]
    recording = toy_recording(survival="head")
    models = toys()
    trace, used = record(models, recording, PROMPTS, DOMAINS, tmp_path, heads=heads)
    assert used == heads
    assert not list(tmp_path.rglob("survival-*"))
    again = ShardRecorder(models, recording, trace.fingerprint)
    for d, (table, head) in enumerate(zip(trace.drafters, heads)):
        drafts = drafts_from_tensors(load(again.drafts(trace.texts, d)), trace.texts)
        expected = [item.survivals(text, head) for text, item in zip(trace.texts, drafts)]
        assert np.array_equal(table.survival, np.concatenate(expected))
    assert not np.allclose(trace.drafters[0].survival, trace.drafters[1].survival)
    plain, _ = record(toys(), toy_recording(), PROMPTS, DOMAINS, tmp_path)
    assert not np.allclose(plain.drafters[0].survival, trace.drafters[0].survival)


def test_workers_may_finish_in_any_order(tmp_path):
    class Backwards(InProcess):
        def run(self, jobs):
            yield from reversed(list(super().run(jobs)))

    recording, asked = toy_recording(0.8, survival="head"), []
    models = toys()

    def workers(fingerprint: str) -> Backwards:
        asked.append(fingerprint)
        return Backwards(ShardRecorder(models, recording, fingerprint))

    trace, _ = record(models, recording, PROMPTS, DOMAINS, tmp_path / "a", workers=workers)
    record(toys(), recording, PROMPTS, DOMAINS, tmp_path / "b")
    assert asked == [trace.fingerprint]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def learnable(count: int, seed: int) -> tuple[Evidence, np.ndarray]:
    """The answer depends on the margin where a match agrees, and on the token, and some luck."""
    rng = np.random.default_rng(seed)
    seen = Evidence(
        token=rng.integers(0, 8, count),
        previous=rng.integers(0, 8, count),
        log_prob=-rng.exponential(size=count),
        choice_margin=rng.exponential(scale=2, size=count),
        match=rng.integers(0, 12, count),
        agrees=rng.integers(0, 2, count),
    )
    odds = 2.0 * (seen.token % 2) - 3 + seen.choice_margin * (seen.agrees * seen.match > 0)
    return seen, (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(np.float32)


def base_rate_loss(answers: np.ndarray) -> float:
    rate = answers.mean()
    return float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))


@pytest.mark.parametrize("log_probs", [True, False])
def test_a_fitted_head_is_calibrated_and_beats_the_base_rate(log_probs):
    seen, answers = learnable(30_000, 0)
    head = fit_head(seen, answers, 8, log_probs=log_probs)
    assert head.needs_log_prob == log_probs
    unseen, truth = learnable(4000, 1)
    assert log_loss(head, unseen, truth) < 0.8 * base_rate_loss(truth)
    chances = head(unseen)
    sure = chances > 0.7
    assert sure.sum() > 100 and abs(chances[sure].mean() - truth[sure].mean()) < 0.05
    assert equal(head, fit_head(seen, answers, 8, log_probs=log_probs))


def test_a_token_seen_once_says_little():
    seen, answers = learnable(400, 0)
    seen.token[0], answers[0] = 8, 1.0  # never accepted elsewhere, never seen again
    head = fit_head(seen, answers, 10)
    assert 0 <= head.token[8] < 0.3 and head.token[9] == 0


def test_a_head_is_fitted_on_what_the_drafter_shows(tmp_path):
    """Like the drafter's twin, the target, on some tokens only; each shard by a head of others."""
    drafter, twin = random_drafter("llama"), random_drafter("llama")
    blur = np.random.default_rng(0).normal(size=drafter.model.weights.norm.shape) * 0.5
    twin.model.weights.norm += twin.model.weights.norm.new_tensor(blur)
    models = Toys(twin.model, [drafter])
    prompts = [random_tokens(1, 4, seed)[0].tolist() for seed in range(40)]
    recording = toy_recording(0.8, survival="head", max_new_tokens=60, max_length=3, shard=16)
    trace, heads = record(models, recording, prompts, ["any"] * 40, tmp_path)
    head = heads[0]
    assert isinstance(head, SurvivalHead) and head.token.shape == (61,)
    seen, answers = learned_from(models, recording, trace.texts)
    assert 0.1 < answers.mean() < 0.9
    assert log_loss(head, seen, answers) < base_rate_loss(answers)
    drafted = trace.drafters[0].accepted > 0
    assert np.array_equal(drafted, answers == 1)  # what it learns from is the first drafted token
    shard = slice(trace.starts[16], trace.starts[32])  # the second one
    others = joined([learned_from(models, recording, trace.texts[part])[0] for part in OTHERS])
    truth = np.delete(answers, np.arange(shard.start, shard.stop))
    own = fit_head(others, truth, 61)
    assert np.allclose(trace.drafters[0].survival[shard, 0], own(seen)[shard], atol=1e-4)
    assert not np.allclose(own(seen)[shard], head(seen)[shard], atol=1e-4)


def learned_from(models: Toys, recording: Recording, texts: Sequence[Text]):
    """Evidence and answers of drafts of one token, made as decoding makes them."""
    seeds = [text.seed for text in texts]
    rules = text_rules(models.target, seeds, recording.verification, recording.sampling)
    drafter = models.drafters[0]
    drafts = [draft_one_by_one(drafter, text, rule, 1) for text, rule in zip(texts, rules)]
    return examples(zip(texts, drafts))


OTHERS = (slice(0, 16), slice(32, 40))


def test_files_lie_in_a_folder_named_after_the_fingerprint(tmp_path: Path):
    trace, _ = record(toys(), toy_recording(survival="head"), PROMPTS, DOMAINS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [trace.fingerprint]
    assert sorted(contents(tmp_path / trace.fingerprint)) == [
        *(f"drafts-{d}-000{n}.safetensors" for d in range(2) for n in range(3)),
        *(f"estimates-{d}.safetensors" for d in range(2)),
        *(f"survival-{d}.safetensors" for d in range(2)),
        *(f"texts-000{n}.safetensors" for n in range(3)),
    ]


def test_several_who_want_one_recording_make_it_once(tmp_path, caplog):
    caplog.set_level("INFO")
    recording, found = toy_recording(0.8, survival="head"), {}

    def work(models: Toys) -> None:
        found[id(models)] = record(models, recording, PROMPTS, DOMAINS, tmp_path / "shared")[0]

    everyone = [toys() for _ in range(4)]
    threads = [threading.Thread(target=work, args=(models,)) for models in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(models.forwards > 0 for models in everyone) == 1
    assert len(found) == 4 and len({trace.fingerprint for trace in found.values()}) == 1
    alone, _ = record(toys(), recording, PROMPTS, DOMAINS, tmp_path / "alone")
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    for trace in found.values():
        assert np.array_equal(trace.drafters[1].survival, alone.drafters[1].survival)


def test_one_who_waits_goes_on_where_the_other_was_killed(tmp_path):
    recording, begun = toy_recording(), threading.Event()

    def killed(done: int, total: int) -> None:
        if done:
            begun.set()
            time.sleep(0.2)
            raise KeyboardInterrupt

    def work() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            record(toys(), recording, PROMPTS, DOMAINS, tmp_path / "a", progress=killed)

    first = threading.Thread(target=work)
    first.start()
    begun.wait()
    record(toys(), recording, PROMPTS, DOMAINS, tmp_path / "a")
    first.join()
    record(toys(), recording, PROMPTS, DOMAINS, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
