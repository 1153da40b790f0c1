"""The seconds of rounds, learned while decoding."""

from adaspec_rl.control.observation import CostFeatures


class CostLine:
    """Seconds of a round by tokens drafted: averages over about `span` rounds, and a line."""

    def __init__(self, max_length: int, cost: CostFeatures, span: float) -> None:
        """`cost` gives the line's prior, which counts most while few rounds were seen."""
        self.seen = [0] * (max_length + 1)  # rounds, by tokens drafted
        self._seconds = [0.0] * (max_length + 1)  # average, likewise
        self._span = span
        self._slope, self._offset = cost.draft_step + cost.verification_step, 1 + cost.overhead

    @property
    def plain(self) -> float:
        """Seconds of a round without a draft; 0 until there was one."""
        return self._seconds[0]

    def observe(self, drafted: int, seconds: float) -> None:
        self.seen[drafted] += 1
        weight = min(self.seen[drafted], self._span)
        self._seconds[drafted] += (seconds - self._seconds[drafted]) / weight

    def fit(self) -> tuple[float, float]:
        """Offset and slope, by least squares through the averages and both ends of the prior."""
        last, slope, offset = (
            len(self.seen) - 1,
            self.plain * self._slope,
            self.plain * self._offset,
        )
        w, x, y = 2.0, 1.0 + last, 2 * offset + slope * (1 + last)
        xx, xy = 1.0 + last * last, offset * (1 + last) + slope * (1 + last * last)
        for k in range(1, last + 1):
            if seen := min(self.seen[k], self._span):
                seconds = self._seconds[k]
                w, x, y = w + seen, x + seen * k, y + seen * seconds
                xx, xy = xx + seen * k * k, xy + seen * k * seconds
        spread = w * xx - x * x
        slope = max((w * xy - x * y) / spread, 0.0) if spread else 0.0
        return (y - slope * x) / w, slope
