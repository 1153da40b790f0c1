"""The target's own texts, many side by side: what every draft is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaspec_rl.console import part_of
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.signals import entropy
from adaspec_rl.decoding.verification import Verification, new_verification, weigh_rows
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.lean_model import LeanModel


@dataclass(frozen=True, slots=True)
class Text:
    """One generation of the target, with what it knew at each token."""

    prompt: np.ndarray  # [P] int32
    seed: int
    tokens: np.ndarray  # [G] int32, the end-of-text token included
    finished: str  # eos, length or context
    budget: int  # tokens that it could have had
    target_entropy: np.ndarray  # [G] float32, nats, of the distribution each token was chosen from
    target_top_probability: np.ndarray  # [G] float32, likewise


def replayable(rule: str, sampling: Sampling) -> None:
    """Refuse verification under which the text depends on the drafts.

    Raises:
        ValueError: sampling by rejection.
    """
    if sampling.temperature > 0 and rule != "coupled":
        raise ValueError(
            f"verification {rule!r} at temperature {sampling.temperature} cannot be replayed, as "
            "its texts depend on the drafts: use env.verification=coupled"
        )


def text_rules(
    target: LanguageModel, seeds: Sequence[int], rule: str, sampling: Sampling
) -> list[Verification]:
    """The random state of each text."""
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
    """Plain decoding of all `prompts` in one batch; row `b` is chosen by `rules[b]`.

    Models other than `LeanModel` keep rows of one length only, and take one prompt at a time.
    `progress` is told after each token what share of the longest possible texts is there.
    """
    if not isinstance(target, LeanModel) and len(prompts) > 1:
        return [
            text
            for n, (prompt, seed, rule) in enumerate(zip(prompts, seeds, rules))
            for text in generate_texts(
                target,
                [prompt],
                [seed],
                [rule],
                eos_ids=eos_ids,
                max_new_tokens=max_new_tokens,
                progress=part_of(progress, n / len(prompts), 1 / len(prompts)),
            )
        ]
    rows = [_Row(prompt, seed, target, max_new_tokens) for prompt, seed in zip(prompts, seeds)]
    _read_prompts(target, prompts)
    while any(row.finished is None for row in rows):
        unread = torch.tensor([[row.last] for row in rows], device=target.device)
        logits = target.extend(unread)[:, 0]  # [B, V]
        places = [[row.length] for row in rows]
        chosen = weigh_rows(rules, logits[:, None], places)[1][:, 0].argmax(-1)
        log_probs = logits.log_softmax(-1)
        signals = [chosen, entropy(log_probs).double(), log_probs.amax(-1).exp().double()]
        values = torch.stack([part.double() for part in signals], dim=1).tolist()
        for b, row in enumerate(rows):
            if row.finished is None:
                row.append(values[b], eos_ids)
        # A finished row reads its last token over and over, and never grows.
        target.rollback(torch.tensor([row.length - 1 for row in rows]))
        progress(max(len(row.tokens) for row in rows) / max_new_tokens)
    return [row.text() for row in rows]


def _read_prompts(target: LanguageModel, prompts: Sequence[Sequence[int]]) -> None:
    """Every prompt but for its last token; shorter ones are padded, then rolled back."""
    lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
    target.reset(len(prompts))
    if not lengths.max():
        return
    padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for b, prompt in enumerate(prompts):
        padded[b, : len(prompt) - 1] = torch.tensor(prompt[:-1])
    target.extend(padded.to(target.device), keep=1)
    target.rollback(lengths)


class _Row:
    """One text as it grows."""

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
