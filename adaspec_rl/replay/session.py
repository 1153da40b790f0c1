"""A session that replays a trace: the same rounds as decoding, at the cost of a table lookup."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.signals import SIGNALS
from adaspec_rl.replay.cost_profile import CostProfile
from adaspec_rl.replay.outcomes import check_action, draft_lengths
from adaspec_rl.replay.trace import Trace


class ReplaySession:
    """Plays recorded texts. `Round.seconds` is what the cost profile says."""

    def __init__(self, trace: Trace, profile: CostProfile, *, batch_size: int = 1) -> None:
        self.trace, self.profile, self.batch_size = trace, profile, batch_size
        self.drafters = [table.name for table in trace.drafters]
        self._numbers: dict[tuple[int, ...], dict[int, int]] = {}
        for number, text in enumerate(trace.texts):
            seeds = self._numbers.setdefault(tuple(text.prompt.tolist()), {})
            seeds.setdefault(text.seed, number)
        self._finished: str | None = "length"
        self._made = 0

    @property
    def finished(self) -> str | None:
        return self._finished

    @property
    def tokens(self) -> list[int]:
        return self._text.tokens[: self._made].tolist()

    def start(self, prompt: Sequence[int], seed: int = 0, signals: bool = True) -> None:
        """Begin a recorded text. A seed that was not recorded stands for one that was.

        Raises:
            ValueError: the prompt was not recorded.
        """
        seeds = self._numbers.get(tuple(prompt))
        if seeds is None:
            raise ValueError(
                f"the trace has no text after this prompt of {len(prompt)} tokens: record it first"
            )
        number = seeds.get(seed)
        if number is None:
            number = list(seeds.values())[seed % len(seeds)]
        self.number = number
        self._text = self.trace.texts[number]
        self._made = 0
        self._finished = None

    def step(self, action: Action) -> Round:
        """Play one round.

        Raises:
            ValueError: the generation is finished, or the action was not recorded.
        """
        if self._finished is not None:
            raise ValueError(f"the generation is finished ({self._finished}): call start() first")
        check_action(self.trace, action)
        text, made = self._text, self._made
        at = int(self.trace.starts[self.number]) + made
        context = len(text.prompt) + made
        drafted = accepted = 0
        signals = np.zeros((len(SIGNALS), 0))
        survival: list[float] = []
        if action.length:
            table = self.trace.drafters[action.drafter]
            here = slice(at, at + 1)
            room = np.array([text.budget - made - 1])
            drafted = int(draft_lengths(table.tokens[here], table.survival[here], action, room)[0])
            accepted = min(int(table.accepted[at]), drafted)
            signals = table.signals[at, :drafted].T.astype(float)
            survival = table.survival[at, :drafted].astype(float).tolist()
        emitted = text.tokens[made : made + accepted + 1]
        last = made + len(emitted) - 1
        self._made += len(emitted)
        if self._made == len(text.tokens):
            self._finished = text.finished
        costs = self.profile.at(context, self.batch_size)
        log_probs, entropies, margins, choice_margins = (tuple(row.tolist()) for row in signals)
        return Round(
            drafter=action.drafter,
            drafted=drafted,
            accepted=accepted,
            tokens=tuple(emitted.tolist()),
            seconds=costs.seconds(action.drafter, drafted, action.threshold > 0),
            draft_log_probs=log_probs,
            draft_entropies=entropies,
            draft_margins=margins,
            draft_choice_margins=choice_margins,
            draft_survivals=tuple(survival),
            target_entropy=float(text.target_entropy[last]),
            target_top_probability=float(text.target_top_probability[last]),
        )
