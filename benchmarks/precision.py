"""What fewer bits per weight cost in quality: perplexity, and how many greedy texts stay the same.

    python benchmarks/precision.py [--target smollm2 --data FILE] [--prompts N] [--json PATH]

The texts are the target's own greedy float32 answers to held-out prompts of the file or of the
embedded domains. Figures by precision: `perplexity_*` of those texts after their prompts,
`parted_*`, the share of texts that differ, `kept_*`, the share of tokens before the difference.
"""

import argparse
import math
from pathlib import Path

import torch
from report import finish
from versus_peers import PRECISIONS, cache_type, prompts_of

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.pairs.pair import Pair, load_pair


def answer(pair: Pair, prompt: list[int], count: int) -> list[int]:
    """The greedy text of `count` tokens, or up to its end."""
    session = pair.session(max_new_tokens=count, sampling=Sampling())
    return generate(session, FixedLength(0), prompt, cost=CostFeatures(0.0, 0.0, 0.0)).tokens


def surprise(pair: Pair, prompt: list[int], text: list[int]) -> float:
    """Negative log-likelihood of `text` after `prompt`, in nats."""
    tokens = torch.tensor([prompt + text])
    pair.target.reset()
    logits = pair.target.extend(tokens[:, :-1], keep=len(text))[0]
    return float(
        torch.nn.functional.cross_entropy(logits, tokens[0, -len(text) :], reduction="sum")
    )


def leading(a: list[int], b: list[int]) -> int:
    """The number of equal first tokens."""
    return next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="tiny:target", help="tiny:NAME, smollm2 or a folder")
    parser.add_argument("--data", type=Path, help="a JSONL file of prompts; default: embedded")
    parser.add_argument("--prompts", type=int, default=26)
    parser.add_argument("--max-prompt-tokens", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.tune_prompts = 1  # `prompts_of` reads both splits
    return options


def main() -> None:
    options = parse()
    figures: dict[str, float] = {}
    prompts: list[list[int]] = []
    own: list[list[int]] = []
    for precision in PRECISIONS:
        pair = load_pair(
            "pair",
            options.target,
            ["ngram"],
            LoadOptions(
                dtype=cache_type(precision),
                quantize=precision if precision.startswith("int") else None,
            ),
        )
        prompts = prompts or prompts_of(options, pair)[1]
        texts = [answer(pair, prompt, options.tokens) for prompt in prompts]
        own = own or texts  # float32 goes first
        count = sum(map(len, own))
        nats = sum(surprise(pair, prompt, text) for prompt, text in zip(prompts, own))
        figures[f"perplexity_{precision}"] = math.exp(nats / count)
        figures[f"parted_{precision}"] = sum(a != b for a, b in zip(texts, own)) / len(own)
        figures[f"kept_{precision}"] = sum(map(leading, texts, own)) / count
    finish(figures, options.json, details={"target": options.target, "tokens": count})


if __name__ == "__main__":
    main()
