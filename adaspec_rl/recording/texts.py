"""The target's own texts, generated many at a time; every draft is compared with them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.signals import entropy
from adaspec_rl.decoding.verification import Verification, best, new_verification, weigh_rows
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel

ALIKE = 32  # difference in prompt lengths, in tokens, that is always allowed in a batch


@dataclass(frozen=True, slots=True)
class Text:
    """One generation of the target, with the target's signals at each token."""

    prompt: np.ndarray  # [P] int32
    seed: int
    tokens: np.ndarray  # [G] int32, the end-of-text token included
    finished: str  # eos, length or context
    budget: int  # the most tokens that it could have had
    target_entropy: np.ndarray  # [G] float32, nats, of the distribution each token was chosen from
    target_top_probability: np.ndarray  # [G] float32, likewise


def replayable(rule: str, sampling: Sampling) -> None:
    """Refuse verification under which the text depends on the drafts.

    Raises:
        ValueError: the rule samples by rejection.
    """
    if sampling.temperature > 0 and rule != "coupled":
        raise ValueError(
            f"verification {rule!r} at temperature {sampling.temperature} cannot be replayed, as "
            "its texts depend on the drafts: use env.verification=coupled"
        )


def text_rules(
    target: LanguageModel, seeds: Sequence[int], rule: str, sampling: Sampling
) -> list[Verification]:
    """The verification rule of each text, with its random state."""
    replayable(rule, sampling)
    return [
        new_verification(rule, sampling, seed, target.vocab_size, target.device) for seed in seeds
    ]


@torch.inference_mode()
def generate_texts(
    target: LanguageModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    rules: Sequence[Verification],
    *,
    eos_ids: Sequence[int],
    max_new_tokens: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Text]:
    """Decode all `prompts` plainly; `rules[n]` chooses the tokens of text `n`.

    Prompts of similar length are decoded side by side, as a batch takes as long as its longest row.
    Models other than `LeanModel` only support rows of one length, and take one prompt at a time.
    `progress` is told after each token what share of the longest possible texts is done.
    """
    batches = (
        _batches(prompts) if isinstance(target, LeanModel) else [[n] for n in range(len(prompts))]
    )
    texts: dict[int, Text] = {}
    for batch in batches:
        made = _side_by_side(
            target,
            [_Row(prompts[n], seeds[n], target, max_new_tokens) for n in batch],
            [rules[n] for n in batch],
            eos_ids=eos_ids,
            progress=part_of(progress, len(texts) / len(prompts), len(batch) / len(prompts)),
        )
        texts |= zip(batch, made)
    return [texts[n] for n in range(len(prompts))]


def _batches(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of prompts, shortest first, in batches whose longest prompt is not much longer."""
    batches: list[list[int]] = []
    for n in sorted(range(len(prompts)), key=lambda n: len(prompts[n])):
        if batches and len(prompts[n]) <= 1.5 * len(prompts[batches[-1][0]]) + ALIKE:
            batches[-1].append(n)
        else:
            batches.append([n])
    return batches


def _side_by_side(
    target: LanguageModel,
    rows: Sequence["_Row"],
    rules: Sequence[Verification],
    *,
    eos_ids: Sequence[int],
    progress: Callable[[float], None],
) -> list[Text]:
    """Decode all rows in one batch; `rules[b]` chooses the tokens of row `b`."""
    longest = max(len(row.prompt) + row.budget for row in rows)
    _read_prompts(target, [row.prompt for row in rows], longest)
    most = max(row.budget for row in rows)
    while any(row.finished is None for row in rows):
        unread = torch.tensor([[row.last] for row in rows], device=target.device)
        logits = target.extend(unread)[:, 0]  # [B, V]
        places = [[row.length] for row in rows]
        chosen = best(weigh_rows(rules, logits[:, None], places)[1])[:, 0, 0]
        log_probs = logits.log_softmax(-1)
        signals = [chosen, entropy(log_probs).double(), log_probs.amax(-1).exp().double()]
        values = torch.stack([part.double() for part in signals], dim=1).tolist()
        for b, row in enumerate(rows):
            if row.finished is None:
                row.append(values[b], eos_ids)
        # A finished row reads its last token again and again, and never grows.
        target.rollback(torch.tensor([row.length - 1 for row in rows]))
        progress(max(len(row.tokens) for row in rows) / most)
    target.check()
    return [row.text() for row in rows]


def _read_prompts(target: LanguageModel, prompts: Sequence[Sequence[int]], longest: int) -> None:
    """Read all but the last token of every prompt; shorter ones are padded, then rolled back.

    `longest`: the most tokens that a row will have.
    """
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
    target.reset(len(prompts), longest)
    if not lengths.max():
        return
    padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for b, prompt in enumerate(prompts):
        padded[b, : len(prompt) - 1] = torch.tensor(prompt[:-1])
    target.extend(padded.to(target.device), keep=1)
    target.rollback(lengths)


class _Row:
    """One text while it grows."""

    def __init__(
        self, prompt: Sequence[int], seed: int, target: LanguageModel, max_new_tokens: int
    ) -> None:
        self.prompt, self.seed = list(prompt), seed
        room = min(target.context_length, len(prompt) + max_new_tokens)
        self.budget = room - len(prompt)
        self.budget_reason = "length" if self.budget == max_new_tokens else "context"
        self.tokens: list[int] = []
        self.signals: list[list[float]] = []
        self.finished: str | None = None

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.tokens)

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    def append(self, values: list[float], eos_ids: Sequence[int]) -> None:
        self.tokens.append(int(values[0]))
        self.signals.append(values[1:])
        if self.tokens[-1] in eos_ids:
            self.finished = "eos"
        elif len(self.tokens) == self.budget:
            self.finished = self.budget_reason

    def text(self) -> Text:
        assert self.finished is not None
        signals = np.array(self.signals, dtype=np.float32)
        return Text(
            prompt=np.array(self.prompt, dtype=np.int32),
            seed=self.seed,
            tokens=np.array(self.tokens, dtype=np.int32),
            finished=self.finished,
            budget=self.budget,
            target_entropy=signals[:, 0],
            target_top_probability=signals[:, 1],
        )
