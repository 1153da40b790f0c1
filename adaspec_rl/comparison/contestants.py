"""Who takes part in a comparison: built, tuned and guarded as configured."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from adaspec_rl.comparison.identity import (
    BOUNDS,
    FORESEEABLE,
    HINDSIGHT,
    LEARNED,
    ORACLE,
    MethodIdentity,
    adaptive_method,
    fixed_method,
)
from adaspec_rl.comparison.methods import DRAFTER, METHODS, Parameters
from adaspec_rl.comparison.tuning import tuned
from adaspec_rl.comparison.workbench import Workbench, workbench
from adaspec_rl.config import AgentConfig, Config, EvaluateConfig
from adaspec_rl.config_conflicts import is_recorded
from adaspec_rl.console import progress
from adaspec_rl.control.baselines.fixed import FixedAction, FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.guard import Guarded
from adaspec_rl.control.learned import LearnedPolicy
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import EncodedPrompt
from adaspec_rl.decoding.drafters import NgramLookup
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import Survival, same_survival
from adaspec_rl.decoding.tree_shape import TreeGrowth
from adaspec_rl.envs.vector import ReplayGame
from adaspec_rl.from_config import sampling_from
from adaspec_rl.limits import Whole, require
from adaspec_rl.pairs.drafter_names import short_names
from adaspec_rl.pairs.pair import Pair
from adaspec_rl.prompts import asked_prompts
from adaspec_rl.recording.chances import survival_chances
from adaspec_rl.replay.foreseeable import foreseeable
from adaspec_rl.replay.oracle import best_fixed, fixed_steps, oracle
from adaspec_rl.replay.schedule import ScheduleController
from adaspec_rl.replay.streams import ReplayTables
from adaspec_rl.training.bundle import PolicyBundle
from adaspec_rl.training.hindsight import fit_hindsight

logger = logging.getLogger(__name__)

BEST_LENGTHS = 3  # compared for each of several drafters
WIDTH = 4  # most children of a node in a tree that grows best first
NAMES = (*METHODS, HINDSIGHT, LEARNED, FORESEEABLE, ORACLE)
TOGETHER = "together"
NOTHING = CostFeatures(0.0, 0.0, 0.0)  # for controllers that do not observe costs


@dataclass(frozen=True, slots=True)
class Contestant:
    """A controller that takes part in a comparison."""

    identity: MethodIdentity
    controller: Controller  # of the same name

    @classmethod
    def fixed(cls, length: int, number: int = 0, drafter: str | None = None) -> "Contestant":
        """A contestant with a fixed length and drafter `number`; see `fixed_method`."""
        identity = fixed_method(length, drafter)
        return cls(identity, FixedLength(length, number, name=identity.name))


@dataclass(frozen=True, slots=True)
class Contestants:
    """All contestants of a comparison, and what they share."""

    entered: list[Contestant]
    cost: CostFeatures
    survival: list[Survival] | None  # by drafter
    bench: Workbench | None  # None if no contestant needed a recording

    @property
    def controllers(self) -> list[Controller]:
        """The contestants' controllers, in order."""
        return [one.controller for one in self.entered]

    @property
    def methods(self) -> list[MethodIdentity]:
        """The contestants' identities, in order."""
        return [one.identity for one in self.entered]


