"""The warm-up and step schedule of Detectron2, under one name."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, MultiStepLR

from faceexpr.tasks.schedules import WarmupMultiStepLR
from faceexpr.utils.errors import FaceExprError


def optimizer_of(lr=0.1):
    weight = nn.Parameter(torch.zeros(2))
    return torch.optim.SGD([{"params": [weight]}, {"params": [nn.Parameter(torch.zeros(1))], "lr": lr * 10}], lr=lr)


def rates(scheduler, optimizer, steps):
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(seen, dtype=torch.float64)


def test_it_is_torch_s_warm_up_times_torch_s_steps():
    optimizer = optimizer_of()
    ours = rates(WarmupMultiStepLR(optimizer, 6, [4, 9, 12], 0.5, warmup_factor=0.1), optimizer, 16)
    optimizer = optimizer_of()
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=6)
    steps = MultiStepLR(optimizer, [4, 9, 12], 0.5)
    torch.testing.assert_close(ours, rates(ChainedScheduler([warmup, steps]), optimizer, 16))


def test_table_1_begins_at_a_thousandth_of_its_rate_and_reaches_it_after_1200_steps():
    optimizer = optimizer_of(0.00025)
    seen = rates(WarmupMultiStepLR(optimizer, 1200, [210000, 250000], 0.05), optimizer, 1201)[:, 0]
    assert seen[[0, 600, 1200]].tolist() == pytest.approx([0.00025 / 1000, 0.00025 * 0.5005, 0.00025])


def test_it_starts_at_a_given_step():
    whole = rates(WarmupMultiStepLR(first := optimizer_of(), 5, [8], 0.5), first, 12)
    optimizer = optimizer_of()
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    torch.testing.assert_close(rates(WarmupMultiStepLR(optimizer, 5, [8], 0.5, last_epoch=6), optimizer, 5), whole[7:])


@pytest.mark.parametrize(
    ("option", "value"), [("warmup_steps", -1), ("milestones", [5, 3]), ("gamma", 0.0), ("warmup_factor", 2.0)]
)
def test_bad_options_are_named(option, value):
    with pytest.raises(FaceExprError, match=rf"^{option} is "):
        WarmupMultiStepLR(optimizer_of(), **{"warmup_steps": 3, option: value})
