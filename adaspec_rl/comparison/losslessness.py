"""Does every method, and every recording, emit what autoregressive decoding emits?

Differences that are ties in rounding are counted separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.comparison.benchmark import Record
from adaspec_rl.comparison.identity import AUTOREGRESSIVE
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.verification import Greedy, Rule, Verification, new_verification
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.recording.trace import Trace

WIDTHS = (1, 2, 4, 8)  # tokens per pass, when the noise is measured
TAIL = 16  # tokens that are read in such passes; the text before them is read at once


@dataclass(slots=True)
class Losslessness:
    """How many texts equal the expected texts of the same prompts."""

    prompts: int
    compared: int = 0
    identical: int = 0
    ties: int = 0  # texts that differ first at two tokens whose order depends on rounding

    def add(
        self,
        target: LanguageModel,
        prompt: Sequence[int],
        expected: Sequence[int],
        found: Sequence[int],
        rule: Verification,
    ) -> None:
        """Count one text."""
        self.compared += 1
        if expected == found:
            self.identical += 1
        elif is_tie(target, prompt, expected, found, rule):
            self.ties += 1


def compare_texts(
    records: Sequence[Record],
    prompts: Mapping[str, Sequence[int]],
    target: LanguageModel,
    *,
    verification: Rule = "greedy",
    sampling: Sampling = Sampling(),
    seed: int = 0,
) -> Losslessness:
    """Compare all records with the autoregressive ones.

    Args:
        prompts: token ids by prompt id, in the benchmark's order: prompt n has the seed `seed + n`.
    """
    wanted = {r.prompt: r.generation.tokens for r in records if r.method == AUTOREGRESSIVE}
    result = Losslessness(len(wanted))
    seeds = {prompt: seed + number for number, prompt in enumerate(prompts)}
    for record in records:
        if record.method != AUTOREGRESSIVE:
            rule = new_verification(
                verification, sampling, seeds[record.prompt], target.vocab_size, target.device
            )
            expected, found = wanted[record.prompt], record.generation.tokens
            result.add(target, prompts[record.prompt], expected, found, rule)
    return result


def compare_with_recording(
    records: Sequence[Record],
    recorded: Trace,
    prompts: Mapping[str, Sequence[int]],
    target: LanguageModel,
    *,
    verification: Rule = "greedy",
    sampling: Sampling = Sampling(),
    seed: int = 0,
) -> Losslessness:
    """Compare the recorded texts with the autoregressive texts that were decoded live.

    Recordings decode many texts side by side. Where a batch rounds differently, a recorded text may
    part from the live text at a near-tie; from there on, the replay follows another text.

    Args:
        recorded: the recording; its texts with other seeds are ignored.
        prompts: as in `compare_texts`.
    """
    texts = {(tuple(text.prompt.tolist()), text.seed): text for text in recorded.texts}
    seeds = {prompt: seed + number for number, prompt in enumerate(prompts)}
    result = Losslessness(0)
    for record in records:
        number = seeds[record.prompt]
        text = texts.get((tuple(prompts[record.prompt]), number))
        if record.method == AUTOREGRESSIVE and text is not None:
            result.prompts += 1
            rule = new_verification(
                verification, sampling, number, target.vocab_size, target.device
            )
            live = record.generation.tokens
            result.add(target, prompts[record.prompt], text.tokens.tolist(), live, rule)
    return result


def is_tie(
    target: LanguageModel,
    prompt: Sequence[int],
    expected: Sequence[int],
    found: Sequence[int],
    rule: Verification = Greedy(),
) -> bool:
    """Whether the texts part at two tokens whose scores differ by less than their own noise.

    The noise is the range of the difference of these two scores over forward passes of several
    widths on the same text. Noise in other tokens' scores does not count.
    """
    shared = 0
    while shared < min(len(expected), len(found)) and expected[shared] == found[shared]:
        shared += 1
    if shared == min(len(expected), len(found)):
        return False
    text = torch.tensor([[*prompt, *expected[:shared]]], device=target.device)
    rows = torch.stack(_last_logits(target, text))  # [passes, V]
    scores = torch.stack([rule.weigh(row[None], [text.shape[1]])[1][0] for row in rows])
    gaps = scores[:, expected[shared]] - scores[:, found[shared]]
    # NaN where neither token can be chosen; then this is no tie.
    return bool(gaps.abs().min() <= gaps.max() - gaps.min())


def _last_logits(target: LanguageModel, text: torch.Tensor) -> list[torch.Tensor]:
    """Logits `[V]` after `text` `[1, n]`: read at once, and its end in passes of each width."""
    found = [target.prefill(text)[0]]
    tail = min(TAIL, text.shape[1] - 1)
    for width in WIDTHS if tail else ():
        target.prefill(text[:, :-tail])
        for part in text[:, -tail:].split(width, dim=1):
            last = target.extend(part, keep=1)[0, -1]
        found.append(last)
    return found