def chosen_names(config: Config, pair: Pair) -> list[str]:
    """Names of the configured controllers: `controllers`, or else the one in `controller`.

    `all` stands for every controller whose drafters the pair has, for the oracle and, above
    temperature 0, for `foreseeable`.

    Raises:
        ValueError: there is no such controller, or the pair lacks a drafter that it needs.
    """
    wanted = config.controllers
    present = {drafter.name for drafter in pair.drafters}
    lacking = {name: sorted(m.drafters - present) for name, m in METHODS.items()}
    if len(present) < 2:
        lacking[TOGETHER] = sorted({"draft", "ngram"} - present)
    for name, method in METHODS.items():
        if method.drafters == present:  # it switches between these drafters and a model
            lacking[name] = ["draft"]
    if wanted == "all":
        recorded = config.evaluation.mode == "replay" or is_recorded(config.env)
        without = set() if recorded else set(BOUNDS)
        if not config.env.temperature:
            without.add(FORESEEABLE)
        return [name for name in NAMES if not lacking.get(name) and name not in without]
    names = [config.controller.name] if wanted is None else wanted
    if isinstance(names, str):
        names = [names]
    for name in names:
        if lacking.get(name):
            raise ValueError(
                f"controller={name} needs the drafter {lacking[name][0]}, but the pair has "
                f"{', '.join(sorted(present))}: add it to model.drafters"
            )
    return list(dict.fromkeys(names))


def expected_methods(config: Config, pair: Pair) -> int:
    """How many methods `contestants` will return."""
    names = chosen_names(config, pair)
    if _alone(config, names):
        return len(config.evaluation.lengths) + 2
    lengths = len(config.evaluation.lengths)
    if len(pair.drafters) > 1:
        lengths = len(pair.drafters) * min(BEST_LENGTHS, lengths)
    trees = len(best_first(config, pair)) if config.evaluation.mode != "replay" else 0
    rivals = len(config.rivals) if isinstance(config, EvaluateConfig) else 0
    return 1 + lengths + len(names) + trees + rivals


def _alone(config: Config, names: Sequence[str]) -> bool:
    """Whether only a given fixed length is compared, so that nothing is tuned."""
    return list(names) == ["fixed"] and config.controllers is None


def check_comparison(config: Config, pair: Pair, *, policy: bool = True) -> None:
    """Refuse an impossible comparison before anything is recorded for it.

    Args:
        policy: whether there is a policy, or will be.

    Raises:
        ValueError: a controller cannot take part, or prompts cannot be decoded.
    """
    names = chosen_names(config, pair)
    if not policy and HINDSIGHT in names:
        raise ValueError("controller=hindsight needs a policy's actions: set policy=FOLDER")
    if config.controllers is None:
        _check_parameters(config, names[0], len(pair.drafters))
    asked_prompts(config, "test", pair, config.evaluation.prompts)


def _check_parameters(config: Config, name: str, drafters: int) -> None:
    space = METHODS[name].space_among(drafters) if name in METHODS else {}
    for key, value in config.controller.parameters.items():
        if key not in space:
            raise ValueError(
                f"controller={name} has no parameter {key!r}: expected some of "
                f"{', '.join(space) or 'none'}"
            )
        if isinstance(space[key].default, int):
            most = drafters - 1 if key == DRAFTER else 10**9
            require(f"controller.parameters.{key}", value, Whole(0, most))


