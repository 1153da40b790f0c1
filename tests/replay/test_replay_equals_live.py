"""Whatever is decided, replay does what decoding would have done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaspec_rl.data.prompts import balanced, embedded_prompts
from adaspec_rl.decoding.drafters import DraftModel, NgramLookup, TableDrafter
from adaspec_rl.decoding.forecast import DEPTH, Forecast
from adaspec_rl.decoding.round import Action, DraftedToken, Round
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession, Session
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.decoding.verification import new_verification
from adaspec_rl.engine.lean_model import LeanModel
from adaspec_rl.pairs.pair import Pair, load_pair
from adaspec_rl.recording.drafts import Drafts, draft_everywhere, draft_one_by_one
from adaspec_rl.recording.recorder import Recording, record
from adaspec_rl.recording.texts import Text, generate_texts, text_rules
from adaspec_rl.replay.session import ReplaySession
from tests.decoding.tables import random_table
from tests.engine.checkpoints import CONTEXT, new_model, random_tokens
from tests.recording.recordings import PROMPTS, profile, random_head, toy_recording, toys
from tests.toy import ToyModel

COSTS = profile(max_length=8, drafters=4)
DRAFT_SIGNALS = (
    "draft_log_probs",
    "draft_entropies",
    "draft_margins",
    "draft_choice_margins",
    "draft_survivals",
)
TARGET_SIGNALS = ("target_entropy", "target_top_probability")


def play(session: Session, prompt: Sequence[int], seed: int, actions: Sequence[Action]):
    """A whole text; the actions are taken in turn, over and over."""
    rounds: list[Round] = []
    forecasts: list[Forecast] = []  # before each round
    session.start(prompt, seed)
    while session.finished is None:
        forecasts.append(session.forecast())
        rounds.append(session.step(actions[len(rounds) % len(actions)]))
    return rounds, session.tokens, session.finished, forecasts


def assert_same(
    live: LiveSession, replay: ReplaySession, prompt: Sequence[int], seed: int, actions
) -> None:
    expected, tokens, finished, forecasts = play(live, prompt, seed, actions)
    actual, replayed, ended, recorded = play(replay, prompt, seed, actions)
    if live.max_new_tokens >= DEPTH and replay.trace.max_length >= DEPTH:
        assert np.array(recorded) == pytest.approx(np.array(forecasts), abs=1e-4)
    for a, b in zip(expected, actual):
        done = [(r.drafter, r.drafted, r.accepted, r.tokens, r.rejected) for r in (a, b)]
        assert done[0] == done[1]
        for name in DRAFT_SIGNALS:
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-3, abs=1e-3), name
        # An accepted end of text ends the round before the last position that was verified.
        if not (a is expected[-1] and finished == "eos" and len(a.tokens) == a.accepted):
            for name in TARGET_SIGNALS:
                assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-3), name
    assert (len(actual), replayed, ended) == (len(expected), tokens, finished)


@dataclass(frozen=True)
class Limits:
    """A rule that looks at everything it can be told."""

    entropy: float
    survival: float
    needs = frozenset({"entropy", "survival"})

    def __call__(self, token: DraftedToken) -> bool:
        unlikely = token.probability < 0.2 and token.depth > 1
        return unlikely or token.entropy > self.entropy or token.survival < self.survival


@dataclass(frozen=True)
class Sure:
    """A rule that needs nothing but the token's probability."""

    probability: float
    needs = frozenset[str]()

    def __call__(self, token: DraftedToken) -> bool:
        return token.probability < self.probability


