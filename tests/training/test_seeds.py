"""Seeds of a run, and the rule of its draws, which a checkpoint keeps."""

import pytest
import torch
from torch import nn

from perforated_monai.training.seeds import own_random_numbers, seed_of_draw


def test_draws_of_a_run_differ_and_repeat() -> None:
    seeds = [seed_of_draw(seed, number) for seed in range(3) for number in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [seed_of_draw(seed, number) for seed in range(3) for number in range(50)]
    assert seed_of_draw(0, 0) == 2968811710  # numpy promises the stream of SeedSequence


@pytest.mark.parametrize("seed, number", [(0, 0), (0, 7), (3, 12)])
def test_a_run_of_the_former_rule_goes_on_under_it(seed: int, number: int) -> None:
    assert seed_of_draw(seed, number, rule=1) == hash((seed, number)) % 2**31
    assert seed_of_draw(seed, number, rule=1) != seed_of_draw(seed, number)


def test_own_random_numbers_leave_the_generator_alone() -> None:
    network = nn.Linear(1, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with own_random_numbers(network, 1):
        one = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with own_random_numbers(network, 1):
        assert torch.equal(torch.rand(3), one)