def contestants(
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    prompts: Sequence[EncodedPrompt],
    console: Console,
    *,
    replayed: bool,
    measured: Path,
    rivals: Mapping[str, PolicyBundle],
) -> Contestants:
    """Autoregressive decoding, the configured fixed lengths, controllers and other policies.

    Args:
        measured: the file that keeps measured costs, so that they are measured only once.
        rivals: other policies, by the names that they get.

    Raises:
        ValueError: a rival has the name of another method, or other survival estimates than the
            policy: a session has a single estimate for each drafter.
    """
    names = chosen_names(config, pair)
    if LEARNED in names and bundle is None:
        raise ValueError("controller=learned needs a policy: set policy=FOLDER")
    alone = _alone(config, names)
    if alone:
        names = []
    survival = list(bundle.survival) if bundle else None
    bench: Workbench | None = None
    several = len(pair.drafters) > 1 and not alone
    if replayed or several or set(names) - {LEARNED}:
        bench, survival = workbench(
            config,
            pair,
            bundle,
            prompts,
            console,
            held_out=replayed or several or bool({FORESEEABLE, ORACLE} & set(names)),
            measured=measured,
            rivals=list(rivals.values()),
        )
        names = without_trees(names, config.controllers, bench)
    lengths = list(config.evaluation.lengths)
    if several:
        assert bench is not None
        fixed = best_of_each_drafter(pair, bench, lengths)
    else:
        fixed = [Contestant.fixed(length) for length in lengths]
    if alone:
        fixed.append(Contestant.fixed(config.controller.length))
    parameters = _parameters(config, [name for name in names if name in METHODS], bench, console)
    adaptive = [
        _adaptive(name, config, pair, bundle, bench, parameters.get(name, {})) for name in names
    ]
    entered = {one.identity.name: one for one in (Contestant.fixed(0), *fixed, *adaptive)}
    if not replayed:
        for one in best_first(config, pair):
            entered[one.identity.name] = one
    for name, rival in rivals.items():
        if name in {*entered, *NAMES, *BOUNDS}:
            raise ValueError(f"rivals.{name} is the name of another method: choose another name")
        if survival is None or not all(map(same_survival, rival.survival, survival)):
            raise ValueError(
                f"rivals.{name} has other survival estimates than the policy: train both on the "
                "same prompts, drafters and temperature"
            )
        entered[name] = _rival(name, rival, config)
    cost = bundle.costs(config.cost.batch_size) if bundle else NOTHING
    return Contestants(list(entered.values()), cost, survival, bench)


def without_trees(names: list[str], asked: str | list[str] | None, bench: Workbench) -> list[str]:
    """`names`, but without `together` if the costs of trees are not known.

    Args:
        asked: the controllers as configured; `all` may lack one.

    Raises:
        ValueError: `together` was asked for by name.
    """
    if TOGETHER not in names or bench.profile.at(batch_size=bench.batch_size).max_nodes:
        return names
    reason = (
        "controller=together verifies trees, whose costs are not in the cost profile: train the "
        "policy with env.actions=all, or without a policy set env.actions=all"
    )
    if asked != "all":
        raise ValueError(reason)
    logger.warning("left out: %s", reason)
    return [name for name in names if name != TOGETHER]


def best_of_each_drafter(pair: Pair, bench: Workbench, lengths: Sequence[int]) -> list[Contestant]:
    """Each drafter's best fixed lengths, found by replay of the comparison's own texts.

    This picks them in hindsight, without decoding every text with every drafter and length.
    """
    assert bench.held_out is not None
    found = []
    for number, name in enumerate(short_names([drafter.name for drafter in pair.drafters])):
        actions = [Action(length, number) for length in lengths if length <= bench.max_length]
        steps = fixed_steps(bench.held_out, actions, bench.profile, batch_size=bench.batch_size)
        order = np.argsort(steps.sum(axis=1), kind="stable")[:BEST_LENGTHS]
        for length in sorted(actions[place].length for place in order):
            found.append(Contestant.fixed(length, number, name if number else None))
    return found


def best_first(config: Config, pair: Pair) -> list[Contestant]:
    """Best-first trees of every drafter that proposes several choices a position.

    Such trees are not recorded and so cannot be tuned in replay: the configuration gives the sizes.
    """
    found = []
    for number, name in enumerate(short_names([drafter.name for drafter in pair.drafters])):
        if isinstance(pair.drafters[number], NgramLookup):
            continue
        for nodes in config.evaluation.best_first:
            growth = TreeGrowth(nodes, min(nodes, config.env.max_length), min(nodes, WIDTH))
            title = f"best_first_{nodes}_{name}"
            action = Action(growth.depth, number, tree=growth)
            source = "OPT-Tree (arXiv:2406.17276): the likeliest nodes"
            found.append(Contestant(adaptive_method(title, source), FixedAction(action, title)))
    return found


