"""A draft length that climbs and falls with recent acceptance."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from adaspec_rl.control.baselines.fixed import fixed_lengths
from adaspec_rl.control.checks import check_between
from adaspec_rl.decoding.round import Action, Round


class Hysteresis:
    """One token more while the acceptance rate is above `up`, one less while it is under `down`.

    The rate is that of the last `window` drafts. If it is under `off` once the window is full,
    `pause` rounds of plain decoding follow, and then a draft of one token alone decides whether
    drafting resumes. This is a common recipe of serving engines rather than of one paper;
    llama.cpp's adaptive n-gram drafts (ggml-org/llama.cpp pull request 19744) use 0.7 and 0.4. The
    state persists from text to text.
    """

    name = "hysteresis"
    observes = None

    def __init__(
        self,
        max_length: int,
        drafter: int = 0,
        start: int = 4,
        up: float = 0.7,
        down: float = 0.4,
        off: float = 0.15,
        window: int = 8,
        pause: int = 16,
    ) -> None:
        if not 0 <= off <= down < up <= 1:
            raise ValueError(
                f"expected 0 <= off <= down < up <= 1, got off {off}, down {down} and up {up}"
            )
        check_between("start", start, 1)
        check_between("window", window, 1)
        check_between("pause", pause, 1)
        self._actions = fixed_lengths(max_length, drafter)
        self._length = min(start, max_length)
        self._up, self._down, self._off, self._pause = up, down, off, pause
        self._recent: deque[tuple[int, int]] = deque(maxlen=window)  # accepted, reached
        self._waits = 0  # rounds of plain decoding that are left
        self._probing = False

    def reset(self, prompt: Sequence[int] = (), seed: int = 0) -> None:
        pass

    def decide(self, observation: np.ndarray | None) -> Action:
        return self._actions[0 if self._waits else self._length]

    def observe(self, round_: Round) -> None:
        if self._waits:
            self._waits -= 1
            return
        if not round_.drafted:
            return
        self._recent.append((round_.accepted, round_.reached))
        rate = sum(a for a, _ in self._recent) / sum(r for _, r in self._recent)
        sure = self._probing or len(self._recent) == self._recent.maxlen
        self._probing = sure and rate < self._off
        if self._probing:
            self._waits, self._length = self._pause, 1
            self._recent.clear()
        elif rate > self._up:
            self._length = min(self._length + 1, len(self._actions) - 1)
        elif rate < self._down:
            self._length = max(self._length - 1, 1)
