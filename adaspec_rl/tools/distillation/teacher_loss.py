"""How far a drafter's distribution is from the target's, whose likeliest tokens are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from adaspec_rl.tools.distillation.own_drafter import OwnDrafter
from adaspec_rl.tools.distillation.shared_drafter import SharedDrafter
from adaspec_rl.tools.distillation.teacher_windows import OUTSIDE, Lesson

Drafter = SharedDrafter | OwnDrafter
LOSSES = ("kl", "tv", "both")
_LEAST = 1e-6  # least probability of all unlisted tokens together


@dataclass(frozen=True, slots=True)
class Distance:
    """Measures of distance by position, `[N]` each."""

    divergence: torch.Tensor  # KL(target || drafter) up to a constant, nats
    overlap: torch.Tensor  # sum of min(p, q): the chance of acceptance at temperature 1
    agrees: torch.Tensor  # bool: the same likeliest token, which counts at temperature 0


def distance(logits: torch.Tensor, choices: torch.Tensor, log_probs: torch.Tensor) -> Distance:
    """Compare a drafter's `logits` `[N, R]` with the target's likeliest tokens.

    All other tokens together count as one more outcome. Tokens that the drafter cannot output add
    nothing to the divergence or to the overlap.

    Args:
        choices: `[N, K]`, columns of `logits`, or `OUTSIDE`; the likeliest first.
        log_probs: `[N, K]`, the target's.
    """
    within = choices != OUTSIDE
    found = logits.gather(1, choices.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
    wanted = log_probs.exp()
    mass = (found.exp() * within).sum(-1)
    rest = (1 - wanted.sum(-1)).clamp(min=0)
    listed = (wanted * found * within).sum(-1)
    divergence = -listed - rest * (1 - mass).clamp(min=_LEAST).log()
    overlap = (torch.minimum(wanted, found.exp()) * within).sum(-1)
    with torch.no_grad():
        agrees = logits.argmax(-1) == choices[:, 0]
    return Distance(divergence, overlap, agrees)


def objective(found: Distance, kind: str) -> torch.Tensor:
    """The loss: `kl`, `tv` (the rejected share), or `both` in equal parts."""
    if kind == "kl":
        return found.divergence
    if kind == "tv":
        return 1 - found.overlap
    return 0.5 * (found.divergence + 1 - found.overlap)


def lesson_loss(
    drafter: Drafter, lesson: Lesson, steps: int, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the share rejected at the first step at temperature 1.

    A later token of a draft is weighted by the chance that all tokens before it are accepted.
    """
    parts = step_distances(drafter, lesson, steps if drafter.reads_hidden else 1)
    chances = survival([(judged, found.overlap.detach()) for judged, found in parts])
    total = _mean(objective(parts[0][1], kind))
    for (judged, found), before in zip(parts[1:], chances):
        weights = F.pad(before, (1, -1))[judged]
        total = total + _mean(weights * objective(found, kind))
    return total, _mean(1 - parts[0][1].overlap.detach())


def _mean(values: torch.Tensor) -> torch.Tensor:
    """Their mean; 0 if there are none, as in a window that lies within a prompt."""
    return values.sum() / max(1, len(values))


def step_distances(
    drafter: Drafter, lesson: Lesson, steps: int
) -> list[tuple[torch.Tensor, Distance]]:
    """For each step the judged positions, `[B, L]` bool, and their distances.

    Step `s` is judged at positions where the target also wrote the `s` tokens before.
    """
    taught, texts = lesson.taught, lesson.batch.texts
    row = taught.flatten().cumsum(0).view_as(taught) - 1  # row of the lesson's choices
    found = []
    for step, states in enumerate(drafter(lesson.batch, steps)):
        judged = taught.clone()
        if step:
            same = texts[:, step:] == texts[:, :-step]
            judged[:, :step] = False
            judged[:, step:] &= taught[:, :-step] & same
        rows = row[judged]
        logits = F.linear(states[judged], drafter.head)
        found.append(
            (judged, distance(logits.float(), lesson.choices[rows], lesson.log_probs[rows]))
        )
    return found


def survival(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """For each step, the chance that all tokens up to its own are accepted, `[B, L]`.

    `parts` has, for each step, the judged positions and the chances of acceptance there.
    """
    chances: list[torch.Tensor] = []
    for step, (judged, accepted) in enumerate(parts):
        chance = torch.zeros(judged.shape, device=judged.device)
        chance[judged] = accepted.float()
        chances.append(chance * F.pad(chances[-1], (1, -1)) if step else chance)
    return chances