def _adaptive(
    name: str,
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    bench: Workbench | None,
    parameters: Parameters,
) -> Contestant:
    """The controller that is called `name` in the configuration."""
    controller, source = _build(name, config, pair, bundle, bench, parameters)
    guarded = _guarded(name, config)
    if guarded:
        controller = bundle.guarded() if name == LEARNED and bundle else Guarded(controller)
        controller.name = name  # its name in results, which have another field for the guard
    return Contestant(adaptive_method(name, source, parameters, guarded), controller)


def _rival(name: str, rival: PolicyBundle, config: Config) -> Contestant:
    guarded = _guarded(LEARNED, config)
    controller = rival.guarded() if guarded else rival.tracked()
    controller.name = name
    return Contestant(adaptive_method(name, "another policy", guarded=guarded), controller)


def _guarded(name: str, config: Config) -> bool:
    if name in BOUNDS:
        return False
    return name == LEARNED if config.controller.guard is None else config.controller.guard


def _build(
    name: str,
    config: Config,
    pair: Pair,
    bundle: PolicyBundle | None,
    bench: Workbench | None,
    parameters: Parameters,
) -> tuple[Controller, str]:
    """A controller and its source."""
    if name == LEARNED:
        assert bundle is not None
        return bundle.tracked(), f"PPO on replays ({config.agent.name})"
    assert bench is not None
    if name == HINDSIGHT:
        assert bundle is not None
        return hindsight(bundle, bench), "regression on all recorded outcomes"
    if name == ORACLE:
        assert bench.held_out is not None
        best = oracle(bench.held_out, bench.profile, batch_size=bench.batch_size)
        source = "the best schedule of draft lengths in hindsight, a shortest path"
        return ScheduleController(bench.held_out, best, ORACLE), source
    if name == FORESEEABLE:
        assert bench.held_out is not None
        own, sampling = bench.held_out, sampling_from(config.env)
        drafters = pair.drafters
        chances = survival_chances(pair.target, drafters, own.texts, sampling, own.max_length)
        plan = foreseeable(own, bench.profile, chances, batch_size=bench.batch_size)
        source = "the best draft lengths for who knows each token's chance, but not the outcome"
        return ScheduleController(own, plan, FORESEEABLE), source
    method = METHODS[name]
    return method.build(bench, **parameters), method.source


def hindsight(bundle: PolicyBundle, bench: Workbench) -> Controller:
    """The full-information baseline, fitted on the bench's texts with the bundle's actions."""
    points = bench.profile.contexts(bench.batch_size)
    game = ReplayGame(
        ReplayTables(bench.trace, bundle.actions),
        bundle.spec,
        [points],
        policy=[bench.profile.policy],
        streams=256,
        seed=bench.seed,
    )
    reached = best_fixed(bench.trace, bench.profile, batch_size=bench.batch_size)[1]
    game.streams.rates[:] = max(1.0, reached)
    agent = AgentConfig(
        name="hindsight", total_steps=100_000, learning_rate=3e-3, n_epochs=8, hidden=[64, 64]
    )
    actor = fit_hindsight(game, agent, bench.seed)
    return LearnedPolicy(actor, bundle.actions, bundle.spec, name=HINDSIGHT)


def _parameters(
    config: Config, names: Sequence[str], bench: Workbench | None, console: Console
) -> dict[str, Parameters]:
    """Parameters by method: the configured controller's given ones, tuned ones for the others."""
    given = dict(config.controller.parameters)
    found: dict[str, Parameters] = {}
    trials = config.evaluation.trials
    if not names:
        return found

    def shown(number: int, tried: float) -> None:
        update(number + tried / trials, len(names))

    with progress(console, "tuning") as update:
        for number, name in enumerate(names):
            method = METHODS[name]
            assert bench is not None
            if config.controllers is None and given:
                found[name] = given
            elif not method.space:
                found[name] = {}
            else:
                found[name] = tuned(
                    method,
                    bench,
                    trials=trials,
                    seed=config.seed,
                    cache=Path(config.runs) / "tuned",
                    progress=partial(shown, number),
                )
            shown(number, trials)
    return found
