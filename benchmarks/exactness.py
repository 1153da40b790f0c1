"""Greedy output against transformers' own `generate`: every held-out prompt, every draft length.

    python benchmarks/exactness.py [--prompts N] [--policy DIR] [--device D --dtype T] [--json PATH]

Figures: `identical_share` (generations equal token for token), `tie_share` (generations that differ
first between logits closer than the rounding noise), `identical_to_plain_share` (speculative texts
equal to our own plain texts).
"""

import argparse
import os
from pathlib import Path

import torch
from report import finish
from rich.progress import track
from transformers import AutoModelForCausalLM

from adaspec_rl.comparison.losslessness import is_tie
from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.controller import Controller
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.load_options import LoadOptions, dtype_named
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import EMBEDDED
from adaspec_rl.training.bundle import load_bundle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, help="a domain; all by default")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--policy", type=Path, help="also check this policy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="all cores by default")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair = load_pair(
        "tiny",
        "tiny:target",
        ["tiny:draft"],
        LoadOptions(device=options.device, dtype=options.dtype),
    )
    reference = AutoModelForCausalLM.from_pretrained(
        EMBEDDED / "target", dtype=dtype_named(options.dtype)
    ).to(options.device)
    session = pair.session(max_new_tokens=options.max_new_tokens, sampling=Sampling())
    controllers: list[Controller] = [FixedLength(length) for length in range(9)]
    cost = CostFeatures(0.0, 0.0, 0.0)
    if options.policy:
        bundle = load_bundle(options.policy)
        controllers.append(bundle.controller())
        cost = bundle.costs()
    identical = ties = compared = as_plain = 0
    for prompt in track(balanced(embedded_prompts("test"), options.prompts), "comparing"):
        ids = pair.encode(prompt.text)
        inputs = torch.tensor([ids], device=options.device)
        plain: list[int] | None = None
        expected = reference.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
        )[0, len(ids) :].tolist()
        for controller in controllers:
            found = generate(session, controller, ids, cost=cost).tokens
            compared += 1
            if plain is None:
                plain = found
            elif found == plain:
                as_plain += 1
            if found == expected:
                identical += 1
            elif is_tie(pair.target, ids, expected, found):
                ties += 1
    print(f"{compared} generations by {', '.join(c.name for c in controllers)}")
    speculative = compared * (len(controllers) - 1) / len(controllers)
    figures = {
        "identical_share": identical / compared,
        "tie_share": ties / compared,
        "identical_to_plain_share": as_plain / speculative,
    }
    finish(figures, options.json, device=pair.target.device)


if __name__ == "__main__":
    main()
