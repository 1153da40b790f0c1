"""The allowed values of each setting, checked as soon as a configuration is composed.

Ranges are generous, but end where a run would crash, never end, or learn nothing.
`adaspec_rl.config_conflicts` checks combinations of settings.
"""

import operator
from collections.abc import Mapping

from adaspec_rl.config import Config
from adaspec_rl.limits import (
    Either,
    Flag,
    Limit,
    ListOf,
    Number,
    OrNull,
    TableOf,
    Text,
    Whole,
    Words,
    require,
)

TEXT, COUNT = Text(), Whole(1, 10**9)
LENGTH = Whole(1, 64)  # of a draft; memory for recordings and observations grows with it
TOKENS = Whole(1, 10**6)
TEMPERATURE = Number(0, 100)
SIZE = Whole(1, 1024)  # of a batch
RATE = Number(0, 10**6, above=True)  # requests a second
STEPS = Whole(1, 10**10)
SEED = Whole(0, 2**31 - 1)
THREADS = OrNull(Whole(1, 1024))
DEVICE = Text("auto, cpu, cuda, or cuda:N with the number of a GPU", r"auto|cpu|cuda(:\d{1,3})?")
PLACEMENT = Text(
    "auto, balanced, balanced_low_0, sequential, cpu, cuda, or cuda:N with the number of a GPU",
    r"auto|balanced|balanced_low_0|sequential|cpu|cuda(:\d{1,3})?",
)
TEMPLATE = Text("a text that contains {text}", r"(?s)[^\0]*\{text\}[^\0]*")
SHAPE = Words("llama8b", "llama1b", "test")
CONTROLLER = Words(
    "fixed", "heuristic", "confidence", "cumulative_confidence", "svip", "adaedl",
    "sliding_window", "hysteresis", "specdec_pp", "ucb1", "exp3", "thompson", "tapout",
    "sglang_tiers", "markov", "switching", "switching_stop", "together", "batch_table",
    "hindsight", "learned", "foreseeable", "oracle",
)  # fmt: skip

