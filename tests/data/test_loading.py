"""Which samples each process sees, in which batches."""

import itertools
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from faceexpr.data.loading import PADDING, BatchLoader, BatchSampler, FaceSplit
from faceexpr.utils.errors import FaceExprError

SIZES = (1, 2, 3, 5, 8, 13, 31)
BATCHES = (1, 2, 5, 64)
WORLDS = (1, 2, 3, 8)
COMBINATIONS = list(itertools.product(SIZES, BATCHES, WORLDS))


def batches(size, batch_size, world=1, epoch=0, **options):
    """The batches of every process: a list of batches for each rank."""
    ranks = []
    for rank in range(world):
        sampler = BatchSampler(size, batch_size, world_size=world, rank=rank, **options)
        sampler.set_epoch(epoch)
        ranks.append([request.indices for request in sampler])
        assert len(sampler) == len(ranks[-1])
    return ranks


def flat(ranks):
    return [index for rank in ranks for batch in rank for index in batch]


def lengths(rank):
    return [len(batch) for batch in rank]


def test_evaluation_sees_each_sample_once_and_fills_up_with_padding_at_the_end():
    for size, batch_size, world in COMBINATIONS:
        ranks = batches(size, batch_size, world, training=False)
        seen = flat(ranks)
        assert sorted(index for index in seen if index != PADDING) == list(range(size))
        assert len(seen) - size == -size % world  # never more padding than needed
        assert all(lengths(rank) == lengths(ranks[0]) for rank in ranks)
        assert max(lengths(ranks[0])) <= batch_size
        assert all(PADDING not in flat([rank])[:-1] for rank in ranks)


@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_train_on_equally_many_different_samples(drop_last):
    for size, batch_size, world in COMBINATIONS:
        ranks = batches(size, batch_size, world, training=True, drop_last=drop_last)
        assert all(lengths(rank) == lengths(ranks[0]) for rank in ranks)
        seen = [index for index in flat(ranks) if index != PADDING]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(size))
        assert size - len(seen) < (world * batch_size if drop_last else 1)
        assert len(ranks[0]) >= 1  # never an epoch without a step


def test_the_same_samples_meet_in_a_step_whatever_the_number_of_processes():
    def steps(ranks):
        meeting = (itertools.chain(*step) for step in zip(*ranks, strict=True))
        return [sorted({*step} - {PADDING}) for step in meeting]

    for size, together in itertools.product(SIZES, (2, 3, 8, 12)):
        options = {"epoch": 3, "training": True, "global_batch_size": together}
        one, *others = (steps(batches(size, 1, world, **options)) for world in (1, 2, 3, 4))
        assert others == [one] * 3
        assert lengths(one) == [min(together, size - start) for start in range(0, size, together)]


def test_the_shares_make_a_mean_over_processes_the_mean_over_the_step():
    values = torch.rand(64, dtype=torch.float64).tolist()
    for size, batch_size, world in COMBINATIONS:
        ranks = [
            list(BatchSampler(size, batch_size, training=True, world_size=world, rank=rank)) for rank in range(world)
        ]
        for step in zip(*ranks, strict=True):
            real = [[values[index] for index in request.indices if index != PADDING] for request in step]
            parts = [one.share * sum(own) / max(len(own), 1) for own, one in zip(real, step, strict=True)]
            everybody = [value for own in real for value in own]
            assert sum(parts) / world == pytest.approx(sum(everybody) / len(everybody), rel=1e-12)
            if len(everybody) == batch_size * world:
                assert [request.share for request in step] == [1.0] * world


@pytest.mark.parametrize(
    ("size", "batch_size", "drop_last", "expected"),
    [
        (3, 2, False, [2, 2]), (3, 2, True, [2]), (3, 8, True, [3]), (1, 8, True, [2]),
        (8, 3, False, [3, 3, 2]), (8, 3, True, [3, 3]), (3, 1, False, [1, 1, 1]),
    ],
)  # fmt: skip
def test_lengths_of_training_batches(size, batch_size, drop_last, expected):
    assert lengths(batches(size, batch_size, training=True, drop_last=drop_last)[0]) == expected


def a_split(targets):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 2) * 10
    return FaceSplit(images, targets, sources=[str(index) for index in range(5)])


