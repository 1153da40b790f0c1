"""A judge's training set: every swap is labelled by what the target answers after it."""

import pytest
import torch

from adaspec_rl.data.problems import word_problems
from adaspec_rl.decoding.verification import Greedy
from adaspec_rl.decoding.verification.lossy.judge_file import load_judge
from adaspec_rl.pairs.pair import load_pair
from adaspec_rl.recording.texts import generate_texts
from adaspec_rl.tools import judge
from adaspec_rl.tools.judging import Swaps, judged_drafter, seen_in, swaps_of


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny", "tiny:target", ["tiny:draft", "ngram"])


def written(pair, prompt, count):
    (text,) = generate_texts(
        pair.target, [prompt], [0], [Greedy()], eos_ids=pair.eos_ids, max_new_tokens=count
    )
    return text.tokens.tolist()


@pytest.mark.slow
def test_swaps_are_labelled_by_the_answer_that_follows(pair):
    (task,) = word_problems(1, "train")
    drafter, prompt = judged_drafter(pair, 0), pair.encode(task.text)
    text = written(pair, prompt, 96)
    answer = task.answer_in(pair.decode(text))
    assert answer
    found = swaps_of(pair, drafter, task, prompt, text, max_new_tokens=96)
    features, drafted = seen_in(pair, drafter, prompt, text)
    places = [n for n, token in enumerate(text) if token != drafted[n]]
    assert torch.equal(found.features, features[places]) and len(places) > 2
    for number in (0, len(places) // 2):
        begun = [*text[: places[number]], drafted[places[number]]]
        after = [*begun, *written(pair, [*prompt, *begun], 96 - len(begun))]
        other = task.answer_in(pair.decode(after)) != answer
        assert bool(found.important[number]) == other


def test_other_drafters_have_no_judge(pair):
    with pytest.raises(ValueError, match="hidden states, which ngram has none of"):
        judged_drafter(pair, 1)
    with pytest.raises(ValueError, match="no drafter number 2: expected 0 to 1"):
        judged_drafter(pair, 2)


def test_the_threshold_lets_few_important_swaps_pass(pair, tmp_path):
    generator = torch.Generator().manual_seed(0)
    swaps = []
    for _ in range(50):
        features = torch.randn(20, 3, generator=generator)
        noise = torch.randn(20, generator=generator)
        swaps.append(Swaps(features, features[:, 0] + 0.3 * noise > 0))
    made, figures = judge.fitted(swaps, pair, "tiny:draft", missed=0.1, seed=0)
    assert figures["kept_share_of_important"] == pytest.approx(0.1, abs=0.02)
    assert figures["kept_share_of_harmless"] > 0.8 and figures["auc"] > 0.95
    assert made.fingerprint == pair.fingerprint
    judge.save_judge(made, figures, tmp_path / "judge")
    assert load_judge(tmp_path / "judge").threshold == made.threshold


def test_area_under_the_curve():
    chances = torch.tensor([0.9, 0.8, 0.3, 0.1])
    assert judge.area_under_curve(chances, torch.tensor([True, True, False, False])) == 1.0
    assert judge.area_under_curve(chances, torch.tensor([True, False, True, False])) == 0.75
    assert judge.area_under_curve(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5
