"""The chance that coupled picks agree, against counting."""

import pytest
import torch

from adaspec_rl.decoding.agreement_chance import agreement_chance


@pytest.mark.parametrize("zeros", [0, 3])
def test_it_is_what_counting_finds(zeros: int) -> None:
    generator = torch.Generator().manual_seed(zeros)
    target, drafter = torch.randn(2, 9, generator=generator).mul(1.5).log_softmax(-1)
    drafter[:zeros] = -torch.inf
    uniform = torch.rand(200_000, 9, generator=generator, dtype=torch.float64)
    noise = -(-uniform.log()).log()
    counted = ((target + noise).argmax(-1) == (drafter + noise).argmax(-1)).double().mean()
    assert agreement_chance(target, drafter) == pytest.approx(float(counted), abs=0.005)


def test_equal_distributions_always_agree_and_disjoint_ones_never() -> None:
    target = torch.tensor([0.5, 0.3, 0.2, 0.0]).log()
    assert agreement_chance(target, target) == pytest.approx(1.0)
    assert agreement_chance(target, torch.tensor([0.0, 0.0, 0.0, 1.0]).log()) == 0.0


def test_a_point_mass_agrees_as_often_as_the_target_picks_it() -> None:
    target = torch.tensor([0.5, 0.3, 0.2]).log()
    assert agreement_chance(target, torch.tensor([0.0, 1.0, 0.0]).log()) == pytest.approx(0.3)
