"""A draft model with a vocabulary of its own, rewritten to its target's.

Token-level intersection (TLI; "Accelerating LLM inference with lossless speculative decoding
algorithms for heterogeneous vocabularies", arXiv:2502.05202): the drafter proposes only tokens that
both models have, so every verification rule stays exact. Here the weights are rewritten as they are
loaded: the embedding gets a row for each of the target's tokens, and the output matrix keeps the
rows of common tokens. Then both models count tokens alike, and nothing else has to know.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from adaspec_rl.engine.architecture import Architecture
from adaspec_rl.engine.checkpoint import Checkpoint
from adaspec_rl.engine.device_weights import read_weights, trimmed_head
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.engine.weights import EMBEDDING, HEAD, Stored, StoredMatrix, stored_in


@dataclass(frozen=True, slots=True)
class Translation:
    """What each token of the target's vocabulary of `V` tokens is to a drafter."""

    reads: torch.Tensor  # [V] int64, the drafter's token that it reads in its place
    common: torch.Tensor  # [C] int64, ascending: tokens that the drafter has too


def load_translated(
    checkpoint: Checkpoint, translation: Translation, options: LoadOptions, name: str
) -> LeanModel:
    """Load a drafter that reads its target's tokens and drafts those that it has too.

    Raises:
        ValueError: the checkpoint is damaged, or the lean engine does not know its architecture.
    """
    architecture = Architecture.from_config(checkpoint.config())
    ours = replace(architecture, vocab_size=len(translation.reads), tied=False)
    tensors = stored_in(checkpoint.weight_files())
    weights = read_weights(
        ours,
        _rewritten(tensors, translation.reads),
        dtype=options.numbers,
        device=torch.device(options.device),
        kernels=options.kernels,
        quantize=options.quantize,
    )
    weights.head = trimmed_head(weights, translation.common, options.quantize)
    weights.output_tokens = translation.common.to(options.device)
    return LeanModel(ours, weights, name, compile=options.compile)


def _rewritten(
    tensors: Iterable[tuple[str, Stored]], reads: torch.Tensor
) -> Iterator[tuple[str, Stored]]:
    """The tensors with the outer matrices' rows in the order of the target's tokens."""
    outer: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        whole = name if name.startswith(("model.", HEAD)) else f"model.{name}"
        if whole in (EMBEDDING, HEAD):
            outer[whole] = tensor.whole() if isinstance(tensor, StoredMatrix) else tensor
        else:
            yield name, tensor
    for name, other in ((EMBEDDING, HEAD), (HEAD, EMBEDDING)):  # tied ones may be stored once
        matrix = outer.get(name, outer.get(other))
        if matrix is not None:
            if int(reads.max()) >= len(matrix):
                raise ValueError(
                    f"{name} has {len(matrix)} rows, but the tokenizer has a token "
                    f"{int(reads.max())}: expected the checkpoint's own tokenizer"
                )
            yield name, matrix[reads]
