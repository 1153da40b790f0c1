"""How often two distributions pick the same token under the same Gumbel noise."""

import torch


def agreement_chance(target: torch.Tensor, drafter: torch.Tensor) -> float:
    """Chance that both log-probabilities `[V]`, perturbed by the same noise, have the same argmax.

    Token x wins under both p and q with chance 1 / sum_y max(p_y / p_x, q_y / q_x) (Daliri et al.,
    "Coupling without communication and drafter-invariant speculative decoding", arXiv:2408.07978).
    The maximum is p_y / p_x where p_y / q_y is larger than p_x / q_x, else q_y / q_x, so one sort
    by p / q is enough.
    """
    p, q = target.double().softmax(-1), drafter.double().softmax(-1)
    order = (target - drafter).nan_to_num(nan=0.0).argsort(descending=True)  # NaN: neither has it
    p, q = p[order], q[order]
    above = p.cumsum(0)  # of tokens whose ratio is at least x's, x included
    below = q.sum() - q.cumsum(0)
    both = (p > 0) & (q > 0)
    p, q, above, below = p[both], q[both], above[both], below[both]
    return float((1 / (above / p + below.clamp_min(0.0) / q)).sum())
