"""Transformers' `generate` with and without us: the same loaded model, prompts and texts.

    python benchmarks/interop.py [--model tiny|smollm2] [--prompts N] [--json PATH]

Greedy decoding of held-out prompts, one at a time and in batches of 8 with left padding. All ways
to generate take turns, prompt by prompt, after one warm-up; times include reading the prompt. Our
own ways have the draft model and the default policy. `packed` has a second copy of the model's
weights for the compiled decoder; `shared` and `transformers_forward` run in the model's own memory.
Figures: `custom_generate_vs_generate` (batch 1, packed), `custom_generate_vs_generate_batch_8`, and
every way's speedup over `generate`, with intervals over prompts, tokens a second, the number of
equal texts, and memory.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import finish
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import adaspec_rl.interop as interop
from adaspec_rl.comparison.statistics import paired_ratio_interval
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.interop.custom_generate.prepared import prepare

GENERATE = "generate"


def ways(draft: str, shares: bool) -> dict[str, dict[str, Any]]:
    """Arguments of `generate` by way; none for transformers' own.

    `shares`: the draft model shares the target's embedding, so it needs our engine. Transformers'
    own forward then drafts with a lookup alone.
    """
    drafts = {} if shares else {"draft_model": draft}
    return {
        GENERATE: {},
        "transformers_forward": {"weights": "transformers", **drafts},
        "shared": {"weights": "shared", "draft_model": draft},
        "packed": {"weights": "packed", "draft_model": draft},
    }


def drafters_of(options: dict[str, Any]) -> list[str]:
    return [options["draft_model"]] if "draft_model" in options else []


def generated(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], count: int, options: dict[str, Any]
) -> tuple[torch.Tensor, float]:
    """The texts and their seconds."""
    if options:
        options = {**options, "custom_generate": interop.generate}
    began = time.perf_counter()
    made = model.generate(**inputs, max_new_tokens=count, do_sample=False, **options)
    return made, time.perf_counter() - began


def compared(
    model: PreTrainedModel,
    groups: list[dict[str, torch.Tensor]],
    count: int,
    chosen: dict[str, dict[str, Any]],
    limit: float,
) -> tuple[dict[str, list[float]], dict[str, int], list[int]]:
    """Every group's seconds by way, the number of equal texts, and every group's tokens."""
    for options in chosen.values():
        generated(model, groups[0], count, options)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    same, tokens = dict.fromkeys(chosen, 0), []
    began = time.perf_counter()
    for turn, inputs in enumerate(groups[1:]):
        if turn and time.perf_counter() - began > limit:
            break
        texts = {}
        names = list(chosen)[turn % len(chosen) :] + list(chosen)[: turn % len(chosen)]
        for name in names:
            texts[name], took = generated(model, inputs, count, chosen[name])
            seconds[name].append(took)
        expected = texts[GENERATE]
        tokens.append(int((expected[:, inputs["input_ids"].shape[1] :] != 0).sum()))
        for name, made in texts.items():
            width = max(made.shape[1], expected.shape[1])
            padded = [torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in (made, expected)]
            same[name] += int((padded[0] == padded[1]).all(1).sum())
    return seconds, same, tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--prompts", type=int, default=16, help="a domain of three")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60, help="at most, for each batch size")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source, draft = ("smollm2", "smollm2:draft")
    if options.model == "tiny":
        source, draft = "tiny:target", "tiny:draft"
    folder = interop.checkpoint(source)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token_id = model.generation_config.pad_token_id = 0
    prompts = [prompt.text for prompt in balanced(embedded_prompts("test"), options.prompts)]
    chosen, figures, details = ways(draft, shares=options.model == "smollm2"), {}, {}
    for batch in (1, options.batch):
        parts = [prompts[n : n + batch] for n in range(0, len(prompts) - batch + 1, batch)]
        groups = [dict(tokenizer(p, return_tensors="pt", padding=True)) for p in parts]
        groups = [{k: g[k] for k in ("input_ids", "attention_mask")} for g in groups]
        seconds, same, tokens = compared(
            model, groups, options.max_new_tokens, chosen, options.seconds
        )
        name = "" if batch == 1 else f"_batch_{batch}"
        own = np.array(seconds[GENERATE])
        speedups = {way: own.sum() / sum(took) for way, took in seconds.items()}
        figures[f"custom_generate_vs_generate{name}"] = speedups["packed"]
        figures |= {f"{way}{name}": speedup for way, speedup in speedups.items()}
        ones = np.ones(len(own))
        details[f"batch_{batch}"] = {
            way: {
                "interval": paired_ratio_interval(ones, np.array(took), ones, own),
                "tokens_per_second": sum(tokens) / sum(took),
                "same_texts": f"{same[way]} of {batch * len(own)}",
            }
            for way, took in seconds.items()
        }
    details["memory"] = {
        way: str(prepare(model, drafters_of(given), given["weights"]).memory)
        for way, given in chosen.items()
        if given
    }
    finish(figures, options.json, details={"settings": {"dtype": "float32"}, **details})


if __name__ == "__main__":
    main()
