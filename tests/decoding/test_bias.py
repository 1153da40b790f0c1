"""Whatever decides, rejection sampling keeps the target's distribution; a bias would be found.

Whole texts are counted and compared with their exact probabilities by chi-squared.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaspec_rl.comparison.methods import METHODS
from adaspec_rl.comparison.workbench import Workbench
from adaspec_rl.control.action import action_list
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.baselines.ruled import Ruled
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, ObservationSpec
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters import DraftModel, NgramLookup
from adaspec_rl.decoding.round import Action, DraftedToken
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.text import Text
from adaspec_rl.recording.recorder import record
from tests.recording.recordings import Toys, profile, random_head, toy_recording
from tests.toy import ToyModel, exact_distribution, similar

VOCAB, LENGTH, TEMPERATURE, PROMPT = 4, 3, 0.9, [0, 1, 2, 0, 1]
SPEC = ObservationSpec(("history", "target", "draft", "context", "lookup"), 3, VOCAB, 2)
COST = CostFeatures(0.1, 0.02, 0.05)
TEXTS = 2000
FEWEST = 5.0  # texts expected of a kind; rarer kinds are counted together


def models() -> Toys:
    target = ToyModel(VOCAB, seed=4, sharpness=1.0)
    draft = DraftModel(similar(target, 0.6), VOCAB)
    return Toys(target, [draft, NgramLookup()])


def excess(controller: Controller, *, texts: int = TEXTS, head: bool = False) -> float:
    """Standard deviations by which chi-squared lies above its mean."""
    toys = models()
    session = LiveSession(
        toys.target,
        toys.drafters,
        max_new_tokens=LENGTH,
        sampling=Sampling(TEMPERATURE),
        verification="rejection",
        survival=[random_head(VOCAB, seed) for seed in range(2)] if head else None,
        clock=itertools.count().__next__,  # every round takes as long
    )
    counts, drafted = np.zeros((VOCAB,) * LENGTH), 0
    for seed in range(texts):
        made = generate(session, controller, PROMPT, cost=COST, seed=seed)
        counts[tuple(made.tokens)] += 1
        drafted += sum(played.drafted for played in made.rounds)
    assert drafted > texts / 4  # there was something to be biased by
    expected = texts * exact_distribution(toys.target, PROMPT, LENGTH, TEMPERATURE)
    rare = expected < FEWEST
    seen, wanted = (np.append(values[~rare], values[rare].sum()) for values in (counts, expected))
    chi_squared = ((seen - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum()
    freedom = len(wanted) - 1
    return float((chi_squared - freedom) / np.sqrt(2 * freedom))


class Nervous:
    """A rule that looks at everything it can be told."""

    needs = frozenset({"entropy", "survival"})

    def __call__(self, token: DraftedToken) -> bool:
        return token.probability < 0.3 or token.entropy > 1.1 or token.survival < 0.2


class Fixed(FixedLength):
    """One action throughout."""

    def __init__(self, action: Action) -> None:
        super().__init__(action.length)
        self.action = action


def policy() -> LearnedPolicy:
    """A network that nobody trained: it prefers whatever it happens to."""
    rng = np.random.default_rng(2)
    actions = action_list("length_threshold", 3, 2, (0.3, 0.6))
    widths = (len(SPEC), 8, len(actions))
    weights = tuple(rng.normal(size=s).astype(np.float32) for s in zip(widths, widths[1:]))
    return LearnedPolicy(Actor(weights, (np.zeros(8), np.zeros(len(actions)))), actions, SPEC)


CONTROLLERS = {
    "a threshold": (lambda: Fixed(Action(3, threshold=0.35)), False),
    "a threshold, by the head": (lambda: Fixed(Action(3, threshold=0.35)), True),
    "a rule": (lambda: Ruled("nervous", Nervous(), 3), True),
    "a learned policy with two drafters": (policy, True),
    "a guard": (lambda: Guarded(FixedLength(2)), False),
}


@pytest.mark.parametrize("name", CONTROLLERS)
def test_texts_follow_the_targets_distribution(name):
    make, head = CONTROLLERS[name]
    assert excess(make(), head=head) < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_known_method_biases_the_text(name, tmp_path):
    method = METHODS[name]
    prompts = [PROMPT, [3, 1], [2]]
    recording = toy_recording(survival="head", max_new_tokens=24)
    trace, _ = record(models(), recording, prompts, ["toy"] * 3, tmp_path)
    costs = profile(max_length=4)
    cheap = {"draft_step": (1e-3, 1e-3), "overhead": (0.0, 0.0), "verification": (1.0,) * 5}
    costs = replace(costs, points=tuple(replace(point, **cheap) for point in costs.points))
    bench = Workbench(trace, None, costs, max_length=3)
    made = method.build(bench, **{key: space.default for key, space in method.space.items()})
    assert excess(made, head=True) < 4


def test_a_draft_that_loses_the_token_it_stopped_at_is_found_out(monkeypatch):
    """The classic mistake: to look at a token, and then not to let it be verified."""
    propose = DraftModel.propose

    class Overheard:
        def __init__(self, stop):
            self.tell, self.stop, self.said = stop.tell, stop, False

        def __call__(self):
            self.said = self.stop()
            return self.said

    def peeking(self, sequence, length, rule, stop=None):
        heard = Overheard(stop) if stop else None
        draft = propose(self, sequence, length, rule, heard)
        keep = len(draft) - bool(heard and heard.said)
        cut = (draft.tokens, draft.logits, draft.log_probs, draft.scores)
        return Draft(*(values[:keep] for values in cut))

    monkeypatch.setattr(DraftModel, "propose", peeking)
    assert excess(Fixed(Action(3, threshold=0.35))) > 6


def test_a_lookup_that_is_believed_without_verification_is_found_out(monkeypatch):
    verify = Text.commit

    def believing(self, accepted, proposed):
        return verify(self, max(accepted, min(1, len(proposed) - 1)), proposed)

    monkeypatch.setattr(Text, "commit", believing)
    assert excess(Fixed(Action(1, drafter=1))) > 8


def test_the_count_of_texts_is_of_all_texts():
    distribution = exact_distribution(models().target, PROMPT, LENGTH, TEMPERATURE)
    assert distribution.sum() == pytest.approx(1.0)
    assert torch.tensor(distribution).count_nonzero() == VOCAB**LENGTH
