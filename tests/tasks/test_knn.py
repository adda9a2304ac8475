"""KNN under the same verbs as the networks, against scikit-learn, and what it compares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_RUN, exit_code, measured
from sklearn.neighbors import KNeighborsClassifier

from faceexpr.cli.main import main
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.models import neighbours
from faceexpr.tasks.knn import Histogram, KNNClassifier, RawPixels
from faceexpr.utils.errors import FaceExprError

KNN = ["--model=KNNClassifier"]
DATA = ["--data=SyntheticFaces", "--data.train_size=35", "--data.val_size=15", "--data.test_size=15",
        "--data.batch_size=4"]  # fmt: skip
BEST = "lightning_logs/version_0/checkpoints/best.ckpt"


def arrays(stage):
    split = SyntheticFaces(train_size=35, val_size=15, test_size=15).split(stage)
    return split.images.flatten(1).numpy().astype(np.float64), split.targets.numpy()


def remembered(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]["_extra_state"]


def test_every_verb_agrees_with_scikit_learn(workdir):
    main(["fit", *KNN, *DATA, *TINY_RUN, "--model.k=5", "--model.p=2"])
    main(["test", "--ckpt_path", BEST, *TINY_RUN[1:]])
    reference = KNeighborsClassifier(5, p=2, weights="distance", algorithm="brute").fit(*arrays("train"))
    for folder, stage in (("version_0", "val"), ("version_0-test/version_0", "test")):
        images, labels = arrays(stage)
        expected = float((reference.predict(images) == labels).mean())
        assert measured(f"lightning_logs/{folder}", stage)["accuracy"] == pytest.approx(expected)
    model = KNNClassifier.load_from_checkpoint(BEST)
    images, _ = arrays("test")
    queries = torch.from_numpy(images).to(torch.uint8).view(-1, 1, 48, 48)
    np.testing.assert_allclose(model(queries).numpy(), reference.predict_proba(images), atol=1e-6)
    main(["predict", "--ckpt_path", BEST, *TINY_RUN[1:]])
    assert Path("lightning_logs/version_0-predict/version_0/predictions.csv").read_text().count("\n") == 16


def test_each_sample_is_remembered_once_and_as_it_is(workdir):
    main(["fit", *KNN, *DATA, *TINY_RUN, "--trainer.max_epochs=2", "--data.augment.flip=1", "--data.augment.mixup=0.5"])
    images, labels = arrays("train")
    state = remembered(BEST)
    assert state["bank"].dtype == torch.uint8
    np.testing.assert_array_equal(state["bank"].numpy(), images)
    np.testing.assert_array_equal(state["labels"].numpy(), labels)
    assert Path(BEST).with_name("last.ckpt").exists()


def test_deep_features_travel_in_the_checkpoint(run, workdir):
    run("fit")
    Path(BEST).rename("network.ckpt")
    main(["fit", *KNN, *DATA, *TINY_RUN, "--model.representation=NetworkFeatures",
          "--model.representation.checkpoint=network.ckpt"])  # fmt: skip
    Path("network.ckpt").unlink()
    ckpt = "lightning_logs/version_1/checkpoints/best.ckpt"
    main(["test", "--ckpt_path", ckpt, *TINY_RUN[1:]])
    assert remembered(ckpt)["bank"].shape == (35, 8)
    assert 0 <= measured("lightning_logs/version_1-test/version_0", "test")["accuracy"] <= 1


def test_a_store_gives_the_same_and_searches_once(tmp_path, monkeypatch):
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


def test_a_k_out_of_range_is_one_sentence(workdir, capsys):
    with pytest.raises(FaceExprError, match=r"^k is 0; expected 1 or more"):
        KNNClassifier(k=0)
    assert exit_code(lambda: main(["fit", *KNN, *DATA, *TINY_RUN, "--model.k=36"])) == 2
    assert "model.k is 36, but there are 35" in capsys.readouterr().err


GREY = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_raw_pixels_are_the_images_own_numbers():
    features = RawPixels()(GREY)
    assert features.dtype == torch.uint8
    assert torch.equal(features, GREY.flatten(1))
    assert torch.equal(RawPixels()(GREY.expand(-1, 3, -1, -1)), features)  # equal channels are grey
    assert RawPixels(size=24)(GREY).shape == (5, 576)


def test_histograms_are_numpys_of_each_channel():
    colour = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for images in (GREY, colour):
        # 255 bins of equal width over the 256 values that a pixel can have
        expected = [[np.histogram(channel, 255, (0, 256))[0] for channel in image] for image in images.numpy()]
        found = Histogram(channels=images.shape[1])(images)
        np.testing.assert_array_equal(found, np.reshape(expected, (len(images), -1)))
    grey = Histogram(channels=3)(GREY)  # grey images have the same level in all three
    assert torch.equal(grey, Histogram()(GREY).repeat(1, 3))


def test_bad_bins_are_refused():
    with pytest.raises(FaceExprError, match="bins is 300"):
        Histogram(bins=300)
