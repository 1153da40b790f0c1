"""One text as it is decoded: its tokens, its verification rule, its budget and its end."""

import itertools
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.stopping import RuleStop, RunningSurvival, ThresholdStop, chances
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import Rule, new_verification
from adaspec_rl.engine.language_model import LanguageModel

DraftStop = ThresholdStop | RuleStop


@dataclass(frozen=True, slots=True)
class DecodingRules:
    """How all texts of a session or a batch are decoded.

    Raises:
        ValueError: `max_new_tokens` is not at least 1.
    """

    eos_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 128
    sampling: Sampling = Sampling()
    verification: Rule = "rejection"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")


class Text:
    """A prompt and what is written after it.

    Attributes:
        sequence: its tokens, prompt included.
        prompt_length: the number of prompt tokens.
        rule: the verification rule, with the text's own random state.
        room: the most tokens that it can have, prompt included.
        finished: None while it is written, then `eos`, `length` (token budget) or `context` (the
            target's limit).
    """

    def __init__(
        self,
        prompt: Sequence[int],
        seed: int,
        target: LanguageModel,
        rules: DecodingRules,
        *,
        hidden_size: int | None = None,
    ) -> None:
        """`hidden_size` is the target's; needed if a drafter reads the target's hidden states.

        Raises:
            ValueError: the prompt is empty, leaves no room in the target's context, or has tokens
                that the target does not know.
        """
        check_prompt(prompt, target)
        self._eos_ids: Collection[int] = rules.eos_ids
        wanted = len(prompt) + rules.max_new_tokens
        self.room = min(target.context_length, wanted)
        self._budget_reason = "context" if self.room < wanted else "length"
        self.prompt_length = len(prompt)
        self.sequence = TokenSequence(prompt, target.device, self.room, hidden_size=hidden_size)
        self.rule = new_verification(
            rules.verification, rules.sampling, seed, target.vocab_size, target.device
        )
        self.finished: str | None = None

    @property
    def tokens(self) -> list[int]:
        """What was written so far, without the prompt."""
        return self.sequence.tokens[self.prompt_length :]

    def draft_length(self, length: int, context_length: int) -> int:
        """How many of `length` drafted tokens there is room for.

        A draft leaves room in the token budget for the one token that verification adds, and fits
        the drafter's own context.
        """
        n = len(self.sequence)
        return min(length, self.room - n - 1, context_length - n + 1)

    def stop(
        self, action: Action, survival: Survival, *, estimated: bool = False
    ) -> DraftStop | None:
        """What may end a draft of `action` early; None: nothing does.

        With `estimated`, a draft that nothing ends has a threshold of 0, which estimates the
        chances of its tokens while it grows.
        """
        if not action.length or not (action.stops or estimated):
            return None
        if action.rule is not None and "survival" not in action.rule.needs:
            return RuleStop(action.rule, None)
        automaton = self.sequence.automaton
        running = RunningSurvival(survival, automaton, automaton.tokens[-1])
        if action.rule is not None:
            return RuleStop(action.rule, running)
        return ThresholdStop(action.threshold, running)

    def survivals(
        self,
        survival: Survival,
        stop: DraftStop | None,
        signals: np.ndarray | None,
        drafted: Sequence[int],
    ) -> tuple[float, ...]:
        """The estimated chance that each of `drafted` and all before it are accepted.

        Args:
            stop: already has the chances of the tokens that it saw.
            signals: of the draft, `[k, 4]`; None if `stop` has all chances.
        """
        found = stop.running.chances if stop and stop.running else []
        if len(found) < len(drafted):
            assert signals is not None
            automaton = self.sequence.automaton
            last = automaton.tokens[-1]
            found = chances(survival, signals, automaton, drafted, last)
        return tuple(itertools.accumulate(found[: len(drafted)], operator.mul))

    def commit(self, accepted: int, proposed: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """Keep the accepted draft and the token after it, up to the end of the text.

        Args:
            proposed: the drafted tokens, already in the sequence's buffer, and then the next token.

        Returns: how much of the draft was kept, and all tokens that were added.
        """
        emitted = [*proposed[:accepted], proposed[-1]]
        for index, token in enumerate(emitted):
            if token in self._eos_ids:
                self.finished = "eos"
                emitted = emitted[: index + 1]
                accepted = min(accepted, index + 1)
                break
        self.sequence.extend(emitted, there=accepted)
        if self.finished is None and len(self.sequence) == self.room:
            self.finished = self._budget_reason
        return accepted, tuple(emitted)


def check_prompt(prompt: Sequence[int], target: LanguageModel) -> None:
    """Refuse a prompt that `target` cannot continue.

    Raises:
        ValueError: it is empty, leaves no room in the context, or has unknown tokens.
    """
    limit = target.context_length
    if not len(prompt):
        raise ValueError("the prompt is empty: expected at least 1 token")
    if len(prompt) >= limit:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens but the context of {target.name} holds "
            f"{limit}: shorten it to at most {limit - 1}"
        )
    outside = [token for token in prompt if not 0 <= token < target.vocab_size]
    if outside:
        raise ValueError(
            f"token {outside[0]} is not in the vocabulary of {target.name}: expected 0 to "
            f"{target.vocab_size - 1}"
        )
