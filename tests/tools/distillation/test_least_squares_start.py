"""First weights of a drafter by least squares."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, Qwen3Config

from adaspec_rl.tools.distillation.least_squares_start import start_by_least_squares
from tests.tools.distillation.test_shared_drafter import SHAPE, batch, drafter


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_drafter_begins_close_to_what_the_target_knew(kind, layers):
    """The next state is a matrix product of this token's embedding and the state before."""
    _, made = drafter(kind(**dict(SHAPE, num_hidden_layers=layers)), reads_hidden=True)
    generator = torch.Generator().manual_seed(0)
    of_token, of_state = torch.randn(2, 48, 48, generator=generator)
    batches = []
    for _ in range(12):
        packed = replace(
            batch([40, 24], features=False), tokens=torch.randint(50, (1, 64), generator=generator)
        )
        embedded = F.normalize(F.embedding(packed.tokens, made.embedding), dim=-1)
        features = torch.zeros(1, 64, 48)
        for place in range(63):
            if packed.texts[0, place] == packed.texts[0, place + 1]:
                state = embedded[:, place] @ of_token + 0.5 * features[:, place] @ of_state / 7
                features[:, place + 1] = F.normalize(state, dim=-1) * 7
        batches.append(replace(packed, features=features))

    def likeness() -> float:
        """The mean cosine of the drafter's state and the target's."""
        found = []
        for packed in batches:
            (states,) = made(packed, steps=1)
            known = packed.texts[0, 1:] == packed.texts[0, :-1]
            assert packed.features is not None
            wanted = packed.features[0, 1:][known]
            found.append(F.cosine_similarity(states[0, :-1][known], wanted, dim=-1).mean())
        return float(torch.stack(found).mean().detach())

    before = likeness()
    start_by_least_squares(made, batches)
    assert before < 0.2 and likeness() > 0.7
