"""Build a trigram table for a target: `python -m adaspec_rl.tools.table model.target=... out=FILE`.

The target writes texts, and its probabilities at each token are added up by the two tokens before.
A killed run resumes where it was in the texts. The result drafts as `table:FILE`, without a model:
see `decoding.trigrams`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from adaspec_rl.config_limits import COUNT, SEED, TEXT, THREADS
from adaspec_rl.data.encoding import as_asked, encode
from adaspec_rl.decoding.trigrams import TrigramTable
from adaspec_rl.engine.load_options import LoadOptions
from adaspec_rl.from_config import set_threads
from adaspec_rl.limits import Number, OrNull, Whole
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.sources import checkpoint_of
from adaspec_rl.pairs.tables import vocabulary_of
from adaspec_rl.settings import describe, one_line_errors, parse, setting
from adaspec_rl.tools.distillation.config import TargetConfig
from adaspec_rl.tools.distillation.prompts import read_prompts
from adaspec_rl.tools.distillation.teacher_texts import TeacherText, TeacherTexts
from adaspec_rl.tools.distillation.teacher_writer import SHARD, Assignment, write_shards
from adaspec_rl.tools.table_fitting import fit_repetition, fit_sharpness
from adaspec_rl.tools.trigram_counts import TrigramCounts

FOLDS = 8  # of the texts; repetition and sharpness are fitted on one fold


@dataclass
class TableConfig:
    """The target whose table is built, the texts, and the largest size."""

    model: TargetConfig = field(default_factory=TargetConfig)
    data: str = setting(
        "embedded",
        "embedded, or a file of prompts (.jsonl, .txt), held-out ones left out",
        TEXT,
    )
    test_share: float = setting(0.5, "of a file's prompts: held out", Number(0, 1))
    self_written: float = setting(
        0.0, "share of the texts whose prompts the target writes as well", Number(0, 1)
    )
    texts: int = setting(2304, f"that the target writes, {SHARD} in a file", COUNT)
    max_new_tokens: int = setting(128, "of each text", Whole(2, 10**6))
    stored: str | None = setting(
        None, "a folder of such texts that are there already, in place of all this", OrNull(TEXT)
    )
    cache: str = setting("runs/texts", "the folder that the target's texts are kept in", TEXT)
    mebibytes: float = setting(1.5, "that rows after two tokens may take", Number(0, 4096))
    out: str = setting("???", "the file that the table is written to", TEXT)
    seed: int = setting(0, "of the texts", SEED)
    threads: int | None = setting(None, "of CPU kernels; null: one a core", THREADS)


def build(config: TableConfig) -> TrigramTable:
    """Build the table that `config` describes and write it to its file.

    Raises:
        ValueError: a setting, the target or the data is invalid.
    """
    set_threads(config.threads)
    source = checkpoint_of(config.model.target)
    vocabulary = vocabulary_of(source.tokenizer())
    texts = _written(config) if config.stored is None else _stored(Path(config.stored))
    size = round(2**20 * config.mebibytes)
    rest, every = (TrigramCounts(int(source.config()["vocab_size"])) for _ in range(2))
    unseen: list[TeacherText] = []
    for number, text in enumerate(_read(texts)):
        every.add(*counted(text))
        if number % FOLDS:
            rest.add(*counted(text))
        else:
            unseen.append(text)
    repetition = fit_repetition(rest.table(vocabulary, np.zeros(0), 1.0, size=size), unseen)
    sharpness = fit_sharpness(rest.table(vocabulary, repetition, 1.0, size=size), unseen)
    table = every.table(vocabulary, repetition, sharpness, size=size)
    table.save(Path(config.out).expanduser())
    return table


def counted(text: TeacherText) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `TrigramCounts.add` for a text: the target's choices after two tokens.

    Returns:
        `[G, 2]` tokens before, `[G, C]` choices and `[G, C]` their log-probabilities.
    """
    first = max(text.prompt_length, 2)
    before = np.stack([text.tokens[first - 2 : -2], text.tokens[first - 1 : -1]], axis=1)
    lost = first - text.prompt_length
    return before, text.choice_ids[lost:], text.choice_log_probs[lost:]


def _written(config: TableConfig) -> TeacherTexts:
    """The target's texts; missing ones are written now."""
    device, dtype = config.model.placement()
    pair = load_pair("target", config.model.target, [], LoadOptions(dtype=dtype, device=device))
    prompts = as_asked(read_prompts(config.data, config.test_share).train, "auto", pair.tokenizer)
    ids = [encode(pair.tokenizer, prompt).ids for prompt in prompts]
    room = pair.target.context_length - config.max_new_tokens
    assignment = Assignment(
        [some for some in ids if len(some) <= room],
        target=pair.fingerprint,
        self_written=config.self_written,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    return write_shards(pair, assignment, Path(config.cache), -(-config.texts // SHARD))


def _stored(folder: Path) -> TeacherTexts:
    texts = TeacherTexts(folder, folder.resolve().name)
    if not texts.shards:
        raise ValueError(f"there are no texts in stored={folder}: expected {texts.path(0).name}")
    return texts


def _read(texts: TeacherTexts) -> Iterator[TeacherText]:
    for number in range(texts.shards):
        yield from texts.read(number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `key=value` settings, or `--help`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(f"{__doc__}\nSettings:\n{describe(TableConfig)}")
        return
    with one_line_errors():
        config = parse(TableConfig, given)
        table = build(config)
        size = Path(config.out).expanduser().stat().st_size / 2**20
        print(f"{table.rows:,} contexts of two tokens, {size:.2f} MiB, in {config.out}")
        print(f"use it: model.drafters=[ngram,table:{config.out}]")


if __name__ == "__main__":
    main()
