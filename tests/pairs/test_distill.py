"""Distillation: a drafter of the target's own family that drafts better than it began."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from adaspec_rl.control.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs import distill, distillation_texts, pretrain
from adaspec_rl.pairs.distillation_config import DistillConfig, TargetConfig
from adaspec_rl.pairs.distillation_model import initial_draft, plan_draft, spread
from adaspec_rl.pairs.distillation_prompts import passages, read_prompts
from adaspec_rl.pairs.distillation_texts import Continuations, TextWindows
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.pairs.settings import parse as parse_settings
from adaspec_rl.pairs.tokenizer import save_tokenizer, train_tokenizer

VOCAB = 280
parse = partial(parse_settings, DistillConfig)
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.2,
    bos_token_id=0,
    eos_token_id=0,
)
LLAMA = LlamaConfig(**SHAPE, tie_word_embeddings=True)


def random_model(config) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer, in a folder."""
    folder = tmp_path_factory.mktemp("target")
    random_model(LLAMA).save_pretrained(folder)
    save_tokenizer(train_tokenizer(["some words to learn a tokenizer from"], VOCAB), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    rows = [{"text": f"{number} words to go on from, {number**3}"} for number in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def settings(target: Path, data: Path, tmp_path: Path) -> list[str]:
    given = dict(batch_size=4, sequence_length=32, learning_rate=0.01, test_share=0.2)
    given |= dict(steps=6, max_new_tokens=12)
    given |= {"model.target": target, "data": data, "out": tmp_path / "out"}
    return [f"{key}={value}" for key, value in given.items()]


def test_training_raises_acceptance_and_the_result_is_a_drafter(settings, target, tmp_path, capsys):
    distill.main([*settings, "steps=150"])
    printed, out = capsys.readouterr().out, tmp_path / "out"
    use = f"model=pair model.target={target} model.drafter={out} model.dtype=float32"
    assert f"python train_policy.py {use}" in printed
    record = json.loads((out / "training.json").read_text())
    rates = record["acceptance"]
    assert rates["trained"] > rates["untrained"] + 0.1
    assert f"{rates['trained']:.1%}; before training: {rates['untrained']:.1%}" in printed
    assert record["steps"] == record["settings"]["steps"] == 150 and record["seconds"] > 0
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} < names
    assert "checkpoints" not in names

    pair = load_pair("x", str(target), [str(out)])
    session = pair.session(max_new_tokens=20, sampling=Sampling())
    ids, cost = pair.encode("words"), CostFeatures(0.0, 0.0, 0.0)
    plain, drafted = (generate(session, FixedLength(n), ids, cost=cost) for n in (0, 3))
    assert plain.tokens == drafted.tokens
    assert AutoConfig.from_pretrained(out).num_hidden_layers == 1


def test_distillation_lowers_the_objective(target):
    model = AutoModelForCausalLM.from_pretrained(target)
    draft = initial_draft(model, plan_draft(model.config, init="fresh", layers=1, width=0.5))
    tokens = torch.randint(VOCAB, (4, 17), generator=torch.Generator().manual_seed(1))
    steppers, losses = pretrain.optimizers(draft), []
    for _ in range(40):
        objective, _ = pretrain.distillation_loss(draft, model, tokens)
        objective.backward()
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        losses.append(float(objective.detach()))
    assert losses[-1] < losses[0] - 0.2


def test_a_killed_run_ends_with_the_same_weights(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("adaspec_rl.pairs.distillation_texts.SHARD", 16)
    distill.distill(parse([*settings, f"out={tmp_path / 'whole'}"]))
    saved, write = pretrain._save, distillation_texts.write_atomically
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 3)

    def die(function):
        def dying(*arguments):
            function(*arguments)
            if getattr(arguments[0], "suffix", "") != ".json":
                raise KeyboardInterrupt

        return dying

    killed = parse([*settings, f"out={tmp_path / 'killed'}"])
    for module, name, function in (
        (distillation_texts, "write_atomically", write),
        (pretrain, "_save", saved),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, die(function))
            with pytest.raises(KeyboardInterrupt):
                distill.distill(killed)
    step = torch.load(tmp_path / "killed/checkpoints/draft.pt", weights_only=True)["step"]
    assert step == 3
    distill.distill(killed)
    whole, again = (tmp_path / run / "model.safetensors" for run in ("whole", "killed"))
    assert whole.read_bytes() == again.read_bytes()


def test_a_finished_folder_is_reported_and_not_trained_again(settings, tmp_path, monkeypatch):
    config = parse([*settings, "steps=1"])
    record = distill.distill(config)
    monkeypatch.setattr(distill, "train", None)
    assert distill.distill(config) == record
    with pytest.raises(ValueError, match=r"other settings \(steps=1 there, 2 here\): choose"):
        distill.distill(parse([*settings, "steps=2"]))


def test_a_folder_without_a_checkpoint_takes_other_settings(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(distill, "train", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            distill.distill(parse(settings))
    texts = sorted((tmp_path / "out/texts").rglob("*.safetensors"))
    assert texts
    times = [path.stat().st_mtime_ns for path in texts]
    record = distill.distill(parse([*settings, "steps=1"]))
    assert record["settings"]["steps"] == 1
    assert [path.stat().st_mtime_ns for path in texts] == times  # the texts still serve


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
@pytest.mark.parametrize("tied", [True, False])
def test_selected_layers_are_the_targets_own(kind, tied):
    shape = dict(SHAPE, head_dim=12) if kind is Qwen3Config else SHAPE
    model = random_model(kind(**shape, tie_word_embeddings=tied))
    draft = initial_draft(model, plan_draft(model.config, init="layers", layers=2, width=1.0))
    theirs, mine = model.state_dict(), draft.state_dict()
    assert len(mine) < len(theirs)
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name.replace("layers.1.", "layers.3.")]), name
    full = initial_draft(model, plan_draft(model.config, init="layers", layers=4, width=1.0))
    tokens = torch.arange(20)[None]
    with torch.inference_mode():
        torch.testing.assert_close(full(tokens).logits, model(tokens).logits)


def test_layers_are_spread_from_the_first_to_the_last():
    assert spread(12, 1) == [0] and spread(12, 2) == [0, 11] and spread(12, 3) == [0, 5, 11]
    assert spread(5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "changes", "width", "expected"),
    [
        (LlamaConfig, {}, 0.5, (24, 48, 2, 1)),
        (LlamaConfig, {}, 0.75, (36, 72, 3, 1)),
        (LlamaConfig, {}, 0.01, (12, 24, 1, 1)),
        (Qwen2Config, dict(num_attention_heads=6, hidden_size=96), 0.5, (48, 48, 3, 1)),
        (Qwen3Config, dict(head_dim=16), 0.5, (32, 48, 2, 1)),
    ],
)
def test_a_fresh_model_is_narrower_in_whole_heads(kind, changes, width, expected):
    config = kind(**{**SHAPE, **changes})
    plan = plan_draft(config, init="fresh", layers=2, width=width)
    c = plan.config
    found = c.hidden_size, c.intermediate_size, c.num_attention_heads, c.num_key_value_heads
    assert found == expected and c.num_hidden_layers == 2 and c.vocab_size == VOCAB
    draft = initial_draft(random_model(config), plan)
    assert draft(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, VOCAB)


