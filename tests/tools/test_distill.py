"""Distillation: a drafter of the target's own family that drafts better than it began."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from adaspec_rl.control.baselines.fixed import FixedLength
from adaspec_rl.control.generation import generate
from adaspec_rl.control.observation import CostFeatures
from adaspec_rl.data.conversations import Message
from adaspec_rl.data.prompts import Prompt
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.settings import parse as parse_settings
from adaspec_rl.tools import distill, training_loop
from adaspec_rl.tools.distillation import teacher_texts, teacher_writer
from adaspec_rl.tools.distillation.config import DistillConfig, TargetConfig
from adaspec_rl.tools.distillation.model import plan_draft, spread
from adaspec_rl.tools.distillation.prompts import passages, read_prompts
from adaspec_rl.tools.distillation.teacher_texts import TeacherTexts
from adaspec_rl.tools.distillation.texts import divided, encoded
from adaspec_rl.tools.tokenizer import save_tokenizer, train_tokenizer

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
def settings(target: Path, data: Path, tmp_path: Path, monkeypatch) -> list[str]:
    monkeypatch.setattr(teacher_writer, "SHARD", 48)
    monkeypatch.setattr("adaspec_rl.tools.distillation.texts.SHARD", 48)
    given = dict(batch_size=4, sequence_length=32, learning_rate=0.01, test_share=0.2)
    given |= dict(steps=6, max_new_tokens=12, texts=90)
    given |= {"model.target": target, "data": data, "out": tmp_path / "out"}
    return [f"{key}={value}" for key, value in given.items()]


FRESH = ["init=fresh", "learning_rate=0.02"]
TRIMMED = ["vocabulary=200"]
HIDDEN = ["reads_hidden=true", "vocabulary=200", "unroll=3"]


@pytest.mark.parametrize("kind", [FRESH, TRIMMED, HIDDEN])
def test_training_raises_acceptance_and_the_result_is_a_drafter(
    kind, settings, target, tmp_path, capsys
):
    distill.main([*settings, *kind, "steps=100"])
    printed, out = capsys.readouterr().out, tmp_path / "out"
    use = f"model=pair model.target={target} model.drafter={out} model.dtype=float32"
    assert f"python train_policy.py {use}" in printed
    record = json.loads((out / "training.json").read_text())
    before, after = (record["result"]["judged"][place] for place in (0, -1))
    assert (before["step"], after["step"]) == (0, 100)
    assert after["temperature 1"][0] > before["temperature 1"][0] + 0.02
    rates = record["acceptance"]
    assert rates["trained"] > 0
    assert f"{rates['trained']:.1%}; before training: {rates['untrained']:.1%}" in printed
    assert record["texts"]["train"] + record["texts"]["held_out"] == 96
    assert record["result"]["tokens"] == 100 * 4 * 32 and record["result"]["seconds"] > 0
    assert "checkpoints" not in {path.name for path in out.iterdir()}

    pair = load_pair("x", str(target), [str(out)])
    session = pair.session(max_new_tokens=20, sampling=Sampling())
    ids, cost = pair.encode("words"), CostFeatures(0.0, 0.0, 0.0)
    plain, drafted = (generate(session, FixedLength(n), ids, cost=cost) for n in (0, 3))
    assert plain.tokens == drafted.tokens
    assert AutoConfig.from_pretrained(out).num_hidden_layers == 1


def test_a_drafter_that_shares_holds_its_layers_alone(settings, tmp_path):
    distill.distill(parse([*settings, *HIDDEN, "steps=1"]))
    stored = load_file(tmp_path / "out/model.safetensors")
    names = {name for name in stored if not name.startswith("model.layers.0.")}
    assert names == {
        "model.norm.weight",
        "output_tokens",
        "feature.weight",
        "feature_norm.weight",
    }
    rows = stored["output_tokens"]
    assert rows.dtype == torch.int32 and len(rows) == 200 and (rows.diff() > 0).all()
    config = json.loads((tmp_path / "out/config.json").read_text())
    wanted = {"reads_hidden": True, "output_tokens": 200, "shares": True}
    assert config["adaspec_drafter"] == wanted and config["num_hidden_layers"] == 1


def test_training_goes_on_from_a_drafter_that_is_finished(settings, tmp_path):
    first = distill.distill(parse([*settings, *HIDDEN, "steps=40"]))
    more = [*settings, *HIDDEN, f"init={tmp_path / 'out'}", f"out={tmp_path / 'more'}"]
    second = distill.distill(parse([*more, "steps=1"]))
    assert second["before"] == first
    ended, begun = first["result"]["judged"][-1], second["result"]["judged"][0]
    for key in ("temperature 0", "temperature 1"):  # but for the rounding of what is stored
        assert begun[key] == pytest.approx(ended[key], abs=0.01)
    rows = [load_file(tmp_path / run / "model.safetensors") for run in ("out", "more")]
    assert torch.equal(rows[0]["output_tokens"], rows[1]["output_tokens"])
    with pytest.raises(ValueError, match="'output_tokens': 200.* but the settings mean .*: 100"):
        distill.distill(parse([*more, "vocabulary=100"]))
    with pytest.raises(ValueError, match="num_hidden_layers=1, but the settings mean 2"):
        distill.distill(parse([*more, "layers=2"]))


@pytest.mark.parametrize("kind", [FRESH, HIDDEN])
def test_a_killed_run_ends_with_the_same_weights(kind, settings, tmp_path, monkeypatch):
    settings = [*settings, *kind]
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 3)
    distill.distill(parse([*settings, f"out={tmp_path / 'whole'}"]))

    def die(function):
        def dying(*arguments):
            function(*arguments)
            if getattr(arguments[0], "suffix", "") != ".json":
                raise KeyboardInterrupt

        return dying

    killed = parse([*settings, f"out={tmp_path / 'killed'}"])
    for module, name in ((teacher_texts, "write_atomically"), (training_loop, "_save")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, die(getattr(module, name)))
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
    monkeypatch.setattr(distill, "teacher_texts", None)
    assert distill.distill(config) == record
    with pytest.raises(ValueError, match=r"other settings \(steps=1 there, 2 here\): choose"):
        distill.distill(parse([*settings, "steps=2"]))


def test_a_folder_without_a_checkpoint_takes_other_settings(settings, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(distill, "Training", None)
        with pytest.raises(AttributeError):
            distill.distill(parse(settings))
    texts = sorted((tmp_path / "out/texts").rglob("*.safetensors"))
    assert len(texts) == 2
    times = [path.stat().st_mtime_ns for path in texts]
    record = distill.distill(parse([*settings, "steps=1"]))
    assert record["settings"]["steps"] == 1
    assert [path.stat().st_mtime_ns for path in texts] == times  # the texts still serve


def test_stored_texts_serve_several_drafters(settings, tmp_path):
    distill.distill(parse([*settings, "steps=1"]))
    (stored,) = (tmp_path / "out/texts").iterdir()
    again = [*settings, "steps=1", f"stored={stored}", f"out={tmp_path / 'again'}"]
    distill.distill(parse(again))
    assert not (tmp_path / "again/texts").exists()
    with pytest.raises(ValueError, match="texts=100 fill 3 files of 48, but stored=.* holds 2"):
        distill.distill(parse([*again, "texts=100", f"out={tmp_path / 'more'}"]))


def test_no_prompt_is_learned_from_and_judged_by(settings, tmp_path):
    distill.distill(parse([*settings, "steps=1"]))
    (stored,) = (tmp_path / "out/texts").iterdir()
    texts = TeacherTexts(stored, stored.name).read_all()
    known = texts[5].prompt.tolist()
    parts = divided(texts, 0.2, [known])
    train, held_out = (
        {tuple(text.prompt.tolist()) for text in part} for part in (parts.train, parts.held_out)
    )
    assert train and held_out and not train & held_out and tuple(known) in held_out
    with pytest.raises(ValueError, match="test_share=0 of 96 texts leaves 96 to learn from and 0"):
        divided(texts, 0.0, [])


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
    draft = random_model(plan.config)
    assert draft(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, VOCAB)


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
        (["init=/no/such"], "there is no folder /no/such: expected the path of a checkpoint"),
        (["width=0"], "width must be a number above 0 and at most 1, got 0.0"),
        (["learning_rate=nan"], "learning_rate must be a number above 0 and at most 1, got nan"),
        (["steps=0"], "steps must be an integer from 1 to 10,000,000,000, got 0"),
        (["steps=many"], "steps must be an integer from 1 to 10,000,000,000, got many"),
        (["threads=100000"], "threads must be an integer from 1 to 1,024, or null, got 100000"),
        (["model.device=mps"], "model.device must be auto, cpu, cuda, or cuda:N .*, got 'mps'"),
        (["model.device=cuda:99"], "model.device=cuda:99 is not here, torch finds"),
        (["data=/no/such.jsonl"], "there is no data file /no/such.jsonl: expected embedded"),
        (["test_share=0"], r"test_share must be a number above 0 and below 1, got 0"),
        (["init=fresh", "vocabulary=9"], "init=fresh has embeddings of its own: expected"),
        (["init=fresh", "reads_hidden=true"], "init=fresh has embeddings of its own: expected"),
        (["max_new_tokens=500"], "does not fit into the target's context: expected at most 128"),
        (["stored=/no/such"], "fill 2 files of 48, but stored=/no/such holds 0"),
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


def test_plain_text_serves_as_prompts_and_weights_keep_the_targets_type(settings, target, tmp_path):
    half, notes = tmp_path / "half", tmp_path / "notes.txt"
    AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(target).save_pretrained(half)
    notes.write_text("".join(f"{number} notes, and {number**5} more\n" for number in range(900)))
    given = [f"model.target={half}", f"data={notes}", "init=fresh", "steps=1"]
    record = distill.distill(parse([*settings, *given]))
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert (record["target"], record["data"]) == (str(half), str(notes))
    again = [*settings, *given, f"out={tmp_path / 'again'}"]
    with pytest.raises(ValueError, match="there is no data file /no/such.txt"):
        distill.distill(parse([*again, f"data={notes},/no/such.txt"]))


def test_conversations_that_leave_no_room_are_left_out(target):
    tokenizer = AutoTokenizer.from_pretrained(target)
    plain = Prompt("1", "x", "words " * 50)
    config = parse(["model.target=x", "out=y", "max_new_tokens=100"])
    assert len(encoded(tokenizer, [plain], config, context=128)[0]) == 28
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    long, short = (
        Prompt(text, "x", text, (Message("user", text),)) for text in ("words " * 50, "words")
    )
    (ids,) = encoded(tokenizer, [long, short], config, context=128)
    assert ids == tokenizer("words", add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match="no prompt leaves room for max_new_tokens=100"):
        encoded(tokenizer, [long], config, context=128)
