"""Decisions in other engines' processes, in NumPy: no torch, no Stable-Baselines3, no models.

A policy reads the text itself and the costs of drafting, so it needs nothing but token ids. Its
decisions use neither randomness nor a clock: ranks of a distributed engine that get the same input
decide the same.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaspec_rl.control.learned import Actor, LearnedPolicy
from adaspec_rl.control.observation import CostFeatures, Observer, RoundArrays
from adaspec_rl.control.text_features import TextFeatures
from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.costs.conversion import batch_costs
from adaspec_rl.decoding.compiled_automaton import Automaton
from adaspec_rl.decoding.forecast import NO_FORECAST, Forecast, forecast
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.training.bundle import PolicyBundle, load_bundle

COSTS = "batch_costs.json"  # in an export's folder
POLICY = "policy"  # likewise, the bundle
TAIL = 32  # last tokens by which a text is recognised


def restricted(bundle: PolicyBundle, drafter: int) -> LearnedPolicy:
    """The policy, restricted to the plain step and the actions of one drafter.

    Raises:
        ValueError: the policy observes something that only our own engine reports.
    """
    if bundle.spec.needs_signals:
        seen = [group for group in bundle.spec.groups if group in ("target", "draft")]
        raise ValueError(
            f"the policy observes {' and '.join(seen)}, which other engines do not report: train "
            "one with env.features=[context,lookup,cost]"
        )
    kept = [
        number
        for number, action in enumerate(bundle.actions)
        if not action.length
        or (action.drafter == drafter and not action.also and action.tree is None)
    ]
    actor = bundle.actor
    last = Actor(
        (*actor.weights[:-1], np.ascontiguousarray(actor.weights[-1][:, kept])),
        (*actor.biases[:-1], actor.biases[-1][kept]),
    )
    return LearnedPolicy(last, [bundle.actions[n] for n in kept], bundle.spec)


def copied(
    text: Automaton, action: Action, survival: Survival, room: int | None = None
) -> list[int]:
    """A lookup's draft under `action`: the tokens that followed the text's end the last time.

    Args:
        survival: estimates to compare with the action's threshold.
        room: the most tokens to draft; None: any number.
    """
    most = action.length if room is None else min(action.length, room)
    tokens: list[int] = []
    suffix, previous, chance = text.suffix(), text.tokens[-1], 1.0
    while suffix.guess is not None and len(tokens) < most:
        token = suffix.guess
        tokens.append(token)
        if action.threshold:
            chance *= survival.one(token, previous, 0.0, 0.0, suffix.match, True)
            if chance < action.threshold:
                break
        suffix.append(token)
        previous = token
    return tokens


class LookupPolicy:
    """A trained policy that drafts by lookup, for any number of texts.

    Attributes:
        drafter: the lookup's number among the policy's drafters.
    """

    def __init__(self, bundle: PolicyBundle, costs: BatchCosts, drafter: int) -> None:
        self.bundle, self.costs, self.drafter = bundle, costs, drafter
        self.policy = restricted(bundle, drafter)
        self.survival = bundle.survival[drafter]
        points = bundle.profile.points
        self._context = float(points[len(points) // 2].context)
        self._features: dict[int, CostFeatures] = {}

    @classmethod
    def load(cls, folder: Path, drafter: int) -> "LookupPolicy":
        """Load from an export's folder. Nothing in it is executed.

        Raises:
            ValueError: the bundle or the costs are damaged or do not fit.
        """
        bundle = load_bundle(folder / POLICY)
        there = folder / COSTS
        costs = BatchCosts.load(there) if there.is_file() else batch_costs(bundle.profile)
        return cls(bundle, costs, drafter)

    def features(self, rows: int) -> CostFeatures:
        """The costs of drafting in a batch of `rows`, as the policy observes them."""
        found = self._features.get(rows)
        if found is None:
            found = self._features[rows] = self.costs.features(rows, self._context)
        return found


class LookupText:
    """One text and its drafts, decided by a policy that learns the outcome of each draft."""

    def __init__(self, policy: LookupPolicy) -> None:
        self._policy = policy
        self._spec = policy.policy.observes
        self._observer = Observer(self._spec, policy.features(1))
        self._text = TextFeatures()
        self._rows = 1
        self._drafted: list[int] = []
        self._seen: np.ndarray | None = None  # the observation, until it changes

    def start(self, prompt: Sequence[int]) -> None:
        """Begin a text.

        Raises:
            ValueError: the prompt is empty.
        """
        if not prompt:
            raise ValueError("a text needs at least 1 token to begin with, got none")
        self._text.start(prompt)
        self._observer.reset(text=self._text.values, forecast=self._forecast())
        self._drafted, self._seen = [], None

    @property
    def tokens(self) -> list[int]:
        """The text so far, prompt included; not to be changed."""
        return self._text.text.tokens

    def ends(self, tokens: np.ndarray) -> bool:
        """Whether the text seems to be `tokens` `[n]`: it has the same length and the same end.

        A wrong answer only leads to rejected drafts.
        """
        own = self._text.text.tokens
        return len(own) == len(tokens) and own[-TAIL:] == tokens[-TAIL:].tolist()

    def committed(self, tokens: Sequence[int]) -> None:
        """Take in the tokens after a draft: its accepted ones, then the target's own."""
        accepted = 0
        for drafted, token in zip(self._drafted, tokens):
            if drafted != token:
                break
            accepted += 1
        self._text.extend(tokens)
        said, ahead = self._text.values, self._forecast()
        if self._spec.needs_rounds:
            drafter = self._policy.drafter if self._drafted else 0
            played = Round(drafter, len(self._drafted), accepted, tuple(tokens), 0.0)
            self._observer.update(RoundArrays.from_rounds([played], [said], [ahead], False))
        else:
            self._observer.read(said, ahead)
        self._drafted, self._seen = [], None

    def decide(self, rows: int = 1) -> Action:
        """The policy's action while `rows` texts are being decoded."""
        if rows != self._rows:
            self._rows, self._seen = rows, None
            self._observer.set_costs(self._policy.features(rows).values())
        if self._seen is None:
            self._seen = self._observer.observation()[0]
        return self._policy.policy.decide(self._seen)

    def propose(self, rows: int = 1, room: int | None = None) -> list[int]:
        """The draft for the next round; empty is a plain step. See `copied`."""
        action = self.decide(rows)
        self._drafted = copied(self._text.text, action, self._policy.survival, room)
        return list(self._drafted)

    def _forecast(self) -> Forecast:
        if not self._spec.needs_forecast:
            return NO_FORECAST
        return forecast(self._text.text, self._policy.survival)
