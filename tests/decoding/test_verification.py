"""Sampling keeps the target's distribution, and the test that says so can fail."""

import numpy as np
import pytest
import torch

from adaspec_rl.decoding import verification
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling, sample, warp_logits
from adaspec_rl.decoding.signals import draft_signals, target_signals
from adaspec_rl.decoding.verification import Greedy, acceptance, new_verification, rows, rules
from adaspec_rl.decoding.verification.acceptance import chosen_agreement
from adaspec_rl.decoding.verification.rows import Unverified, verify_rows
from adaspec_rl.engine.cpu.build import library
from tests.toy import ToyModel, exact_distribution, similar, toy_session

SAMPLES, LENGTH, VOCAB, TEMPERATURE = 20_000, 2, 5, 0.8
PROMPT = [1, 2]


def chi_squared_z(rule: str, schedule: list[int], samples: int = SAMPLES) -> float:
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
    for seed in range(samples):
        session.start(PROMPT, seed=seed)
        while not session.finished:
            session.step(actions[(seed + len(session.tokens)) % len(actions)])
        counts[tuple(session.tokens)] += 1
    expected = samples * exact_distribution(target, PROMPT, LENGTH, TEMPERATURE)
    assert expected.min() > 5  # the approximation by chi-squared holds
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "samples"),
    [("rejection", SAMPLES), ("traversal", SAMPLES), ("coupled", 5000)],  # noise takes its time
)
def test_sequences_follow_the_targets_distribution(rule, samples):
    assert chi_squared_z(rule, [1], samples) < 4


@pytest.mark.slow
def test_a_broken_acceptance_rule_is_found_out(monkeypatch):
    class Broken(verification.Rejection):
        """After a rejection it samples from p in place of the positive part of p - q."""

        def verify(self, logits, tokens, draft_log_probs, position):
            accepted, _ = super().verify(logits, tokens, draft_log_probs, position)
            p = warp_logits(logits, self.sampling).softmax(-1)
            return accepted, sample(p[accepted], self.generator)

    monkeypatch.setattr(rules, "Rejection", Broken)
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


@pytest.mark.parametrize("rule, temperature", [("greedy", 0), ("coupled", 0.7), ("rejection", 0.7)])
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("rows", [3, 40])  # many are read by several threads
def test_log_probabilities_are_those_of_the_distribution_drawn_from(rule, temperature, top_k, rows):
    logits = 3 * torch.randn(rows, 9, generator=torch.Generator().manual_seed(0))
    made = verification.new_verification(
        rule, Sampling(temperature, top_k), 1, 9, torch.device("cpu")
    )
    choices = [made.propose(row, position) for position, row in enumerate(logits)]
    tokens = torch.cat([choice.token for choice in choices])
    kept = logits / (temperature or 1.0)
    if top_k and temperature:
        kept = kept.masked_fill(kept < kept.topk(top_k).values[:, -1:], -torch.inf)
    expected = kept.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    told = [choice.log_prob() for choice in choices]
    assert told == pytest.approx(expected.tolist(), abs=1e-5)
    log_probs, scores = (
        torch.stack([getattr(choice, name) for choice in choices])
        for name in ("log_probs", "scores")
    )
    signals = draft_signals(logits, tokens, log_probs, scores, normalised=choices[0].normalised)
    assert signals[:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("width", [1, 5, 16, 37, 4099])
@pytest.mark.parametrize("kind", ["greedy", "noise", "truncated"])
def test_compiled_signals_are_those_of_torch(monkeypatch, width, kind):
    library()
    generator = torch.Generator().manual_seed(width)
    logits = 5 * torch.randn(20, width, generator=generator)
    logits[0] = 1.0  # all equal: no margin
    log_probs = scores = logits
    if kind != "greedy":
        log_probs = logits / 0.7
        if kind == "truncated":
            log_probs = log_probs.masked_fill(logits < logits.amax(-1, keepdim=True), -torch.inf)
        scores = log_probs + torch.randn(20, width, generator=generator)
    tokens = scores.argmax(-1)
    if kind == "noise":
        tokens[:10] = torch.randint(width, (10,), generator=generator)
    found = draft_signals(logits, tokens, log_probs, scores), target_signals(logits[3])
    monkeypatch.setattr("adaspec_rl.decoding.signals.loaded", lambda: None)
    wanted = draft_signals(logits, tokens, log_probs, scores), target_signals(logits[3])
    for own, theirs in zip(found, wanted):
        torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 7, 16, 50])
