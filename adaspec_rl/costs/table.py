"""A cost profile as a table for people to read."""

from rich.table import Table
from rich.text import Text

from adaspec_rl.costs.profile import CostProfile


def cost_table(profile: CostProfile) -> Table:
    """One row per measured point; all times after the first in units of its autoregressive step."""
    table = Table(
        title=Text(f"cost profile: {profile.device}", style="table.title"),
        caption="ms: one autoregressive step; the rest in such steps",
    )
    widest = profile.max_length + 1
    for name in (
        "batch",
        "context",
        "ms",
        "draft",
        "stop",
        "catch up",
        f"verify {widest}",
        "overhead",
        "policy",
    ):
        table.add_column(name, justify="right")
    for point in profile.points:
        unit = point.autoregressive_step
        table.add_row(
            str(point.batch_size),
            str(point.context),
            f"{unit * 1e3:.2f}",
            " ".join(f"{step / unit:.3f}" for step in point.draft_step),
            " ".join(f"{step / unit:.3f}" for step in point.stopping_step),
            " ".join(f"{step / unit:.4f}" for step in point.catch_up),
            f"{point.verification[widest - 1] / unit:.2f}",
            " ".join(f"{part / unit:.3f}" for part in point.overhead),
            f"{profile.policy / unit:.3f}",
        )
    return table
