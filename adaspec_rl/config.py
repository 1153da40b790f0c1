"""The configuration's schema. Values live in `CONF`; a key that is not here is an error."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

CONF = Path(__file__).parent / "conf"


@dataclass
class ModelConfig:
    """The pair. Sources are folders, GGUF files, hub ids, `tiny:NAME` (embedded) or `smollm2`."""

    name: str = "???"
    target: str = "???"
    drafter: str | None = None  # the general draft model, `draft` among the drafters
    # The drafters by name: draft, one of `specialists`, early_exit, ngram, table:FILE, or other
    drafters: list[str] = field(default_factory=lambda: ["draft", "ngram"])
    specialists: dict[str, str] = field(default_factory=dict)  # further draft models, by name
    exit_layer: int | None = None  # early_exit: the target's layers that draft; null: a quarter
    dtype: str = "float32"  # auto, float32, bfloat16, float16
    device: str = "cpu"  # cpu, cuda, cuda:1, auto
    device_map: str | None = None  # the target's, as transformers understands it
    tensor_parallel: int | None = None  # the target's: the processes that torchrun started
    quantize: str | None = None  # int8, on CPUs also int4: the weights, see `engine.quantization`
    shape: str | None = None  # inflate the target to this: llama8b, llama1b; null: as it is
    drafter_shape: str | None = None  # likewise, the drafter
    memory: str = "shared"  # shared, resident, offload: see `load_pair`
    memory_limit: float | None = None  # GiB that weights may take on the device; null: all
    idle_rounds: int = 256  # offload: a drafter unused for so many rounds leaves the device


@dataclass
class EngineConfig:
    """How models run."""

    name: str = "auto"  # lean, transformers; auto: lean where it knows the architecture
    compile: bool = False  # torch.compile for narrow forwards on CUDA
    kernels: str = "auto"  # on CPUs: compiled, torch; auto: compiled where there is a compiler


@dataclass
class DataConfig:
    """The prompts."""

    source: str = "embedded"  # embedded, jsonl, gsm8k, hub
    path: str | None = None  # jsonl, gsm8k: the file
    name: str | None = None  # hub: the dataset's id, or the folder of a copy
    config: str | None = None  # hub: its subset
    split: str = "train"  # hub: the dataset's own split
    # hub: holds the texts or conversations; null: messages, turns, text, prompt or question
    column: str | None = None
    domain_column: str | None = None  # hub: holds the domains; null: the dataset is one domain
    template: str | None = None  # all but embedded: put around each {text}
    # Through the tokenizer's chat template: auto (turns, if it has one), on (texts too), off.
    chat: str = "auto"
    test_share: float = 0.5  # all but embedded: held out of training; 1: everything
    train_prompts: int | None = None  # a domain; null: all
    test_prompts: int | None = None  # likewise
    test_skip: int = 0  # held-out prompts left out at the start of each domain
    max_prompt_tokens: int | None = None  # longer ones are left out, with a warning; null: refused


@dataclass
class LossyConfig:
    """Settings of lossy verification, each for the named rule only."""

    k: int = 4  # top_k: a mismatch stands if it is among the target's k best
    epsilon: float = 0.09  # typical: a token of this probability always stands
    delta: float = 0.3  # typical: a token may be less probable than usual by this factor
    lenience: float = 2.0  # fuzzy: T of min(1, T p / q)
    window: int = 4  # tolerance: drafted tokens after a mismatch that have to agree
    entropy: float = 0.0  # tolerance: of the target where a mismatch may stand, in nats
    judge: str | None = None  # judge: a folder that `adaspec_rl.tools.judge` wrote
    threshold: float = 0.5  # judge: the chance of another answer under which a mismatch stands


@dataclass
class EnvConfig:
    """The decoding loop and how it is rewarded."""

    session: str = "replay"  # replay, live
    streams: int = 512  # replay: texts side by side
    # replay: profile; drifting (memory is 0.6 to 1.7 times as slow as measured, arithmetic 0.6 to
    # 2.5 times); or randomised (machines of all kinds); a text draws one of them
    cost: str = "profile"
    profiles: int = 256  # drifting, randomised: how many are drawn
    timing: str = "profile"  # live: profile, clock
    reward: str = "throughput"  # throughput, ratio, accepted
    actions: str = "length_threshold"  # or: length, tree, all
    thresholds: list[float] | None = None  # null: `control.action.THRESHOLDS`
    max_length: int = 12
    features: list[str] = field(default_factory=list)
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    # greedy (always so at 0), rejection, traversal, coupled; lossy.NAME: other texts, faster
    verification: str = "coupled"
    lossy: LossyConfig = field(default_factory=LossyConfig)
    distance_price: float = 0.0  # reward lost for a total variation of 1 from the target


@dataclass
class CostConfig:
    """The costs of decoding: measured on this machine, or read from a file."""

    source: str = "measured"  # measured, file
    path: str | None = None  # file: a saved profile
    samples: int = 48  # measured: the most timings of each part of a round
    seconds: float | None = 30.0  # measured: the time limit; null: none
    contexts: list[int] = field(default_factory=list)  # measured: tokens before the rounds
    batch_sizes: list[int] = field(default_factory=list)  # measured
    batch_size: int = 1  # decisions assume the costs of this batch size


@dataclass
class ReplayConfig:
    """How prompts are recorded."""

    prompts: int | None = 128  # training prompts a domain; null: all
    shard: int = 64  # prompts in one file
    workers: int = 1  # above 1: so many Ray actors
    cache: str = "???"  # folder of all recordings, one subfolder each


@dataclass
class ControlConfig:
    """Estimates for decisions within a draft."""

    survival: str = "head"  # head: fitted on the recording; product: the drafter's own probability


@dataclass
class AgentConfig:
    """The learner: Stable-Baselines3's PPO, or regression on all outcomes (hindsight)."""

    name: str = "ppo"
    warm_start: str | None = None  # hindsight, or a bundle's folder to fine-tune
    total_steps: int = 2_000_000
    learning_rate: float = 1e-3
    n_steps: int = 32  # of each stream, between updates
    batch_size: int = 4096
    n_epochs: int = 4
    gamma: float = 0.0
    gae_lambda: float = 1.0
    ent_coef: float = 0.003
    clip_range: float = 0.2
    hidden: list[int] = field(default_factory=list)
    checkpoint_steps: int = 131_072  # between checkpoints, each with a validation
    validation_share: float = 0.2  # of the training prompts, withheld to judge policies by


