"""Refuses settings that do not fit together, before anything slow begins."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from adaspec_rl.config import (
    Config,
    CostConfig,
    DataConfig,
    EnvConfig,
    EvaluateConfig,
    EvaluationConfig,
    LossyConfig,
    TrainConfig,
)
from adaspec_rl.limits import shown

# The settings of each source of prompts, besides the number of prompts and their length.
READ = {
    "embedded": (),
    "jsonl": ("path", "template", "test_share"),
    "gsm8k": ("path", "template", "test_share"),
    "hub": ("name", "config", "split", "column", "domain_column", "template", "test_share"),
}
NEEDED = {"jsonl": ("path", "FILE"), "gsm8k": ("path", "FILE"), "hub": ("name", "OWNER/NAME")}
# The settings of each lossy rule.
LOSSY = {
    "lossy.top_k": ("k",),
    "lossy.typical": ("epsilon", "delta"),
    "lossy.fuzzy": ("lenience",),
    "lossy.tolerance": ("window", "entropy"),
    "lossy.judge": ("judge", "threshold"),
}
LARGEST_ROLLOUT = 2**24  # rounds between two updates of PPO, all kept in memory
MOST_STATES = 10**7  # of the regression, which keeps all of them
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # by logger


def check_together(config: Config) -> None:
    """Refuse settings that do not fit together.

    Raises:
        ValueError: one sentence that names the settings and what to change.
    """
    _check_data(config.data)
    _check_cost(config.cost)
    _check_packages(config)
    temperatures = [config.env.temperature]
    if isinstance(config, EvaluateConfig):
        temperatures = config.evaluation.temperatures or temperatures
        _check_controllers(config)
    _check_load(config)
    if config.env.verification == "greedy" and any(temperatures):
        raise ValueError(
            f"env.verification=greedy needs temperature 0, got {max(temperatures):g}: set "
            "env.verification to coupled or rejection"
        )
    _check_lossy(config.env)
    if config.env.verification in LOSSY:
        _check_run_of_lossy(config)
    if isinstance(config, EvaluateConfig):
        _check_bounds(config, temperatures)
    if config.env.max_length < min(config.evaluation.lengths):
        raise ValueError(
            f"every one of evaluation.lengths {config.evaluation.lengths} is above env.max_length="
            f"{config.env.max_length}: add a shorter one"
        )
    if isinstance(config, TrainConfig):
        _check_training(config)
        _check_agent(config)


def _check_load(config: Config) -> None:
    """Refuse settings of serving without serving, and combinations that it does not support."""
    given, usual = config.evaluation, EvaluationConfig()
    serving = ("rate", "trace", "rows", "requests", "to_first", "per_token", "batch_cost")
    changed = [name for name in serving if getattr(given, name) != getattr(usual, name)]
    if given.load is None or isinstance(config, TrainConfig):
        if given.load is not None:
            raise ValueError(
                f"evaluation.load={given.load} belongs to evaluate.py: train_policy.py compares "
                "one text after the other"
            )
        if changed:
            raise ValueError(
                f"evaluation.{changed[0]}={shown(getattr(given, changed[0]))} has no meaning "
                "without a load: set evaluation.load, or leave it out"
            )
        return
    if (given.load == "trace") != (given.trace is not None):
        raise ValueError(
            f"evaluation.load={given.load} and evaluation.trace={given.trace} do not fit together: "
            "arrival times come from evaluation.trace=FILE with evaluation.load=trace"
        )
    if given.batch_cost is not None and given.mode != "replay":
        raise ValueError(
            f"evaluation.batch_cost needs evaluation.mode=replay, got {given.mode}: what is "
            "decoded live is measured"
        )
    if config.env.verification in LOSSY or given.temperatures:
        raise ValueError(
            "evaluation.load serves at env.temperature and verifies exactly: leave out "
            "evaluation.temperatures and lossy rules"
        )


def _check_data(config: DataConfig) -> None:
    if config.source in NEEDED:
        key, value = NEEDED[config.source]
        if getattr(config, key) is None:
            raise ValueError(f"data.{key} is not set: add data.{key}={value}")
    usual = DataConfig()
    for key in dict.fromkeys(name for names in READ.values() for name in names):
        value = getattr(config, key)
        if key not in READ[config.source] and value != getattr(usual, key):
            others = " or ".join(f"data={name}" for name, names in READ.items() if key in names)
            raise ValueError(
                f"data.{key}={shown(value)} has no meaning with data={config.source}: add {others}"
            )


def _check_lossy(config: EnvConfig) -> None:
    """Refuse settings of lossy rules other than the named one."""
    usual = LossyConfig()
    for rule, names in LOSSY.items():
        for name in names:
            value = getattr(config.lossy, name)
            if rule != config.verification and value != getattr(usual, name):
                raise ValueError(
                    f"env.lossy.{name}={shown(value)} has no meaning with env.verification="
                    f"{config.verification}: set env.verification={rule}"
                )
    if config.verification == "lossy.judge" and config.lossy.judge is None:
        raise ValueError(
            "env.lossy.judge is not set: add env.lossy.judge=FOLDER, as written by "
            "python -m adaspec_rl.tools.judge"
        )
    if config.distance_price and config.verification not in LOSSY:
        raise ValueError(
            f"env.distance_price={config.distance_price:g} has no meaning with env.verification="
            f"{config.verification}, whose texts are the target's: set a lossy one"
        )


def _check_run_of_lossy(config: Config) -> None:
    """Refuse replay of lossy texts, which depend on the drafts and so are in no recording."""
    rule = config.env.verification
    if isinstance(config, TrainConfig) and config.env.session == "replay":
        raise ValueError(
            f"env.verification={rule} cannot be replayed, as its texts depend on the drafts: add "
            "env=live agent=ppo_live"
        )
    if isinstance(config, EvaluateConfig) and config.evaluation.mode != "live":
        raise ValueError(
            f"env.verification={rule} cannot be replayed, as its texts depend on the drafts: "
            f"set evaluation.mode=live, got {config.evaluation.mode}"
        )


def is_recorded(env: EnvConfig) -> bool:
    """Whether live texts are those of recordings, which do not depend on drafts."""
    rule = env.verification
    return rule == "coupled" or (not env.temperature and rule not in LOSSY)


def _check_bounds(config: EvaluateConfig, temperatures: Sequence[float]) -> None:
    """Refuse controllers that know recorded texts, where live texts are others."""
    if config.evaluation.mode == "replay":
        return
    named = [config.controller.name] if config.controllers is None else config.controllers
    for temperature in temperatures:
        env = replace(config.env, temperature=temperature)
        for name in ("oracle", "foreseeable"):
            if name in named and not is_recorded(env):
                raise ValueError(
                    f"controller={name} knows recorded texts, which env.verification="
                    f"{env.verification} leaves at temperature {temperature:g}: leave {name} out, "
                    "or set env.verification=coupled"
                )


def _check_cost(config: CostConfig) -> None:
    if config.source == "file":
        if config.path is None:
            raise ValueError("cost.path is not set: add cost.path=FILE")
        return
    if config.path is not None:
        raise ValueError(f"cost.path={config.path} is read with cost=file alone: add cost=file")
    for key in ("contexts", "batch_sizes"):
        if not getattr(config, key):
            raise ValueError(f"cost.{key} is empty: name at least 1 to measure")
    if config.batch_size not in (1, *config.batch_sizes):
        raise ValueError(
            f"cost.batch_size={config.batch_size} is not among cost.batch_sizes "
            f"{config.batch_sizes}: add it there"
        )


def _check_packages(config: Config) -> None:
    package = PACKAGES.get(config.logger.name)
    if package and find_spec(package) is None:
        raise ValueError(
            f"logger={config.logger.name} needs the {package} package: pip install {package}"
        )
    for name in ("device_map", "tensor_parallel"):
        if getattr(config.model, name) is not None and find_spec("accelerate") is None:
            raise ValueError(f"model.{name} needs the accelerate package: pip install accelerate")
    if config.replay.workers > 1 and config.model.tensor_parallel:
        raise ValueError(
            f"replay.workers={config.replay.workers} and model.tensor_parallel="
            f"{config.model.tensor_parallel} do not go together: leave one out"
        )
    if config.replay.workers > 1 and find_spec("ray") is None:
        raise ValueError(
            f"replay.workers={config.replay.workers} needs the ray package: pip install ray"
        )


def _check_controllers(config: EvaluateConfig) -> None:
    """Refuse parameters for several `controllers`, since they belong to a single one."""
    if config.controllers is not None and config.controller.parameters:
        raise ValueError(
            "controller.parameters are of one controller: set controller=NAME in place of "
            f"controllers={config.controllers}"
        )


def _check_training(config: TrainConfig) -> None:
    """Refuse settings that the comparison at the end of a training does not use."""
    usual = TrainConfig()
    chosen = {
        "controllers": config.controllers is not None,
        "controller": config.controller.name != usual.controller.name,
        "controller.parameters": bool(config.controller.parameters),
        "evaluation.mode": config.evaluation.mode != usual.evaluation.mode,
        "evaluation.temperatures": bool(config.evaluation.temperatures),
    }
    for key, set_ in chosen.items():
        if set_:
            raise ValueError(
                f"{key} is for evaluate.py: train_policy.py compares the policy that it trains "
                "with fixed lengths, live and at env.temperature; leave it out here"
            )


def _check_agent(config: TrainConfig) -> None:
    agent, live = config.agent, config.env.session == "live"
    regression = agent.name == "hindsight"
    if live and (regression or config.env.cost != "profile"):
        raise ValueError(
            "agent=hindsight, and costs other than env.cost=profile, need what replay knows: "
            "use env=replay"
        )
    if regression:
        if config.resume:
            raise ValueError(
                "agent=hindsight takes seconds and keeps no checkpoints: leave out resume"
            )
        if agent.warm_start:
            raise ValueError("agent.warm_start is for agent=ppo: agent=hindsight starts afresh")
        if agent.total_steps > MOST_STATES:
            raise ValueError(
                f"agent=hindsight keeps all its states in memory: agent.total_steps must be at "
                f"most {MOST_STATES:,}, got {agent.total_steps:,}"
            )
        return
    rollout = agent.n_steps * (1 if live else config.env.streams)
    if rollout % agent.batch_size:
        raise ValueError(
            f"agent.batch_size must divide agent.n_steps x streams ({rollout}), "
            f"got {agent.batch_size}"
        )
    if rollout > LARGEST_ROLLOUT:
        raise ValueError(
            f"agent.n_steps x env.streams must be at most {LARGEST_ROLLOUT:,}, got {rollout:,}: "
            "lower one of them"
        )
