"""The settings of `python -m adaspec_rl.pairs.distill`: defaults, meanings, the command line."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from adaspec_rl.pairs.distillation_model import INITS


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass
class TargetConfig:
    """Whose drafter is trained."""

    target: str = _setting("???", "the target: a folder, a hub id, or tiny:target")
    dtype: str = _setting(
        "auto", "float32, bfloat16 or float16; auto: bfloat16 on CUDA, else float32"
    )
    device: str = _setting("auto", "cpu, cuda, cuda:1; auto: cuda where there is one")


@dataclass
class DistillConfig:
    """How a drafter is distilled.

    Raises:
        ValueError: a setting that cannot be; names it.
    """

    model: TargetConfig = field(default_factory=TargetConfig)
    data: str = _setting("embedded", "embedded, or a file: .jsonl (prompts) or .txt (plain text)")
    out: str = _setting("???", "the folder that the drafter is written into")
    init: str = _setting("layers", "layers: the target's own; fresh: a narrower model, random")
    layers: int = _setting(1, "of the draft model; init=layers spreads them from first to last")
    width: float = _setting(0.5, "init=fresh: share of the target's heads, hidden size and MLP")
    steps: int = _setting(1000, "training steps")
    batch_size: int = _setting(8, "windows of text in a step")
    sequence_length: int = _setting(512, "tokens in a window; prompts are cut to half of it")
    learning_rate: float = _setting(1e-3, "the highest; it rises, holds and falls to 0")
    self_generated: bool = _setting(True, "train on the target's continuations of the prompts")
    max_new_tokens: int = _setting(128, "of a continuation, and of a held-out text")
    train_prompts: int | None = _setting(None, "training prompts a domain that are used; null: all")
    test_share: float = _setting(0.5, "of a file's prompts: held out to measure acceptance")
    test_prompts: int = _setting(8, "held-out prompts a domain that acceptance is measured on")
    seed: int = _setting(0, "of weights, texts and windows")
    threads: int | None = _setting(None, "of torch on the CPU; null: torch's own choice")

    def __post_init__(self) -> None:
        if self.init not in INITS:
            raise ValueError(f"unknown init {self.init!r}: expected {' or '.join(INITS)}")
        if not 0 < self.width <= 1:
            raise ValueError(f"width must be above 0 and at most 1, got {self.width}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        least = dict(layers=1, steps=1, batch_size=1, train_prompts=1, test_prompts=1, threads=1)
        least |= dict(sequence_length=2, max_new_tokens=2)
        for key, smallest in least.items():
            value = getattr(self, key)
            if value is not None and value < smallest:
                raise ValueError(f"{key} must be at least {smallest}, got {value}")


def parse(arguments: Sequence[str]) -> DistillConfig:
    """The settings of a command line of `key=value`.

    Raises:
        ValueError: a key that there is not, a value of another type, or a setting left out.
    """
    known = _settings(DistillConfig)
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if not equals:
            raise ValueError(f"expected key=value, got {argument!r}; --help lists the keys")
        if key not in known:
            raise ValueError(f"unknown key {key!r}: expected one of {', '.join(known)}")
    try:
        given = OmegaConf.from_dotlist(list(arguments))
        merged = OmegaConf.merge(OmegaConf.structured(DistillConfig), given)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n    full_key")[0]
        raise ValueError(f"{error.full_key}: {reason}") from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"a value is not YAML, which quotes may help ({reason})") from None
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{' and '.join(missing)} must be set: add {missing[0]}=VALUE")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, DistillConfig)
    return config


def describe() -> str:
    """Every setting with its default and its meaning, a line each."""
    lines = []
    for key, item in _settings(DistillConfig).items():
        default = item.default if isinstance(item.default, str) else json.dumps(item.default)
        shown = "VALUE" if default == "???" else default
        lines.append(f"  {f'{key}={shown}':<24}  {item.metadata['meaning']}")
    return "\n".join(lines)


def _settings(schema: Any, prefix: str = "") -> Mapping[str, "Field[Any]"]:
    """Every dotted key of a schema class, with its field."""
    found: dict[str, Field[Any]] = {}
    for name, item in schema.__dataclass_fields__.items():
        if item.default is MISSING:
            found |= _settings(item.type, f"{prefix}{name}.")
        else:
            found[prefix + name] = item
    return found
