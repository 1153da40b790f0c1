"""A draft model with embeddings and a head of its own, as it is trained."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adaspec_rl.tools.distillation.shared_drafter import Batch, causal
from adaspec_rl.tools.pretrain import save_model


class OwnDrafter(nn.Module):
    """A whole transformers model with the interface of a `SharedDrafter`."""

    reads_hidden = False

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @property
    def head(self) -> torch.Tensor:
        """`[V, hidden]`."""
        head: torch.Tensor = self.model.get_output_embeddings().weight
        return head

    def forward(self, batch: Batch, steps: int) -> list[torch.Tensor]:
        """Normalised states `[B, L, hidden]`, the same at every step."""
        out = self.model.base_model(
            input_ids=batch.tokens,
            position_ids=batch.places,
            attention_mask=causal(batch.texts),
            use_cache=False,
        )
        states: torch.Tensor = out.last_hidden_state
        return [states] * steps

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write a checkpoint folder of its own."""
        save_model(self.model, tokenizer, folder, dtype)
