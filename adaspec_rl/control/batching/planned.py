"""The learned batch policy: rows draft what is expected to pay at the batch's prices."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from adaspec_rl.control.batch_controller import Load
from adaspec_rl.control.batching.allotment import likeliest
from adaspec_rl.control.batching.compiled_plan import CompiledPlanner
from adaspec_rl.control.batching.outlook import Outlook
from adaspec_rl.control.batching.plan import Here, Plan, Rates, best_drafts
from adaspec_rl.control.batching.prices import NEAR, Prices
from adaspec_rl.control.batching.rule import BatchRule
from adaspec_rl.decoding.round import FALLBACK, Action, Round
from adaspec_rl.engine.cpu.build import loaded

SPAN = 32.0  # rounds over which throughput is averaged
PRICED = 8.0  # rounds over which the price of a verified token is averaged
HOPE = 1.2  # times plain throughput, where the average begins
CERTAIN = 0.98  # no price is higher
LEAST = 1e-9  # tokens that a second is worth
LONGEST = 64  # the most rounds without a look

Planner = Callable[[np.ndarray, np.ndarray, Here, Rates, bool], Plan]  # see `best_drafts`


class PlannedBatch(BatchRule):
    """Plans every row's draft by its expected worth, then verifies by price.

    A second of the batch is worth its throughput: a running average of tokens by the seconds that
    the cost model expects, so that nothing changes on a machine that is slower in everything. At
    that rate, the cost model gives the price of one more drafted token. The price of a verified
    token is the survival that was just enough in recent rounds. An `Outlook`, learned from
    recordings, predicts what each row's next draft gains at these prices. Each row drafts as far as
    that pays, and the batch drafts no deeper than pays for the passes that all rows share. Of the
    drafted tokens, the likeliest are verified, as in `VerificationBudget`, as long as they are
    worth their seconds.

    Looking takes time as well. For `hold` rounds after a look, every row therefore keeps its
    action, and all that is drafted is verified. Each look also finds the best plan in which all
    rows draft alike, under one threshold up to one length. If the look gained less over that plan
    than it cost, the policy rests: rows follow the plan. A rest lasts one round at first and twice
    as long each next time, until the number of rows changes a lot.

    `verify`, `draft` and `read` are factors on the prices of a verified token, of a drafted token
    and of a token that a drafter has to catch up on first: 1 is what the cost model says.
    """

    name = "planned"

    def __init__(
        self,
        outlook: Outlook,
        prices: Prices,
        *,
        verify: float = 1.0,
        draft: float = 1.0,
        read: float = 1.0,
        hold: int = 0,
        longest: int = LONGEST,
    ) -> None:
        """A rest lasts at most `longest` rounds; 0: the policy never rests."""
        self._hold, self._longest = hold, longest
        self._outlook, self._prices, self._plan = outlook, prices, planner(outlook)
        self.observes = outlook.spec
        self.verify, self.draft, self.read = verify, draft, read
        self._asked = functools.lru_cache(maxsize=64)(self._ask)  # the same prices come again
        self.reset(1)

    def reset(self, rows: int) -> None:
        self._tokens = self._seconds = 0.0  # decaying sums
        self._now: Here | None = None  # prices of the round that was decided, until it is observed
        self._looked = 0.0  # seconds of this decision
        self._price: float | None = None  # of a verified token, a running average
        self._written = [0] * rows  # tokens of each text, with its prompt
        self._read = [[0] * self._outlook.spec.drafters for _ in range(rows)]  # by each drafter
        self._drafting: tuple[list[int], list[int]] = ([], [])  # rows and their drafters
        self._offered: dict[int, int] = {}  # by row, the tokens drafted before allotting
        self._rest = self._resting = self._coming = self._size = 0
        self._same = FALLBACK
        self._held: dict[int, Action] = {}  # by row, while it keeps the action of a look

    @property
    def looks(self) -> bool:  # type: ignore[override]
        """Not while the policy rests or rows keep their actions."""
        return not self._resting

    @property
    def allots(self) -> bool:  # type: ignore[override]
        """Only if something was drafted after a look."""
        return bool(self._drafting[0]) and not self._resting

    def admit(self, row: int, prompt: Sequence[int], seed: int) -> None:
        self._written[row] = len(prompt)
        self._read[row] = [0] * self._outlook.spec.drafters
        self._held.pop(row, None)

    def decide(
        self, rows: Sequence[int], observations: np.ndarray | None, load: Load
    ) -> list[Action]:
        count = len(rows)
        here = self._now = self._asked(count, int(load.context / NEAR))
        self._looked = 0.0 if self._resting else self._prices.deciding(count)
        if self._resting:
            return self._without_a_look(rows)
        assert observations is not None, "a learned policy needs its observations"
        self._size = count.bit_length()
        self._rate = (self._tokens + HOPE * count) / (self._seconds + here.plain)
        price = self.verify * self._rate * here.token if self._price is None else self._price
        price = min(max(price, 0.0), CERTAIN)
        stop = min(price + self.draft * self._rate * here.level, CERTAIN)
        stop = round(stop, 2)  # so that the same actions come again
        rates = Rates(self._rate, price, stop, self.verify, self.draft, self.read)
        unread = np.array(
            [[self._written[row] - read for read in self._read[row]] for row in rows], float
        )
        plan = self._plan(observations, unread, here, rates, self._longest > 0)
        self._held, self._coming = {}, 0
        if self._longest:
            self._same = plan.alike
            more = (1 + self._hold) * (plan.gain - plan.gain_alike)
            pays = more > self._rate * self._looked
            self._rest = 0 if pays else min(max(1, 2 * self._rest), self._longest)
            self._coming = self._rest  # rounds of rest, starting with the next one
            if plan.gain_alike > plan.gain:
                return self._without_a_look(rows)
        self._drafting = plan.drafting(rows)
        actions = plan.actions(stop)
        if self._hold and not self._coming:
            self._held, self._coming = dict(zip(rows, actions)), self._hold
        return actions

    def _without_a_look(self, rows: Sequence[int]) -> list[Action]:
        """The action that a row keeps, or else that of the plan in which all draft alike."""
        if not self._held:
            used = list(rows) if self._same.length else []
            self._drafting = (used, [self._same.drafter] * len(used))
            return [self._same] * len(rows)
        actions = [self._held.get(row, self._same) for row in rows]
        drafts = [(row, action.drafter) for row, action in zip(rows, actions) if action.length]
        self._drafting = [row for row, _ in drafts], [drafter for _, drafter in drafts]
        return actions

    def allot(self, rows: Sequence[int], survivals: Sequence[Sequence[float]]) -> list[int]:
        assert self._now is not None, "nothing was decided"
        worth = max(self.verify * self._rate, LEAST)
        found = likeliest(survivals, self._now.prices, worth=worth)
        known = found.price if self._price is None else self._price
        self._price = known + (found.price - known) / PRICED
        self._offered = dict(zip(rows, map(len, survivals)))
        return found.counts

    def observe(self, rows: Sequence[int], rounds: Sequence[Round], seconds: float) -> None:
        self._resting = max(0, self._resting - 1) + self._coming
        self._coming = 0
        if len(rows).bit_length() != self._size:
            self._rest, self._resting, self._price = 0, 0, None
        emitted = [len(round_.tokens) for round_ in rounds]
        if self._now is not None:  # a guard plays rounds that nobody decides
            keep = 1.0 - 1.0 / SPAN
            self._tokens = keep * self._tokens + sum(emitted)
            self._seconds = keep * self._seconds + self._expected(self._now, rows, rounds)
        for row, count in zip(rows, emitted):
            self._written[row] += count
        for row, drafter in zip(*self._drafting):
            self._read[row][drafter] = self._written[row]
        self._drafting, self._offered, self._now = ([], []), {}, None

    def _expected(self, here: Here, rows: Sequence[int], rounds: Sequence[Round]) -> float:
        """Seconds of these rounds and of the decision, according to the cost model."""
        if not self._drafting[0]:
            return self._looked + here.plain
        drafted = {row: round_.drafted for row, round_ in zip(rows, rounds)}
        seconds = self._looked + here.verified(sum(drafted.values()))
        offered = self._offered or drafted
        for drafter in set(self._drafting[1]):
            used = [row for row, d in zip(*self._drafting) if d == drafter]
            unread = sum(self._written[row] - self._read[row][drafter] for row in used)
            lengths = [offered.get(row, 0) for row in used]
            seconds += here.drafted(drafter, lengths, unread)
        return seconds

    def _ask(self, rows: int, near: int) -> Here:
        spec, depth = self._outlook.spec, self._outlook.depth
        return Here.of(self._prices, rows, (near + 0.5) * NEAR, spec.drafters, depth)


def planner(outlook: Outlook) -> Planner:
    """A function that finds the best drafts; compiled if models of this process run compiled."""
    compiled = loaded()
    if compiled is None:
        return functools.partial(best_drafts, outlook)
    return CompiledPlanner(compiled, outlook)
