import torch

from faceexpr.data.leaks import without_leaks
from faceexpr.data.loading import FaceSplit


def flat(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()


def test_images_of_the_training_split_are_left_out_with_all_that_belongs_to_them() -> None:
    training = FaceSplit(flat([1, 2, 3]), torch.tensor([0, 1, 2]), ["a", "b", "c"])
    split = FaceSplit(
        flat([9, 2, 8, 3]), torch.tensor([3, 4, 5, 6]), ["d", "e", "f", "g"], notes={0: "x", 2: "y", 3: "z"}
    )
    kept = without_leaks(split, training)
    assert kept.images[:, 0, 0, 0].tolist() == [9, 8]
    assert kept.targets is not None
    assert kept.targets.tolist() == [3, 5]
    assert list(kept.sources) == ["d", "f"]
    assert kept.notes == {0: "x", 1: "y"}


def test_nothing_is_left_out_where_nothing_is_equal() -> None:
    training = FaceSplit(flat([1]), None, ["a"])
    split = FaceSplit(flat([2, 3]), None, ["b", "c"])
    kept = without_leaks(split, training)
    assert torch.equal(kept.images, split.images)
    assert kept.targets is None
