"""Measures on this machine what rounds of many rows cost, in a live batch."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from adaspec_rl.control.batch_controller import BatchController
from adaspec_rl.control.batch_generation import Asked, generate_batch
from adaspec_rl.costs.batch_costs import BatchCosts, DrafterCosts
from adaspec_rl.costs.estimates import Timings
from adaspec_rl.costs.forward_costs import ForwardCosts
from adaspec_rl.costs.profile import device_name
from adaspec_rl.costs.timed_text import SureLookup, stretched
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.drafters import Drafter, NgramLookup
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.engine.extension import Extension
from adaspec_rl.engine.language_model import LanguageModel, RowModel
from adaspec_rl.engine.lean_model import LeanModel

SPAN = 48  # tokens written at a context length before the text counts as too long
UNREAD = 9  # unread tokens of a drafter when catching up is timed
NEVER = 1e-12  # a threshold so low that no draft stops, although all estimates are made
FEWEST = 5  # timings of each part
PLAIN = 3  # plain rounds timed in a row


def measure_batch_costs(
    target: LanguageModel,
    drafters: Sequence[Drafter],
    prompts: Sequence[Sequence[int]],
    *,
    rows: int,
    rules: DecodingRules,
    survival: Sequence[Survival] | None = None,
    max_length: int = 8,
    contexts: Sequence[int] = (64, 256),
    seconds: float = 20.0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda share: None,
) -> BatchCosts:
    """Time rounds of 1 to `rows` texts, and forwards of each width, for `seconds`.

    All parts take turns, and the median of each counts. Texts do not end here, and lookups always
    find something. A verification is timed as a whole round that verifies a lookup's draft, less
    one that drops it: it includes the comparison of tokens, row by row. The time of a round beyond
    its drafts is counted in the target's pass of width 1.

    Args:
        prompts: token ids; cut or repeated to each context length.
        rules: how texts are verified; their end and budget are ignored.
        survival: each drafter's, as in `Batch`. Drafts are dropped by allotting, so their estimates
            are timed, and these take several times as long if they are not the ones that decoding
            uses.
        contexts: tokens before the rounds.
    """
    timed = _Timed(target, drafters, prompts, rows, rules, survival, max_length, clock)
    began, done = clock(), 0
    while done < FEWEST or clock() - began < seconds:
        for context in contexts:
            timed.turn(context)
        done += 1
        progress(min(1.0, (clock() - began) / seconds))
    return timed.costs(contexts, f"{device_name(target.device)}, {target.execution}")


class _Timed:
    """A batch whose rounds are timed."""

    def __init__(
        self,
        target: LanguageModel,
        drafters: Sequence[Drafter],
        prompts: Sequence[Sequence[int]],
        rows: int,
        rules: DecodingRules,
        survival: Sequence[Survival] | None,
        max_length: int,
        clock: Callable[[], float],
    ) -> None:
        endless = DecodingRules(frozenset(), 20 * SPAN, rules.sampling, rules.verification)
        sure = [SureLookup() if isinstance(one, NgramLookup) else one for one in drafters]
        # The last drafter is no part of the pair: its drafts are verified to time verification.
        heads = [*(survival or [ProductSurvival() for _ in drafters]), ProductSurvival()]
        self.batch = Batch(
            target, [*sure, SureLookup()], rows, rules=endless, survival=heads, clock=clock
        )
        self._drafters = self.batch.drafters[:-1]
        self._prompts, self._max_length = prompts, max_length
        powers = [1 << n for n in range(int(math.log2(rows)) + 1)]
        self._sizes = sorted({*powers, rows})
        self._widths = sorted({1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 5.0, max_length + 1.0})
        self._short, self._long = max(1, max_length // 4), max_length
        self._found = Timings()

    def turn(self, context: int) -> None:
        """Time every part once at a context."""
        batch = self.batch
        for row in batch.taken:
            batch.leave(row)
        texts = [
            stretched(self._prompts[n % len(self._prompts)], context) for n in range(self._rows)
        ]
        taken = [batch.admit(text) for text in texts]
        batch.step({row: FALLBACK for row in taken})
        for number in range(len(self._drafters)):  # they read the prompts
            batch.step({row: Action(1, number) for row in taken})
        for size in self._sizes:
            some = taken[:size]
            self._round(some, FALLBACK)
            for _ in range(PLAIN):  # plain decoding takes one such round after the other
                self._add(context, size, ("plain",), self._round(some, FALLBACK))
            for tokens in self._verified(size):
                self._add(context, size, ("verification", tokens), self._verifying(some, tokens))
            for number, drafter in enumerate(self._drafters):
                self._time_drafter(context, some, number, drafter.model)

    @property
    def _rows(self) -> int:
        return len(self.batch.free) + len(self.batch.taken)

    def _time_drafter(
        self, context: int, rows: Sequence[int], number: int, model: RowModel | None
    ) -> None:
        """Time drafts of two lengths without verification, and passes of two widths."""
        size = len(rows)
        self._round(rows, Action(1, number))  # catches up
        for length in (self._short, self._long):
            seconds = self._round(rows, Action(length, number))
            self._add(context, size, ("draft", number, length), seconds)
        seconds = self._round(rows, Action(self._long, number, NEVER))
        self._add(context, size, ("stopping", number), seconds)
        if model is not None:
            for width in (1, UNREAD):
                self._add(context, size, ("read", number, width), self._forward(model, rows, width))

    def _add(self, context: int, size: int, what: tuple, seconds: float) -> None:
        self._found.add((context, size, *what), seconds)

    def _round(self, rows: Sequence[int], action: Action) -> float:
        nothing = (lambda rows, survivals: [0] * len(rows)) if action.length else None
        return self.batch.step({row: action for row in rows}, nothing).seconds

    def _verified(self, size: int) -> list[int]:
        """Numbers of verified tokens that are timed in rounds of `size` rows.

        Between one and two tokens a row they lie close together: a product may be done in tiles of
        a few rows, and then one row more than a tile holds costs as much as another whole tile.
        """
        return sorted({round(size * (width - 1)) for width in self._widths} - {0})

    def _verifying(self, rows: Sequence[int], tokens: int) -> float:
        """Seconds by which a round grows if its drafts, `tokens` in all, are not dropped."""
        each, more = divmod(tokens, len(rows))
        lengths = {row: each + (n < more) for n, row in enumerate(rows)}
        own = len(self._drafters)
        draft = {row: Action(n, own) if n else FALLBACK for row, n in lengths.items()}
        dropped = self.batch.step(draft, lambda rows, survivals: [0] * len(rows))
        verified = self.batch.step(draft, lambda rows, survivals: [len(one) for one in survivals])
        assert verified.verified == tokens
        return verified.seconds - dropped.seconds

    def _forward(self, model: RowModel, rows: Sequence[int], width: int) -> float:
        """Seconds of a pass, which is then undone."""
        tokens = torch.ones(width, dtype=torch.long, device=model.device)
        known = None
        if isinstance(model, LeanModel) and model.architecture.reads_features:
            known = torch.zeros(width, model.architecture.hidden_size, device=model.device)
        before = model.lengths.tolist()
        extensions = [Extension(row, tokens, width, width, known) for row in rows]
        began = self.batch.clock()
        model.extend_rows(extensions)
        seconds = self.batch.clock() - began
        for row in rows:
            model.rollback_row(row, before[row])
        return seconds

    def costs(self, contexts: Sequence[int], device: str) -> BatchCosts:
        """The costs from everything that was timed."""
        contexts = sorted(contexts)

        def table(
            seconds: Callable[[int, int, float], float], widths: Sequence[float]
        ) -> ForwardCosts:
            found = np.array(
                [
                    [[seconds(at, n, width) for at in contexts] for width in widths]
                    for n in self._sizes
                ]
            )
            for axis in (0, 1):  # more rows or tokens cannot take less time: noise
                found = np.maximum.accumulate(found.clip(min=0.0), axis=axis)
            return ForwardCosts(
                tuple(map(float, self._sizes)),
                tuple(map(float, widths)),
                tuple(map(float, contexts)),
                tuple(tuple(tuple(line) for line in table) for table in found.tolist()),
            )

        return BatchCosts(
            f"{device}, measured in batches of up to {self._rows}",
            table(self._verification, self._widths),
            tuple(
                self._drafter(number, drafter.model, table, contexts)
                for number, drafter in enumerate(self._drafters)
            ),
        )

    def _verification(self, context: int, size: int, width: float) -> float:
        timed = self._verified(size)
        more = [self._median(context, size, "verification", tokens) for tokens in timed]
        verified = size * (width - 1)
        return self._median(context, size, "plain") + np.interp(verified, [0, *timed], [0, *more])

    def _drafter(
        self,
        number: int,
        model: RowModel | None,
        table: Callable[[Callable[[int, int, float], float], Sequence[float]], ForwardCosts],
        contexts: Sequence[int],
    ) -> DrafterCosts:
        levels = self._long - self._short

        def level(context: int, size: int, width: float) -> float:
            short, long = (
                self._median(context, size, "draft", number, length)
                for length in (self._short, self._long)
            )
            more = 0.0
            if width > 1:
                more = self._median(context, size, "read", number, width) - self._median(
                    context, size, "read", number, 1
                )
            return (long - short) / levels + more

        def stopping(context: int, size: int) -> float:
            long = self._median(context, size, "draft", number, self._long)
            return (self._median(context, size, "stopping", number) - long) / self._long

        def overhead(context: int, size: int) -> float:
            long = self._median(context, size, "draft", number, self._long)
            passes = self._long * max(0.0, level(context, size, 1))
            return long - passes - self._median(context, size, "plain")

        stops, begins = (line(self._sizes, contexts, what) for what in (stopping, overhead))
        widths = (1,) if model is None else (1, UNREAD)
        return DrafterCosts(
            table(level, widths),
            stopping=stops[0],
            stopping_row=stops[1],
            overhead=begins[0],
            overhead_row=begins[1],
        )

    def _median(self, *what: object) -> float:
        return self._found.median(what)


def line(
    sizes: Sequence[int], contexts: Sequence[int], seconds: Callable[[int, int], float]
) -> tuple[float, float]:
    """Fit a fixed part and a part per row by least squares, neither below 0.

    Small and large numbers of rows count equally: the fit minimises errors in seconds per row.
    """
    found = np.array([np.mean([seconds(at, size) for at in contexts]) for size in sizes])
    rows = np.array(sizes, dtype=float)
    table = np.column_stack([np.ones(len(rows)), rows]) / rows[:, None]
    once, each = np.linalg.lstsq(table, found / rows, rcond=None)[0]
    if each < 0:
        once, each = found.mean(), 0.0
    if once < 0:
        once, each = 0.0, (found / rows).mean()
    return max(0.0, float(once)), max(0.0, float(each))


def measure_deciding_live(
    make: Callable[[int], Batch], controller: BatchController, asked: Sequence[Asked], rows: int
) -> tuple[float, float]:
    """Seconds that a controller takes in a live round: fixed, and per row.

    Args:
        make: makes a batch of so many rows, all free.
    """
    found = {}
    for size in sorted({1, rows}):
        made = generate_batch(make(size), controller, asked[: 2 * size])
        found[size] = made.controller_seconds / made.rounds
    return line(list(found), (0,), lambda _, size: found[size])
