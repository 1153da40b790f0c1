"""A controller of your own, and who wrote what: `python examples/own_controller.py [smollm2]`."""

import sys

import numpy as np

from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import load_pair


class OneMoreOrHalf:
    """Drafts one more token after a fully accepted draft, half as many after any other."""

    name, observes = "one_more_or_half", None

    def reset(self, prompt: object = (), seed: int = 0) -> None:
        self.length = 2

    def decide(self, observation: np.ndarray | None) -> Action:
        return Action(self.length, drafter=0)

    def observe(self, round_: Round) -> None:
        whole = round_.accepted == round_.drafted
        self.length = min(self.length + 1, 8) if whole else max(self.length // 2, 1)


names = ("smollm2", "smollm2", ["smollm2:draft"]), ("tiny", "tiny:target", ["tiny:draft"])
pair = load_pair(*names["smollm2" not in sys.argv])
session = pair.session(max_new_tokens=23, sampling=Sampling(temperature=0.0))
print(text := "# The n-th Fibonacci number\ndef fibonacci(n):", end="")
made = generate(session, OneMoreOrHalf(), pair.encode(text), cost=CostFeatures(0.0, 0.0, 0.0))
for played in made.rounds:
    kept, own = played.tokens[: played.accepted], played.tokens[played.accepted :]
    right = f"[{pair.decode(kept)}]" if kept else ""
    print(right + (f"{{{pair.decode(own)}}}" if played.rejected else pair.decode(own)), end="")
print(f"\n\n{len(made.tokens)} tokens in {len(made.rounds)} rounds, {made.seconds:.2f} s")
