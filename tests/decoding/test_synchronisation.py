"""How often a round on a GPU makes the host wait, and that it does there what it does here."""

import itertools
from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import PreTrainedModel

from adaspec_rl.control.stopping.confidence import ConfidenceStop
from adaspec_rl.control.stopping.svip import SvipStop
from adaspec_rl.costs.measurement import measure
from adaspec_rl.decoding.drafters import (
    Drafter,
    DraftModel,
    EarlyExit,
    NgramLookup,
    TableDrafter,
)
from adaspec_rl.decoding.round import FALLBACK, Action
from adaspec_rl.decoding.sampling import Sampling
from adaspec_rl.decoding.session import LiveSession
from adaspec_rl.decoding.survival import ProductSurvival, Survival
from adaspec_rl.engine.lean_model import LeanModel
from tests.decoding.tables import random_table
from tests.device import DEVICE, stand_in
from tests.engine.checkpoints import VOCAB, new_model
from tests.recording.recordings import random_head

RULES = {
    "greedy": Sampling(),
    "coupled": Sampling(0.8, top_p=0.95),
    "rejection": Sampling(0.8, top_k=40),
}
STOPS: dict[str, Callable[[int], Action]] = {
    "none": lambda drafter: Action(4, drafter),
    "threshold": lambda drafter: Action(4, drafter, threshold=0.3),
    "confidence": lambda drafter: Action(4, drafter, rule=ConfidenceStop(0.2)),
    "entropy": lambda drafter: Action(4, drafter, rule=SvipStop(1.5)),
}
PROMPT = [5, 1, 2, 3, 4, 9, 1, 2]


@cache
def checkpoint(seed: int, layers: int, vocab: int) -> PreTrainedModel:
    return new_model(
        "llama",
        seed,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        vocab_size=vocab,
    )


def lean(seed: int, device: torch.device, layers: int = 2, vocab: int = VOCAB) -> LeanModel:
    model = checkpoint(seed, layers, vocab)
    return LeanModel.from_tensors(
        model.config.to_dict(), model.state_dict().items(), f"m{seed}", device=device
    )


def session(rule: str, device: torch.device, head: bool = True) -> LiveSession:
    target = lean(0, device)
    drafters: list[Drafter] = [
        DraftModel(lean(1, device, layers=1, vocab=VOCAB - 5), VOCAB),
        EarlyExit(target, 1),
        NgramLookup(),
        TableDrafter(random_table(VOCAB, 1, (0.2, 0.5)), VOCAB),
    ]
    survival: list[Survival] = [
        random_head(VOCAB, number) if head else ProductSurvival() for number in range(4)
    ]
    return LiveSession(
        target,
        drafters,
        max_new_tokens=20,
        sampling=RULES[rule],
        verification=rule,
        survival=survival,
    )


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("rule", RULES)
def test_a_round_waits_once_for_the_device(rule: str, stop: str) -> None:
    with stand_in() as device:
        live = session(rule, DEVICE)
        live.start(PROMPT, seed=3, signals=stop != "none")
        for turn in itertools.count():
            drafter = turn % 5
            device.waits.clear()
            live.step(STOPS[stop](drafter) if drafter < 4 else FALLBACK)
            assert device.waits == ["aten._to_copy.default"]
            if live.finished:
                break
    assert turn > 5


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(("rule", "head"), [("greedy", False), ("coupled", True)])
def test_rounds_there_are_rounds_here(rule: str, stop: str, head: bool) -> None:
    """Tokens, draft lengths and signals; drafts stop early as they do on the CPU."""

    def rounds(device: torch.device) -> list:
        live = session(rule, device, head)
        live.start(PROMPT, seed=3)
        played = []
        while not live.finished:
            played.append(live.step(STOPS[stop](len(played) % 4)))
        return played

    here = rounds(torch.device("cpu"))
    with stand_in():
        there = rounds(DEVICE)
    assert len(here) == len(there)
    for one, other in zip(here, there):
        assert (one.drafted, one.accepted, one.tokens) == (
            other.drafted,
            other.accepted,
            other.tokens,
        )
        for name in ("draft_log_probs", "draft_entropies", "draft_margins", "draft_survivals"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4)
    assert stop == "none" or any(played.drafted < 4 for played in here)


@pytest.mark.parametrize("drafter", [0, 1])
def test_bad_logits_are_told_in_the_report(drafter: int) -> None:
    with stand_in() as device:
        live = session("greedy", DEVICE)
        live.start(PROMPT)
        live.step(Action(3, drafter))
        model = live.models[drafter].model
        assert model is not None
        model.weights.norm.fill_(float("nan"))
        device.waits.clear()
        with pytest.raises(FloatingPointError, match=f"{model.name}: NaN or infinite logits"):
            live.step(Action(3, drafter))
        assert len(device.waits) == 1


def test_costs_there_include_passes_in_vain() -> None:
    with stand_in():
        live = session("greedy", DEVICE)
        settings = {"contexts": (16,), "seconds": None, "samples": 1}
        point = measure(live, [PROMPT], max_length=2, **settings).points[0]
    assert point.in_vain == (*point.draft_step[:2], 0.0, 0.0)  # lookups know tokens at once


def wait_for_a_value(x: torch.Tensor) -> None:
    x[0].item()


def ask_for_truth(x: torch.Tensor) -> None:
    bool((x > 0).all())


def select_by_mask(x: torch.Tensor) -> None:
    x[x > 0]


def write_a_list(x: torch.Tensor) -> None:
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))


def choose_a_number(x: torch.Tensor) -> None:
    torch.where(x > 0, torch.tensor(1.0), x)


def find_places(x: torch.Tensor) -> None:
    x.nonzero()


@pytest.mark.parametrize(
    "operation",
    [wait_for_a_value, ask_for_truth, select_by_mask, write_a_list, choose_a_number, find_places],
)
def test_the_stand_in_counts_what_waits(operation: Callable[[torch.Tensor], None]) -> None:
    with stand_in() as device:
        x = torch.ones(3, device=DEVICE)
        assert device.waits == []
        operation(x)
        assert len(device.waits) == 1


def test_the_stand_in_refuses_tensors_of_the_cpu() -> None:
    with stand_in(), pytest.raises(AssertionError, match="mixes"):
        torch.ones(3, device=DEVICE) + torch.ones(3)
