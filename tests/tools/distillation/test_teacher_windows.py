"""Packed windows of teacher texts, and the distance from what they teach."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adaspec_rl.tools.distillation.teacher_loss import distance, lesson_loss, objective, survival
from adaspec_rl.tools.distillation.teacher_texts import TeacherText
from adaspec_rl.tools.distillation.teacher_windows import OUTSIDE, TeacherWindows

VOCAB, HIDDEN, CHOICES = 40, 3, 5


def text(number: int, prompt: int, answer: int) -> TeacherText:
    """Tokens and states that say where they come from."""
    size = prompt + answer
    drawn = np.random.default_rng(number)
    states = torch.full((size - 1, HIDDEN), float(number)) + torch.arange(size - 1)[:, None] / 128
    probabilities = np.sort(drawn.dirichlet(np.ones(CHOICES + 1), answer))[:, :0:-1]
    return TeacherText(
        tokens=drawn.integers(VOCAB, size=size).astype(np.int32),
        prompt_length=prompt,
        temperature=1.0,
        self_written=False,
        choice_ids=np.stack([drawn.permutation(VOCAB)[:CHOICES] for _ in range(answer)]).astype(
            "i4"
        ),
        choice_log_probs=np.log(probabilities).astype(np.float16),
        hidden=states.bfloat16().view(torch.int16).numpy().view(np.uint16),
    )


TEXTS = [text(1, 3, 5), text(2, 2, 9), text(3, 4, 1), text(4, 1, 6)]


def test_a_pass_holds_every_text_with_what_was_known_at_each_token():
    windows = TeacherWindows(TEXTS, None, VOCAB, reads_hidden=True)
    assert windows.tokens == 31
    lesson = windows.batch(0, 0, rows=3, length=10)
    batch, taught = lesson.batch, 0
    assert batch.features is not None and batch.tokens.shape == (3, 10)
    for b in range(3):
        for i in range(10):
            place = int(batch.places[b, i])
            feature = batch.features[b, i]
            if place:
                number = int(feature[0])
                found = TEXTS[number - 1]
                assert batch.tokens[b, i] == found.tokens[place]
                torch.testing.assert_close(
                    feature[0], torch.tensor(number + (place - 1) / 128), atol=0.02, rtol=0
                )
                last = len(found.tokens) - 1
                assert lesson.taught[b, i] == (found.prompt_length - 1 <= place < last)
                if i and place:
                    assert batch.places[b, i - 1] == place - 1
                    assert batch.texts[b, i - 1] == batch.texts[b, i]
                if lesson.taught[b, i]:
                    answer = place - found.prompt_length + 1
                    assert lesson.choices[taught].tolist() == found.choice_ids[answer].tolist()
            else:
                assert not feature.any()
                assert not i or batch.texts[b, i - 1] != batch.texts[b, i]
            taught += int(lesson.taught[b, i])
    assert taught == len(lesson.choices) == len(lesson.log_probs)


def test_batches_depend_on_seed_and_step_alone_and_passes_differ():
    windows, again = (TeacherWindows(TEXTS, None, VOCAB, reads_hidden=False) for _ in range(2))
    steps = [windows.batch(7, step, rows=1, length=15).batch.tokens for step in range(4)]
    assert torch.equal(again.batch(7, 3, rows=1, length=15).batch.tokens, steps[3])
    assert not torch.equal(steps[0], steps[2])  # the first windows of two passes
    other = again.batch(8, 0, rows=1, length=15).batch
    assert not torch.equal(other.tokens, steps[0]) and other.features is None
    with pytest.raises(
        ValueError, match="hold 31 tokens, fewer than a window of sequence_length=32"
    ):
        windows.batch(0, 0, rows=1, length=32)


def test_choices_are_output_rows_or_outside():
    rows = np.array([0, 3, 7, 20])
    whole = TeacherWindows(TEXTS, None, VOCAB, reads_hidden=False).batch(0, 0, 3, 10).choices
    cut = TeacherWindows(TEXTS, rows, VOCAB, reads_hidden=False).batch(0, 0, 3, 10).choices
    place = {int(token): row for row, token in enumerate(rows)}
    wanted = [[place.get(token, OUTSIDE) for token in line] for line in whole.tolist()]
    assert cut.tolist() == wanted


def test_the_distance_is_that_of_whole_distributions():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 5, generator=generator).log_softmax(-1)
    logits = torch.randn(6, 5, generator=generator)
    order = target.argsort(descending=True)
    found = distance(logits, order, target.gather(1, order))
    p, q = target.exp(), logits.softmax(-1)
    torch.testing.assert_close(found.overlap, torch.minimum(p, q).sum(-1))
    torch.testing.assert_close(found.divergence, -(p * q.log()).sum(-1), atol=1e-4, rtol=1e-4)
    assert torch.equal(found.agrees, logits.argmax(-1) == target.argmax(-1))
    torch.testing.assert_close(objective(found, "tv"), 0.5 * (p - q).abs().sum(-1))


def test_what_cannot_be_output_is_lost_and_what_is_not_listed_is_one_outcome():
    log_probs = torch.tensor([[0.5, 0.3]]).log()  # 0.2 are not listed
    logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
    listed = distance(logits, torch.tensor([[0, 2]]), log_probs)
    torch.testing.assert_close(listed.overlap, torch.tensor([0.5 + 0.1]))
    wanted = -(0.5 * np.log(0.6) + 0.3 * np.log(0.1) + 0.2 * np.log(0.3))
    torch.testing.assert_close(listed.divergence, torch.tensor([wanted], dtype=torch.float32))
    lost = distance(logits, torch.tensor([[OUTSIDE, 2]]), log_probs)
    torch.testing.assert_close(lost.overlap, torch.tensor([0.1]))
    assert listed.agrees.tolist() == [True] and lost.agrees.tolist() == [False]


def test_a_draft_survives_where_each_of_its_tokens_is_accepted():
    judged = [torch.tensor([[True, True, True]]), torch.tensor([[False, True, True]])]
    accepted = [torch.tensor([0.5, 0.2, 1.0]), torch.tensor([0.4, 0.5])]
    chances = survival(list(zip(judged, accepted)))
    torch.testing.assert_close(chances[0], torch.tensor([[0.5, 0.2, 1.0]]))
    torch.testing.assert_close(chances[1], torch.tensor([[0.0, 0.2, 0.1]]))


@pytest.mark.parametrize("taught", [False, True])
def test_a_window_that_lies_within_a_prompt_teaches_nothing(taught):
    windows = TeacherWindows(TEXTS, None, VOCAB, reads_hidden=False)
    lesson = windows.batch(0, 0, 1, 8)
    if not taught:
        lesson = replace(lesson, taught=torch.zeros_like(lesson.taught))
    head = torch.ones(VOCAB, HIDDEN, requires_grad=True)
    states = torch.ones(1, 8, HIDDEN)

    class Drafter:
        reads_hidden = True

        def __call__(self, batch, steps):
            return [states] * steps

    Drafter.head = head
    loss, rejected = lesson_loss(Drafter(), lesson, 2, "both")
    loss.backward()
    assert head.grad.isfinite().all()
    assert (loss.item() > 0) == (rejected.item() > 0) == taught
