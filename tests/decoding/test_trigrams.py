"""Trigram tables: what they say, their files, and drafts from them under every rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from adaspec_rl.decoding.compiled_table import CompiledPick
from adaspec_rl.decoding.drafters import TableDrafter
from adaspec_rl.decoding.noise import GumbelNoise
from adaspec_rl.decoding.picks import sharpened, signals_of
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling, warp_logits
from adaspec_rl.decoding.signals import draft_signals
from adaspec_rl.decoding.token_sequence import TokenSequence
from adaspec_rl.decoding.trigrams import NONE, UNIT, Candidates, TrigramTable
from adaspec_rl.decoding.verification import Coupled, Greedy, new_verification
from adaspec_rl.engine.cpu.build import library
from tests.decoding.tables import random_table, small_table, table_of
from tests.toy import ToyModel, exact_distribution, greedy_text, toy_session

CPU = torch.device("cpu")


def written(tokens: list[int]) -> TokenSequence:
    return TokenSequence(tokens, CPU)


def said(found: Candidates) -> dict[int, float]:
    return dict(zip(found.tokens.tolist(), np.exp(found.log_probs).tolist()))


def after(table: TrigramTable, text: list[int]) -> dict[int, float]:
    previous = text[-2] if len(text) > 1 else NONE
    return said(table.after(previous, text[-1], written(text).automaton.suffix()))


def test_the_longest_known_context_counts():
    table = small_table()
    assert after(table, [0, 1]) == pytest.approx({2: 0.75, 3: 0.25}, abs=0.02)
    assert after(table, [3, 1]) == pytest.approx({0: 1.0})  # unknown after 3, known after 1
    assert after(table, [1]) == pytest.approx({0: 1.0})
    assert after(table, [3, 2]) == pytest.approx({1: 0.5, 3: 0.5}, abs=0.02)  # of any text
    assert after(table, [5]) == pytest.approx({1: 0.5, 3: 0.5}, abs=0.02)  # not in its vocabulary


def test_what_followed_the_last_time_takes_its_share():
    table = small_table(repetition=(0.2, 0.6))
    assert after(table, [0, 1]) == pytest.approx({2: 0.75, 3: 0.25}, abs=0.02)
    short = {1: 0.4, 3: 0.4, 0: 0.2}  # 2 was followed by 0; any token may follow otherwise
    assert after(table, [2, 0, 1, 2]) == pytest.approx(short, abs=0.02)
    long = {2: 0.3, 3: 0.7}  # 0, 1 by 3
    assert after(table, [0, 1, 3, 0, 1]) == pytest.approx(long, abs=0.02)
    assert list(after(table, [0, 1, 3, 0, 1])) == [3, 2]  # the most probable first


def test_probabilities_are_used_to_a_power():
    rows = {(): {1: 0.5, 3: 0.3, 2: 0.2}}
    found = table_of(rows, 4, (0.5,), sharpness=2.0).after(NONE, 1, written([1]).automaton.suffix())
    odds = np.exp(found.log_probs - found.log_probs[0])
    assert odds.tolist() == pytest.approx([1, 0.6**2, 0.4**2], abs=0.03)
    probs = odds / odds.sum()
    assert found.entropy == pytest.approx(-(probs * np.log(probs)).sum(), abs=1e-5)


def test_a_table_comes_back_from_its_file(tmp_path):
    table, path = small_table(repetition=(0.25,)), tmp_path / "table.safetensors"
    table.save(path)
    again = TrigramTable.load(path)
    assert again.fingerprint == table.fingerprint and again.vocabulary == "toys"
    for text in ([0, 1], [3, 1], [2], [0, 1, 3, 0, 1]):
        assert after(again, text) == after(table, text)
    other = small_table(repetition=(0.5,))
    assert other.fingerprint != table.fingerprint


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sizes", lambda values: values[:-1]),
        ("tokens", lambda values: values + 4),
        ("before", lambda values: values[::-1] * 0),
        ("surprises", lambda values: values.astype(np.float32)),
        ("repetition", lambda values: values + 1),
        ("sharpness", lambda values: values * 0),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(tmp_path, name, change):
    table = table_of({(0, 1): {2: 1.0}, (1, 1): {2: 1.0}, (): {0: 1.0}}, 4, repetition=(0.5,))
    path = tmp_path / "table.safetensors"
    table.save(path)
    arrays = load_file(path)
    arrays[name] = np.ascontiguousarray(change(arrays[name]))
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"holds no trigram table .*do not fit together"):
        TrigramTable.load(path)


def test_what_is_no_table_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="there is no table"):
        TrigramTable.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="text.safetensors holds no trigram table"):
        TrigramTable.load(tmp_path / "text.safetensors")


@settings(deadline=None, max_examples=40)
@given(
    probs=st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    sampling=st.builds(
        Sampling,
        st.sampled_from([0.5, 1.0, 1.7]),
        st.integers(0, 4),
        st.sampled_from([1.0, 0.9, 0.4]),
    ),
)
def test_short_lists_are_sharpened_like_logits(probs, sampling):
    weights = np.sort(np.log(np.array(probs, dtype=np.float32) / sum(probs)))[::-1]
    found = sharpened(Candidates(np.arange(len(weights)), weights.copy()), sampling)
    logits = torch.from_numpy(weights.copy())
    expected = warp_logits(logits, sampling)
    kept = torch.isfinite(expected).sum()
    assert len(found) == kept
    assert np.allclose(found, expected[:kept].numpy(), atol=1e-6)


def test_noise_of_some_tokens_is_that_of_all_tokens():
    noise = GumbelNoise(3, 50, CPU)
    tokens = np.array([49, 0, 7, 8], dtype=np.uint16)
    elsewhere = GumbelNoise(3, 50, CPU)
    elsewhere.device = torch.device("meta")  # any device but the CPU
    for position in (0, 5, 4000):
        expected = noise.at([position])[0].numpy()[tokens]
        assert np.array_equal(noise.of(tokens, position), expected)
        assert np.array_equal(elsewhere.of(tokens, position), expected)


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("coupled", 0.7)])
def test_signals_are_those_of_logits_with_no_other_token(rule, temperature, noise):
    table = small_table()
    rule = new_verification(rule, Sampling(temperature), 5, 4, CPU)
    draft = TableDrafter(table, 4).propose(written([3, 0, 1]), 3, _InArrays(rule))
    assert len(draft) == 3
    for place, pick in enumerate(draft.picks):
        logits = torch.full((1, 4), -1e4)
        logits[0, pick.candidates.tokens.astype(int)] = torch.from_numpy(pick.candidates.log_probs)
        log_probs, scores = rule.weigh(logits, [3 + place])
        expected = draft_signals(
            logits, draft.tokens[place : place + 1], log_probs, scores if noise else log_probs
        )
        assert signals_of([pick], noise)[0] == pytest.approx(expected[0].numpy(), abs=1e-4)


def test_greedy_drafts_are_the_most_probable_tokens():
    draft = TableDrafter(small_table(), 4).propose(written([3, 0, 1]), 4, Greedy())
    assert draft.tokens.tolist()[:2] == [2, 1] or draft.tokens.tolist()[:2] == [2, 3]
    assert draft.log_probs is None


def test_coupled_drafts_have_the_targets_own_noise():
    """Where the table knows the target's distribution, every draft is accepted."""
    target = ToyModel(8, seed=3)
    rows = {
        (a, b): dict(enumerate(target.logits([a, b]).softmax(-1).tolist()))
        for a in range(8)
        for b in range(8)
    }
    table = table_of(rows | {(): {0: 1.0}}, 8)
    session = toy_session(
        target, [TableDrafter(table, 8)], max_new_tokens=60, temperature=0.8, verification="coupled"
    )
    drafted = accepted = 0
    for seed in range(10):
        session.start([1, 2], seed)
        while not session.finished:
            played = session.step(Action(4))
            drafted, accepted = drafted + played.drafted, accepted + played.accepted
    assert accepted > 0.95 * drafted  # but for how probabilities are rounded: 1/16 of a nat


