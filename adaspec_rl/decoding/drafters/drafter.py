"""The drafter protocol. A drafter keeps its own state and reads new text only when it drafts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.picks import LARGEST_MARGIN
from adaspec_rl.decoding.stopping import Chosen, ThresholdStop
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.token_tree import TokenTree
from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape
from adaspec_rl.decoding.verification import Choice, Perturbation, Verification
from adaspec_rl.engine.cpu.decoder import Drafted, DraftRequest, StopBelow
from adaspec_rl.engine.extension import Extension
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


class Stop(Protocol):
    """Decides, token by token, where a draft ends."""

    def tell(self, logits: torch.Tensor | None, choice: Chosen) -> None:
        """Report the draft's newest token, chosen from logits `[V]`; None: there are no logits."""
        ...

    def __call__(self) -> bool:
        """Whether the token that was reported last ends the draft; may wait for the device."""
        ...


class Drafter(Protocol):
    """Proposes continuations of a sequence."""

    name: str
    context_length: int  # the most tokens that it can read
    starts: int  # sequences begun; it grows when another session uses the drafter
    needs_hidden: bool  # whether it reads the target's hidden states, `TokenSequence.features`

    @property
    def model(self) -> LanguageModel | None:
        """The model that it runs, or None. The session calls the model's `check`."""
        ...

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        """Do the one-off work for texts of `length` tokens; see `LanguageModel.prepare`."""
        ...

    def start(self) -> None:
        """Forget the sequence; a new one begins."""
        ...

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        """Draft up to `length` tokens after `sequence`.

        `stop` is asked after each token but the last; None: never stop early. A drafter with
        nothing to propose returns an empty draft.
        """
        ...

    def branch(
        self, sequence: TokenSequence, shape: TreeShape | TreeGrowth, rule: Verification
    ) -> TokenTree:
        """Draft a tree of this shape after `sequence`; empty if there is nothing to propose.

        A drafter with one choice per node drafts only the shape's chain of first choices.

        Raises:
            ValueError: the drafter's model cannot read trees.
        """
        ...

    def keep_path(self, length: int, nodes: Sequence[int]) -> None:
        """After `branch`: the first `length` tokens and this path of the tree are committed."""
        ...

    def keep(self, length: int) -> None:
        """The first `length` tokens of what was read are committed; forget anything after."""
        ...

    def rest(self) -> None:
        """A round was played without this drafter."""
        ...


def draft_at_once(
    model: LanguageModel,
    unread: torch.Tensor,
    positions: range,
    rule: Verification,
    vocab_size: int,
    *,
    features: torch.Tensor | None = None,
    layers: int | None = None,
) -> Draft | None:
    """Draft at `positions` in one call of a compiled model, which reads `unread` `[1, n]` first.

    Returns None if the model cannot do that, if its vocabulary is smaller than the target's, or if
    `rule` draws at random.

    Args:
        vocab_size: the target's; tokens that only `model` knows are not drafted.
        features: `[1, n, hidden]`, for a model that reads them.
        layers: draft with only this many of the first layers.
    """
    if not isinstance(model, LeanModel) or not model.drafts_at_once():
        return None
    ids = model.output_tokens
    perturbation = rule.perturbation(positions, ids)
    if perturbation is None or (ids is None and model.vocab_size < vocab_size):
        return None
    drafted = model.draft(
        unread,
        len(positions),
        choices=vocab_size if ids is None else len(ids),
        temperature=perturbation.temperature,
        noise=perturbation.noise,
        features=features,
        layers=layers,
    )
    return draft_of(drafted, vocab_size, perturbation, ids)


