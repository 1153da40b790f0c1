"""Training whose weights stop being finite ends with a one-line error and is never saved."""

from adaspec_rl.config import AgentConfig
from adaspec_rl.control.learned import Actor


def check_converging(actor: Actor, config: AgentConfig) -> None:
    """Refuse an actor whose weights are no longer finite.

    Raises:
        ValueError: says which settings to lower.
    """
    if not actor.finite:
        raise ValueError(
            "training diverged, the policy's weights are no longer finite numbers: lower "
            f"agent.learning_rate (now {config.learning_rate:g}) or agent.ent_coef (now "
            f"{config.ent_coef:g})"
        )
