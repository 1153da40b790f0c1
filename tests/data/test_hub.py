"""Datasets of the hub, with a stand-in for the `datasets` library (there is no network here)."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from adaspec_rl.data.hub import hub_prompts


class DatasetsError(Exception):
    """The library's own base class."""


class Table:
    """What `load_dataset` returns: named columns."""

    def __init__(self, **columns):
        self.columns = columns
        self.column_names = list(columns)

    def __getitem__(self, name):
        return iter(self.columns[name])  # `datasets` 4 gives an iterable, no list


@pytest.fixture
def hub(monkeypatch):
    """The stand-in: set `table` or `error`, read `calls`."""
    state = SimpleNamespace(table=None, error=None, calls=[])

    def load_dataset(path, name=None, *, split=None):
        state.calls.append((path, name, split))
        if state.error:
            raise state.error
        return state.table

    library, exceptions = ModuleType("datasets"), ModuleType("datasets.exceptions")
    library.load_dataset, exceptions.DatasetsError = load_dataset, DatasetsError
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.setitem(sys.modules, "datasets.exceptions", exceptions)
    return state


def test_a_dataset_is_split_by_its_texts(hub):
    hub.table = Table(prompt=[f"prompt {number}" for number in range(200)])
    train = hub_prompts("owner/set", "train", 0.25)
    test = hub_prompts("owner/set", "test", 0.25, config="main", hub_split="validation[:200]")
    assert len(train) + len(test) == 200 and 30 < len(test) < 70
    assert hub.calls == [
        ("owner/set", None, "train"),
        ("owner/set", "main", "validation[:200]"),
    ]
    assert {prompt.domain for prompt in train} == {"set"}
    assert len({prompt.id for prompt in train + test}) == 200


def test_columns_are_chosen(hub):
    hub.table = Table(
        text=["wrong", "wrong"], turns=[["First.", "Then."], ["Second."]], category=["a", 3]
    )
    found = hub_prompts(
        "owner/set", "test", 1.0, "<{text}>", column="turns", domain_column="category"
    )
    assert [(prompt.domain, prompt.text) for prompt in found] == [
        ("a", "<First.>"), ("3", "<Second.>"),
    ]  # fmt: skip
    hub.table = Table(answer=["no"], turns=[["yes"]])
    assert [prompt.text for prompt in hub_prompts("set", "test", 1.0)] == ["yes"]


def test_columns_of_conversations_are_read_as_such(hub):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    hub.table = Table(text=["wrong"] * 3, messages=[talk, [{"role": "tool"}], ["One", "Two"]])
    found = hub_prompts("owner/set", "test", 1.0)
    assert [(prompt.id, prompt.text, len(prompt.turns)) for prompt in found] == [
        ("0", "Hi", 2), ("2", "One", 2),
    ]  # fmt: skip


def test_rows_without_text_are_left_out_and_counted(hub, caplog):
    hub.table = Table(text=["one", "", None, [], "two"], kind=["a", "b", "c", "d", "e"])
    found = hub_prompts("owner/set", "test", 1.0, domain_column="kind")
    assert [(prompt.domain, prompt.text) for prompt in found] == [("a", "one"), ("e", "two")]
    assert caplog.messages == ["left out 3 of the 5 rows of owner/set: no text in column text"]
    caplog.clear()
    hub.table = Table(text=["one"])
    hub_prompts("owner/set", "test", 1.0)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.column=null names no column of owner/set: expected one of body, kind"),
        ({"column": "text"}, "data.column=text names no column of owner/set"),
        ({"column": "body", "domain_column": "topic"}, "data.domain_column=topic names no column"),
    ],
)
def test_an_absent_column_is_named_beside_those_there_are(hub, options, message):
    hub.table = Table(body=["text"], kind=["a"])
    with pytest.raises(ValueError, match=message):
        hub_prompts("owner/set", "test", 1.0, **options)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("what went\nwrong."),
        ConnectionError("what went wrong"),
        ValueError("what went wrong"),
        DatasetsError("what went wrong"),
    ],
)
def test_a_failure_to_load_is_one_sentence_with_a_way_out(hub, error):
    hub.error = error
    with pytest.raises(ValueError) as raised:
        hub_prompts("owner/set", "test")
    assert str(raised.value) == (
        "cannot load the dataset owner/set (what went wrong): check data.name, data.config and "
        "data.split or, offline, set data.name to a downloaded copy's folder or use data=jsonl"
    )


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if not installed
    with pytest.raises(ValueError, match=r"pip install datasets or, offline, use data=jsonl"):
        hub_prompts("owner/set", "test")
