"""Exact search against the definition and scikit-learn, and the votes of the neighbours."""

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from faceexpr.data.fer2013 import FER2013
from faceexpr.models import neighbours
from faceexpr.models.neighbours import Neighbours, class_probabilities, nearest, search_cuda
from faceexpr.utils.errors import FaceExprError

REAL = REPOSITORY.parent / "shared/data/fer2013/fer2013.csv.gz"


def by_definition(bank, queries, k, p):
    """Compute all the distances in float64 and sort by distance and index."""
    differences = (queries.double()[:, None] - bank.double()).abs().numpy()
    powers = (differences**p).sum(axis=2)
    indices = np.broadcast_to(np.arange(len(bank)), powers.shape)
    order = np.lexsort((indices, powers))[:, :k]
    return np.take_along_axis(powers, order, 1) ** (1 / p), order


def by_torch(bank, queries, k, p):
    """Run what CUDA devices run."""
    return Neighbours(*search_cuda(bank, queries, k, p))


def features(kind, length):
    """Return 101 rows and 13 queries, some of which are rows."""
    random = np.random.default_rng(length)
    rows = random.standard_normal((114, length))
    made = {
        "bytes": random.integers(0, 256, (114, length)).astype(np.uint8),
        "two values": random.integers(0, 2, (114, length)).astype(np.uint8) * 255,
        "counts": random.integers(-2, 400, (114, length)),
        "floats": (rows + 50).astype(np.float32),
        "double": rows * 1e30,
        "tiny": (rows * 1e-30).astype(np.float32),
        "half": rows.astype(np.float16),
    }[kind]
    made[60:100] = made[20:60]  # each of these has a twin that is just as far
    made = torch.from_numpy(made)
    return made[:101], torch.cat([made[:3], made[40:43], made[101:108]])


@pytest.fixture
def small_parts(monkeypatch):
    """Cut the little data into many parts, as large data are."""
    monkeypatch.setattr(neighbours, "_QUERIES", 5)
    monkeypatch.setattr(neighbours, "_CUDA_ROWS", 32)
    monkeypatch.setattr(neighbours, "_CUDA_QUERIES", 8)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("search", [nearest, by_torch])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("kind", ["bytes", "two values", "counts", "floats", "double", "tiny", "half"])
def test_the_nearest_by_definition_and_the_lowest_index_among_equals(search, p, kind):
    for length, k in ((1, 4), (63, 1), (130, 4), (130, 101)):
        bank, queries = features(kind, length)
        found = search(bank, queries, k, p)
        distances, indices = by_definition(bank, queries, k, p)
        assert found.indices.tolist() == indices.tolist()
        np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12)
        assert found.distances.dtype == torch.float64


@pytest.mark.parametrize("p", [1, 2, 3])
def test_scikit_learn_finds_the_same_as_a_backend(p):
    bank, queries = features("bytes", 130)
    found, reference = (nearest(bank, queries, 9, p, backend) for backend in ("fast", "sklearn"))
    torch.testing.assert_close(found.distances, reference.distances, rtol=1e-9, atol=0)
    direct = NearestNeighbors(n_neighbors=9, algorithm="brute", p=p).fit(bank.double())
    assert reference.distances.tolist() == np.sort(direct.kneighbors(queries.double())[0]).tolist()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real data are not here")
@pytest.mark.parametrize(("p", "count"), [(1, 200), (2, 200), (3, 40)])
def test_distances_on_fer2013_are_those_of_scikit_learn(p, count, tmp_path):
    data = FER2013(str(REAL), cache_dir=str(tmp_path))
    bank, queries = (data.split(stage).images.flatten(1) for stage in ("train", "val"))
    found, reference = (nearest(bank[:10000], queries[:count], 9, p, backend) for backend in ("fast", "sklearn"))
    # scikit-learn takes powers and roots of the third norm in floating point.
    torch.testing.assert_close(found.distances, reference.distances, rtol=1e-13 if p == 3 else 0, atol=0)
    sure = found.distances[:, :-1] != found.distances[:, 1:]
    alone = torch.nn.functional.pad(sure, (0, 1)) & torch.nn.functional.pad(sure, (1, 0), value=True)
    assert alone.float().mean() > 0.5
    assert found.indices[alone].equal(reference.indices[alone])


@pytest.mark.parametrize(("p", "kind"), [(1, "bytes"), (2, "floats"), (3, "counts")])
def test_neither_threads_nor_batches_change_the_result(p, kind):
    bank, queries = features(kind, 130)
    whole = nearest(bank, queries, 5, p)
    singly = [nearest(bank, query.unsqueeze(0), 5, p) for query in queries]
    assert whole.indices.equal(torch.cat([one.indices for one in singly]))
    torch.set_num_threads(3)
    try:
        threaded = nearest(bank, queries, 5, p)
    finally:
        torch.set_num_threads(1)
    assert threaded.indices.equal(whole.indices)
    assert threaded.distances.equal(whole.distances)


@pytest.mark.parametrize("search", [nearest, by_torch])
@pytest.mark.parametrize("p", [2, 3])
def test_a_hair_apart_far_from_zero(search, p):
    """A matrix product in float32 sees all of these rows at the same place."""
    bank = torch.full((50, 64), 3000.0)
    bank[:, 7] += torch.arange(50, 0, -1) / 1024
    found = search(bank, torch.full((1, 64), 3000.0), 3, p)
    assert found.indices.tolist() == [[49, 48, 47]]
    np.testing.assert_allclose(found.distances, [[1 / 1024, 2 / 1024, 3 / 1024]], rtol=1e-12)


