"""Transformers' processors and stopping criteria, for one row of a batch at a time."""

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteriaList,
)
from transformers.generation import logits_process as known
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria

# They use the scores alone, so all positions of a round are processed at once.
_OF_SCORES = (
    known.TemperatureLogitsWarper,
    known.TopKLogitsWarper,
    known.TopPLogitsWarper,
    known.MinPLogitsWarper,
    known.TypicalLogitsWarper,
    known.EpsilonLogitsWarper,
    known.EtaLogitsWarper,
    known.LogitNormalization,
    known.InfNanRemoveLogitsProcessor,
    known.SuppressTokensLogitsProcessor,
)
# They keep data of every row of the batch, or run the model themselves.
_OF_BATCH = (
    known.EncoderRepetitionPenaltyLogitsProcessor,
    known.EncoderNoRepeatNGramLogitsProcessor,
    known.SynthIDTextWatermarkLogitsProcessor,
    known.UnbatchedClassifierFreeGuidanceLogitsProcessor,
)


def reads_text(processor: LogitsProcessor) -> bool:
    """Whether a processor may read the text, and not only the scores."""
    return type(processor) not in _OF_SCORES


def of_row(processors: LogitsProcessorList, row: int, rows: int) -> LogitsProcessorList:
    """The processors for one row's scores.

    Raises:
        ValueError: a processor needs all `rows` at once.
    """
    if rows == 1:
        return processors
    return LogitsProcessorList([_of_row(processor, row) for processor in processors])


def _of_row(processor: LogitsProcessor, row: int) -> LogitsProcessor:
    if isinstance(processor, _OF_BATCH):
        raise ValueError(
            f"{type(processor).__name__} works on a whole batch, whose rows are decoded at their "
            "own pace here: generate from one prompt at a time, or without custom_generate"
        )
    if type(processor) is known.PrefixConstrainedLogitsProcessor:
        allowed = processor._prefix_allowed_tokens_fn
        return known.PrefixConstrainedLogitsProcessor(lambda _, text: allowed(row, text), 1)
    if type(processor) is known.RepetitionPenaltyLogitsProcessor:
        ignored = processor.prompt_ignore_length
        if isinstance(ignored, torch.Tensor):  # padding, by row
            return known.RepetitionPenaltyLogitsProcessor(processor.penalty, ignored[row : row + 1])
    return processor


class Ending:
    """Whether a text is at its end, by transformers' criteria."""

    def __init__(self, criteria: StoppingCriteriaList) -> None:
        self._eos: set[int] = set()
        self._max_length: int | None = None
        self._others = StoppingCriteriaList()
        for item in criteria:
            if type(item) is EosTokenCriteria:
                self._eos |= set(item.eos_token_id.reshape(-1).tolist())
            elif type(item) is MaxLengthCriteria:
                self._max_length = min(item.max_length, self._max_length or item.max_length)
            else:
                self._others.append(item)

    def __call__(
        self, text: torch.Tensor, last: int, scores: Sequence[torch.Tensor] | None
    ) -> bool:
        """Whether `text` `[1, n]`, whose last token is `last`, ends here."""
        full = self._max_length is not None and text.shape[1] >= self._max_length
        ends = last in self._eos or full
        if self._others:  # call all of them, since they may count
            seen = None if scores is None else tuple(row[None] for row in scores)
            ends = bool(self._others(text, seen).any()) or ends
        return ends


def has_eos(criteria: StoppingCriteriaList) -> bool:
    """Whether rows that end are padded; otherwise they continue."""
    return any(hasattr(item, "eos_token_id") for item in criteria)
