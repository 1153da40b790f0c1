"""How long the accepted part of a draft is."""

import torch


def row(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` for a scalar tensor `index`, without a host synchronisation."""
    if values.device.type == "cpu":  # a view: a row of logits is long
        return values[int(index)]
    return values.index_select(0, index.view(1))[0]


def leading(kept: torch.Tensor) -> torch.Tensor:
    """How many leading entries of a boolean `[k]` are true."""
    return kept.long().cumprod(0).sum()


def agreement(picks: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many leading entries of `tokens` `[k]` and `picks` `[k + 1]` agree, and the next pick."""
    if picks.device.type == "cpu":  # few calls: after a forward pass their code is out of cache
        found, drafted = picks.tolist(), tokens.tolist()
        accepted = next((n for n, (a, b) in enumerate(zip(found, drafted)) if a != b), len(drafted))
        return torch.tensor(accepted), picks[accepted]
    kept = leading(picks[:-1] == tokens)
    return kept, row(picks, kept)