def test_views_and_other_types_mean_their_values():
    bank, queries = features("bytes", 130)
    expected = nearest(bank, queries, 3, 1)
    for dtype in (torch.int64, torch.float32, torch.float64):
        assert nearest(bank.to(dtype), queries.to(dtype), 3, 1).indices.equal(expected.indices)
        assert nearest(bank, queries.to(dtype), 3, 1).distances.equal(expected.distances)
    strided = bank.T.contiguous().T
    assert nearest(strided, queries, 3, 1).indices.equal(expected.indices)
    assert nearest(bank, queries[:0], 3, 1).distances.shape == (0, 3)
    assert nearest(bank, queries[:0], 3, 1, backend="sklearn").indices.shape == (0, 3)
    beyond_float32 = torch.tensor([[2**24 + 1], [2**24]])
    assert nearest(beyond_float32, torch.tensor([[2**24 + 2]]), 1, 2).indices.tolist() == [[0]]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_largest_sums_of_bytes_stay_in_range(p):
    length = 2**15 + 100
    bank = torch.zeros(2, length, dtype=torch.uint8)
    found = nearest(bank, bank + 255, 2, p)
    assert found.indices.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(found.distances, 255 * length ** (1 / p), rtol=1e-13)


GOOD = torch.zeros(4, 3)
NAN = torch.tensor([[0.0, 0, 0], [0, torch.nan, 0]])


@pytest.mark.parametrize(
    ("bank", "queries", "k", "p", "message"),
    [
        (GOOD, GOOD, 5, 1, "k is 5; expected 1 to 4, the number of rows in the bank"),
        (GOOD[:0], GOOD, 1, 1, "the bank has no rows; expected one or more"),
        (NAN, GOOD, 1, 1, "row 1 of the bank has a feature that is not finite"),
        (GOOD, torch.full((1, 3), torch.inf), 1, 3, "row 0 of the queries has a feature that is not finite"),
        (GOOD, torch.full((1, 3), 1e210, dtype=torch.float64), 1, 3, r"magnitude 1e\+210; expected 1e\+100"),
        (GOOD, GOOD[:, :2], 1, 1, "the bank has 3 features a row and the queries have 2; expected the same"),
        (GOOD, GOOD[0], 1, 1, r"the queries has the shape \(3,\); expected \(rows, features\)"),
        (GOOD, GOOD, 1, 4, "p is 4; expected 1, 2 or 3"),
    ],
)
def test_what_is_wrong_in_one_sentence(bank, queries, k, p, message):
    with pytest.raises(FaceExprError, match=message):
        nearest(bank, queries, k, p)


CLASSES = 7


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(("p", "kind"), [(1, "two values"), (2, "bytes"), (3, "bytes")])
def test_several_k_from_one_search_are_scikit_learns(p, kind, weights):
    bank, queries = features(kind, 20)
    labels = torch.arange(len(bank)) * 5 % CLASSES
    found = nearest(bank, queries, 9, p)
    compared = 0
    for k in (1, 3, 5, 8):
        reference = KNeighborsClassifier(k, weights=weights, algorithm="brute", p=p).fit(bank.double(), labels)
        expected = torch.from_numpy(reference.predict_proba(queries.double()))
        # Where a tie crosses K, which of the equally far rows vote is arbitrary in scikit-learn.
        clear = found.distances[:, k - 1] < found.distances[:, k]
        probabilities = class_probabilities(found, labels, CLASSES, k, weights)
        torch.testing.assert_close(probabilities[clear], expected[clear], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(len(queries), dtype=torch.float64))
        compared += int(clear.sum())
    assert compared > 10


def test_a_distance_of_zero_has_all_the_weight():
    found = Neighbours(torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 4.0]]).double(), torch.tensor([[2, 0, 1], [0, 1, 2]]))
    probabilities = class_probabilities(found, torch.tensor([0, 1, 2]), 3, 3, "distance")
    assert probabilities.tolist() == [[0.5, 0, 0.5], [1 / 1.75, 0.5 / 1.75, 0.25 / 1.75]]
    alone = class_probabilities(found, torch.tensor([0, 1, 2]), 4, 1, "distance")
    assert alone.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_bad_votes_are_refused_in_one_sentence():
    found = Neighbours(torch.ones(1, 2).double(), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(FaceExprError, match="k is 3; expected 1 to 2, the number of neighbours that were searched for"):
        class_probabilities(found, torch.tensor([0]), 7, 3, "uniform")
    with pytest.raises(FaceExprError, match="label 1 of the bank is 7; expected 0 to 6"):
        class_probabilities(found, torch.tensor([0, 7]), 7, 1, "uniform")


class OnAccelerator(torch.Tensor):
    """A tensor as on a device that has no float64, such as Apple's GPUs."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        if func == torch.Tensor.cpu:
            return torch.tensor(args[0].tolist(), dtype=args[0].dtype)
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, cls) and found.dtype == torch.float64:
            raise TypeError("the MPS framework doesn't support float64")
        return found


@pytest.mark.parametrize("backend", ["fast", "sklearn"])
def test_where_the_device_has_no_float64_the_search_is_on_the_cpu(backend, tmp_path):  # case N32
    bank, queries = features("floats", 20)
    expected = nearest(bank, queries, 3, 2, backend)
    store = neighbours.NeighbourStore(tmp_path)
    on_device = bank.as_subclass(OnAccelerator), queries.as_subclass(OnAccelerator)
    for search in (nearest, store.nearest, store.nearest):
        found = search(*on_device, 3, 2, backend)
        assert found.distances.device.type == "cpu"
        assert torch.equal(found.indices[:, :3], expected.indices)
        assert torch.equal(found.distances[:, :3], expected.distances)