@pytest.mark.parametrize("temperature", [None, 0.7])
def test_compiled_agreement_is_that_of_torch(monkeypatch, width, temperature):
    library()
    generator = torch.Generator().manual_seed(width)
    for accepted in range(4):
        logits = torch.randint(-2, 3, (4, width), generator=generator).float()  # with ties
        noise = None
        if temperature:
            noise = [*torch.randint(-1, 2, (4, width), generator=generator).float()]
        scores = logits if noise is None else logits / temperature + torch.stack(noise)
        tokens = scores.argmax(-1)[:3]
        tokens[accepted:] += 1
        found = []
        for compiled in (library(), None):
            monkeypatch.setattr(f"{acceptance.__name__}.loaded", lambda known=compiled: known)
            kept, token = chosen_agreement(logits, tokens, temperature or 1.0, noise)
            found.append((int(kept), int(token)))
        assert found[0] == found[1] == (accepted, int(scores[accepted].argmax()))


SETTINGS = {
    "greedy": ("coupled", Sampling(0.0)),
    "coupled": ("coupled", Sampling(0.7)),
    "truncated": ("coupled", Sampling(0.7, top_k=5)),
    "rejection": ("rejection", Sampling(0.7)),
}


def unverified(kind: str, lengths: list[int], width: int) -> list[Unverified]:
    """Texts with drafts of such lengths, each with a rule of its own; most tokens are accepted."""
    generator = torch.Generator().manual_seed(len(lengths))
    name, sampling = SETTINGS[kind]
    found = []
    for seed, length in enumerate(lengths):
        rule = new_verification(name, sampling, seed, width, torch.device("cpu"))
        logits = torch.randint(-2, 3, (length + 1, width), generator=generator).float()  # with ties
        position = 3 * seed
        _, scores = rule.weigh(logits, range(position, position + length + 1))
        tokens = scores.argmax(-1)[:length]
        if seed % 3 and length:
            tokens[seed % length] = (tokens[seed % length] + 1) % width
        log_probs = torch.randn(length, width, generator=generator).log_softmax(-1)
        draft = Draft(tokens, log_probs=log_probs, normalised=True) if length else None
        found.append(Unverified(rule, draft, logits, position))
    return found


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("lengths", [[], [0], [4], [0, 0, 0], [3, 0, 1, 8, 2, 5, 1, 0, 6]])
def test_texts_are_verified_together_as_they_are_alone(monkeypatch, compiled, kind, lengths):
    for module in (acceptance, rows):
        monkeypatch.setattr(module, "loaded", library if compiled else lambda: None)
    found = verify_rows(unverified(kind, lengths, 4099))
    assert len(found) == len(lengths)
    for row, verified in zip(unverified(kind, lengths, 4099), found):
        tokens = row.draft.tokens if row.draft else torch.empty(0, dtype=torch.long)
        drawn = row.draft.log_probs if row.draft else None
        accepted, token = row.rule.verify(row.logits, tokens, drawn, row.position)
        assert verified.accepted == int(accepted)
        assert verified.proposed == [*tokens.tolist(), int(token)]


def test_a_rule_that_builds_on_another_verifies_its_own_way():
    class Strict(Greedy):
        def verify(self, logits, tokens, draft_log_probs, position):
            return torch.tensor(0), logits[0].argmax()

    draft = Draft(torch.tensor([1]))
    found = verify_rows([Unverified(Strict(), draft, torch.eye(5)[1:3], 0)])
    assert found[0].accepted == 0
    assert found[0].proposed == [1, 1]


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