def draft_rows_at_once(
    model: LanguageModel,
    extensions: Sequence[Extension],
    positions: Sequence[range],
    rules: Sequence[Verification],
    stops: Sequence[Stop | None],
    vocab_size: int,
    logits: bool,
) -> list[Draft | None] | None:
    """Draft after several rows in one call of a compiled model, which reads `extensions` first.

    Returns None if the model cannot do that, if its vocabulary is smaller than the target's, if a
    rule draws at random, or if a stop is no threshold of a calibrated survival. A row's draft is
    None if its logits are not finite. Thresholds get the chances of all tokens. Without `logits`,
    drafts have nothing but their tokens.
    """
    if not isinstance(model, LeanModel) or not model.drafts_at_once(rows=True):
        return None
    ids = model.output_tokens
    if ids is None and model.vocab_size < vocab_size:
        return None
    ends = [end for stop in stops if (end := compiled_stop(stop)) is not None]
    how = [part for rule, own in zip(rules, positions) if (part := rule.perturbation(own, ids))]
    if len(ends) < len(stops) or len(how) < len(rules):
        return None
    temperatures = {part.temperature for part in how}
    noise = [part.noise for part in how if part.noise is not None]
    if len(temperatures) > 1 or len(noise) not in (0, len(how)):
        return None
    wanted = DraftRequest(
        [len(own) for own in positions],
        vocab_size if ids is None else len(ids),
        temperatures.pop(),
        noise or None,
        ends,
        LARGEST_MARGIN,
        logits,
    )
    drafted = model.draft_rows(extensions, wanted)
    for stop, one in zip(stops, drafted):
        if isinstance(stop, ThresholdStop) and one.chances is not None:
            stop.running.chances = one.chances
    return [
        draft_of(one, vocab_size, part, ids) if one.finite else None
        for one, part in zip(drafted, how)
    ]


def compiled_stop(stop: Stop | None) -> StopBelow | None:
    """The stop in compiled code; None: there is none."""
    if stop is None:
        return StopBelow()
    return stop.running.compiled(stop.threshold) if isinstance(stop, ThresholdStop) else None


def draft_of(
    drafted: Drafted, vocab_size: int, how: Perturbation, ids: torch.Tensor | None
) -> Draft:
    """The draft of a row that was drafted in one call."""
    if drafted.logits is None:
        return Draft(drafted.tokens, ids=ids, among=drafted.places, hidden=drafted.hidden)
    logits = drafted.logits[:, : vocab_size if ids is None else len(ids)]
    log_probs = scores = logits
    if how.noise is not None:
        log_probs = logits / how.temperature
        scores = log_probs + how.noise[: len(logits)]
    return Draft(
        drafted.tokens,
        logits,
        log_probs,
        scores,
        ids=ids,
        among=drafted.places,
        hidden=drafted.hidden,
    )


def draft_by_forwards(
    read: Callable[[torch.Tensor], torch.Tensor],
    unread: torch.Tensor,
    position: int,
    length: int,
    rule: Verification,
    stop: Stop | None,
    ids: torch.Tensor | None = None,
    state: Callable[[], torch.Tensor | None] | None = None,
) -> Draft:
    """Draft with a model, one forward pass per token; the first pass reads all of `unread` `[n]`.

    On the CPU, `stop` is asked before the next pass and may save it. On other devices it is asked
    once the next pass has started, so that the device never waits for the host; where the draft
    ends, that pass is wasted.

    Args:
        read: maps tokens `[1, n]` to the logits `[C]` after them.
        position: of the first drafted token.
        ids: `[C]`, the tokens that the logits stand for; None: the whole vocabulary.
        state: returns the hidden states `[1, W, hidden]` of the last pass, if they are wanted.
    """
    unread = unread[None]
    late = unread.device.type != "cpu"
    rows: list[torch.Tensor] = []
    choices: list[Choice] = []
    states: list[torch.Tensor] = []
    while True:
        row = read(unread)
        choice = rule.propose(row, position + len(rows), ids)
        if late and stop is not None and rows and stop():
            break
        rows.append(row)
        choices.append(choice)
        if state is not None and (seen := state()) is not None:
            states.append(seen[0, -1])
        if len(rows) == length:
            break
        if stop is not None:
            stop.tell(row, choice)
            if not late and stop():
                break
        unread = choice.token[None]
    draft = assembled(rows, choices, ids)
    return replace(draft, hidden=torch.stack(states)) if states else draft


def assembled(
    rows: Sequence[torch.Tensor], choices: Sequence[Choice], ids: torch.Tensor | None
) -> Draft:
    """A draft of `choices`, each from logits `rows` `[C]` over all tokens or over `ids` `[C]`."""
    logits = torch.stack(list(rows))
    plain = choices[0].scores is rows[0]  # greedy: chosen from the logits as they are
    return Draft(
        tokens=torch.cat([choice.token for choice in choices]),
        logits=logits,
        log_probs=logits if plain else torch.stack([choice.log_probs for choice in choices]),
        scores=logits if plain else torch.stack([choice.scores for choice in choices]),
        normalised=choices[0].normalised,
        ids=ids,
        among=None if ids is None else torch.cat([choice.place for choice in choices]),
    )