def test_the_target_writes_greedy_and_sampled_texts(target, tmp_path):
    pair = load_pair("x", str(target), [])
    prompts = [pair.encode(f"words {number}") for number in range(8)]
    made = Continuations(prompts, pair.fingerprint, 10, seed=3, root=tmp_path)
    made.write(pair)
    assert made.complete and set(made.temperatures) == {0.0, 1.0}
    model = AutoModelForCausalLM.from_pretrained(target)
    for ids, text, temperature in zip(prompts, made.read(), made.temperatures):
        wanted = model.generate(torch.tensor([ids]), max_new_tokens=10, do_sample=False)[0]
        assert text[: len(ids)].tolist() == ids
        assert (text.tolist() == wanted.tolist()) == (temperature == 0)
    other = Continuations(prompts, pair.fingerprint, 10, seed=4, root=tmp_path)
    assert not other.complete


def test_windows_depend_on_seed_and_step_alone():
    windows = TextWindows([[1, 2, 3], [4, 9], np.array([5, 6])], end=9)
    assert windows.tokens.tolist() == [1, 2, 3, 9, 4, 9, 5, 6, 9]
    batch = windows.batch(0, 5, rows=8, length=3)
    assert batch.shape == (8, 4) and torch.equal(batch, windows.batch(0, 5, rows=8, length=3))
    assert not torch.equal(batch, windows.batch(0, 6, rows=8, length=3))
    with pytest.raises(ValueError, match="hold 9 tokens, fewer than a window of sequence_length=9"):
        windows.batch(0, 0, rows=1, length=9)


