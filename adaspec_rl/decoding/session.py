"""One generation, round by round: draft, verify, commit. Controllers choose the actions."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.draft_signals import NO_SIGNALS, chain_signals
from adaspec_rl.decoding.drafters import Drafter, DraftModel
from adaspec_rl.decoding.drafters.foreseen import Foreseen
from adaspec_rl.decoding.drafters.hidden_state import target_states
from adaspec_rl.decoding.forecast import Forecast
from adaspec_rl.decoding.outcome import outcome_of
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.signals import target_signals
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.decoding.text import DecodingRules, DraftStop, Text
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import merged
from adaspec_rl.decoding.tree_drafts import TreeDrafts
from adaspec_rl.decoding.verification import (
    Rule,
    Verification,
    lenient,
    new_verification,
)
from adaspec_rl.decoding.verification.lossy import Judge, Lenient, States, distance_of
from adaspec_rl.decoding.verification.trees import verify_tree
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


class Session(Protocol):
    """A sequence being generated, live or replayed; its user cannot tell which."""

    @property
    def finished(self) -> str | None:
        """None while generating, then `eos`, `length` (token budget) or `context` (model limit)."""
        ...

    @property
    def tokens(self) -> list[int]:
        """The tokens generated so far, without the prompt."""
        ...

    def start(self, prompt: Sequence[int], seed: int = 0, signals: bool = True) -> None:
        """Begin a new sequence; `signals=False` skips what only an observer reads."""
        ...

    def step(self, action: Action) -> Round:
        """Play one round."""
        ...

    def forecast(self, tables: bool = True) -> Forecast:
        """What the n-gram lookup, and the `tables`, would gain now; see `Foreseen`."""
        ...


class LiveSession:
    """A target and its drafters, decoding live at batch size 1.

    A round costs one forward pass of the target, plus the time of the draft. The target's cache
    always lacks exactly the last committed token; the next round reads it together with the draft.

    Sessions may share models and take turns. A session whose models were used for something else
    since its last round reads its text again, in one pass that counts towards the round. So does a
    session that was pickled.

    Attributes:
        sequence: the text, prompt included.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafters: Sequence[Drafter],
        *,
        eos_ids: Sequence[int] = (),
        max_new_tokens: int = 128,
        sampling: Sampling = Sampling(),
        verification: Rule = "rejection",
        survival: Sequence[Survival] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`survival` holds each drafter's estimate, which thresholds are compared with.

        Raises:
            ValueError: the settings do not fit together.
        """
        self._rules = DecodingRules(frozenset(eos_ids), max_new_tokens, sampling, verification)
        new_verification(verification, sampling, 0, target.vocab_size, target.device)  # checks
        self.target = target
        self.models = list(drafters)
        self.survival = list(survival or [ProductSurvival() for _ in drafters])
        if len(self.survival) != len(self.models):
            raise ValueError(
                f"expected a survival estimate for each of {len(self.models)} drafters, "
                f"got {len(self.survival)}"
            )
        self._foreseen = Foreseen(self.models, self.survival)
        self.drafters = [drafter.name for drafter in drafters]
        self.eos_ids = self._rules.eos_ids
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling
        self.verification = verification
        if isinstance(verification, Judge):
            _check_judge(verification, target, self.models)
        self._told: LeanModel | None = None  # the target, where drafters read its hidden states
        if any(drafter.needs_hidden for drafter in drafters):
            assert isinstance(target, LeanModel)
            self._told = target
        self.clock = clock
        self._text: Text | None = None

    @property
    def finished(self) -> str | None:
        return self._text.finished if self._text else "length"

    @property
    def sequence(self) -> TokenSequence:
        return self._started.sequence

    @property
    def tokens(self) -> list[int]:
        return self._started.tokens

    @property
    def text(self) -> Text:
        """The text being written, with its verification rule."""
        return self._started

    @property
    def _started(self) -> Text:
        assert self._text is not None, "start() comes first"
        return self._text

    def prepare(self, length: int, progress: Callable[[float], None] = lambda share: None) -> None:
        """Do the one-off work for texts of `length` tokens, such as capturing CUDA graphs.

        `start` does it if it has not been done, but by then somebody may be measuring time.
        """
        share = 1 / (1 + len(self.models))
        self.target.prepare(length, progress=part_of(progress, 0.0, share))
        for number, drafter in enumerate(self.models, 1):
            most = min(length, drafter.context_length)
            drafter.prepare(most, part_of(progress, number * share, share))

    def start(self, prompt: Sequence[int], seed: int = 0, signals: bool = True) -> None:
        """Begin a text: the target reads all but the prompt's last token, the drafters nothing yet.

        Raises:
            ValueError: the prompt is empty, or leaves no room in the target's context.
        """
        hidden = self._told.architecture.hidden_size if self._told else None
        self._text = Text(prompt, seed, self.target, self._rules, hidden_size=hidden)
        self._signals = signals
        self.prepare(self._text.room)
        self._read_text()

    def _read_text(self) -> None:
        """Let the target read all committed tokens but the last; drafters start over."""
        self.target.reset()
        for drafter in self.models:
            drafter.start()
        read = self.sequence.on_device[None, :-1]
        if self._told is not None and read.numel():
            self.sequence.know(0, target_states(self._told, read)[0])
        elif read.numel():
            self.target.prefill(read)
        self._begun = self._uses

    @property
    def _uses(self) -> tuple[int, ...]:
        """Counters that change when anybody else starts to use the target or a drafter."""
        return (self.target.resets, *(drafter.starts for drafter in self.models))

    def step(self, action: Action) -> Round:
        """Play one round.

        The draft leaves room in the token budget for the one token that verification adds, and fits
        the drafter's own context.

        Raises:
            ValueError: the generation is finished, or the action names a drafter that does not
                exist.
        """
        if self.finished is not None:
            raise ValueError(f"the generation is finished ({self.finished}): call start() first")
        text = self._started
        for number in (action.drafter, *action.also) if action.length else ():
            if not 0 <= number < len(self.models):
                raise ValueError(
                    f"no drafter number {number}: expected 0 to {len(self.models) - 1}"
                )
        began = self.clock()
        if action.branches:
            return self._step_tree(action, began)
        if self._uses != self._begun:
            self._read_text()
        sequence, rule = text.sequence, lenient(text.rule, action.lossy)
        n, buffer = len(sequence), sequence.buffer
        stop = text.stop(action, self.survival[action.drafter]) if action.length else None
        draft = self._draft(text, action, rule, stop)
        drafted = len(draft) if draft else 0
        logits = self.target.extend(buffer[None, n - 1 : n + drafted])[0]  # [k + 1, V]
        if self._told is not None:
            assert self._told.last_hidden is not None
            sequence.know(n - 1, self._told.last_hidden[0])
        drawn = None
        if draft and rule.needs_log_probs:
            drawn = draft.all_log_probs(logits.shape[-1])
        if draft and isinstance(rule, Lenient) and rule.rule.needs_states:
            _inform(rule, self.target, draft, self.drafters[action.drafter])
        accepted, token = rule.verify(logits, buffer[n : n + drafted], drawn, n)
        watched = self._watched(*([action.drafter] if draft else []))
        outcome = outcome_of(
            draft, logits, accepted, token, pending=[*watched.values()], signals=self._signals
        )
        for model, report in zip(watched, outcome.pending):
            model.check(report)
        proposed, signals = outcome.proposed, outcome.signals
        survivals: tuple[float, ...] = ()
        if self._signals and draft:  # of the text as it was before the round
            survivals = text.survivals(
                self.survival[action.drafter], stop, signals, proposed[:drafted]
            )
        kept, emitted = text.commit(outcome.accepted, proposed)
        self.target.rollback(len(sequence) - 1)
        for number, drafter in enumerate(self.models):
            if draft and number == action.drafter:
                drafter.keep(n + kept)
            else:
                drafter.rest()
        rejected = tuple(proposed[kept:drafted])
        log_probs, entropies, margins, choice_margins = signals.T.tolist()
        return Round(
            drafter=action.drafter,
            drafted=drafted,
            accepted=kept,
            tokens=emitted,
            rejected=rejected,
            target_entropy=outcome.target[0],
            target_top_probability=outcome.target[1],
            draft_log_probs=tuple(log_probs),
            draft_entropies=tuple(entropies),
            draft_margins=tuple(margins),
            draft_choice_margins=tuple(choice_margins),
            draft_survivals=survivals,
            distance=distance_of(rule, len(emitted)),
            seconds=self.clock() - began,
        )

    def _step_tree(self, action: Action, began: float) -> Round:
        """Play a round whose draft branches."""
        text, sequence = self._started, self._started.sequence
        if self._uses != self._begun:
            self._read_text()
        n = len(sequence)
        room = self.target.context_length - n
        drafts = TreeDrafts(self.models, self.survival, text, action, self.target.vocab_size, room)
        tree = merged([tree for tree in drafts.trees.values() if len(tree)])
        nodes = torch.tensor([sequence.tokens[-1], *tree.tokens], device=sequence.buffer.device)
        above = (-1, *(parent + 1 for parent in tree.parents))
        logits = self.target.extend_tree(nodes[None], above)[0]  # [1 + N, V]
        path, token = verify_tree(text.rule, logits, tree, n)
        for model in self._watched(*drafts.trees):
            model.check()
        read = [0, *(node + 1 for node in path)]
        if self._told is not None:
            assert self._told.last_hidden is not None
            sequence.know(n - 1, self._told.last_hidden[0, read])
        proposed = [*(tree.tokens[node] for node in path), token]
        signals, target = NO_SIGNALS, [0.0, 0.0]
        survivals: tuple[float, ...] = ()
        if self._signals:  # of the text as it was before the round
            chain = drafts.trees[action.drafter].chain()
            signals = chain_signals(chain)
            estimate = self.survival[action.drafter]
            told = chain.tokens.tolist() if chain else []
            survivals = text.survivals(estimate, drafts.stop, signals, told)
            target = target_signals(logits[read[-1]]).tolist()
        sequence.buffer[n : n + len(path)] = nodes[read[1:]]
        kept, emitted = text.commit(len(path), proposed)
        self.target.keep_path(n - 1, read[: len(emitted)])
        drafts.keep(n, emitted[:kept])
        log_probs, entropies, margins, choice_margins = signals.T.tolist()
        return Round(
            drafter=action.drafter,
            drafted=len(tree),
            accepted=kept,
            tokens=emitted,
            target_entropy=target[0],
            target_top_probability=target[1],
            draft_log_probs=tuple(log_probs),
            draft_entropies=tuple(entropies),
            draft_margins=tuple(margins),
            draft_choice_margins=tuple(choice_margins),
            draft_survivals=survivals,
            at_leaf=len(tree) > 0 and not tree.children[path[kept - 1] if kept else -1],
            levels=drafts.levels,
            seconds=self.clock() - began,
        )

    def forecast(self, tables: bool = True) -> Forecast:
        return self._foreseen(self.sequence, self.text.rule, tables)

    def _watched(self, *drafters: int) -> dict[LanguageModel, torch.Tensor]:
        """The models of a round that report errors only when asked, with their reports."""
        models = [self.target, *(self.models[drafter].model for drafter in drafters)]
        return {
            model: model.pending
            for model in models
            if model is not None and model.pending is not None
        }

    def _draft(
        self, text: Text, action: Action, rule: Verification, stop: DraftStop | None
    ) -> Draft | None:
        if not action.length:
            return None
        n, drafter = len(text.sequence), self.models[action.drafter]
        length = text.draft_length(action.length, drafter.context_length)
        if length < 1:
            return None
        draft = drafter.propose(text.sequence, length, rule, stop)
        text.sequence.buffer[n : n + len(draft)] = draft.tokens
        return draft if len(draft) else None


def _check_judge(judge: Judge, target: LanguageModel, drafters: Sequence[Drafter]) -> None:
    """Refuse a judge that could not judge anything.

    Raises:
        ValueError: the judge's drafter is missing, or a model does not keep its hidden states.
    """
    known = {drafter.name: drafter for drafter in drafters}.get(judge.drafter)
    if not isinstance(known, DraftModel):
        names = ", ".join(one.name for one in drafters if isinstance(one, DraftModel))
        raise ValueError(
            f"the judge knows the draft model {judge.drafter}, but there are {names or 'none'}: "
            "add it, or train a judge for another one"
        )
    if not isinstance(target, LeanModel) or not isinstance(known.model, LeanModel):
        raise ValueError(
            f"{judge.name} reads hidden states, which the lean engine alone keeps: set "
            "engine.name=lean"
        )


def _inform(rule: Lenient, target: LanguageModel, draft: Draft, drafter: str) -> None:
    """Give a judge both models' hidden states of a draft, if it was trained for the drafter."""
    if not isinstance(rule.rule, Judge) or rule.rule.drafter != drafter:
        return
    if draft.hidden is None or not isinstance(target, LeanModel):
        raise ValueError(
            f"{rule.rule.name} reads hidden states, which the lean engine alone keeps: set "
            "engine.name=lean"
        )
    assert target.last_hidden is not None
    behind = target.last_hidden[0, : len(draft)]
    rule.see(States(behind, draft.hidden, draft.own_log_probs(target.vocab_size)))
