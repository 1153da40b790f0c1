"""Draft lengths by batch size."""

from collections.abc import Sequence

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.checks import check_between

BatchRange = tuple[int, int, int]  # smallest and largest batch size, and the draft length for them
EXAMPLE = ((1, 64, 3), (65, 128, 1), (129, 512, 0))  # vLLM's documentation


class BatchTable(FixedLength):
    """The draft length that a table holds for a batch size, in every round.

    This is vLLM's dynamic speculative decoding (`num_speculative_tokens_per_batch_size`), whose
    table comes from measurements on the machine. Deviates: the batch size is fixed, where vLLM
    looks it up at every step; and drafts have at most `max_length` tokens.
    """

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        batch_size: int = 1,
        table: Sequence[BatchRange] = EXAMPLE,
    ) -> None:
        check_between("max_length", max_length, 1)
        found = [length for low, high, length in table if low <= batch_size <= high]
        if len(found) != 1:
            raise ValueError(
                f"expected 1 range of batch sizes that holds {batch_size}, got {len(found)} in "
                f"{[list(row) for row in table]}"
            )
        super().__init__(min(found[0], max_length), drafter, "batch_table")
