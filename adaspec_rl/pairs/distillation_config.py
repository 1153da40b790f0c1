"""The settings of `python -m adaspec_rl.pairs.distill`: defaults and meanings."""

from dataclasses import dataclass, field

import torch

from adaspec_rl.pairs.distillation_model import INITS
from adaspec_rl.pairs.pair import dtype_named
from adaspec_rl.pairs.settings import setting


@dataclass
class TargetConfig:
    """Whose drafter is trained."""

    target: str = setting("???", "the target: a folder, a hub id, or tiny:target")
    dtype: str = setting(
        "auto", "float32, bfloat16 or float16; auto: bfloat16 on CUDA, else float32"
    )
    device: str = setting("auto", "cpu, cuda, cuda:1; auto: cuda where there is one")

    def placement(self) -> tuple[str, str]:
        """Device and dtype, `auto` resolved.

        Raises:
            ValueError: there is no such dtype.
        """
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        dtype_named(dtype)
        return device, dtype


@dataclass
class DistillConfig:
    """How a drafter is distilled.

    Raises:
        ValueError: a setting that cannot be; names it.
    """

    model: TargetConfig = field(default_factory=TargetConfig)
    data: str = setting("embedded", "embedded, or a file: .jsonl (prompts) or .txt (plain text)")
    out: str = setting("???", "the folder that the drafter is written into")
    init: str = setting("layers", "layers: the target's own; fresh: a narrower model, random")
    layers: int = setting(1, "of the draft model; init=layers spreads them from first to last")
    width: float = setting(0.5, "init=fresh: share of the target's heads, hidden size and MLP")
    steps: int = setting(1000, "training steps")
    batch_size: int = setting(8, "windows of text in a step")
    sequence_length: int = setting(512, "tokens in a window; prompts are cut to half of it")
    learning_rate: float = setting(1e-3, "the highest; it rises, holds and falls to 0")
    self_generated: bool = setting(True, "train on the target's continuations of the prompts")
    max_new_tokens: int = setting(128, "of a continuation, and of a held-out text")
    train_prompts: int | None = setting(None, "training prompts a domain that are used; null: all")
    test_share: float = setting(0.5, "of a file's prompts: held out to measure acceptance")
    test_prompts: int = setting(8, "held-out prompts a domain that acceptance is measured on")
    seed: int = setting(0, "of weights, texts and windows")
    threads: int | None = setting(None, "of torch on the CPU; null: torch's own choice")

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
