"""What arguments of the two scripts mean, without running them."""

import copy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from adaspec_rl import config as schema
from adaspec_rl.command import checked, expand, is_mistake
from adaspec_rl.config import CONF
from adaspec_rl.explanation import explain

PARSER = OverridesParser.create()


def composed(*arguments: str, script: str = "train_policy") -> DictConfig:
    """The configuration of these arguments, not yet checked."""
    schema.register()
    overrides = [part for argument in arguments for part in expand(argument)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, overrides=overrides)


@cache
def _plain(script: str) -> DictConfig:
    return composed(script=script)


def configured(*arguments: str, script: str = "train_policy") -> Any:
    """The checked configuration of arguments that choose no file, a hundred times as fast."""
    config = copy.deepcopy(_plain(script))
    overrides = PARSER.parse_overrides([part for item in arguments for part in expand(item)])
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
    return checked(config, script)


def refusal(*arguments: str, script: str = "train_policy") -> str | None:
    """The sentence with which arguments are refused; None if they are accepted."""
    try:
        configured(*arguments, script=script)
    except Exception as error:
        assert is_mistake(error), (arguments, repr(error))
        return explain(error, script)
    return None
