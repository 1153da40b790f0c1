"""Greedy output against transformers' own `generate`: every held-out prompt, every draft length.

    python benchmarks/exactness.py [--prompts N] [--policy DIR] [--json PATH]

Figures: `identical_share` (generations equal token for token), `tie_share` (first difference
between logits closer than the rounding noise).
"""

import argparse
from pathlib import Path

import torch
from report import finish
from rich.progress import track
from transformers import AutoModelForCausalLM

from adaspec_rl.control.controller import Controller
from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.evaluation.losslessness import is_tie
from adaspec_rl.pairs.pair import EMBEDDED, load_pair
from adaspec_rl.training.bundle import load_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, help="a domain; all by default")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--policy", type=Path, help="also check this policy")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = load_pair("tiny", "tiny:target", ["tiny:draft"])
    reference = AutoModelForCausalLM.from_pretrained(EMBEDDED / "target", dtype=torch.float32)
    session = pair.session(max_new_tokens=options.max_new_tokens, sampling=Sampling())
    controllers: list[Controller] = [FixedLength(length) for length in range(9)]
    cost = CostFeatures(0.0, 0.0, 0.0)
    if options.policy:
        bundle = load_bundle(options.policy)
        controllers.append(bundle.controller())
        cost = bundle.costs()
    identical = ties = compared = 0
    for prompt in track(balanced(embedded_prompts("test"), options.prompts), "comparing"):
        ids = pair.encode(prompt.text)
        inputs = torch.tensor([ids])
        expected = reference.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
        )[0, len(ids) :].tolist()
        for controller in controllers:
            found = generate(session, controller, ids, cost=cost).tokens
            compared += 1
            if found == expected:
                identical += 1
            elif is_tie(pair.target, ids, expected, found):
                ties += 1
    print(f"{compared} generations by {', '.join(c.name for c in controllers)}")
    finish({"identical_share": identical / compared, "tie_share": ties / compared}, options.json)


if __name__ == "__main__":
    main()
