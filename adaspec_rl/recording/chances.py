"""How likely each drafter's next token was to be accepted, averaged over all noise."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.agreement_chance import agreement_chance
from adaspec_rl.decoding.drafters import Drafter, HiddenStateDrafter, summon
from adaspec_rl.decoding.drafters.hidden_state import target_states
from adaspec_rl.decoding.sampling import Sampling, warp_logits
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.verification import new_verification
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.recording.texts import Text


@torch.inference_mode()
def survival_chances(
    target: LanguageModel,
    drafters: Sequence[Drafter],
    texts: Sequence[Text],
    sampling: Sampling,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Chance that coupling keeps the first drafted token at each of `M` positions, `[D, M]`.

    It follows from both models' distributions after the text so far, averaged over all possible
    noise. For a drafter that is certain of its token (a lookup) it is the token's probability under
    the target; without a draft it is 0. At temperature 0 each chance is 0 or 1.

    The chance of a deeper token is taken from the position where it would be the first. That is
    exact for drafters that read only tokens, and too high for those that read the target's hidden
    states, which know less at greater depth.
    """
    found = []
    for number, text in enumerate(texts):
        rows = _log_probs(target, text, sampling)
        found.append([_of_text(target, drafter, text, rows, sampling) for drafter in drafters])
        part_of(progress, number / len(texts), 1 / len(texts))(1.0)
    return np.concatenate([np.array(rows) for rows in found], axis=1)


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
) -> np.ndarray:
    """One drafter's chances along one text, `[G]`."""
    summon(drafter)
    count, prompt = len(text.tokens), text.prompt.tolist()
    sequence = TokenSequence(prompt, target.device, room=len(prompt) + count)
    if isinstance(drafter, HiddenStateDrafter):
        whole = torch.from_numpy(np.concatenate([text.prompt, text.tokens]).astype(np.int64))
        states = target_states(drafter.target, whole[None])[:, :-1]
        sequence.features = torch.nn.functional.pad(states, (0, 0, 1, 0))[0]
    rule = new_verification(
        "rejection", sampling, text.seed, target.vocab_size, target.device
    )  # says what tokens are drawn from; greedy at temperature 0
    chances = np.zeros(count)
    drafter.start()
    for index, token in enumerate(text.tokens.tolist()):
        if len(sequence) < drafter.context_length:
            draft = drafter.propose(sequence, 1, rule)
            drafter.keep(len(sequence))
            if len(draft):
                drawn = draft.all_log_probs(target.vocab_size) if rule.needs_log_probs else None
                if not sampling.temperature:
                    chances[index] = float(int(draft.tokens[0]) == int(rows[index].argmax()))
                elif drawn is None:
                    chances[index] = float(rows[index, int(draft.tokens[0])].exp())
                else:
                    chances[index] = agreement_chance(rows[index], drawn[0])
        sequence.extend([token])
    return chances
