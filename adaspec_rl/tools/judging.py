"""A judge's training data: a drafter's tokens swapped into the target's texts, and the new answers.

This follows AutoJudge (arXiv:2504.20039), but makes every swap alone in the target's own text.
AutoJudge goes on from the text that has the harmless swaps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.comparison.accuracy import Task
from adaspec_rl.decoding.draft import Draft
from adaspec_rl.decoding.drafters import DraftModel, HiddenStateDrafter
from adaspec_rl.decoding.verification import Greedy
from adaspec_rl.decoding.verification.lossy import Seen, States
from adaspec_rl.decoding.verification.lossy.judge import judge_features
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.recording.texts import generate_texts


@dataclass(frozen=True, slots=True)
class Swaps:
    """Positions of one or more texts at which a drafter's token differs from the target's."""

    features: torch.Tensor  # [N, F], as `judge_features` has them
    important: torch.Tensor  # [N] boolean: the swap changes the answer

    @classmethod
    def joined(cls, parts: Sequence["Swaps"]) -> "Swaps":
        """Concatenate swaps, in order."""
        return cls(
            torch.cat([part.features for part in parts]),
            torch.cat([part.important for part in parts]),
        )


def judged_drafter(pair: Pair, number: int) -> DraftModel:
    """Drafter `number`, if a judge can be trained for its drafts.

    Raises:
        ValueError: it is not a draft model of the lean engine, or reads the target's hidden states.
    """
    if not 0 <= number < len(pair.drafters):
        raise ValueError(f"no drafter number {number}: expected 0 to {len(pair.drafters) - 1}")
    drafter = pair.drafters[number]
    if not isinstance(drafter, DraftModel) or isinstance(drafter, HiddenStateDrafter):
        raise ValueError(
            f"a judge reads a draft model's own hidden states, which {drafter.name} has none of: "
            "name another drafter"
        )
    if not isinstance(pair.target, LeanModel) or not isinstance(drafter.model, LeanModel):
        raise ValueError("a judge reads hidden states: expected models of the lean engine")
    return drafter


@torch.inference_mode()
def swaps_of(
    pair: Pair,
    drafter: DraftModel,
    task: Task,
    prompt: Sequence[int],
    text: Sequence[int],
    *,
    max_new_tokens: int,
) -> Swaps:
    """Swap `drafter`'s greedy tokens into `text` after `prompt`, one at a time.

    After each swap the target continues greedily. A text without an answer gets no swaps.
    """
    features, drafted = seen_in(pair, drafter, prompt, text)
    places = [n for n, (own, other) in enumerate(zip(text, drafted)) if own != other]
    answer = task.answer_in(pair.decode(text))
    if answer is None or not places:
        return Swaps(features[:0], torch.zeros(0, dtype=torch.bool))
    begun = [[*text[:n], drafted[n]] for n in places]
    ended = [n for n, start in enumerate(begun) if start[-1] in pair.eos_ids]
    going = [n for n in range(len(begun)) if n not in ended and len(begun[n]) < max_new_tokens]
    found = generate_texts(
        pair.target,
        [[*prompt, *begun[n]] for n in going],
        range(len(going)),
        [Greedy()] * len(going),
        eos_ids=pair.eos_ids,
        max_new_tokens=max_new_tokens - places[0] - 1,
    )
    for n, more in zip(going, found):
        begun[n] = [*begun[n], *more.tokens.tolist()][:max_new_tokens]
    other = [task.answer_in(pair.decode(tokens)) != answer for tokens in begun]
    return Swaps(features[places], torch.tensor(other))


@torch.inference_mode()
def seen_in(
    pair: Pair, drafter: DraftModel, prompt: Sequence[int], text: Sequence[int]
) -> tuple[torch.Tensor, list[int]]:
    """At each token of `text`: a judge's features `[n, F]`, and the drafter's own token."""
    target, model = pair.target, drafter.model
    assert isinstance(target, LeanModel) and isinstance(model, LeanModel)
    count = len(text)
    read = torch.tensor([[*prompt, *text]], device=target.device)
    own = _read(target, read, count + 1)
    shown = _read(model, drafter.readable(read), count + 1)
    assert target.last_hidden is not None and model.last_hidden is not None
    logits = drafter.fit(shown[:-1])
    ids, places = model.output_tokens, logits.argmax(-1)
    tokens = places if ids is None else ids[places]
    draft = Draft(tokens, logits, ids=ids)
    states = States(
        target.last_hidden[0, -count - 1 : -1],
        model.last_hidden[0, -count - 1 : -1],
        draft.own_log_probs(target.vocab_size),
    )
    seen = Seen(own.log_softmax(-1), tokens, own.argmax(-1), states)
    return judge_features(seen), tokens.tolist()


def _read(model: LeanModel, tokens: torch.Tensor, keep: int) -> torch.Tensor:
    """Logits `[keep, C]` after the last `keep` tokens of `[1, n]`; states are in `last_hidden`."""
    model.reset(1, tokens.shape[1])
    return model.extend(tokens, keep=keep)[0]


def collect(
    pair: Pair,
    drafter: DraftModel,
    tasks: Sequence[Task],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Swaps]:
    """Collect the swaps in the target's own greedy text after each prompt."""
    texts = generate_texts(
        pair.target,
        prompts,
        range(len(prompts)),
        [Greedy()] * len(prompts),
        eos_ids=pair.eos_ids,
        max_new_tokens=max_new_tokens,
    )
    found = []
    for number, (task, prompt, text) in enumerate(zip(tasks, prompts, texts), 1):
        tokens = text.tokens.tolist()
        found.append(swaps_of(pair, drafter, task, prompt, tokens, max_new_tokens=max_new_tokens))
        progress(number, len(tasks))
    return found
