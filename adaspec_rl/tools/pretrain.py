"""Train the embedded pair: `python -m adaspec_rl.tools.pretrain --out FOLDER`.

Stages, each resumable from its last checkpoint: the tokenizer; the target, with an auxiliary loss
on an early layer so that its first layers can draft (LayerSkip, arXiv:2404.16710); the general
draft model, distilled from the target's distributions; the code specialist, distilled on code only.
Matrices train with Muon, everything else with AdamW, under a warm-up, constant, linear-decay
schedule.
"""

import argparse
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from adaspec_rl.config_limits import SEED, STEPS
from adaspec_rl.data.corpus import DOMAINS, documents
from adaspec_rl.files import write_atomically
from adaspec_rl.limits import Number, Whole, option
from adaspec_rl.tools.packed_corpus import PackedCorpus
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer
from adaspec_rl.tools.training_loop import Schedule, train

MIX = {"code": 0.5, "prose": 0.25, "dialogue": 0.25}
EXIT_LAYER = 3  # the target's first layers that double as a drafter
EXIT_WEIGHT = 0.25
WINDOW = Whole(2, 2048)  # tokens; the embedded models' context
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
    tokens = tokens.to(model.device)
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

    The objective is the mean of KL(target || draft) and the total variation. The latter is 1 minus
    the acceptance rate of speculative sampling (DistillSpec, arXiv:2310.08461).
    """
    tokens = tokens.to(draft.device)
    with torch.no_grad():
        wanted = target(tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    found = draft(tokens[:, :-1], use_cache=False).logits.float().log_softmax(-1)
    divergence = F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()
    variation = 0.5 * (found.exp() - wanted.exp()).abs().sum(-1).mean()
    return 0.5 * (divergence + variation), variation


Loss = Callable[[LlamaForCausalLM, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


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
        description=__doc__, prog="python -m adaspec_rl.tools.pretrain"
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

    stages: list[tuple[str, LlamaForCausalLM, Loss, dict[str, float], Schedule]] = [
        ("target", target, language_model_loss, MIX, long),
        ("draft", new_model(DRAFT).to(options.device), distil, MIX, short),
        ("code", new_model(DRAFT).to(options.device), distil, {"code": 1.0}, shortest),
    ]
    for name, model, loss, mix, schedule in stages:
        if options.only and name not in (options.only, "target"):
            continue  # the target is needed; its finished checkpoint loads at once
        corpus = PackedCorpus(tokenizer, mix)
        checkpoint = options.out / "checkpoints" / f"{name}.pt"
        result = train(
            name,
            model,
            loss,
            corpus,
            schedule,
            checkpoint,
            options.seed,
            steppers=optimizers(model),
            precision=precision,
        )
        figures = {**asdict(schedule), **result.figures}
        export(model, tokenizer, options.out / name, figures)
        print(json.dumps({name: result.figures}))


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
    # A copy: casting back and forth would round the weights and RoPE's frequencies.
    rounded = torch.nn.Module.to(deepcopy(model), dtype)  # transformers' own `to` is not typed
    rounded.save_pretrained(folder)


if __name__ == "__main__":
    main()