@dataclass
class ControllerConfig:
    """The controller that is compared with fixed lengths."""

    name: str = "learned"  # a file in CONF/controller, without its ending
    length: int = 3  # fixed: the draft length
    parameters: dict[str, Any] = field(default_factory=dict)  # instead of tuned ones
    guard: bool | None = None  # fall back where speculation loses; null: learned policies only


@dataclass
class LoggerConfig:
    """Where training curves go."""

    name: str = "csv"  # csv, tensorboard, wandb
    project: str = "adaspec_rl"
    entity: str | None = None
    group: str | None = None


@dataclass
class EvaluationConfig:
    """How methods are compared."""

    prompts: int | None = None  # held-out prompts a domain, at most; null: all
    minutes: float | None = 5.0  # time limit of a live comparison; null: none
    max_new_tokens: int = 128
    lengths: list[int] = field(default_factory=list)  # fixed draft lengths to compare with
    best_first: list[int] = field(default_factory=list)  # nodes of trees that take part, live
    warmup: int = 2  # prompts
    mode: str = "live"  # live, replay, both
    temperatures: list[float] = field(default_factory=list)  # empty: only env.temperature
    trials: int = 12  # parameter settings tried for every method that has parameters
    tuning_prompts: int = 24  # training prompts a domain on which they are tried
    resamples: int = 2000  # of the bootstrap
    # Serving: requests that arrive over time, decoded in batches.
    load: str | None = None  # constant, poisson, bursty, trace; null: prompts one after the other
    rate: Any = 1.0  # requests a second, or a list of rates; trace: times as fast as recorded
    trace: str | None = None  # trace: a file of arrival times, in seconds
    rows: int = 8  # decoded side by side, at most
    requests: int = 64  # constant, poisson, bursty: how many come
    to_first: float = 1.0  # seconds to the first token, at most, for a request to be good
    per_token: float = 0.1  # seconds of each further token, likewise
    batch_cost: str | None = None  # replay: file of batch costs; null: measured here


@dataclass
class Config:
    """Settings that both scripts share."""

    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    data: DataConfig = field(default_factory=DataConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    controllers: Any = None  # all, or a list of names; null: the one in `controller`
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    threads: int | None = None  # of torch on the CPU; null: one a core
    runs: str = "runs"  # the folder of results, and of the policies that `evaluate.py` finds


@dataclass
class TrainConfig(Config):
    """`train_policy.py`."""

    resume: str | None = None  # a run's folder: go on from its last checkpoint


@dataclass
class EvaluateConfig(Config):
    """`evaluate.py`."""

    policy: str | None = None  # a bundle's folder; null: the newest under `runs`
    rivals: dict[str, str] = field(default_factory=dict)  # other policies' folders, by name
    resume: str | None = None  # an interrupted comparison's folder: go on from there


def register() -> None:
    """Make the schema known to Hydra."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)


def keys(schema: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a schema class."""
    found = []
    for name, item in schema.__dataclass_fields__.items():
        found.append(prefix + name)
        if hasattr(item.type, "__dataclass_fields__"):
            found += keys(item.type, f"{prefix}{name}.")
    return found
