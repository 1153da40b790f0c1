"""Train the embedded pair: `python -m adaspec_rl.pairs.pretrain --out FOLDER`.

Stages, each resumable from its last checkpoint: the tokenizer; the target, with an auxiliary loss
on an early layer so that its first layers can draft (LayerSkip, arXiv:2404.16710); the general
draft model, distilled from the target's distributions; the code specialist, distilled on code only.
Matrices train with Muon, everything else with AdamW, under a warm-up, constant, linear-decay
schedule.
"""

import argparse
import json
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from adaspec_rl.config_limits import SEED, STEPS
from adaspec_rl.data.corpus import DOMAINS, documents
from adaspec_rl.files import new_file, write_atomically
from adaspec_rl.limits import Number, Whole, option
from adaspec_rl.pairs.packed_corpus import PackedCorpus
from adaspec_rl.pairs.tokenizer import save_tokenizer, train_tokenizer

MIX = {"code": 0.5, "prose": 0.25, "dialogue": 0.25}
EXIT_LAYER = 3  # the target's first layers that double as a drafter
EXIT_WEIGHT = 0.25
SAVE_EVERY = 100  # steps
WINDOW = Whole(2, 2048)  # tokens; the embedded models read no more
SHARED: dict[str, Any] = dict(
    vocab_size=4096,
    max_position_embeddings=2048,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
    pad_token_id=0,
)
TARGET: dict[str, Any] = dict(
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=12,
    num_attention_heads=8,
    num_key_value_heads=4,
)
DRAFT: dict[str, Any] = dict(
    hidden_size=192,
    intermediate_size=384,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one model is trained. Lengths in tokens, `decay` as a share of the steps."""

    steps: int
    rows: int
    length: int
    learning_rate: float
    warmup: int = 50
    decay: float = 0.4

    def rate(self, step: int) -> float:
        """Learning rate at `step`: linear warm-up, constant, linear decay to 0."""
        rising = (step + 1) / self.warmup
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(1.0, rising, falling)


def new_model(shape: dict[str, Any]) -> LlamaForCausalLM:
    """A randomly initialised Llama of the embedded vocabulary."""
    return LlamaForCausalLM(LlamaConfig(**SHARED, **shape))


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, head and norms."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"training needs torch >= 2.9 (Muon), found {torch.__version__}")
    outer = ("embed", "lm_head")
    named = [
        (p, p.ndim == 2 and not any(part in name for part in outer))
        for name, p in model.named_parameters()
    ]
    matrices = [p for p, inner in named if inner]
    rest = [p for p, inner in named if not inner]
    return [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def language_model_loss(
    model: LlamaForCausalLM, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Objective and next-token cross-entropy (nats) of windows `[B, L + 1]`.

    The objective adds the early exit's own cross-entropy (LayerSkip).
    """
    out = model.model(tokens[:, :-1], output_hidden_states=True, use_cache=False)
    early = model.model.norm(out.hidden_states[EXIT_LAYER])
    loss, exit_loss = (
        F.cross_entropy(model.lm_head(hidden).flatten(0, 1).float(), tokens[:, 1:].flatten())
        for hidden in (out.last_hidden_state, early)
    )
    return loss + EXIT_WEIGHT * exit_loss, loss


def distillation_loss(
    draft: PreTrainedModel, target: PreTrainedModel, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Objective and total-variation distance of windows `[B, L + 1]`.

    The objective is the mean of KL(target || draft) and the total variation, which is one minus
    the acceptance rate of speculative sampling (DistillSpec, arXiv:2310.08461).
    """
    with torch.no_grad():
        wanted = target(tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    found = draft(tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()
    variation = 0.5 * (found.exp() - wanted.exp()).abs().sum(-1).mean()
    return 0.5 * (divergence + variation), variation


Model = TypeVar("Model", bound=PreTrainedModel)
Loss = Callable[[Model, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # objective, metric


class Windows(Protocol):
    """Where token windows come from."""

    def batch(self, seed: int, step: int, rows: int, length: int) -> torch.Tensor:
        """Windows `[rows, length + 1]` int64 that depend on (seed, step) alone."""
        ...


def train(
    name: str,
    model: Model,
    loss: Loss[Model],
    corpus: Windows,
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
    precision: str,
) -> dict[str, float]:
    """Train `model` in place, resuming from `checkpoint` if it exists.

    Returns: the mean objective and metric of the last 5% of the steps, tokens seen and seconds.
    """
    device = next(model.parameters()).device
    steppers = optimizers(model)
    start, seconds, history = _resume(model, steppers, checkpoint)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    model.train()
    with _progress() as progress:
        bar = progress.add_task(name, total=schedule.steps, completed=start, status="")
        began = time.perf_counter()
        for step in range(start, schedule.steps):
            batch = corpus.batch(seed, step, schedule.rows, schedule.length).to(device)
            with autocast:
                objective, metric = loss(model, batch)
            objective.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                for group in stepper.param_groups:
                    group["lr"] = schedule.rate(step)
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            history.append((float(objective.detach()), float(metric.detach())))
            elapsed = seconds + time.perf_counter() - began
            done = step + 1
            if done % 10 == 0 or done == schedule.steps:
                speed = (done - start) * schedule.rows * schedule.length / (elapsed - seconds)
                recent = sum(metric for _, metric in history[-50:]) / len(history[-50:])
                progress.update(bar, completed=done, status=f"{recent:.3f}  {speed:,.0f} tokens/s")
            if done % SAVE_EVERY == 0 or done == schedule.steps:
                _save(model, steppers, checkpoint, done, elapsed, history)
    tail = history[-max(1, schedule.steps // 20) :]
    model.eval()
    return {
        "objective": sum(objective for objective, _ in tail) / len(tail),
        "metric": sum(metric for _, metric in tail) / len(tail),
        "tokens": schedule.steps * schedule.rows * schedule.length,
        "seconds": elapsed if start < schedule.steps else seconds,
    }


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[status]}"),
        TimeRemainingColumn(),
    )


def _save(
    model: PreTrainedModel,
    steppers: list[torch.optim.Optimizer],
    path: Path,
    step: int,
    seconds: float,
    history: list[tuple[float, float]],
) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [stepper.state_dict() for stepper in steppers],
        "step": step,
        "seconds": seconds,
        "history": history,
    }
    with new_file(path) as fresh:
        torch.save(state, fresh)


def _resume(
    model: PreTrainedModel, steppers: list[torch.optim.Optimizer], path: Path
) -> tuple[int, float, list[tuple[float, float]]]:
    if not path.exists():
        return 0, 0.0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for stepper, saved in zip(steppers, state["optimizers"], strict=True):
        stepper.load_state_dict(saved)
    return state["step"], state["seconds"], [tuple(pair) for pair in state["history"]]


def tokenizer_stage(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer, learned from the `fit` split (dialogue capped) unless already in `folder`."""
    if not (folder / "tokenizer.json").exists():
        texts = (
            text
            for domain in DOMAINS
            for index, text in enumerate(documents(domain, "fit"))
            if domain != "dialogue" or index < 1000
        )
        save_tokenizer(train_tokenizer(texts), folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Command line: train everything into `--out`, or resume what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, prog="python -m adaspec_rl.pairs.pretrain"
    )
    parser.add_argument("--out", type=Path, default=Path("pretrained"))
    parser.add_argument("--target-steps", type=option(STEPS), default=1300)
    parser.add_argument("--draft-steps", type=option(STEPS), default=600)
    parser.add_argument("--code-steps", type=option(STEPS), default=400)
    parser.add_argument("--rows", type=option(Whole(1, 10**4)), default=8, help="windows a step")
    parser.add_argument(
        "--length", type=option(Whole(2, 2048)), default=512, help="tokens a window"
    )
    parser.add_argument("--learning-rate", type=option(Number(0, 1, above=True)), default=4e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "float32"], default=None)
    parser.add_argument("--only", choices=["target", "draft", "code"], help="one stage alone")
    parser.add_argument("--seed", type=option(SEED), default=0)
    options = parser.parse_args(arguments)
    # bf16 matrix products are slower than float32 ones on CPUs without AMX.
    precision = options.precision or ("bf16" if options.device == "cuda" else "float32")
    torch.manual_seed(options.seed)
    tokenizer = tokenizer_stage(options.out / "target")
    target = new_model(TARGET).to(options.device)
    long = Schedule(options.target_steps, options.rows, options.length, options.learning_rate)
    short = replace(long, steps=options.draft_steps)
    shortest = replace(long, steps=options.code_steps)

    def distil(model: LlamaForCausalLM, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return distillation_loss(model, target, batch)

    stages: list[
        tuple[str, LlamaForCausalLM, Loss[LlamaForCausalLM], dict[str, float], Schedule]
    ] = [
        ("target", target, language_model_loss, MIX, long),
        ("draft", new_model(DRAFT).to(options.device), distil, MIX, short),
        ("code", new_model(DRAFT).to(options.device), distil, {"code": 1.0}, shortest),
    ]
    for name, model, loss, mix, schedule in stages:
        if options.only and name not in (options.only, "target"):
            continue  # the target is needed, and free once its last checkpoint exists
        corpus = PackedCorpus(tokenizer, mix)
        checkpoint = options.out / "checkpoints" / f"{name}.pt"
        result = train(name, model, loss, corpus, schedule, checkpoint, options.seed, precision)
        export(model, tokenizer, options.out / name, {**asdict(schedule), **result})
        print(json.dumps({name: result}))


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    training: dict[str, float],
) -> None:
    """Write a bf16 Hugging Face folder with tokenizer, and how it was trained."""
    save_model(model, tokenizer, folder, torch.bfloat16)
    write_atomically(folder / "training.json", json.dumps(training, indent=2) + "\n")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype
) -> None:
    """Write a Hugging Face folder with tokenizer, the weights as `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    # A copy: a cast and back would round the weights, and RoPE's frequencies with them.
    rounded = torch.nn.Module.to(deepcopy(model), dtype)  # transformers' own `to` is not typed
    rounded.save_pretrained(folder)


if __name__ == "__main__":
    main()
