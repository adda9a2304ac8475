"""KNN under the same verbs as the networks, against scikit-learn, and what it compares."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, Run, exit_code
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from faceexpr.cli.main import main
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models import neighbours
from faceexpr.models.mlp import MLP
from faceexpr.tasks.knn import Histogram, KNNClassifier, NetworkFeatures, RawPixels
from faceexpr.utils.errors import FaceExprError

KNN = ["--model=KNNClassifier"]
DATA = ["--data=SyntheticFaces", "--data.train_size=35", "--data.val_size=15", "--data.test_size=15",
        "--data.batch_size=4"]  # fmt: skip
BEST = "lightning_logs/version_0/checkpoints/best.ckpt"


def arrays(stage: str) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    split = SyntheticFaces(train_size=35, val_size=15, test_size=15).split(stage)  # type: ignore[arg-type]
    assert split.targets is not None
    return split.images.flatten(1).numpy().astype(np.float64), split.targets.numpy()


def remembered(checkpoint: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]["_extra_state"]
    return state


def measured(version: int, stage: str) -> dict[str, object]:
    result: dict[str, object] = json.loads(Path(f"lightning_logs/version_{version}/metrics.json").read_text())[stage]
    return result


def test_every_verb_agrees_with_scikit_learn(workdir: Path) -> None:
    main(["fit", *KNN, *DATA, *TINY_RUN, "--model.k=5", "--model.p=2"])
    main(["test", "--ckpt_path", BEST, *TINY_RUN[1:]])
    reference = KNeighborsClassifier(5, p=2, weights="distance", algorithm="brute").fit(*arrays("train"))
    for version, stage in ((0, "val"), (1, "test")):
        images, labels = arrays(stage)
        expected = float((reference.predict(images) == labels).mean())
        assert measured(version, stage)["accuracy"] == pytest.approx(expected)
    model = KNNClassifier.load_from_checkpoint(BEST)
    images, _ = arrays("test")
    queries = torch.from_numpy(images).to(torch.uint8).view(-1, 1, 48, 48)
    np.testing.assert_allclose(model(queries).numpy(), reference.predict_proba(images), atol=1e-6)
    main(["predict", "--ckpt_path", BEST, *TINY_RUN[1:]])
    assert Path("lightning_logs/version_2/predictions.csv").read_text().count("\n") == 16


def test_each_sample_is_remembered_once_and_as_it_is_and_nothing_can_be_calibrated(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *KNN, *DATA, *TINY_RUN, "--trainer.max_epochs=2", "--data.augment.flip=1", "--data.augment.mixup=0.5"])
    images, labels = arrays("train")
    state = remembered(BEST)
    assert state["bank"].dtype == torch.uint8
    np.testing.assert_array_equal(state["bank"].numpy(), images)
    np.testing.assert_array_equal(state["labels"].numpy(), labels)
    assert Path(BEST).with_name("last.ckpt").exists()
    calibrate = ["validate", "--ckpt_path", BEST, "--calibration.enabled=true", *TINY_RUN[1:]]
    assert exit_code(lambda: main(calibrate)) == 2
    assert "KNNClassifier, which has no logits" in capsys.readouterr().err


def test_deep_features_travel_in_the_checkpoint(run: Run, workdir: Path) -> None:
    run("fit")
    Path(BEST).rename("network.ckpt")
    main(["fit", *KNN, *DATA, *TINY_RUN, "--model.representation=NetworkFeatures",
          "--model.representation.checkpoint=network.ckpt"])  # fmt: skip
    Path("network.ckpt").unlink()
    ckpt = "lightning_logs/version_1/checkpoints/best.ckpt"
    main(["test", "--ckpt_path", ckpt, *TINY_RUN[1:]])
    assert remembered(ckpt)["bank"].shape == (35, 8)
    assert 0 <= float(str(measured(2, "test")["accuracy"])) <= 1


def test_a_store_gives_the_same_and_searches_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    search = neighbours.nearest
    monkeypatch.setattr(neighbours, "nearest", lambda *args: searches.append(args) or search(*args))
    data = SyntheticFaces(train_size=35, val_size=15)
    bank, queries = data.split("train"), data.split("val").images
    for k in (9, 1, 3):
        stored, plain = KNNClassifier(k, cache_dir=str(tmp_path / "found")), KNNClassifier(k)
        for model in (stored, plain):
            model.bank, model.labels = bank.images.flatten(1), bank.targets
        assert torch.equal(stored(queries), plain(queries))
    assert len(searches) == 1


def test_a_k_out_of_range_is_one_sentence(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FaceExprError, match=r"^k is 0; expected 1 or more"):
        KNNClassifier(k=0)
    assert exit_code(lambda: main(["fit", *KNN, *DATA, *TINY_RUN, "--model.k=36"])) == 2
    assert "model.k is 36, but there are 35" in capsys.readouterr().err


def test_an_empty_bank_is_one_sentence() -> None:
    with pytest.raises(FaceExprError, match=r"no rows|empty"):
        KNNClassifier()(torch.zeros(1, 1, 48, 48, dtype=torch.uint8))


GREY = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_raw_pixels_are_the_images_own_numbers() -> None:
    features = RawPixels()(GREY)
    assert features.dtype == torch.uint8
    assert torch.equal(features, GREY.flatten(1))
    assert torch.equal(RawPixels()(GREY.expand(-1, 3, -1, -1)), features)  # equal channels are grey
    assert RawPixels(size=24)(GREY).shape == (5, 576)


def test_histogram_is_numpys() -> None:
    counts = Histogram()(GREY).numpy()
    assert counts.shape == (5, 255)
    for image, found in zip(GREY.numpy(), counts, strict=True):
        # 255 bins of equal width over the 256 values that a pixel can have
        expected, _ = np.histogram(image, bins=255, range=(0, 256))
        np.testing.assert_array_equal(found, expected)
    assert (counts.sum(axis=1) == 48 * 48).all()


def test_colours_are_counted_each_for_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    colour = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=generator)
    counts = Histogram(channels=3)(colour)
    assert counts.shape == (4, 3 * 255)
    for channel in range(3):
        one = Histogram()(colour[:, channel : channel + 1])
        assert torch.equal(counts[:, 255 * channel : 255 * (channel + 1)], one)
    grey = Histogram(channels=3)(GREY)  # grey images have the same level in all three
    assert torch.equal(grey, Histogram()(GREY).repeat(1, 3))


def test_bad_bins_are_refused() -> None:
    with pytest.raises(FaceExprError, match="bins is 300"):
        Histogram(bins=300)


def test_network_features_are_what_the_last_layer_sees() -> None:
    features = NetworkFeatures("unused.ckpt")
    features.net = MLP(7, hidden=(16, 5))
    seen = features(GREY)
    assert seen.shape == (5, 5)
    last = features.net.layers[-1]
    assert isinstance(last, nn.Linear)
    torch.testing.assert_close(last(seen), features.net(GREY))