@pytest.mark.parametrize("targets", [torch.tensor([4, 3, 2, 1, 0]), torch.eye(5)], ids=["indices", "distributions"])
def test_a_loader_gives_the_rows_of_its_sampler(targets):
    sampler = BatchSampler(5, 2, training=True, seed=1)
    loader = BatchLoader(a_split(targets), sampler)
    given = list(loader)
    assert len(loader) == len(given) == 3
    assert [batch["index"].tolist() for batch in given] == [request.indices for request in sampler]
    assert given[-1]["index"][1] == PADDING
    for batch in given:
        dtypes = {"image": torch.uint8, "index": torch.int64, "target": targets.dtype, "share": torch.float32}
        assert {name: value.dtype for name, value in batch.items()} == dtypes
        real = batch["index"] != PADDING
        assert batch["share"] == 1
        assert batch["image"][real, 0, 0, 0].tolist() == (batch["index"][real] * 10).tolist()
        assert torch.equal(batch["target"][real], targets[batch["index"][real]])


def test_images_of_the_training_split_are_found_and_left_out_with_all_that_belongs_to_them():
    split = a_split(torch.tensor([3, 4, 5, 6, 7]))
    split.notes = {0: "x", 1: "y", 3: "z"}
    leaked = split.find_leaked(FaceSplit(split.images[[1, 4]], None, ["a", "b"]))
    assert leaked.tolist() == [False, True, False, False, True]
    kept = split.pick(~leaked)
    assert (kept.images[:, 0, 0, 0].tolist(), kept.targets.tolist()) == ([0, 20, 30], [3, 5, 6])
    assert (list(kept.sources), kept.notes) == (["0", "2", "3"], {0: "x", 2: "z"})


class Numbers:
    """A source whose batches are the numbers that are asked for, read by process ``worker``."""

    def read(self, request):
        return torch.tensor(request.indices), os.getpid()

    def finish(self, found):
        return {"index": found[0], "process": found[1]}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left_and_the_others_are_whole(num_workers):
    def epoch(loader, number):
        loader.sampler.set_epoch(number)
        return [batch["index"].tolist() for batch in loader]

    def loader():
        return BatchLoader(Numbers(), BatchSampler(10, 3, training=True, seed=4), num_workers)

    whole, resumed = loader(), loader()
    whole.sampler.set_epoch(1)
    batches = iter(whole)
    next(batches), next(batches)  # workers may have read more
    assert whole.state_dict() == {"epoch": 1, "batches": 2, "samples": 3}
    resumed.load_state_dict(whole.state_dict())
    assert epoch(resumed, 1) == epoch(loader(), 1)[2:]
    assert resumed.state_dict() == {"epoch": 1, "batches": 4, "samples": 3}
    assert epoch(resumed, 2) == epoch(loader(), 2)
    assert len(resumed) == 4


def test_workers_stay_until_the_loader_is_closed():
    loader = BatchLoader(Numbers(), BatchSampler(6, 2, training=False), num_workers=1)
    processes = {batch["process"] for _ in range(2) for batch in loader}
    assert len(processes) == 1
    assert os.getpid() not in processes
    unfinished = iter(loader)
    next(unfinished)
    loader.close()
    assert not multiprocessing.active_children()
    assert next(iter(loader))["process"] not in processes
    loader.close()


def test_a_worker_that_the_system_ends_is_one_sentence(monkeypatch):
    monkeypatch.setattr(Numbers, "read", lambda *_: os._exit(9))
    with pytest.raises(FaceExprError, match=r"has ended a process that prepares batches.*smaller num_workers than 1"):
        list(BatchLoader(Numbers(), BatchSampler(6, 2, training=False), num_workers=1))


SCRIPT = """
import multiprocessing
import torch
from faceexpr.data.loading import BatchLoader, BatchSampler, FaceSplit

multiprocessing.set_start_method("spawn", force=True)  # as on macOS and Windows
split = FaceSplit(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4), sources=[*"abcd"])
print(len(list(BatchLoader(split, BatchSampler(4, 2, training=False), num_workers=1))))
"""


@pytest.mark.slow
def test_a_script_that_its_own_processes_run_anew_is_told_so(tmp_path):  # case N31
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1].endswith(
        "have ended as they began, since each runs the script anew; expected its training below `if __name__ == "
        '"__main__":`, or num_workers 0'
    )
