"""JSON from elsewhere is read as its grammar says, or refused in one sentence."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaspec_rl.strict_json import DEPTH, parse, read, typed

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_was_written_is_read_back(value, ascii_only):
    assert parse(json.dumps(value, ensure_ascii=ascii_only), "the file") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"a": 1,\n', "is not JSON: .* at line "),
        ("\ufeff{}", "is not JSON"),
        ("[NaN]", "has NaN in place of a number"),
        ('{"a": -Infinity}', "has -Infinity in place of a number"),
        ("[1e999]", "has the number 1e999: expected numbers of at most"),
        ("[-1E400]", "has the number -1E400"),
        ("9" * 5000, "has the number 9{30}: expected"),
        ('{"a": 1, "b": {"c": 1, "d": 2, "c": 1}}', "has the key 'c' twice"),
        ("[" * 100_000, "nests lists and objects more than 64 deep"),
        ('{"a":' * 100_000, "nests lists and objects more than 64 deep"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nests lists and objects more than 64 deep"),
        (r'["\ud83d"]', r"has half of a surrogate pair \('\\ud83d'\)"),
        (r'{"\uDE00": 1}', "has half of a surrogate pair"),
    ],
)
def test_what_json_forbids_or_leaves_open_is_refused_in_one_sentence(text, message):
    with pytest.raises(ValueError, match=f"^the file {message}") as caught:
        parse(text, "the file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    str(caught.value).encode()


def test_nesting_up_to_the_limit_and_whole_pairs_are_read():
    parse("[" * DEPTH + "]" * DEPTH, "the file")
    assert parse(r'"\ud83d\ude00"', "the file") == "\U0001f600"


def test_files_are_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "some.json"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text('{"a": "ü"}', encoding=encoding)
        assert read(path, "the file") == {"a": "ü"}
    for encoding in ("utf-16", "latin-1"):
        path.write_text('{"a": "ü"}', encoding=encoding)
        with pytest.raises(ValueError, match=r"^the file is not UTF-8 text \(byte \d+\)"):
            read(path, "the file")


@dataclass(frozen=True)
class Place:
    name: str
    size: int
    height: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@dataclass(frozen=True)
class Trip:
    places: tuple[Place, ...]
    share: float
    notes: dict[str, str]
    rule: None


def test_only_what_has_a_default_may_be_left_out() -> None:
    assert typed(Place, {"name": "a", "size": 2}) == Place("a", 2, 0.5)
    assert typed(Place, {"name": "a", "size": 2, "height": 1}) == Place("a", 2, 1.0)
    with pytest.raises(ValueError, match='height is "high": expected a finite number'):
        typed(Place, {"name": "a", "size": 2, "height": "high"})


TRIP = {"places": [{"name": "ü", "size": 2}], "share": 1, "notes": {"a": "b"}, "rule": None}


def test_objects_become_dataclasses():
    trip = typed(Trip, TRIP)
    assert trip == Trip((Place("ü", 2),), 1.0, {"a": "b"}, None)
    assert isinstance(trip.share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": True}, "^share is true: expected a finite number"),
        ({"share": float("nan")}, "^share is NaN: expected a finite number"),
        ({"share": 10**400}, "^share is 10{39}: expected a finite number"),
        ({"rule": 1}, "^rule is 1: expected null"),
        ({"notes": []}, "^notes is a list of 0: expected an object"),
        ({"notes": {"a": 1}}, "^notes.a is 1: expected a text"),
        ({"notes": {"a b": 1}}, "^notes.'a b' is 1: expected a text"),
        ({"places": {}}, "^places is an object of 0: expected a list"),
        ({"places": [7]}, r"^places\[0\] is 7: expected an object with name, size"),
        ({"places": [{"name": "a"}]}, r"^places\[0\] lacks size"),
        (
            {"places": [{"name": "a", "size": 1.0}]},
            r"^places\[0\].size is 1.0: expected an integer",
        ),
        ({"places": [{"name": "a", "size": 0}]}, r"^places\[0\]: size must be at least 1, got 0"),
        ({"moon": 1}, "^has an unknown 'moon': expected places, share, notes, rule"),
    ],
)
def test_every_part_has_its_type(change, message):
    with pytest.raises(ValueError, match=message):
        typed(Trip, {**TRIP, **change})
