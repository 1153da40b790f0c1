"""A cost profile for people."""

from rich.table import Table

from adaspec_rl.replay.cost_profile import CostProfile


def cost_table(profile: CostProfile) -> Table:
    """One row a measured point; all but the first figure in units of its autoregressive step."""
    table = Table(
        title=f"cost profile: {profile.device}",
        caption="ms: one autoregressive step; the rest in such steps",
    )
    widest = profile.max_length + 1
    for name in (
        "batch",
        "context",
        "ms",
        "draft",
        "stop",
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
            f"{point.verification[widest - 1] / unit:.2f}",
            f"{point.overhead / unit:.3f}",
            f"{profile.policy / unit:.3f}",
        )
    return table