RULES = st.one_of(
    st.builds(Limits, st.floats(0.1, 2.0), st.floats(0.01, 0.9)), st.builds(Sure, st.floats(0, 1))
)
ACTIONS = st.one_of(
    st.builds(
        Action,
        st.integers(0, 4),
        st.integers(0, 3),
        st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
    ),
    st.builds(Action, st.integers(1, 4), st.integers(0, 3), rule=RULES),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    models=st.integers(1, 9),
    contexts=st.tuples(st.integers(3, 20), st.just(64)),
    target_context=st.sampled_from([9, 64]),
    sampling=st.sampled_from(
        [Sampling(), Sampling(0.8), Sampling(0.8, top_k=1), Sampling(1.5, top_p=0.4)]
    ),
    eos_ids=st.sets(st.integers(0, 7), max_size=3),
    max_new_tokens=st.one_of(st.just(1), st.integers(1, 16)),
    max_length=st.sampled_from([1, 4, 8]),  # forecasts are compared where they are recorded whole
    head=st.booleans(),
    actions=st.lists(ACTIONS, min_size=1, max_size=12),
)
def test_toy_models_replay_as_they_decode(
    tmp_path_factory,
    models,
    contexts,
    target_context,
    sampling,
    eos_ids,
    max_new_tokens,
    max_length,
    head,
    actions,
):
    pair = toys(models, contexts=contexts)
    table = random_table(pair.target.vocab_size, models, (0.3, 0.5) if models % 2 else ())
    pair.drafters = [*pair.drafters, NgramLookup(), TableDrafter(table, pair.target.vocab_size)]
    pair.target.context_length = target_context
    recording = toy_recording(
        sampling=sampling,
        eos_ids=tuple(eos_ids),
        max_new_tokens=max_new_tokens,
        max_length=max_length,
    )
    survival = [
        random_head(pair.target.vocab_size, models, models % 2 == 0) if head else ProductSurvival()
        for _ in pair.drafters
    ]
    trace, used = record(
        pair, recording, PROMPTS, ["toy"] * 5, tmp_path_factory.mktemp("traces"), heads=survival
    )
    live, replay = pair.session(recording, used), ReplaySession(trace, COSTS)
    actions = [replace(a, length=min(a.length, max_length)) for a in actions]
    for number, prompt in enumerate(PROMPTS):
        assert_same(live, replay, prompt, number, actions)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_drafter_that_does_not_know_all_tokens_reads_its_last_one_in_their_place(
    tmp_path, temperature
):
    pair = toys()
    small = ToyModel(6, seed=3)  # the target's texts have tokens 6 and 7 as well
    pair.drafters = [DraftModel(small, pair.target.vocab_size), *pair.drafters[1:]]
    recording = toy_recording(temperature)
    trace, used = record(pair, recording, PROMPTS, ["toy"] * 5, tmp_path)
    live, replay = pair.session(recording, used), ReplaySession(trace, COSTS)
    for number, prompt in enumerate(PROMPTS):
        assert_same(live, replay, prompt, number, [Action(3), Action(2, 1), Action(4), Action(0)])
        if temperature == 0:
            whole = torch.tensor([*prompt, *trace.texts[number].tokens.tolist()]).clamp_max(5)
            first = int(trace.starts[number])
            for n in range(len(prompt), len(whole)):
                drafted = trace.drafters[0].tokens[first + n - len(prompt), 0]
                assert drafted == small.logits(whole[:n].tolist()).argmax()
    assert any(max(text.tokens) >= 6 for text in trace.texts)


def test_survival_for_rejection_is_estimated_from_the_margins_that_rejection_serves(tmp_path):
    pair = toys()
    recording = toy_recording(0.8, survival="head", serves="rejection")
    trace, heads = record(pair, recording, PROMPTS, ["toy"] * 5, tmp_path)
    table, drafter = trace.drafters[0], pair.drafters[0].model
    assert table.signals[:, 0, 3].min() < 0  # not every draw is the first choice

    def margin(text: list[int], token: int) -> float:
        q = (drafter.logits(text) / 0.8).log_softmax(-1)
        return float(q[token] - torch.cat([q[:token], q[token + 1 :]]).max())

    for text, start in zip(trace.texts, trace.starts):
        whole = [*text.prompt.tolist(), *text.tokens.tolist()]
        for g in range(len(text.tokens)):
            expected = margin(whole[: len(text.prompt) + g], int(table.tokens[start + g, 0]))
            assert table.signals[start + g, 0, 3] == pytest.approx(expected, abs=1e-4)
    live = LiveSession(
        pair.target,
        pair.drafters,
        sampling=recording.sampling,
        verification="rejection",
        survival=heads,
    )
    for seed in range(20):
        live.start([1, 2], seed)
        played = live.step(Action(1))
        token = (*played.rejected, *played.tokens)[0]
        expected = margin([1, 2], token)
        assert played.draft_choice_margins[0] == pytest.approx(expected, abs=1e-4)


def test_texts_beyond_a_drafters_vocabulary_are_drafted_like_those_within():
    drafter = random_drafter("llama")
    drafter = DraftModel(drafter.model, drafter.vocab_size + 4)
    texts = [random_text(5, 12, seed) for seed in range(3)]
    texts[1].tokens[6] = drafter.vocab_size - 1
    rules = text_rules(ToyModel(drafter.vocab_size), range(3), "coupled", Sampling(0.8))
    for text, rule, found in zip(texts, rules, draft_everywhere(drafter, texts, rules, 4)):
        assert_same_drafts(found, draft_one_by_one(drafter, text, rule, 4))
        assert (found.tokens >= 0).all()


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tiny", "tiny:target", ["tiny:draft", "early_exit:3", "tiny:code", "ngram"])


