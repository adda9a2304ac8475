"""Which process this is, and what each takes."""

from collections import Counter

import pytest

from faceexpr.pipeline.pipeline import usable_device
from faceexpr.pipeline.shard import Shard, find_shard
from faceexpr.utils.errors import FaceExprError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        (None, {}, Shard()),
        (None, TORCHRUN, Shard(5, 8, 1)),
        (None, SLURM, Shard(2, 4, 0)),
        (None, SLURM | TORCHRUN, Shard(5, 8, 1)),
        (None, SLURM | {"SLURM_STEP_NUM_TASKS": "3"}, Shard(2, 3, 0)),
        (None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Shard()),
        (None, {"RANK": "3"}, Shard()),
        ("3/16", {}, Shard(3, 16)),
        ("0/1", TORCHRUN, Shard(0, 1, 1)),
    ],
)
def test_the_option_goes_before_torchrun_and_that_before_slurm(option, environment, expected):
    assert find_shard(option, environment) == expected


@pytest.mark.parametrize("option", ["3", "a/b", "16/16", "-1/4", "0/0", "1/", "²/3", "1/2/3"])
def test_a_shard_that_makes_no_sense_is_named(option):
    with pytest.raises(FaceExprError, match=f"^--shard is {option}"):
        find_shard(option, {})


def test_an_environment_that_makes_no_sense_is_named():
    with pytest.raises(FaceExprError, match=r"^RANK is 8 and WORLD_SIZE 8; expected an index from 0"):
        find_shard(None, TORCHRUN | {"RANK": "8"})


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_each_image_is_of_one_process_and_the_shares_are_equal(count):
    taken = [[index for index in range(count) if Shard(index, count).takes(place)] for place in range(16 * count)]
    assert all(len(takers) == 1 for takers in taken)
    assert set(Counter(takers[0] for takers in taken).values()) == {16}


def test_what_one_of_three_has_left_undone_is_spread_over_six():
    left = [place for place in range(1800) if Shard(1, 3).takes(place)]
    shares = Counter(index for place in left for index in range(6) if Shard(index, 6).takes(place))
    assert sorted(shares.values()) == [100] * 6


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    assert usable_device("auto", 3).type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(usable_device("auto", local)) for local in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
