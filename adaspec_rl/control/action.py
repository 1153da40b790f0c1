"""Fixed lists of actions, the action space of an environment."""

from collections.abc import Sequence

from adaspec_rl.decoding.round import FALLBACK, Action

THRESHOLDS = (0.2, 0.35, 0.45, 0.55, 0.7)


def action_list(
    kind: str = "length",
    max_length: int = 8,
    drafters: int = 1,
    thresholds: Sequence[float] | None = None,
) -> list[Action]:
    """The actions `Discrete(len(list))` stands for; number 0 is always the fallback.

    `length`: every draft length up to `max_length`. `length_threshold`: these, and `max_length`
    with each early-stopping threshold (None: `THRESHOLDS`). Both once for each drafter.
    """
    thresholds = THRESHOLDS if thresholds is None else thresholds
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    if drafters < 1:
        raise ValueError(f"at least 1 drafter is needed, got {drafters}")
    actions = [FALLBACK]
    for drafter in range(drafters):
        actions += [Action(length, drafter) for length in range(1, max_length + 1)]
        if kind == "length_threshold":
            actions += [Action(max_length, drafter, threshold) for threshold in thresholds]
        elif kind != "length":
            raise ValueError(
                f"unknown action list {kind!r}: expected 'length' or 'length_threshold'"
            )
    return actions
