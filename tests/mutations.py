"""JSON that is nearly right, for tests of what reads it."""

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.integers(),
    st.sampled_from([10**15, 10**400, -(10**15)]),
    st.floats(),  # NaN and infinity, too
    st.sampled_from([0.0, 1e-300, 1e300]),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.just({}),
    st.recursive(st.just([]), lambda inner: st.lists(inner, min_size=1, max_size=2), max_leaves=5),
)
AGAIN = "\u2020"  # in a name: taken out again, so that an object has the name twice


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> str:
    """The text of `value` after one to three changes anywhere in it."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        if not changed:
            break
        inside, key = _place(draw, changed)
        match draw(st.sampled_from(["replace", "replace", "remove", "repeat", "swap"])):
            case "replace":
                inside[key] = draw(ANYTHING)
            case "remove":
                del inside[key]
            case "repeat" if isinstance(inside, list):
                inside.insert(key, deepcopy(inside[key]))
            case "repeat":
                inside[key + AGAIN] = deepcopy(inside[key])
            case "swap":
                other, second = _place(draw, changed)
                inside[key], other[second] = deepcopy(other[second]), deepcopy(inside[key])
    return json.dumps(changed, ensure_ascii=False).replace(AGAIN, "")


def _place(draw: st.DrawFn, value: Any) -> tuple[Any, Any]:
    """An entry somewhere in a list or object: what holds it, and its key."""
    while True:
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 3)) == 0:
            return value, key
        value = inner
