"""Does every method emit what autoregressive decoding emits? Ties in rounding are told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.evaluation.benchmark import AUTOREGRESSIVE, Record


@dataclass(slots=True)
class Losslessness:
    """Generations compared with the autoregressive one of the same prompt."""

    prompts: int
    compared: int = 0
    identical: int = 0
    ties: int = 0  # first difference between two logits closer than the rounding noise


def compare_texts(
    records: Sequence[Record], prompts: Mapping[str, Sequence[int]], target: LanguageModel
) -> Losslessness:
    """Compare all records with the autoregressive ones; `prompts` maps ids to token ids."""
    wanted = {r.prompt: r.generation.tokens for r in records if r.method == AUTOREGRESSIVE}
    result = Losslessness(len(wanted))
    for record in records:
        if record.method == AUTOREGRESSIVE:
            continue
        result.compared += 1
        expected, found = wanted[record.prompt], record.generation.tokens
        if expected == found:
            result.identical += 1
        elif is_tie(target, prompts[record.prompt], expected, found):
            result.ties += 1
    return result


def is_tie(
    target: LanguageModel, prompt: Sequence[int], expected: Sequence[int], found: Sequence[int]
) -> bool:
    """Whether the texts part at two logits that differ by less than the measured noise.

    The noise is how much the logits of that position move between a forward pass of the whole
    text and a step of width 1.
    """
    shared = 0
    while shared < min(len(expected), len(found)) and expected[shared] == found[shared]:
        shared += 1
    if shared == min(len(expected), len(found)):
        return False
    text = torch.tensor([[*prompt, *expected[:shared]]], device=target.device)
    whole = target.prefill(text)[0]
    stepped = whole
    if text.shape[1] > 1:
        target.prefill(text[:, :-1])
        stepped = target.extend(text[:, -1:])[0, -1]
    noise = float((whole - stepped).abs().max())
    gap = abs(float(stepped[expected[shared]] - stepped[found[shared]]))
    return gap <= 2 * noise