LIMITS: Mapping[str, Limit] = {
    "model.name": TEXT,
    "model.target": TEXT,
    "model.drafter": OrNull(TEXT),
    "model.drafters": ListOf(TEXT, least=1, most=32),
    "model.specialists": TableOf(TEXT),
    "model.exit_layer": OrNull(Whole(1, 1000)),
    "model.dtype": Words("auto", "float32", "bfloat16", "float16"),
    "model.device": DEVICE,
    "model.device_map": OrNull(PLACEMENT),
    "model.tensor_parallel": OrNull(Whole(2, 1024)),
    "model.quantize": OrNull(Words("int8", "int4")),
    "model.shape": OrNull(SHAPE),
    "model.drafter_shape": OrNull(SHAPE),
    "model.memory": Words("shared", "resident", "offload"),
    "model.memory_limit": OrNull(Number(0, 10**6, above=True)),
    "model.idle_rounds": COUNT,
    "engine.name": Words("auto", "lean", "transformers"),
    "engine.compile": Flag(),
    "engine.kernels": Words("auto", "compiled", "torch"),
    "data.source": Words("embedded", "jsonl", "gsm8k", "hub"),
    "data.path": OrNull(TEXT),
    "data.name": OrNull(TEXT),
    "data.config": OrNull(TEXT),
    "data.split": TEXT,
    "data.column": OrNull(TEXT),
    "data.domain_column": OrNull(TEXT),
    "data.template": OrNull(TEMPLATE),
    "data.chat": Words("auto", "on", "off"),
    "data.test_share": Number(0, 1),
    "data.train_prompts": OrNull(COUNT),
    "data.test_prompts": OrNull(COUNT),
    "data.test_skip": Whole(0, 10**9),
    "data.max_prompt_tokens": OrNull(COUNT),
    "env.session": Words("replay", "live"),
    "env.streams": Whole(1, 65_536),
    "env.cost": Words("profile", "drifting", "randomised"),
    "env.profiles": Whole(1, 65_536),
    "env.timing": Words("profile", "clock"),
    "env.reward": Words("throughput", "ratio", "accepted"),
    "env.actions": Words("length", "length_threshold", "tree", "all"),
    "env.thresholds": OrNull(ListOf(Number(0, 1, above=True))),
    "env.max_length": LENGTH,
    "env.features": ListOf(
        Words("history", "drafters", "target", "draft", "context", "lookup", "cost"), least=1
    ),
    "env.max_new_tokens": TOKENS,
    "env.temperature": TEMPERATURE,
    "env.top_k": Whole(0, 10**9),
    "env.top_p": Number(0, 1, above=True),
    "env.verification": Words(
        "greedy", "rejection", "traversal", "coupled",
        "lossy.top_k", "lossy.typical", "lossy.fuzzy", "lossy.tolerance", "lossy.judge",
    ),
    "env.lossy.k": Whole(2, 32),
    "env.lossy.epsilon": Number(0, 1, above=True),
    "env.lossy.delta": Number(0, 1, above=True),
    "env.lossy.lenience": Number(1, 4),
    "env.lossy.window": LENGTH,
    "env.lossy.entropy": Number(0, 20),
    "env.lossy.judge": OrNull(TEXT),
    "env.lossy.threshold": Number(0, 1, above=True, below=True),
    "env.distance_price": Number(0, 10**6),
    "cost.source": Words("measured", "file"),
    "cost.path": OrNull(TEXT),
    "cost.samples": Whole(1, 10_000),
    "cost.seconds": OrNull(Number(0, 10**6, above=True)),
    "cost.contexts": ListOf(TOKENS),
    "cost.batch_sizes": ListOf(SIZE),
    "cost.batch_size": SIZE,
    "replay.prompts": OrNull(COUNT),
    "replay.shard": Whole(1, 100_000),
    "replay.workers": Whole(1, 1024),
    "replay.cache": TEXT,
    "control.survival": Words("head", "product"),
    "agent.name": Words("ppo", "hindsight"),
    "agent.warm_start": OrNull(TEXT),
    "agent.total_steps": STEPS,
    "agent.learning_rate": Number(0, 1, above=True),
    "agent.n_steps": Whole(1, 10**6),
    "agent.batch_size": Whole(2, 10**7),
    "agent.n_epochs": Whole(1, 1000),
    "agent.gamma": Number(0, 1),
    "agent.gae_lambda": Number(0, 1),
    "agent.ent_coef": Number(0, 10),
    "agent.clip_range": Number(0, 1, above=True),
    "agent.hidden": ListOf(Whole(1, 4096), most=8, repeated=True),
    "agent.checkpoint_steps": STEPS,
    "agent.validation_share": Number(0, 1, above=True, below=True),
    "controller.name": CONTROLLER,
    "controller.length": LENGTH,
    "controller.parameters": TableOf(Number(-(10**9), 10**9)),
    "controller.guard": OrNull(Flag()),
    "logger.name": Words("csv", "tensorboard", "wandb"),
    "logger.project": TEXT,
    "logger.entity": OrNull(TEXT),
    "logger.group": OrNull(TEXT),
    "controllers": OrNull(
        Either(Words("all"), Either(CONTROLLER, ListOf(CONTROLLER, least=1)))
    ),
    "evaluation.prompts": OrNull(COUNT),
    "evaluation.minutes": OrNull(Number(0, 10**6, above=True)),
    "evaluation.max_new_tokens": TOKENS,
    "evaluation.lengths": ListOf(LENGTH, least=1),
    "evaluation.best_first": ListOf(Whole(1, 64)),
    "evaluation.warmup": Whole(0, 1000),
    "evaluation.mode": Words("live", "replay", "both"),
    "evaluation.temperatures": ListOf(TEMPERATURE),
    "evaluation.trials": Whole(1, 10_000),
    "evaluation.tuning_prompts": COUNT,
    "evaluation.resamples": Whole(1, 100_000),
    "evaluation.load": OrNull(Words("constant", "poisson", "bursty", "trace")),
    "evaluation.rate": Either(RATE, ListOf(RATE, least=1, most=32)),
    "evaluation.trace": OrNull(TEXT),
    "evaluation.rows": SIZE,
    "evaluation.requests": Whole(1, 10**6),
    "evaluation.to_first": Number(0, 10**6, above=True),
    "evaluation.per_token": Number(0, 10**6, above=True),
    "evaluation.batch_cost": OrNull(TEXT),
    "seed": SEED,
    "threads": THREADS,
    "runs": TEXT,
    "policy": OrNull(TEXT),
    "rivals": TableOf(TEXT),
    "resume": OrNull(TEXT),
}  # fmt: skip


def check(config: Config) -> None:
    """Refuse a value that its setting does not allow.

    Raises:
        ValueError: one sentence on the first such value.
    """
    for key, limit in LIMITS.items():
        if hasattr(config, key.split(".")[0]):  # `policy` is evaluate.py's alone
            require(key, operator.attrgetter(key)(config), limit)
