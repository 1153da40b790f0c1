"""Pretraining: seeded, resumable, and exported so that the pair loads."""

import json

import pytest
import torch

from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.tools import pretrain, training_loop
from adaspec_rl.tools.training_loop import Schedule

SMALL = ["--rows", "2", "--length", "32", "--target-steps", "6"]
SMALL += ["--draft-steps", "4", "--code-steps", "4"]


@pytest.fixture
def short_corpus(monkeypatch):
    """Three documents a domain in place of the whole standard library."""
    text = "def add(a, b):\n    return a + b\n" * 40

    def documents(domain, split):
        return iter([f"{domain} {split} {text}"] * 3)

    monkeypatch.setattr("adaspec_rl.tools.pretrain.documents", documents)
    monkeypatch.setattr("adaspec_rl.tools.packed_corpus.documents", documents)
    monkeypatch.setitem(pretrain.TARGET, "num_hidden_layers", 4)
    # A text this short makes fewer than 4096 tokens; the models keep their vocabulary.


@pytest.mark.slow
def test_a_killed_training_ends_like_an_unbroken_one(short_corpus, tmp_path, monkeypatch):
    pretrain.main(["--out", str(tmp_path / "whole"), *SMALL])
    saved = training_loop._save

    def die_after_saving(model, steppers, path, step, *rest):
        saved(model, steppers, path, step, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(training_loop, "SAVE_EVERY", 3)
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "_save", die_after_saving)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(["--out", str(tmp_path / "killed"), *SMALL])
    pretrain.main(["--out", str(tmp_path / "killed"), *SMALL])
    for name in ("target", "draft", "code"):
        whole, killed = (
            (tmp_path / run / name / "model.safetensors").read_bytes()
            for run in ("whole", "killed")
        )
        assert whole == killed
    figures = json.loads((tmp_path / "whole" / "target" / "training.json").read_text())
    assert figures["steps"] == 6 and figures["tokens"] == 6 * 2 * 32
    pair = load_pair("x", str(tmp_path / "whole/target"), [str(tmp_path / "whole/draft")])
    assert pair.encode("def") and pair.eos_ids == (0,)


@pytest.mark.slow
def test_training_lowers_the_loss(short_corpus):
    torch.manual_seed(0)
    model = pretrain.new_model({**pretrain.DRAFT, "num_hidden_layers": 4})
    tokens = torch.arange(64).repeat(2, 1)
    steppers = pretrain.optimizers(model)
    losses = []
    for _ in range(8):
        objective, loss = pretrain.language_model_loss(model, tokens)
        objective.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1


def test_distillation_measures_what_sampling_would_reject():
    torch.manual_seed(0)
    target, draft = (pretrain.new_model(pretrain.DRAFT) for _ in range(2))
    tokens = torch.randint(4096, (1, 9))
    objective, variation = pretrain.distillation_loss(draft, target, tokens)
    p, q = (model(tokens[:, :-1]).logits.softmax(-1) for model in (target, draft))
    rejected = 1 - torch.minimum(p, q).sum(-1).mean()
    assert float(variation) == pytest.approx(float(rejected.detach()), rel=1e-3)
    same, _ = pretrain.distillation_loss(draft, draft, tokens)
    assert float(same) == pytest.approx(0, abs=1e-5) and float(objective) > 0


def test_the_schedule_warms_up_holds_and_decays():
    schedule = Schedule(100, 1, 1, learning_rate=1.0, warmup=10, decay=0.4)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[30] == 1.0
    assert rates[60] == 1.0 and rates[80] == pytest.approx(0.5) and rates[99] < 0.03