@pytest.mark.parametrize("repetition", [(), (0.2, 0.5)])
@pytest.mark.parametrize(("rule", "temperature"), [("greedy", 0.0), ("coupled", 0.8)])
def test_the_text_does_not_depend_on_the_table(rule, temperature, repetition):
    target, texts = ToyModel(8, seed=2), []
    table = random_table(8, 1, repetition)
    for action in (Action(0), Action(5), Action(3, threshold=0.4)):
        session = toy_session(
            target,
            [TableDrafter(table, 8)],
            max_new_tokens=40,
            temperature=temperature,
            verification=rule,
        )
        session.start([1, 2, 3], 7)
        drafted = 0
        while not session.finished:
            drafted += session.step(action).drafted
        assert drafted or not action.length
        texts.append(session.tokens)
    assert texts[0] == texts[1] == texts[2]
    if rule == "greedy":
        assert texts[0] == greedy_text(target, [1, 2, 3], 40)


def chi_square(table: TrigramTable, threshold: float = 0.0) -> float:
    """Of 1,500 texts of 3 tokens against their probabilities, 26 degrees of freedom."""
    target = ToyModel(vocab_size=3, seed=5, sharpness=1.0)
    session = toy_session(target, [TableDrafter(table, 3)], max_new_tokens=3, temperature=0.9)
    prompt, count = [0, 1, 2, 0, 1], 1500
    seen, drafted = np.zeros((3, 3, 3)), 0
    for seed in range(count):
        session.start(prompt, seed)
        while not session.finished:
            drafted += session.step(Action(2, threshold=threshold)).drafted
        seen[tuple(session.tokens)] += 1
    assert drafted > count
    expected = count * exact_distribution(target, prompt, 3, 0.9)
    return float(((seen - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_rejection_sampling_keeps_the_targets_distribution(threshold):
    assert chi_square(random_table(3, 0, (0.3, 0.5)), threshold) < 58.0  # once in 4,000 times


def test_wrong_probabilities_would_be_found_out(monkeypatch):
    from adaspec_rl.decoding.drafters import table as drafter

    def even(picks, vocab_size, device):
        """As if the candidates had been equally likely."""
        return torch.full((len(picks), vocab_size), 1 / vocab_size).log()

    monkeypatch.setattr(drafter, "spread", even)
    assert chi_square(random_table(3, 0, (0.3, 0.5))) > 80


def test_probabilities_are_stored_to_a_sixteenth_of_a_nat():
    table = table_of({(): {0: 0.5, 1: 0.3, 2: 0.2}}, 4)
    found = table.usual(NONE, 3)
    assert np.diff(found.log_probs) == pytest.approx(np.diff(np.log([0.5, 0.3, 0.2])), abs=UNIT)


def test_coupling_chooses_by_noise_among_the_candidates_alone():
    rule = Coupled(Sampling(1.0), GumbelNoise(0, 4, CPU))
    few = Candidates(np.array([3, 1], dtype=np.uint16), np.log(np.float32([0.5, 0.5])))
    for position in range(50):
        noise = rule.noise.at([position])[0]
        assert rule.pick(few, position).token == (3 if noise[3] > noise[1] else 1)


@settings(deadline=None, max_examples=80)
@given(
    text=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    seed=st.integers(0, 30),
    repetition=st.sampled_from([(), (0.0,), (0.4,), (0.2, 0.6, 0.9)]),
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
)
def test_compiled_picks_are_those_of_arrays(text, seed, repetition, temperature):
    library()
    table, sequence = random_table(10, seed, repetition), written(text)
    drafter = TableDrafter(table, 10)
    made = []
    for rule in (
        new_verification("coupled", Sampling(temperature), seed, 10, CPU),
        _InArrays(new_verification("coupled", Sampling(temperature), seed, 10, CPU)),
    ):
        draft = drafter.propose(sequence, 5, rule)
        kinds = {isinstance(pick, CompiledPick) for pick in draft.picks}
        assert kinds == {not isinstance(rule, _InArrays)}
        made.append(draft)
    compiled, arrays = made
    assert compiled.tokens.tolist() == arrays.tokens.tolist()
    for noise in (True, False):
        found, wanted = (signals_of(draft.picks, noise) for draft in made)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    for one, other in zip(compiled.picks, arrays.picks):
        assert one.weighed() == pytest.approx(other.weighed(), abs=1e-4)


class _InArrays:
    """A rule whose picks are not compiled."""

    def __init__(self, rule):
        self.needs_log_probs, self.pick = rule.needs_log_probs, rule.pick
