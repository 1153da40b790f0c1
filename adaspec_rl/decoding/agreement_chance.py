"""How often two distributions pick the same token under the same Gumbel noise."""

import torch


def agreement_chance(target: torch.Tensor, drafter: torch.Tensor) -> float:
    """Chance that the perturbed argmax of both log-probabilities `[V]` is one token.

    Token x wins under both p and q with chance 1 / sum_y max(p_y / p_x, q_y / q_x) (Daliri et al.,
    "Coupling without communication and drafter-invariant speculative decoding", arXiv:2408.07978).
    Sorted by p / q, the maximum is p_y / p_x for tokens of a larger ratio than x's, else q_y / q_x.
    """
    p, q = target.double().softmax(-1), drafter.double().softmax(-1)
    order = (target - drafter).nan_to_num(nan=0.0).argsort(descending=True)  # -inf - -inf: neither
    p, q = p[order], q[order]
    above = p.cumsum(0)  # of tokens whose ratio is at least x's, x included
    below = q.sum() - q.cumsum(0)
    both = (p > 0) & (q > 0)
    p, q, above, below = p[both], q[both], above[both], below[both]
    return float((1 / (above / p + below.clamp_min(0.0) / q)).sum())
