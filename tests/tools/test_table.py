"""Trigram tables built from a target's texts: by hand, by the tool, and as drafters of a pair."""

from pathlib import Path

import numpy as np
import pytest

from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.tables import table_path
from adaspec_rl.tools import table as tool
from adaspec_rl.tools.distillation import teacher_writer
from adaspec_rl.tools.distillation.teacher_texts import TeacherText
from adaspec_rl.tools.table import TableConfig, build, counted, main
from adaspec_rl.tools.table_fitting import LENGTHS, fit_repetition, fit_sharpness
from adaspec_rl.tools.trigram_counts import ENTRY_BYTES, ROW_BYTES, TrigramCounts
from tests.decoding.tables import random_table, table_of

NEVER = np.zeros(0)


def counts_of(positions: list[tuple[tuple[int, int], dict[int, float]]], vocab: int = 4):
    made = TrigramCounts(vocab)
    for before, probs in positions:
        log_probs = np.log(np.array([list(probs.values())], dtype=np.float16))
        made.add(np.array([before]), np.array([list(probs)], dtype=np.int32), log_probs)
    return made


def said(table: TrigramTable, previous: int, last: int) -> dict[int, float]:
    found = table.usual(previous, last)
    return dict(zip(found.tokens.tolist(), np.exp(found.log_probs).tolist()))


def test_probabilities_are_means_interpolated_with_those_of_shorter_contexts():
    positions = [((0, 1), {2: 0.6, 3: 0.4}), ((0, 1), {2: 1.0}), ((3, 1), {0: 1.0})]
    table = counts_of(positions).table("toys", NEVER, 1.0, size=1000)
    # After 1, and after anything: 1.6 of 3 times 2, and so on. That counts half a time after 0, 1.
    usual = {2: 1.6 / 3, 0: 1 / 3, 3: 0.4 / 3}
    assert said(table, 2, 1) == pytest.approx(usual, abs=0.02)
    assert said(table, 2, 0) == pytest.approx(usual, abs=0.02)
    after = {2: (1.6 + 0.8 / 3) / 2.5, 3: (0.4 + 0.2 / 3) / 2.5, 0: (0.5 / 3) / 2.5}
    assert sum(after.values()) == pytest.approx(1)
    assert said(table, 0, 1) == pytest.approx(after, abs=0.02)
    assert list(said(table, 0, 1)) == [2, 3, 0]


def test_rows_that_say_most_for_their_bytes_are_kept():
    usual = {0: 0.5, 1: 0.5}
    positions = [((0, 3), usual)] * 8 + [((1, 3), {2: 1.0})] * 3 + [((2, 3), {0: 1.0})]
    counts = counts_of(positions)
    sizes = {size: counts.table("toys", NEVER, 1.0, size=size) for size in (0, 12, 1000)}
    assert [table.rows for table in sizes.values()] == [0, 1, 3]
    assert said(sizes[12], 1, 3)[2] > 0.85  # seen less often than 0, 3, but unlike the others
    assert said(sizes[12], 0, 3) == said(sizes[12], 2, 3) == said(sizes[0], 1, 3)
    for size, table in sizes.items():
        own = table.arrays["sizes"][1 + table.vocab_size :].astype(int)
        assert ROW_BYTES * len(own) + ENTRY_BYTES * own.sum() <= size


def text_of(tokens: np.ndarray, prompt: int, probs: np.ndarray | None = None) -> TeacherText:
    """At temperature 1; `probs` `[C]` are of tokens 0, 1, ... at each place."""
    probs = np.array([1.0]) if probs is None else probs
    count = len(tokens) - prompt
    choices = np.tile(np.arange(len(probs), dtype=np.int32), (count, 1))
    log_probs = np.tile(np.log(probs).astype(np.float16), (count, 1))
    hidden = np.zeros((len(tokens) - 1, 1), np.uint16)
    return TeacherText(tokens.astype(np.int32), prompt, 1.0, False, choices, log_probs, hidden)


def test_a_text_counts_where_two_tokens_precede():
    tokens = np.array([7, 8, 9, 10, 11])
    before, choices, log_probs = counted(text_of(tokens, 3))
    assert before.tolist() == [[8, 9], [9, 10]] and len(choices) == len(log_probs) == 2
    before, choices, log_probs = counted(text_of(tokens, 1))
    assert before.tolist() == [[7, 8], [8, 9], [9, 10]] and len(choices) == len(log_probs) == 3


