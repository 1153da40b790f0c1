"""Coupled sampling: is the text a function of (prompt, seed) alone, whatever drafts?

    python benchmarks/coupled.py [--texts 1000] [--json PATH]

Each text is sampled at temperature 0.8 without drafts, then under random lengths and drafters.
Figure: `coupled_identical_share`.
"""

import argparse
import random
from pathlib import Path

from report import finish
from rich.progress import track

from adaspec_rl.control.action import action_list
from adaspec_rl.data.prompts import embedded_prompts
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.pairs.pair import load_pair


def text(session: LiveSession, ids: list[int], seed: int, actions: list[Action]) -> list[int]:
    """The text of one (prompt, seed) under actions drawn at random."""
    order = random.Random(seed)
    session.start(ids, seed)
    while not session.finished:
        session.step(order.choice(actions))
    return session.tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=1000, help="pairs of prompt and seed")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = load_pair("tiny", "tiny:target", ["tiny:draft", "tiny:code"])
    session = pair.session(
        max_new_tokens=options.max_new_tokens, sampling=Sampling(0.8), verification="coupled"
    )
    prompts = [pair.encode(prompt.text) for prompt in embedded_prompts("test")]
    actions = action_list("length_threshold", 8, drafters=2)
    identical = 0
    for seed in track(range(options.texts), "sampling"):
        ids = prompts[seed % len(prompts)]
        plain = text(session, ids, seed, [FALLBACK])
        identical += text(session, ids, seed, actions) == plain
    finish({"coupled_identical_share": identical / options.texts}, options.json)


if __name__ == "__main__":
    main()
