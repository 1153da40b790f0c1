"""Sampling keeps the target's distribution, and the test that says so can fail."""

import numpy as np
import pytest
import torch

from adaspec_rl.decoding import verification
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from tests.toy import ToyModel, exact_distribution, similar, toy_session

SAMPLES, LENGTH, VOCAB, TEMPERATURE = 20_000, 2, 5, 0.8
PROMPT = [1, 2]


def chi_squared_z(rule: str, schedule: list[int]) -> float:
    """How many standard deviations chi-squared lies above its mean, over whole sequences."""
    target = ToyModel(VOCAB, seed=11, sharpness=1.0)
    session = toy_session(
        target,
        [similar(target, 0.7)],
        max_new_tokens=LENGTH,
        temperature=TEMPERATURE,
        verification=rule,
    )
    counts = np.zeros((VOCAB,) * LENGTH)
    actions = [Action(length) for length in schedule]
    for seed in range(SAMPLES):
        session.start(PROMPT, seed=seed)
        while not session.finished:
            session.step(actions[(seed + len(session.tokens)) % len(actions)])
        counts[tuple(session.tokens)] += 1
    expected = SAMPLES * exact_distribution(target, PROMPT, LENGTH, TEMPERATURE)
    assert expected.min() > 5  # the approximation by chi-squared holds
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["rejection", "coupled"])
def test_sequences_follow_the_targets_distribution(rule):
    assert chi_squared_z(rule, [1]) < 4


@pytest.mark.slow
def test_a_broken_acceptance_rule_is_found_out(monkeypatch):
    class Broken(verification.Rejection):
        """After a rejection it samples from p in place of the positive part of p - q."""

        def verify(self, logits, tokens, draft_log_probs, position):
            accepted, _ = super().verify(logits, tokens, draft_log_probs, position)
            p = verification.warp_logits(logits, self.sampling).softmax(-1)
            return accepted, verification.sample(p[accepted], self.generator)

    monkeypatch.setattr(verification, "Rejection", Broken)
    assert chi_squared_z("rejection", [1]) > 8


def test_a_draft_without_probabilities_counts_as_a_point_mass():
    """One step of rejection sampling with a fixed guess: frequencies are p, whatever the guess."""
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    generator = torch.Generator().manual_seed(0)
    rule = verification.Rejection(Sampling(1.0), generator)
    counts = np.zeros(3)
    for _ in range(6000):
        accepted, token = rule.verify(logits, torch.tensor([0]), None, 0)
        counts[0 if accepted == 1 else int(token)] += 1
    wanted = 6000 * logits[0].softmax(-1).numpy()
    assert ((counts - wanted) ** 2 / wanted).sum() < 20  # 2 degrees of freedom


def test_identical_models_accept_everything():
    target = ToyModel(VOCAB, seed=3)
    for rule in ("rejection", "coupled"):
        session = toy_session(
            target, [similar(target, 0.0)], temperature=1.0, verification=rule, max_new_tokens=40
        )
        session.start([1], seed=5)
        while not session.finished:
            played = session.step(Action(4))
            assert played.accepted == played.drafted
