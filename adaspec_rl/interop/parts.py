"""Common parts of the exports to several engines."""

from pathlib import Path

from adaspec_rl.costs.batch_costs import BatchCosts
from adaspec_rl.interop.runtime import COSTS, POLICY
from adaspec_rl.pairs.drafter_names import is_free
from adaspec_rl.training.bundle import PolicyBundle, save_bundle

ONE_DRAFTER = "the choice of the drafter round by round: one drafter throughout"
UNKNOWN_TEXT = "all that the policy reads in the text: the length depends on the batch size alone"
BEYOND = "batch sizes above those that costs were measured at get the length of the largest one"
STALE = (
    "while it is off (length 0) a model drafter's cache is not kept up, and its first drafts after "
    "that are wrong unless the engine reads the missed tokens; predictions charge that catch-up"
)


def model_of(drafter: str) -> tuple[str, ...]:
    """What to look out for if the drafter is a checkpoint."""
    if is_free(drafter):
        return ()
    return (
        f"the drafter is {drafter}: another engine reads it only if it is a checkpoint of its own "
        "with embeddings",
    )


def keep_policy(bundle: PolicyBundle, costs: BatchCosts, folder: Path) -> None:
    """Write the files that the runtime loads to an export's folder."""
    save_bundle(bundle, folder / POLICY)
    costs.save(folder / COSTS)
