"""Fit a survival head on recorded texts.

Where everything before it was accepted, a drafter reads the target's own text. One pass over each
text therefore shows it in every situation that matters, with the answer: is its choice the text's
next token?
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F

from adaspec_rl.decoding.survival import SurvivalHead, features
from adaspec_rl.replay.drafts import Drafts
from adaspec_rl.replay.texts import Text

UNITS, EPOCHS, BATCH = 32, 8, 512
RATE, DECAY = 3e-3, 0.3
SETTINGS = (UNITS, EPOCHS, BATCH, RATE, DECAY)  # a head fitted with others is another head
SAMPLES = 400_000  # tokens at most, drawn evenly


def examples(made: Iterable[tuple[Text, Drafts]]) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, F]` and answers `[N]` (float32) from drafts of one token with hidden states."""
    inputs, answers = [], []
    for text, drafts in made:
        assert drafts.tokens.shape[1] == 1, "longer drafts leave the text"
        inputs.append(features(drafts.evidence(text)))
        answers.append((drafts.tokens[:, 0] == text.tokens).astype(np.float32))
    return np.concatenate(inputs), np.concatenate(answers)


def fit_head(
    inputs: np.ndarray,
    answers: np.ndarray,
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> SurvivalHead:
    """Logistic regression through one hidden layer; the same inputs give the same head."""
    rng = np.random.default_rng(seed)
    if len(inputs) > SAMPLES:
        chosen = np.sort(rng.choice(len(inputs), SAMPLES, replace=False))
        inputs, answers = inputs[chosen], answers[chosen]
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    x, y = torch.from_numpy((inputs - mean) / scale), torch.from_numpy(answers)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(x.shape[1], UNITS, generator=generator) / x.shape[1] ** 0.5
    second = torch.randn(UNITS, generator=generator) / UNITS**0.5
    parameters = [first, torch.zeros(UNITS), second, torch.zeros(1)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    weight, bias, output, output_bias = parameters
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - epoch / EPOCHS)
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            logits = torch.tanh(x[batch] @ weight + bias) @ output + output_bias
            loss = F.binary_cross_entropy_with_logits(logits, y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        progress((epoch + 1) / EPOCHS)
    w, b, out, out_bias = (parameter.detach().numpy() for parameter in parameters)
    folded = w / scale[:, None]
    return SurvivalHead(
        weight=folded.astype(np.float32),
        bias=(b - mean @ folded).astype(np.float32),
        output=out.astype(np.float32),
        output_bias=float(out_bias[0]),
    )


def log_loss(head: SurvivalHead, inputs: np.ndarray, answers: np.ndarray) -> float:
    """Mean negative log-likelihood of the answers given features, in nats."""
    chances = np.clip(head.chances(inputs), 1e-6, 1 - 1e-6)
    return float(-np.mean(answers * np.log(chances) + (1 - answers) * np.log(1 - chances)))
