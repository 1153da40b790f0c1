"""The settings of `python -m adaspec_rl.tools.distill`: defaults and meanings."""

from dataclasses import dataclass, field

from adaspec_rl.config_limits import COUNT, DEVICE, SEED, STEPS, TEXT, THREADS
from adaspec_rl.data.encoding import CHAT
from adaspec_rl.engine.device import device_named
from adaspec_rl.limits import Flag, Number, OrNull, Whole, Words
from adaspec_rl.settings import setting
from adaspec_rl.tools.distillation.model import FRESH, LAYERS
from adaspec_rl.tools.distillation.teacher_loss import LOSSES


@dataclass
class TargetConfig:
    """The target, and how it runs."""

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
    quantize: str | None = setting(
        None,
        "int8 or int4: of the target's weights while it writes; null: none",
        OrNull(Words("int8", "int4")),
    )
    data: str = setting(
        "embedded",
        "embedded, or files with commas between: .jsonl (prompts) or .txt (plain text)",
        TEXT,
    )
    chat: str = setting(
        "auto", "auto, on or off: prompts through the target's chat template", Words(*CHAT)
    )
    train_prompts: int | None = setting(
        None, "prompts a domain of the data that are used; null: all", OrNull(COUNT)
    )
    self_written: float = setting(
        0.0, "share of the texts whose prompts the target writes itself", Number(0, 1)
    )
    texts: int = setting(1024, "that the target writes, rounded up to whole files of 256", COUNT)
    stored: str | None = setting(
        None, "a folder of such texts that are there already, in place of all this", OrNull(TEXT)
    )
    max_new_tokens: int = setting(384, "of a text, and of a held-out one", Whole(2, 10**6))
    test_share: float = setting(
        0.05, "of the prompts: held out to measure acceptance", Number(0, 1, above=True, below=True)
    )
    test_prompts: int = setting(8, "held-out prompts a domain that are decoded at the end", COUNT)
    out: str = setting("???", "the folder that the drafter is written into", TEXT)
    init: str = setting(
        LAYERS,
        f"{LAYERS}: the target's own, which share its embeddings; {FRESH}: a narrower model, "
        "random; or a trained drafter's folder or name: training goes on from it",
        TEXT,
    )
    layers: int = setting(
        1, "of the draft model; init=layers spreads them from first to last", Whole(1, 1000)
    )
    width: float = setting(
        0.5,
        "init=fresh: share of the target's heads, hidden size and MLP",
        Number(0, 1, above=True),
    )
    vocabulary: int | None = setting(
        None, "init=layers: the most frequent tokens, which it can output; null: all", OrNull(COUNT)
    )
    reads_hidden: bool = setting(
        False, "init=layers: it reads the target's last hidden state, too (EAGLE)", Flag()
    )
    unroll: int = setting(
        1, "reads_hidden: tokens of a draft that it is trained to find in a row", Whole(1, 16)
    )
    loss: str = setting("both", "kl, tv (total variation), or both in equal parts", Words(*LOSSES))
    steps: int = setting(2000, "training steps", STEPS)
    batch_size: int = setting(2, "windows of text in a step", Whole(1, 10**4))
    sequence_length: int = setting(512, "tokens in a window", Whole(2, 10**6))
    learning_rate: float = setting(
        3e-4, "the highest; it rises, then falls to 0", Number(0, 1, above=True)
    )
    seed: int = setting(0, "of weights, texts and windows", SEED)
    threads: int | None = setting(None, "of torch on the CPU; null: torch's own choice", THREADS)
