"""What decoding costs on one machine: the measured parts of a round."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.session import LiveSession

SCHEMA = 1
REPEATS = 6  # timings of each verification width after one prompt


@dataclass(frozen=True, slots=True)
class CostProfile:
    """Median seconds of each part of a round, at batch size 1."""

    device: str
    autoregressive_step: float  # a whole fallback round
    draft_step: tuple[float, ...]  # one drafted token, by drafter
    verification: tuple[float, ...]  # the target's forward, by width 1, 2, …
    overhead: float  # of a round with a draft, beyond its forwards

    def __post_init__(self) -> None:
        parts = (self.autoregressive_step, *self.draft_step, *self.verification)
        if not self.verification or min(parts) <= 0 or self.overhead < 0:
            raise ValueError("a cost profile needs positive seconds for every part of a round")

    @property
    def max_length(self) -> int:
        """The longest draft whose verification was measured."""
        return len(self.verification) - 1

    def seconds(self, drafter: int, drafted: int) -> float:
        """What a round costs that drafted `drafted` tokens with drafter number `drafter`."""
        if drafted == 0:
            return self.autoregressive_step
        if drafted > self.max_length:
            raise ValueError(
                f"the cost profile covers drafts of up to {self.max_length} tokens, got {drafted}"
            )
        return self.draft_step[drafter] * drafted + self.verification[drafted] + self.overhead

    def features(self, drafter: int = 0) -> CostFeatures:
        """As policies see it: in units of one autoregressive step."""
        unit = self.autoregressive_step
        rise = self.verification[-1] - self.verification[0]
        return CostFeatures(
            draft_step=self.draft_step[drafter] / unit if self.draft_step else 0.0,
            verification_step=rise / max(1, self.max_length) / unit,
            overhead=self.overhead / unit,
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def from_dict(cls, values: dict) -> "CostProfile":
        """Read back what `save` or a policy bundle holds."""
        if values.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(
                f"cost profile schema {values.get('schema')} is not {SCHEMA}: measure it anew"
            )
        names = cls.__dataclass_fields__
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"the cost profile lacks {', '.join(missing)}: measure it anew")
        chosen = {name: values[name] for name in names}
        chosen["draft_step"] = tuple(chosen["draft_step"])
        chosen["verification"] = tuple(chosen["verification"])
        return cls(**chosen)

    @classmethod
    def load(cls, path: Path) -> "CostProfile":
        """Read a JSON file that `save` wrote."""
        return cls.from_dict(json.loads(path.read_text()))


def measure(
    session: LiveSession,
    prompts: Sequence[Sequence[int]],
    *,
    max_length: int = 8,
    samples: int = 24,
    progress: Callable[[float], None] = lambda share: None,
) -> CostProfile:
    """Time `samples` real rounds of every draft length, interleaved, and the target alone.

    With R(k) the median seconds of a round of k drafted tokens and V(w) those of a verification of
    width w, a draft step is what R(k) - V(k + 1) gains a token, and the overhead is the rest.
    """
    drafters = range(max(1, len(session.models)))
    lengths = range(max_length + 1) if session.models else range(1)
    rounds: Samples = {(drafter, length): [] for drafter in drafters for length in lengths}
    widths: Samples = {(0, width): [] for width in range(1, max_length + 2)}
    _time_rounds(session, prompts[0], 0, rounds)  # warms up
    for values in rounds.values():
        values.clear()
    for number in range(100 * len(prompts)):
        prompt = prompts[number % len(prompts)]
        _time_rounds(session, prompt, number % len(drafters), rounds)
        _time_verification(session, prompt, widths)
        fewest = min(len(values) for values in (*rounds.values(), *widths.values()))
        progress(min(1.0, fewest / samples))
        if fewest >= samples:
            return _solve(rounds, widths, len(session.models), session.target.device)
    raise ValueError(
        f"the texts are too short to time drafts of {max_length} tokens: raise max_new_tokens "
        f"(it is {session.max_new_tokens}) or lower max_length"
    )


Samples = dict[tuple[int, int], list[float]]  # seconds by (drafter, length or width)


def _time_rounds(
    session: LiveSession, prompt: Sequence[int], drafter: int, rounds: Samples
) -> None:
    """One generation, always with the draft length that has fewest samples."""
    lengths = [length for number, length in rounds if number == drafter]
    session.start(prompt)
    if session.models:
        session.step(Action(1, drafter))  # the first draft reads the whole prompt
    while session.finished is None:
        length = min(lengths, key=lambda length: len(rounds[drafter, length]))
        played = session.step(Action(length, drafter) if length else FALLBACK)
        if (drafter, played.drafted) in rounds:
            rounds[drafter, played.drafted].append(played.seconds)


def _time_verification(session: LiveSession, prompt: Sequence[int], widths: Samples) -> None:
    """Each width a few times, after the prompt."""
    session.start(prompt)
    target, held = session.target, len(prompt) - 1
    tokens = torch.tensor([list(prompt) * len(widths)], device=target.device)
    for _, width in [*widths] * REPEATS:
        began = time.perf_counter()
        target.extend(tokens[:, :width])[0, -1].argmax().item()  # waits for the device
        widths[0, width].append(time.perf_counter() - began)
        target.rollback(held)


def _solve(rounds: Samples, widths: Samples, drafters: int, device: torch.device) -> CostProfile:
    verification = tuple(statistics.median(values) for values in widths.values())
    median = {key: statistics.median(values) for key, values in rounds.items()}
    longest = len(verification) - 1
    steps, overheads = [], []
    for drafter in range(drafters):
        drafting = [median[drafter, k] - verification[k] for k in range(1, longest + 1)]
        rises = [(later - drafting[0]) / k for k, later in enumerate(drafting[1:], 1)]
        steps.append(max(1e-9, statistics.median(rises) if rises else drafting[0]))
        overheads += [seconds - k * steps[-1] for k, seconds in enumerate(drafting, 1)]
    return CostProfile(
        device=device_name(device),
        autoregressive_step=statistics.median(
            seconds for (_, length), values in rounds.items() if length == 0 for seconds in values
        ),
        draft_step=tuple(steps),
        verification=verification,
        overhead=max(0.0, statistics.median(overheads)) if overheads else 0.0,
    )


def device_name(device: torch.device) -> str:
    """A name for people: the GPU's, or the CPU's with the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads"
