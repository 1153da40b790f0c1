"""When requests arrive: at constant intervals, Poisson, in bursts, or as in a file."""

from pathlib import Path

import numpy as np

from adaspec_rl.control.checks import check_between

LOADS = ("constant", "poisson", "bursty")
BURSTINESS = 3.0  # standard deviation of gaps over their mean


def arrivals(kind: str, rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds `[count]` at which requests arrive, `rate` per second on average; the first at 0.

    `poisson` has exponential gaps, `bursty` gamma-distributed gaps with three times their spread.

    Raises:
        ValueError: an unknown kind, or an invalid rate or count.
    """
    check_between("rate", rate, 1e-9)
    check_between("count", count, 1)
    if kind == "constant":
        gaps = np.full(count, 1.0)
    elif kind == "poisson":
        gaps = rng.exponential(size=count)
    elif kind == "bursty":
        shape = BURSTINESS**-2
        gaps = rng.gamma(shape, 1.0 / shape, size=count)
    else:
        raise ValueError(f"unknown load {kind!r}: expected one of {', '.join(LOADS)}, or a file")
    return (np.cumsum(gaps) - gaps[0]) / rate


def recorded_arrivals(path: Path) -> np.ndarray:
    """Arrival times in seconds from a text file, one number per line, in order.

    Raises:
        ValueError: there is no such file, or it holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of arrival times {path}: expected one number a line")
    times: list[float] = []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        if not line.strip():
            continue
        try:
            time = float(line)
        except ValueError:
            raise ValueError(f"{path}, line {number} is {line!a:.40}: expected seconds") from None
        if not np.isfinite(time) or time < (times[-1] if times else 0.0):
            raise ValueError(f"{path}, line {number} is {time:g}: expected times that do not fall")
        times.append(time)
    if not times:
        raise ValueError(f"{path} holds no arrival times: expected one number a line")
    return np.array(times)
