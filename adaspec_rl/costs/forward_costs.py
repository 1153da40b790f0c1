"""What one forward pass of a model costs, depending on its input."""

from dataclasses import dataclass

import numpy as np

Places = tuple[float, ...]


@dataclass(frozen=True)
class ForwardCosts:
    """Seconds of one forward pass at some rows, widths and contexts; linear in between.

    Beyond the ends of an axis, the slope between its two outermost places continues. An axis with
    one place has no effect.
    """

    rows: Places
    widths: Places  # average tokens per row
    contexts: Places  # average tokens per row before them
    seconds: tuple[tuple[Places, ...], ...]  # [rows][widths][contexts]

    def __post_init__(self) -> None:
        for name in ("rows", "widths", "contexts"):
            places = getattr(self, name)
            if not places or any(low >= high for low, high in zip(places, places[1:])):
                raise ValueError(f"expected rising {name}, got {list(places)}")
        shape = (len(self.rows), len(self.widths), len(self.contexts))
        found = [len(line) for table in self.seconds for line in table]
        widths = [len(table) for table in self.seconds]
        if len(self.seconds) != shape[0] or set(widths) != {shape[1]} or set(found) != {shape[2]}:
            raise ValueError(f"expected seconds of shape {list(shape)} (rows, widths, contexts)")
        table = np.array(self.seconds)
        if not (np.isfinite(table).all() and (table >= 0).all()):
            raise ValueError("expected finite seconds of at least 0")
        steps = [np.array([0, stride]) for stride in (shape[1] * shape[2], shape[2], 1)]
        steps = [step[: min(2, size)] for step, size in zip(steps, shape)]
        corners = sum(np.ix_(*steps))  # [2, 2, 2], or 1 where an axis has one place
        object.__setattr__(self, "_axes", [_Axis(places) for places in self._places()])
        object.__setattr__(self, "_table", (table.ravel(), corners))

    def _places(self) -> tuple[Places, Places, Places]:
        return self.rows, self.widths, self.contexts

    def __call__(self, rows: np.ndarray, tokens: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Seconds of passes over `tokens` in total in `rows`; 0 if there are no rows.

        Args:
            rows, tokens, context: arrays that broadcast; `context` is the average per row.
        """
        rows = np.asarray(rows, dtype=float)
        at = np.broadcast_arrays(rows, tokens / np.maximum(rows, 1.0), context)
        axes: list[_Axis] = self._axes  # type: ignore[attr-defined]
        table, corners = self._table  # type: ignore[attr-defined]
        (r, rs), (w, ws), (c, cs) = (axis.find(values) for axis, values in zip(axes, at))
        first = (r * len(self.widths) + w) * len(self.contexts) + c
        found = table.take(corners.reshape(corners.shape + (1,) * first.ndim) + first)
        for share in (rs, ws, cs):
            found = found[0] if len(found) == 1 else found[0] + (found[1] - found[0]) * share
        return np.where(rows > 0, np.maximum(found, 0.0), 0.0)


class _Axis:
    """One axis of a table: its places, and the spans between them."""

    def __init__(self, places: Places) -> None:
        self._places = np.array(places, dtype=float)
        self._inner = self._places[1:-1]
        self._per_span = 1.0 / np.diff(self._places)

    def find(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index of the place below, and the share of the way to the next one.

        Outside the axis, the nearest span and a share outside 0 to 1; with a single place, 0 for
        both.
        """
        if len(self._places) == 1:
            nothing = np.zeros(at.shape, dtype=np.int64)
            return nothing, nothing
        index = self._inner.searchsorted(at, side="right")
        return index, (at - self._places.take(index)) * self._per_span.take(index)
