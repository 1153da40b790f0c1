"""The target's own texts, side by side."""

from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.recording.texts import ALIKE, generate_texts, text_rules
from tests.engine.checkpoints import CONTEXT, new_model

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
}
LONG = 3 * ALIKE  # tokens


def test_prompts_of_like_length_share_a_batch_and_every_text_is_its_own(monkeypatch):
    made_of = new_model("llama", **SHAPE)
    model = LeanModel.from_tensors(made_of.config.to_dict(), made_of.state_dict().items(), "toy")
    lengths = [3, LONG, 1, LONG + 1, 20]
    prompts = [[1 + n % 7 for n in range(length)] for length in lengths]
    seeds, sampling, seen = range(len(prompts)), Sampling(0.8), []
    reset = model.reset
    monkeypatch.setattr(model, "reset", lambda batch=1, *_: seen.append(batch) or reset(batch))

    def made(chosen):
        return generate_texts(
            model,
            [prompts[n] for n in chosen],
            [seeds[n] for n in chosen],
            text_rules(model, [seeds[n] for n in chosen], "coupled", sampling),
            eos_ids=(),
            max_new_tokens=8,
            progress=shares.append,
        )

    shares = []
    together = made(range(len(prompts)))
    assert seen == [3, 2]
    assert shares == sorted(shares) and shares[-1] == 1.0
    for n, text in enumerate(together):
        assert text.prompt.tolist() == prompts[n] and text.seed == seeds[n]
        assert text.tokens.tolist() == made([n])[0].tokens.tolist()