def test_plain_text_is_cut_at_the_ends_of_lines(tmp_path):
    text = "".join(f"line {number} of a long text\n" * (1 + number % 3) for number in range(200))
    found = passages(text, "notes")
    assert "".join(prompt.text for prompt in found) == text and len(found) > 5
    assert all(prompt.text.endswith("\n") and len(prompt.text) <= 1000 for prompt in found)
    assert [len(prompt.text) for prompt in passages("x" * 2500, "notes")] == [1000, 1000, 500]
    path = tmp_path / "notes.txt"
    path.write_text(text)
    prompts = read_prompts(str(path), 0.5)
    assert len(prompts.train) + len(prompts.test) == len(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["init=random"], "init must be one of layers, fresh, got 'random'"),
        (["width=0"], "width must be a number above 0 and at most 1, got 0.0"),
        (["learning_rate=nan"], "learning_rate must be a number above 0 and at most 1, got nan"),
        (["steps=0"], "steps must be an integer from 1 to 10,000,000,000, got 0"),
        (["steps=many"], "steps must be an integer from 1 to 10,000,000,000, got many"),
        (["threads=100000"], "threads must be an integer from 1 to 1,024, or null, got 100000"),
        (["model.device=mps"], "model.device must be auto, cpu, cuda, or cuda:N .*, got 'mps'"),
        (["model.device=cuda:99"], "model.device=cuda:99 is not here, torch finds"),
        (["data=/no/such.jsonl"], "there is no data file /no/such.jsonl: expected embedded"),
        (["test_share=1"], r"no prompt in its train split \(test_share=1, .*lower test_share"),
        (["sequence_length=500"], "does not fit into the target's context: expected at most 128"),
        (["layers=5"], "layers=5 is more than the target has: expected at most 4"),
        (["model.dtype=float7"], "model.dtype must be one of auto, float32, .*, got 'float7'"),
        (["model.target=/no/such"], "there is no folder /no/such"),
        (["lr=1"], "unknown key 'lr': expected one of model.target, .*learning_rate, "),
        (["steps"], "expected key=value, got 'steps'"),
        (["out=[x"], "a value is not YAML"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(settings, tmp_path, capsys, given, message):
    with pytest.raises(SystemExit) as exit:
        distill.main([*settings, *given])
    assert exit.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(printed)
    assert not (tmp_path / "out").exists()


def test_what_must_be_set_is_named():
    with pytest.raises(ValueError, match="model.target and out must be set: add model.target="):
        parse(["steps=3"])


def test_a_foreign_folder_is_left_alone(settings, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="out is not empty and holds no distilled drafter"):
        distill.distill(parse(settings))
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_architectures_that_cannot_be_cut_are_refused():
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2)
    with pytest.raises(ValueError, match="layers of a gpt2 cannot be selected, as its weights"):
        plan_draft(config, init="layers", layers=1, width=1.0)
    with pytest.raises(ValueError, match="a gpt2 cannot be made narrower.*lacks intermediate_size"):
        plan_draft(config, init="fresh", layers=1, width=1.0)


def test_help_shows_every_setting(capsys):
    distill.main(["--help"])
    printed = capsys.readouterr().out
    assert "model.target=VALUE" in printed and "layers=1 " in printed and "threads=null" in printed
    for key in (*TargetConfig.__dataclass_fields__, *DistillConfig.__dataclass_fields__):
        assert f"{key}=" in printed or key == "model"


def test_plain_text_serves_as_it_is_and_weights_keep_the_targets_type(settings, target, tmp_path):
    half, notes = tmp_path / "half", tmp_path / "notes.txt"
    AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(target).save_pretrained(half)
    notes.write_text("".join(f"{number} notes, and {number**5} more\n" for number in range(400)))
    given = [f"model.target={half}", f"data={notes}", "init=fresh", "self_generated=false"]
    record = distill.distill(parse([*settings, *given, "steps=1"]))
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert not (tmp_path / "out/texts").exists()
    assert (record["target"], record["data"]) == (str(half), str(notes))
