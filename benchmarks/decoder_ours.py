"""Our own decoder: plain, with fixed draft lengths, and with a trained policy."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from bandwidth import cached_token, step_weights
from decoders import Made, Method, Run

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.drafters import Drafter, DraftModel, EarlyExit
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.load_options import dtype_named
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.training.bundle import PolicyBundle

LENGTHS = (1, 2, 3, 4, 5, 6, 8)
POLICY = "policy"
NO_COST = CostFeatures(0.0, 0.0, 0.0)


class Stamped:
    """A session that records when its first round ended."""

    def __init__(self, session: LiveSession) -> None:
        self._session = session
        self.first: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def step(self, action: Action) -> Round:
        played = self._session.step(action)
        if self.first is None:
            self.first = time.perf_counter()
        return played


class Ours:
    """Our ways to decode with one pair in one precision."""

    def __init__(
        self,
        pair: Pair,
        precision: str,
        dtype: str,
        target: str,
        *,
        max_new_tokens: int,
        temperature: float,
        verification: str,
        policy: PolicyBundle | None,
    ) -> None:
        """`dtype` is the type of the caches, `target` the target's source."""
        self.pair, self.precision, self.policy = pair, precision, policy
        self.session = pair.session(
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature),
            verification=verification,
            survival=policy.survival if policy else None,
        )
        self._weights = step_weights(pair.target)
        self._token = _token_bytes(target, dtype)
        self._drafts = [_draft_bytes(drafter) for drafter in pair.drafters]

    def methods(self) -> Iterator[Method]:
        yield self._method("plain", "", FixedLength(0))
        for number, drafter in enumerate(self.pair.drafters):
            for length in LENGTHS:
                controller = FixedLength(length, number)
                yield self._method(drafter.name, f"length {length}", controller)
        if self.policy:
            yield self._method(POLICY, "", self.policy.guarded())

    def _method(self, way: str, setting: str, controller: Controller) -> Method:
        return Method("ours", self.precision, way, setting, self._run(controller))

    def _run(self, controller: Controller) -> Run:
        cost = self.policy.costs() if self.policy else NO_COST

        def run(prompt: list[int], seed: int) -> Made:
            session = Stamped(self.session)
            began = time.perf_counter()
            made = generate(session, controller, prompt, cost=cost, seed=seed)
            seconds = time.perf_counter() - began
            assert session.first is not None
            return Made(
                made.tokens,
                len(made.rounds[0].tokens),
                session.first - began,
                seconds,
                self._read(made.rounds[1:], len(prompt) + len(made.tokens) / 2),
            )

        return run

    def _read(self, rounds: Sequence[Round], context: float) -> float:
        """Bytes read: one target pass per round, and one drafter pass per drafted token."""
        drafting = sum(played.drafted * self._drafts[played.drafter] for played in rounds)
        return len(rounds) * (self._weights + context * self._token) + drafting


def _draft_bytes(drafter: Drafter) -> int:
    """Bytes of weights that a drafted token reads."""
    if isinstance(drafter, DraftModel):
        return step_weights(drafter.model)
    return step_weights(drafter.model, drafter.layers) if isinstance(drafter, EarlyExit) else 0


def _token_bytes(target: str, dtype: str) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint_of(target).source)
    return cached_token(config, dtype_named(dtype).itemsize)
