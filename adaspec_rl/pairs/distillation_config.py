"""The settings of `python -m adaspec_rl.pairs.distill`: defaults and meanings."""

from dataclasses import dataclass, field

from adaspec_rl.config_limits import COUNT, DEVICE, SEED, STEPS, TEXT, THREADS
from adaspec_rl.engine.device import device_named
from adaspec_rl.limits import Flag, Number, OrNull, Whole, Words
from adaspec_rl.pairs.distillation_model import INITS
from adaspec_rl.pairs.settings import setting


@dataclass
class TargetConfig:
    """Whose drafter is trained."""

    target: str = setting("???", "the target: a folder, a hub id, or tiny:target", TEXT)
    dtype: str = setting(
        "auto",
        "float32, bfloat16 or float16; auto: bfloat16 on CUDA, else float32",
        Words("auto", "float32", "bfloat16", "float16"),
    )
    device: str = setting("auto", "cpu, cuda, cuda:1; auto: cuda where there is one", DEVICE)

    def placement(self) -> tuple[str, str]:
        """Device and dtype, `auto` resolved.

        Raises:
            ValueError: there is no such GPU here.
        """
        device = device_named(self.device)
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        return device, dtype


@dataclass
class DistillConfig:
    """How a drafter is distilled."""

    model: TargetConfig = field(default_factory=TargetConfig)
    data: str = setting(
        "embedded", "embedded, or a file: .jsonl (prompts) or .txt (plain text)", TEXT
    )
    out: str = setting("???", "the folder that the drafter is written into", TEXT)
    init: str = setting(
        "layers", "layers: the target's own; fresh: a narrower model, random", Words(*INITS)
    )
    layers: int = setting(
        1, "of the draft model; init=layers spreads them from first to last", Whole(1, 1000)
    )
    width: float = setting(
        0.5,
        "init=fresh: share of the target's heads, hidden size and MLP",
        Number(0, 1, above=True),
    )
    steps: int = setting(1000, "training steps", STEPS)
    batch_size: int = setting(8, "windows of text in a step", Whole(1, 10**4))
    sequence_length: int = setting(
        512, "tokens in a window; prompts are cut to half of it", Whole(2, 10**6)
    )
    learning_rate: float = setting(
        1e-3, "the highest; it rises, holds and falls to 0", Number(0, 1, above=True)
    )
    self_generated: bool = setting(
        True, "train on the target's continuations of the prompts", Flag()
    )
    max_new_tokens: int = setting(128, "of a continuation, and of a held-out text", Whole(2, 10**6))
    train_prompts: int | None = setting(
        None, "training prompts a domain that are used; null: all", OrNull(COUNT)
    )
    test_share: float = setting(
        0.5, "of a file's prompts: held out to measure acceptance", Number(0, 1)
    )
    test_prompts: int = setting(
        8, "held-out prompts a domain that acceptance is measured on", COUNT
    )
    seed: int = setting(0, "of weights, texts and windows", SEED)
    threads: int | None = setting(None, "of torch on the CPU; null: torch's own choice", THREADS)