def test_repetitions_are_trusted_as_far_as_they_are_right():
    table = table_of({(): {token: 0.1 for token in range(10)}}, 10)
    rng = np.random.default_rng(0)
    copied, fresh = np.tile(rng.permutation(10), 8), rng.integers(10, size=2000)
    always = fit_repetition(table, [text_of(copied, 10)])
    assert always.shape == (LENGTHS,) and always[-1] > 0.98
    assert (fit_repetition(table, [text_of(fresh, 1)])[:2] < 0.1).all()


@pytest.mark.parametrize(("sharpness", "share"), [(1.0, 0.6), (2.0, 0.6**2 / (0.6**2 + 0.4**2))])
def test_tables_are_sharpened_until_they_share_most_with_the_target(sharpness, share):
    table = table_of({(): {0: 0.6, 1: 0.4}}, 4)
    text = text_of(np.zeros(50, dtype=int), 10, np.array([share, 1 - share]))
    assert fit_sharpness(table, [text]) == sharpness


def config_of(folder: Path, **changes) -> TableConfig:
    made = TableConfig(
        texts=12, max_new_tokens=24, cache=str(folder / "texts"), out=str(folder / "table.st")
    )
    made.model.target = "tiny:target"
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small table of the embedded target, and its texts."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        for module in (teacher_writer, tool):
            patch.setattr(module, "SHARD", 6)
        build(config_of(folder))
    return folder


def test_the_tool_builds_what_a_pair_can_load_and_replays_from_stored_texts(built, tmp_path):
    table = TrigramTable.load(built / "table.st")
    assert table.rows > 20 and len(table.arrays["repetition"]) == LENGTHS
    texts = next((built / "texts").iterdir())
    again = build(config_of(tmp_path, stored=str(texts)))
    assert again.fingerprint == table.fingerprint
    assert not (tmp_path / "texts").exists()
    with pytest.raises(ValueError, match="there are no texts in stored="):
        build(config_of(tmp_path, stored=str(tmp_path)))


def test_a_pair_drafts_with_it_and_its_fingerprint_goes_by_what_is_in_it(built, tmp_path):
    file = built / "table.st"
    pair = load_pair("x", "tiny:target", ["ngram", f"table:{file}"])
    session = pair.session(max_new_tokens=40, sampling=Sampling(0.0))
    texts, accepted = [], 0
    for action in (Action(0), Action(3, 1)):
        session.start(pair.encode("def main("))
        while not session.finished:
            accepted += session.step(action).accepted
        texts.append(session.tokens)
    assert texts[0] == texts[1] and accepted > 0
    elsewhere = tmp_path / "moved.st"
    elsewhere.write_bytes(file.read_bytes())
    moved = load_pair("x", "tiny:target", ["ngram", f"table:{elsewhere}"])
    assert moved.fingerprint == pair.fingerprint
    table = TrigramTable.load(file)
    table.arrays["repetition"] = table.arrays["repetition"] / 2
    table.save(elsewhere)
    changed = load_pair("x", "tiny:target", ["ngram", f"table:{elsewhere}"])
    assert changed.fingerprint != pair.fingerprint


def test_a_table_of_another_vocabulary_is_refused(tmp_path):
    random_table(8, 0).save(tmp_path / "other.st")
    with pytest.raises(ValueError, match="other.st was made for another vocabulary than that of t"):
        load_pair("x", "tiny:target", [f"table:{tmp_path / 'other.st'}"])


@pytest.mark.parametrize(
    ("name", "vocab_size", "megabytes"), [("tiny:table", 4096, 2), ("smollm2:table", 49_152, 4)]
)
def test_shipped_tables_are_whole_and_small(name, vocab_size, megabytes):
    path = table_path(name)
    table = TrigramTable.load(path)
    assert table.vocab_size == vocab_size and table.rows > 10_000
    assert path.stat().st_size <= megabytes * 1e6
    assert len(table.arrays["repetition"]) == LENGTHS and table.arrays["sharpness"][0] >= 1


def test_the_embedded_pairs_table_drafts_for_it():
    pair = load_pair("tiny", "tiny:target", ["tiny:table"])
    session = pair.session(max_new_tokens=60, sampling=Sampling(0.0))
    session.start(pair.encode("def main("))
    played = []
    while not session.finished:
        played.append(session.step(Action(2)))
    assert sum(one.accepted for one in played) > 0.2 * sum(one.drafted for one in played)


def test_a_name_without_a_place_is_refused():
    with pytest.raises(ValueError, match="expected table:FILE, tiny:table.*, got 'table'"):
        table_path("table")


def test_the_command_line_says_what_is_missing(capsys):
    with pytest.raises(SystemExit):
        main(["out=x"])
    assert "model.target must be set" in capsys.readouterr().err
    main(["--help"])
    assert "mebibytes=1.5" in capsys.readouterr().out
