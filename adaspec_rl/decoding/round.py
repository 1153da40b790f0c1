"""What goes into one round of speculation, and what comes out."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from adaspec_rl.decoding.tree_shape import TreeGrowth, TreeShape

if TYPE_CHECKING:  # this needs torch, which may be missing where policies decide for other engines
    from adaspec_rl.decoding.verification.lossy import LossyRule


@dataclass(frozen=True, slots=True)
class DraftedToken:
    """What a `StopRule` is told about the newest token of a draft."""

    depth: int  # tokens in the draft so far, this one included
    probability: float  # of the token, in the distribution that it was chosen from
    entropy: float  # nats, of the drafter's own distribution; 0 where it was not asked for
    survival: float  # estimated chance that all so far survive; 1 where it was not asked for


class StopRule(Protocol):
    """Decides within a round whether to stop; it is asked after each drafted token but the last."""

    needs: frozenset[str]  # which of `entropy` and `survival` it reads; both take time

    def __call__(self, token: DraftedToken) -> bool: ...


@dataclass(frozen=True, slots=True)
class Action:
    """Draft up to `length` tokens with drafter number `drafter`; 0 tokens is the fallback.

    Drafting stops early after a token if the estimated chance that everything drafted so far
    survives is below `threshold` (0 = never), or if `rule` says so.

    With a `tree`, the drafter drafts a token tree of this shape, or one that grows like this, to
    its end; `length` is the tree's depth. Each drafter in `also` drafts a chain of up to `length`
    tokens with the same threshold. All drafts are merged into one tree, where shared prefixes
    appear once, and verified together.

    With a rule in `lossy`, mismatches that the rule accepts are kept in this round. Live decoding
    only.
    """

    length: int
    drafter: int = 0
    threshold: float = 0.0
    rule: StopRule | None = None
    tree: TreeShape | TreeGrowth | None = None  # None: a chain
    also: tuple[int, ...] = ()  # further drafters
    lossy: "LossyRule | None" = None  # None: verified as the session does

    def __str__(self) -> str:
        if self.length == 0:
            return "a plain step"
        if self.lossy is not None:
            return f"{replace(self, lossy=None)}, {self.lossy}"
        by = f" by drafter {self.drafter}" if self.drafter else ""
        if self.also:
            by = f" by drafters {', '.join(map(str, (self.drafter, *self.also)))}"
        if self.tree is not None:
            return f"draft {self.tree}{by}"
        if not self.stops:
            return f"draft {self.length}{by}"
        if self.rule is not None:
            return f"draft up to {self.length}{by}, while the rule says so"
        return f"draft up to {self.length}{by}, stop below {self.threshold:g}"

    @property
    def branches(self) -> bool:
        """Whether the draft may be more than one chain."""
        return self.tree is not None or bool(self.also)

    @property
    def stops(self) -> bool:
        """Whether the draft may stop early."""
        return self.threshold > 0 or self.rule is not None

    def __post_init__(self) -> None:
        if self.rule is not None and self.threshold:
            raise ValueError(
                f"an action stops by its threshold or by its rule, got {self.threshold} and a rule"
            )
        if self.length < 0:
            raise ValueError(f"draft length must be at least 0, got {self.length}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.branches:
            self._check_branches()

    def _check_branches(self) -> None:
        if self.tree is not None and self.length != self.tree.depth:
            raise ValueError(
                f"an action's length is the depth of its tree, {self.tree.depth}, got {self.length}"
            )
        if self.tree is not None and self.stops:
            raise ValueError("a tree is drafted to its end: expected no threshold and no rule")
        if self.lossy is not None:
            raise ValueError(f"token trees are verified exactly: expected no {self.lossy}")
        drafters = (self.drafter, *self.also)
        if self.length == 0 or len(set(drafters)) < len(drafters) or min(drafters) < 0:
            raise ValueError(
                f"drafters that draft together must differ and draft at least 1 token, got "
                f"drafters {', '.join(map(str, drafters))} and length {self.length}"
            )


FALLBACK = Action(length=0)


def check_chain(action: Action, who: str) -> None:
    """Refuse token trees and drafters that draft together.

    Raises:
        ValueError: `action` branches, which `who` does not support.
    """
    if action.branches:
        raise ValueError(f"{who} takes one drafter's chain a round, got '{action}'")


def check_exact(action: Action, who: str) -> None:
    """Refuse lossy verification.

    Raises:
        ValueError: `action` is lossy, which `who` does not support.
    """
    if action.lossy is not None:
        raise ValueError(f"{who} verifies exactly, got '{action}': decode one text at a time, live")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. It emits `accepted + 1` tokens, or fewer where the text ends.

    The `draft_...` and `target_...` fields are signals; they are empty or 0 if the session was
    started without signals. For a token tree they describe the first drafter's chain of first
    choices, as far as it is in the tree.
    """

    drafter: int
    drafted: int  # all nodes of a token tree
    accepted: int  # tokens of the accepted path
    tokens: tuple[int, ...]  # emitted: the accepted draft, then a correction or the bonus token
    seconds: float
    rejected: tuple[int, ...] = ()  # the tokens of a chain that verification did not keep
    draft_log_probs: tuple[float, ...] = ()  # of each drafted token, by the drafter
    draft_entropies: tuple[float, ...] = ()  # nats, of the drafter at each drafted token
    draft_margins: tuple[float, ...] = ()  # log-probability gap between its first and second choice
    draft_choice_margins: tuple[float, ...] = ()  # likewise, tempered and with coupling's noise
    draft_survivals: tuple[float, ...] = ()  # estimated chance that all up to this token survive
    target_entropy: float = 0.0  # nats, at the last verified position
    target_top_probability: float = 0.0  # likewise
    at_leaf: bool = False  # the accepted path of a token tree ends at a leaf
    distance: float = 0.0  # lossy rules: total variation from the target, the sum over `tokens`
    levels: tuple[tuple[int, ...], ...] = ()  # token trees: by drafter, its tokens at each depth

    @property
    def reached(self) -> int:
        """Drafted positions that verification looked at, up to and including the first rejection.

        If the text ends within the accepted draft, nothing was rejected and nothing emitted after
        it.
        """
        return min(self.accepted + (not self.at_leaf), self.drafted, len(self.tokens))
