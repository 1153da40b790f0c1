"""A drafter that looks up what its target usually says, and what it has said before."""

import sys
from collections.abc import Callable

import torch

from adaspec_rl.decoding.drafters.drafter import Draft, Stop
from adaspec_rl.decoding.picks import Pick, spread
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.trigrams import NONE, TrigramTable
from adaspec_rl.decoding.verification import Verification


class TableDrafter:
    """Picks from short lists, by the verification rule: with its noise, or at random.

    It runs no model. A token takes some microseconds.
    """

    context_length = sys.maxsize
    model = None
    needs_hidden = False

    def __init__(self, table: TrigramTable, vocab_size: int, name: str = "table") -> None:
        """`vocab_size` is the target's."""
        self.name, self.table, self.vocab_size = name, table, vocab_size
        self.starts = 0

    def prepare(self, length: int, progress: Callable[[float], None]) -> None:
        pass

    def start(self) -> None:
        self.starts += 1

    def propose(
        self, sequence: TokenSequence, length: int, rule: Verification, stop: Stop | None = None
    ) -> Draft:
        position, last = len(sequence), sequence.tokens[-1]
        previous = sequence.tokens[-2] if position > 1 else NONE
        suffix = sequence.automaton.suffix()
        picks: list[Pick] = []
        while True:
            pick = rule.pick(self.table.after(previous, last, suffix), position + len(picks))
            picks.append(pick)
            if len(picks) == length:
                break
            if stop is not None:
                stop.tell(None, pick)
                if stop():
                    break
            previous, last = last, pick.token
            suffix.append(last)
        tokens = torch.tensor([pick.token for pick in picks])
        device = sequence.buffer.device
        return Draft(
            tokens.to(device, non_blocking=True),
            log_probs=spread(picks, self.vocab_size, device) if rule.needs_log_probs else None,
            picks=picks,
        )

    def keep(self, length: int) -> None:
        pass  # only committed tokens are read

    def rest(self) -> None:
        pass