@pytest.mark.parametrize(("kind", "temperature"), [("product", 0.0), ("head", 0.8)])
def test_the_embedded_pair_replays_as_it_decodes(pair, tmp_path, kind, temperature):
    prompts = [pair.encode(p.text) for p in balanced(embedded_prompts("train"), 2)]
    recording = Recording(
        pair=pair.fingerprint,
        sampling=Sampling(temperature),
        verification="coupled",
        eos_ids=pair.eos_ids,
        max_new_tokens=32,
        max_length=8,
        shard=4,
    )
    survival: list[Survival] = [
        random_head(pair.target.vocab_size, d, temperature > 0)
        if kind == "head"
        else ProductSurvival()
        for d in range(len(pair.drafters))
    ]
    trace, _ = record(pair, recording, prompts, ["any"] * 6, tmp_path, heads=survival)
    live = LiveSession(
        pair.target,
        pair.drafters,
        eos_ids=pair.eos_ids,
        max_new_tokens=32,
        sampling=recording.sampling,
        verification="coupled",
        survival=survival,
    )
    replay = ReplaySession(trace, COSTS)
    rng = np.random.default_rng(7)
    stopped = 0
    for number, prompt in enumerate(prompts):
        for _ in range(2):
            actions = [
                Action(
                    int(rng.integers(9)),
                    int(rng.integers(4)),
                    float(rng.choice([0.0, rng.uniform(0.02, 0.95)])),
                )
                for _ in range(24)
            ]
            rules = [Limits(float(rng.uniform(0.2, 3.0)), float(rng.uniform(0.02, 0.9)))]
            actions += [Action(8, int(rng.integers(4)), rule=rule) for rule in (*rules, Sure(0.5))]
            assert_same(live, replay, prompt, number, actions)
            rounds = play(replay, prompt, number, actions)[0]
            stopped += sum(r.drafted < a.length for r, a in zip(rounds[:-4], actions))
    assert stopped > 10  # thresholds had something to do


MODELS = {
    "mistral, sliding window": ("mistral", {"sliding_window": 5}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama", {}),
}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def random_drafter(kind: str, **options) -> DraftModel:
    family, config = MODELS[kind]
    model = new_model(family, **(SHAPE | config))
    lean = LeanModel.from_tensors(
        model.config.to_dict(), model.state_dict().items(), kind, **options
    )
    return DraftModel(lean, lean.vocab_size)


def random_text(prompt: int, tokens: int, seed: int) -> Text:
    """A text that no model would write, so that drafts leave it."""
    values = random_tokens(1, prompt + tokens, seed)[0].numpy().astype(np.int32)
    unknown = np.zeros(tokens, dtype=np.float32)
    return Text(values[:prompt], seed, values[prompt:], "length", tokens, unknown, unknown)


def assert_same_drafts(found: Drafts, expected: Drafts) -> None:
    assert np.array_equal(found.tokens, expected.tokens)
    known = found.tokens >= 0
    assert np.allclose(found.signals[known], expected.signals[known], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "shapes", [[(9, 30), (1, 22), (20, 30)], [(100, 2), (2, 60)], [(1, 1)], [(119, 1), (1, 40)]]
)
def test_a_tree_of_drafts_equals_drafting_position_by_position(kind, temperature, shapes):
    drafter = random_drafter(kind)
    texts = [random_text(p, g, seed) for seed, (p, g) in enumerate(shapes)]
    rules = text_rules(drafter.model, range(len(texts)), "coupled", Sampling(temperature))
    everywhere = draft_everywhere(drafter, texts, rules, 5)
    for text, rule, found in zip(texts, rules, everywhere):
        assert found.tokens.shape == (len(text.tokens), 5)
        assert_same_drafts(found, draft_one_by_one(drafter, text, rule, 5))


class Counting:
    """A model that counts the tokens it reads."""

    def __init__(self, drafter):
        self.read, self.forward = 0, drafter.model.forward
        drafter.model.forward = self

    def __call__(self, tokens, **options):
        self.read += tokens.numel()
        return self.forward(tokens, **options)


def test_where_the_text_is_its_own_a_drafter_drafts_once():
    """Drafts of a text that the drafter wrote are all the same way: the text."""
    drafter = random_drafter("llama")
    rule = text_rules(drafter.model, [0], "coupled", Sampling(0.0))
    text = generate_texts(drafter.model, [[1, 2, 3]], [0], rule, eos_ids=(), max_new_tokens=60)[0]
    expected = draft_one_by_one(drafter, text, rule[0], 6)
    counting = Counting(drafter)
    assert_same_drafts(draft_everywhere(drafter, [text], rule, 6)[0], expected)
    assert counting.read == 3 + 60 - 1 + 5  # the text, and the way on from its last position


def test_a_full_drafter_drafts_what_still_fits():
    drafter = random_drafter("llama", context_length=24)
    text = random_text(10, 20, 0)
    rule = new_verification("coupled", Sampling(0.0), 0, 61, torch.device("cpu"))
    found = draft_everywhere(drafter, [text], [rule], 4)[0]
    lengths = (found.tokens >= 0).sum(axis=1)
    assert lengths.tolist() == [min(4, max(0, 24 - (10 + g) + 1)) for g in range(20)]
