"""A judge tells apart what it was taught, belongs to one pair, and reads live what it learned."""

import json
from dataclasses import replace

import pytest
import torch

from adaspec_rl.data.problems import word_problems
from adaspec_rl.decoding.batch import Batch
from adaspec_rl.decoding.round import Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.text import DecodingRules
from adaspec_rl.decoding.verification.lossy import Judge, Seen, States
from adaspec_rl.decoding.verification.lossy.judge import SCALARS, fit_judge, judge_features
from adaspec_rl.decoding.verification.lossy.judge_file import load_judge, save_judge
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.tools.judging import judged_drafter, seen_in


def toy_set(count=200):
    """Swaps that matter exactly where feature 1 is above feature 3."""
    features = torch.randn(count, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    return features, features[:, 1] > features[:, 3]


def judge_of(features, important, **facts):
    weights, bias, mean, scale = fit_judge(features, important)
    return Judge(weights, bias, mean, scale, "tiny:draft", "abc", "pair", **facts)


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", "tiny:target", ["tiny:draft", "ngram"])


@pytest.fixture(scope="module")
def constant(pair):
    """A judge of the embedded pair that keeps everything but at the strictest threshold."""
    width = pair.target.architecture.hidden_size + pair.drafters[0].model.architecture.hidden_size
    zeros, ones = torch.zeros(width + len(SCALARS)), torch.ones(width + len(SCALARS))
    return Judge(zeros, -2.0, zeros, ones, "tiny:draft", pair.fingerprint, pair.name)


def test_what_is_separable_is_told_apart():
    features, important = toy_set()
    judge = judge_of(features, important)
    assert ((judge.importance(features) > 0.5) == important).float().mean() > 0.97
    assert judge.weights[1] > 0 > judge.weights[3]
    assert judge.weights[[0, 2, 4]].abs().max() < 0.2 * judge.weights[1]


def test_swaps_that_are_all_alike_teach_nothing():
    features, important = toy_set()
    for labels, said in ((important | True, "changed"), (important & False, "kept")):
        with pytest.raises(ValueError, match=f"all 200 swaps {said} the answer: expected some"):
            fit_judge(features, labels)


def test_a_judge_keeps_what_it_expects_no_harm_of():
    log_probs = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]]).log()
    tokens = torch.tensor([1, 1])
    states = States(torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1), log_probs[:2])
    seen = Seen(log_probs, tokens, torch.tensor([0, 0, 0]), states)
    features = judge_features(seen)
    expected = [0.3, 0.7, 0.3, 0.7]
    assert features.shape == (2, 2 + len(SCALARS))
    assert features[0, 2:6].exp().tolist() == pytest.approx(expected)
    assert float(features[0, 6]) == pytest.approx(0.6109, abs=1e-3)
    weights = torch.tensor([1.0, *[0.0] * 6])
    judge = Judge(weights, -1.0, torch.zeros(7), torch.ones(7), "draft", "abc", "pair")
    assert judge.keeps(seen).tolist() == [True, False]  # sigmoid(-1) = 0.27, sigmoid(1) = 0.73
    assert judge.at(0.8).keeps(seen).tolist() == [True, True]
    assert judge.keeps(replace(seen, states=None)).tolist() == [False, False]


def test_a_judge_is_read_as_it_was_written(tmp_path):
    judge = judge_of(*toy_set(), threshold=0.3)
    save_judge(judge, {"swaps": 200}, tmp_path / "judge")
    found = load_judge(tmp_path / "judge")
    features, _ = toy_set()
    assert torch.equal(found.importance(features), judge.importance(features))
    for name in ("threshold", "drafter", "fingerprint", "pair", "bias"):
        assert getattr(found, name) == getattr(judge, name)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda about, f: about.pop("bias"), "lacks bias"),
        (lambda about, f: about.update(schema=2), "it has schema 2 but this version reads 1"),
        (lambda about, f: about.update(threshold=0), "a threshold above 0 and below 1, got 0"),
        (lambda about, f: (f / "judge.safetensors").write_bytes(b"no"), "the judge .* cannot be"),
        (lambda about, f: (f / "judge.safetensors").unlink(), "holds no judge"),
    ],
)
def test_damaged_judges_are_refused_in_one_sentence(tmp_path, spoil, complaint):
    folder = tmp_path / "judge"
    save_judge(judge_of(*toy_set()), {}, folder)
    about = json.loads((folder / "judge.json").read_text())
    spoil(about, folder)
    (folder / "judge.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=complaint) as caught:
        load_judge(folder)
    assert "\n" not in str(caught.value)


def test_a_judge_of_another_pair_or_drafter_is_refused(pair, constant):
    how = {"max_new_tokens": 8, "sampling": Sampling()}
    other = replace(constant, fingerprint="another", pair="theirs")
    with pytest.raises(ValueError, match=r"for the pair theirs \(another\) but this is tiny"):
        pair.session(**how, verification=other)
    with pytest.raises(ValueError, match="the judge knows the draft model ngram, but there are"):
        pair.session(**how, verification=replace(constant, drafter="ngram"))
    with pytest.raises(ValueError, match="lossy.judge verifies one text at a time"):
        Batch(pair.target, pair.drafters, 2, rules=DecodingRules(verification=constant))


@pytest.mark.parametrize("threshold", [0.0, 1e-6], ids=["at once", "token by token"])
def test_a_judge_reads_live_what_it_was_trained_on(pair, constant, threshold, monkeypatch):
    read = {}
    keeps = Judge.keeps

    def watched(judge, seen):
        right = int(seen.agrees.long().cumprod(0).sum())  # tokens that stand
        for number, row in enumerate(judge_features(seen)[: right + 1]):
            read[len(session.sequence) + number] = row
        return keeps(judge, seen)

    monkeypatch.setattr(Judge, "keeps", watched)
    prompt = pair.encode(word_problems(1, "train")[0].text)
    session = pair.session(max_new_tokens=24, sampling=Sampling(), verification=constant.at(1e-3))
    session.start(prompt)
    while session.finished is None:
        assert session.step(Action(3, threshold=threshold)).distance == 0  # nothing is kept
    expected, drafted = seen_in(pair, judged_drafter(pair, 0), prompt, session.tokens)
    places = [position - len(prompt) for position in read]
    assert any(drafted[n] != session.tokens[n] for n in places) and len(places) > 1
    assert torch.allclose(torch.stack(list(read.values())), expected[places], atol=1e-3)


def test_a_judge_that_keeps_everything_leaves_the_text_to_the_drafter(pair, constant):
    session = pair.session(max_new_tokens=16, sampling=Sampling(), verification=constant)
    session.start(pair.encode("Question: what is this?\n"))
    while session.finished is None:
        played = session.step(Action(4))
        assert played.accepted == played.drafted
    session.start(pair.encode("Question: what is this?\n"))
    played = session.step(Action(4, drafter=1))  # by the lookup, which it doesn't know
    assert played.distance == 0
