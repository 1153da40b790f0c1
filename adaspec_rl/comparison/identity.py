"""Which method a figure belongs to: its kind and its names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

AUTOREGRESSIVE, LEARNED, HINDSIGHT = "autoregressive", "learned", "hindsight"
BEST_BY_DOMAIN, FORESEEABLE, ORACLE = "best_by_domain", "foreseeable", "oracle"


# `fixed` keeps one drafter and length, `adaptive` controllers have parameters tuned on other texts,
# `learned` is the policy, and a `bound` knows in advance what no controller can know.
Kind = Literal["plain", "fixed", "adaptive", "learned", "bound"]
BOUNDS = (BEST_BY_DOMAIN, FORESEEABLE, ORACLE)
KINDS: dict[str, Kind] = {LEARNED: "learned", **dict.fromkeys(BOUNDS, "bound")}  # else adaptive


@dataclass(frozen=True, slots=True)
class MethodIdentity:
    """Who a method is; the same in every comparison that it takes part in."""

    kind: Kind
    name: str  # its key in results and journals
    label: str  # its name for people
    source: str = ""
    length: int | None = None  # tokens drafted in every round; None: it varies
    drafter: str | None = None  # for a fixed length, if there are several drafters
    parameters: Mapping[str, float] = field(default_factory=dict)
    guarded: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether it drafts the same length in every round, which may be 0."""
        return self.kind in ("plain", "fixed")


PLAIN = MethodIdentity("plain", AUTOREGRESSIVE, "plain", "plain decoding", length=0)


def fixed_method(length: int, drafter: str | None = None) -> MethodIdentity:
    """One draft length throughout; 0 is plain decoding. A given `drafter` is part of the name."""
    if not length:
        return PLAIN
    by = (drafter,) if drafter else ()
    return MethodIdentity(
        "fixed",
        "_".join(("fixed", str(length), *by)),
        " ".join(("fixed", str(length), *by)),
        "one drafter and length throughout",
        length,
        drafter,
    )


def adaptive_method(
    name: str, source: str, parameters: Mapping[str, float] | None = None, guarded: bool = False
) -> MethodIdentity:
    """A controller, the policy or a bound, by its name in `controllers`."""
    kind = KINDS.get(name, "adaptive")
    label = "fixed, tuned" if name == "fixed" else name.replace("_", " ")
    return MethodIdentity(
        kind, name, label, source, parameters=dict(parameters or {}), guarded=guarded
    )
