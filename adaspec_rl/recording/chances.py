"""How likely each drafter's tokens were to be accepted, averaged over all noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.agreement_chance import agreement_chance
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters import Drafter, HiddenStateDrafter, summon
from adaspec_rl.decoding.drafters.hidden_state import target_states
from adaspec_rl.decoding.picks import Pick
from adaspec_rl.decoding.sampling import Sampling, warp_logits
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.trigrams import Candidates
from adaspec_rl.decoding.verification import Greedy, Rejection
from adaspec_rl.decoding.verification.choice import Choice
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.recording.texts import Text

NOWHERE = -1  # no token has this id


@torch.inference_mode()
def survival_chances(
    target: LanguageModel,
    drafters: Sequence[Drafter],
    texts: Sequence[Text],
    sampling: Sampling,
    length: int,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Chances that coupling keeps drafted tokens, `[D, length, M]` for drafts from `M` positions.

    Entry `[d, k, m]` is for token number `k` of a draft, given that the tokens before it were kept.
    It follows from both models' distributions after the text up to there, averaged over all
    possible noise. For a drafter that is certain of its token (a lookup) it is the token's
    probability under the target. It is 0 where there is no draft, where the drafter could not have
    drafted the text up to there, and after the text's end. At temperature 0 each chance is 0 or 1.
    """
    found = []
    for number, text in enumerate(texts):
        rows = _log_probs(target, text, sampling)
        found.append(
            [_of_text(target, drafter, text, rows, sampling, length) for drafter in drafters]
        )
        part_of(progress, number / len(texts), 1 / len(texts))(1.0)
    return np.concatenate([np.array(chances) for chances in found], axis=2)


def _log_probs(target: LanguageModel, text: Text, sampling: Sampling) -> torch.Tensor:
    """The target's log-probabilities before each token that it generated, `[G, V]`."""
    tokens = torch.from_numpy(np.concatenate([text.prompt, text.tokens[:-1]]).astype(np.int64))
    target.reset()
    read = len(text.prompt) - 1
    if read:
        target.prefill(tokens[None, :read].to(target.device))
    logits = target.extend(tokens[None, read:].to(target.device))[0]
    return warp_logits(logits, sampling).log_softmax(-1)


def _of_text(
    target: LanguageModel,
    drafter: Drafter,
    text: Text,
    rows: torch.Tensor,
    sampling: Sampling,
    length: int,
) -> np.ndarray:
    """One drafter's chances along one text, `[length, G]`."""
    summon(drafter)
    count, prompt = len(text.tokens), text.prompt.tolist()
    sequence = TokenSequence(prompt, target.device, room=len(prompt) + count + length)
    if isinstance(drafter, HiddenStateDrafter):
        whole = torch.from_numpy(np.concatenate([text.prompt, text.tokens]).astype(np.int64))
        states = target_states(drafter.target, whole[None])[:, :-1]
        sequence.features = torch.nn.functional.pad(states, (0, 0, 1, 0))[0]
    along = dict(enumerate(text.tokens.tolist(), len(prompt)))
    rule = _AlongText(sampling, text.seed, along) if sampling.temperature else Greedy()
    chances = np.zeros((length, count))
    drafter.start()
    for index, token in enumerate(text.tokens.tolist()):
        room = min(length, drafter.context_length - len(sequence))
        if room > 0:
            draft = drafter.propose(sequence, room, rule)
            drafter.keep(len(sequence))
            kept = _of_draft(draft, rows[index:], text.tokens[index:].tolist(), sampling)
            chances[: len(kept), index] = kept
        sequence.extend([token])
    return chances


def _of_draft(
    draft: Draft, rows: torch.Tensor, tokens: Sequence[int], sampling: Sampling
) -> list[float]:
    """The chances of a draft's tokens, as far as it could have been the text `tokens`."""
    drawn = draft.all_log_probs(rows.shape[1]) if sampling.temperature else None
    chances = []
    for depth, (drafted, token) in enumerate(zip(draft.tokens.tolist(), tokens)):
        if not sampling.temperature:
            chances.append(float(drafted == token))
        elif drawn is None:
            chances.append(float(rows[depth, drafted].exp()))
        else:
            chances.append(agreement_chance(rows[depth], drawn[depth]))
        if drafted != token:
            break
    return chances


class _AlongText(Rejection):
    """Has drafters draft the text itself, so that each distribution is the one after the text.

    Where a drafter cannot draft the text's token, it draws another.
    """

    def __init__(self, sampling: Sampling, seed: int, text: Mapping[int, int]) -> None:
        """`text` has the token at each position."""
        super().__init__(sampling, torch.Generator().manual_seed(seed))
        self._text = text

    def propose(
        self, logits: torch.Tensor, position: int, ids: torch.Tensor | None = None
    ) -> Choice:
        choice = super().propose(logits, position, ids)
        known = torch.arange(len(logits)) if ids is None else ids
        place = (known == self._text.get(position, NOWHERE)).nonzero()[:, 0]
        if not len(place) or choice.log_probs[place] == -torch.inf:
            return choice
        return replace(choice, token=known[place], among=None if ids is None else place)

    def pick(self, candidates: Candidates, position: int) -> Pick:
        pick = super().pick(candidates, position)
        tokens = candidates.tokens[: len(pick.weights)]
        (same,) = np.nonzero(tokens == self._text.get(position, NOWHERE))
        return replace(pick, index=int(same[0])) if len(same) else pick
