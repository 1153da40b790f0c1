"""How a script ends when a model breaks down or memory runs out."""

import sys

import pytest
import torch

from adaspec_rl import config as schema
from adaspec_rl.command import is_mistake, run
from adaspec_rl.config import CONF
from adaspec_rl.engine.finite_check import FiniteCheck
from adaspec_rl.engine.memory import REMEDY, out_of_memory
from adaspec_rl.explanation import one_line


def end_of(error: Exception, tmp_path, monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and standard error of a training in which `error` is raised."""

    def task(config):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_policy.py"])
    with pytest.raises(SystemExit) as ended:
        run(task, CONF, "train_policy")
    return ended.value.code, capsys.readouterr().err


GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 7.83 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 5.12 GiB is free. Process 1 has 73.98 GiB memory in use."
)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GPU, "what this run needs does not fit in memory (CUDA out of memory): lower"),
        (out_of_memory("big", GPU), "big does not fit in memory (CUDA out of memory): lower"),
        (MemoryError("Unable to allocate 3.00 TiB for an array"), "Unable to allocate 3.00 TiB"),
        (MemoryError(), "a MemoryError without a reason"),
    ],
)
def test_a_full_memory_is_one_sentence_and_exit_code_2(
    error, sentence, tmp_path, monkeypatch, capsys
):
    code, printed = end_of(error, tmp_path, monkeypatch, capsys)
    assert code == 2 and printed.startswith(f"error: {sentence}")
    assert printed.count("\n") == 1


def test_a_host_without_memory_is_one_sentence():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**50)
    assert is_mistake(failed.value)
    assert one_line(failed.value).startswith("what this run needs does not fit in memory (")
    assert not is_mistake(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_logits_that_are_no_numbers_are_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys):
    watch = FiniteCheck("small", torch.device("cpu"))
    with pytest.raises(FloatingPointError) as failed:
        watch.watch(torch.full((1, 1, 4), torch.nan), torch.tensor([[7]]))
    code, printed = end_of(failed.value, tmp_path, monkeypatch, capsys)
    assert code == 2 and printed.count("\n") == 1
    assert printed.startswith("error: small: NaN or infinite logits at position 7: its weights are")


def test_the_remedy_names_settings_that_there_are():
    known = schema.keys(schema.TrainConfig)
    named = [word.strip(",").partition("=")[0] for word in REMEDY.split() if "." in word]
    assert len(named) == 6 and set(named) <= set(known)


def test_a_bug_still_shows_where_it_is(tmp_path, monkeypatch, capsys):
    def task(config):
        raise KeyError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_policy.py"])
    with pytest.raises(KeyError, match="a bug"):
        run(task, CONF, "train_policy")
