"""A controller of your own, and who wrote what: `python examples/own_controller.py`."""

from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import Action, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import load_pair


class OneMoreOrHalf:
    """One token more after a draft that was right to its end, half as many after any other."""

    name, observes = "one_more_or_half", None

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        self.length = 2

    def decide(self, observation: np.ndarray | None) -> Action:
        return Action(self.length, drafter=0)

    def observe(self, round_: Round) -> None:
        whole = round_.accepted == round_.drafted
        self.length = min(self.length + 1, 8) if whole else max(self.length // 2, 1)


pair = load_pair("tiny", "tiny:target", ["tiny:draft", "ngram"])
session = pair.session(max_new_tokens=60, sampling=Sampling(temperature=0.0))
prompt = pair.encode("class Stack:\n    def __init__(self):\n")
made = generate(session, OneMoreOrHalf(), prompt, cost=CostFeatures(0.0, 0.0, 0.0))
for played in made.rounds:
    kept, own = played.tokens[: played.accepted], played.tokens[played.accepted :]
    right = f"[{pair.decode(kept)}]" if kept else ""
    print(right + (f"{{{pair.decode(own)}}}" if played.rejected else pair.decode(own)), end="")
print(f"\n\n{len(made.tokens)} tokens in {len(made.rounds)} rounds, {made.seconds:.2f} s")
