"""What the drafters of one round propose together."""

from collections.abc import Sequence

from adaspec_rl.decoding.drafters.drafter import Drafter
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.survival import Survival
from adaspec_rl.decoding.text import DraftStop, Text
from adaspec_rl.decoding.token_tree import TokenTree, chain_tree
from adaspec_rl.decoding.tree_shape import TreeGrowth
from adaspec_rl.decoding.verification import Traversal


class TreeDrafts:
    """The trees that drafters propose after a text, before they are merged.

    Attributes:
        trees: the tree of each drafter, the action's first drafter first; trees may be empty.
        stop: what may have ended the first drafter's chain.
    """

    def __init__(
        self,
        drafters: Sequence[Drafter],
        survival: Sequence[Survival],
        text: Text,
        action: Action,
        vocab_size: int,
        room: int,
    ) -> None:
        """Draft what `action` says; the target's cache has room for `room` nodes.

        Raises:
            ValueError: several drafters draft under traversal verification, or a tree should grow
                under rejection sampling.
        """
        if action.also and isinstance(text.rule, Traversal):
            raise ValueError(
                f"traversal verifies the draft of one drafter, got '{action}': let one draft, or "
                "use verification=rejection or coupled"
            )
        if isinstance(action.tree, TreeGrowth) and text.rule.needs_log_probs:
            raise ValueError(
                f"{action.tree} leaves out tokens that were drawn, which under rejection sampling "
                "changes what is written: use verification=coupled"
            )
        self._drafters, self._text, self._action = drafters, text, action
        self._vocab_size = vocab_size
        self.trees: dict[int, TokenTree] = {}
        self.stop: DraftStop | None = None
        numbers = (action.drafter, *action.also)
        for number in numbers:
            stop = text.stop(action, survival[number])
            self.trees[number] = self._draft(number, stop, room // len(numbers))
            if number == action.drafter:
                self.stop = stop

    def _draft(self, number: int, stop: DraftStop | None, room: int) -> TokenTree:
        """Draft with one drafter, leaving room in the token budget for verification's own token."""
        drafter, text, rule = self._drafters[number], self._text, self._text.rule
        length = min(text.draft_length(self._action.length, drafter.context_length), room)
        if length < 1:
            return TokenTree((), ())
        if self._branches(number):
            assert self._action.tree is not None
            most = min(room, drafter.context_length - len(text.sequence) + 1)
            shape = self._action.tree.cut(length, most)
            return drafter.branch(text.sequence, shape, rule) if shape else TokenTree((), ())
        draft = drafter.propose(text.sequence, length, rule, stop)
        return chain_tree(draft, self._vocab_size, drawn=rule.needs_log_probs)

    def _branches(self, number: int) -> bool:
        return self._action.tree is not None and number == self._action.drafter

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """By drafter, how many tokens it drafted at each depth."""
        depths = [tree.depths for tree in self.trees.values()]
        return tuple(tuple(map(d.count, range(1, max(d, default=0) + 1))) for d in depths)

    def keep(self, length: int, accepted: Sequence[int]) -> None:
        """Tell all drafters that `accepted` was committed after a text of `length` tokens."""
        for number, drafter in enumerate(self._drafters):
            tree = self.trees.get(number)
            if not tree:
                drafter.rest()
            elif self._branches(number):
                drafter.keep_path(length, tree.path(accepted))
            else:
                drafter.keep(length + len(tree.path(accepted)))
