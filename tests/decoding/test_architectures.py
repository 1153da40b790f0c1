"""Every architecture under every verification rule, through real engines."""

import pytest
import torch

from adaspec_rl.decoding.drafters import DraftModel
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.engine.language_model import LanguageModel
from adaspec_rl.engine.loading import load_model
from tests.engine.checkpoints import VOCAB, new_model, random_tokens, reference, save

DECODER = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
WINDOWED = {**DECODER, "sliding_window": 6}
CONFIGS = {
    "llama": DECODER,
    "mistral": WINDOWED,
    "qwen2": {**WINDOWED, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {**DECODER, "head_dim": 8},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {k: v for k, v in DECODER.items() if k != "num_key_value_heads"},
    "gemma3_text": {**WINDOWED, "head_dim": 8},
}
NEW_TOKENS = 24
PROMPT = random_tokens(1, 9, seed=5)[0].tolist()


@pytest.fixture(scope="module", params=CONFIGS)
def models(request, tmp_path_factory):
    """`(transformers' model, target, an exact drafter, a bad drafter)` of one architecture."""
    family, loaded = request.param, []
    for seed in (0, 0, 1):
        model = new_model(family, seed, **CONFIGS[family])
        folder = save(model, tmp_path_factory.mktemp(family))
        loaded.append(load_model(folder, name=f"{family}{seed}"))
    return new_model(family, 0, **CONFIGS[family]), *loaded


def decode(
    target: LanguageModel, drafter: LanguageModel, lengths: list[int], rule: str, seed: int = 0
) -> tuple[list[int], LiveSession]:
    sampling = Sampling(0.0 if rule == "greedy" else 0.9, top_k=30, top_p=0.95)
    session = LiveSession(
        target,
        [DraftModel(drafter, VOCAB)],
        max_new_tokens=NEW_TOKENS,
        sampling=sampling,
        verification=rule,
    )
    session.start(PROMPT, seed=seed)
    turn = 0
    while not session.finished:
        length = lengths[turn % len(lengths)]
        played = session.step(Action(length) if length else FALLBACK)
        assert target is not drafter
        if drafter.name == target.name:
            assert played.accepted == played.drafted  # the same weights agree with themselves
        turn += 1
    return session.tokens, session


def test_greedy_text_is_the_models_own(models):
    model, target, exact, bad = models
    text = list(PROMPT)
    for _ in range(NEW_TOKENS):
        text.append(int(reference(model, torch.tensor([text]))[0, -1].argmax()))
    for drafter in (exact, bad):
        for lengths in ([0], [1], [4], [3, 0, 0, 7, 1]):
            assert decode(target, drafter, lengths, "greedy")[0] == text[len(PROMPT) :]


def test_coupled_text_is_a_function_of_prompt_and_seed(models):
    _, target, exact, bad = models
    for seed in range(3):
        plain, _ = decode(target, bad, [0], "coupled", seed)
        for drafter in (exact, bad):
            for lengths in ([2], [7], [3, 0, 0, 5]):
                assert decode(target, drafter, lengths, "coupled", seed)[0] == plain


def test_rejection_accepts_all_of_an_exact_drafter_and_stays_in_the_nucleus(models):
    model, target, exact, bad = models
    decode(target, exact, [4], "rejection")
    tokens, session = decode(target, bad, [5, 0, 2], "rejection")
    logits = reference(model, torch.tensor([[*PROMPT, *tokens]]))[0, len(PROMPT) - 1 : -1]
    kept = logits.topk(session.sampling.top_k, dim=-1).indices
    assert all(token in row for token, row in zip(tokens, kept.tolist()))
