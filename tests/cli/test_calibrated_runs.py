"""A run is calibrated, and what comes of it: the checkpoint, the metrics, the exported program, the next training."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_DATA, TINY_NET, TINY_RUN, exit_code, measured
from processes import run_together

from faceexpr.callbacks.calibration import Calibrate, fit_calibration, name_calibrated
from faceexpr.cli.main import main
from faceexpr.data.corruptions import corrupt
from faceexpr.data.synthetic import SyntheticFaces
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import Calibration, calibrated, fit_temperature, fit_threshold, mass_before
from faceexpr.pipeline.programs import load_exported
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError

pytestmark = pytest.mark.usefixtures("fitted")

FOLDER = Path("lightning_logs/version_0/checkpoints")
CALIBRATE = ("--calibration.enabled=true", "--calibration.coverages=[0.5,0.9]")
VAL = ("--data.val_size=40", "--data.test_size=30")


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A run whose validation split is large enough to be calibrated on."""
    root = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        main(["fit", *TINY_DATA, *TINY_NET, *TINY_RUN, *VAL, "--trainer.max_epochs=3"])
    return root / "lightning_logs/version_0"


def calibrate(*args, ckpt=FOLDER / "best.ckpt"):
    main(["validate", f"--ckpt_path={ckpt}", *CALIBRATE, *TINY_RUN[1:], *args])


def stored(name):
    return torch.load(FOLDER / name, weights_only=True)


def split(stage):
    faces = SyntheticFaces(train_size=14, val_size=40, test_size=30).split(stage)
    return faces.images, faces.targets.numpy()


def test_a_calibrated_run_from_end_to_end(capsys, monkeypatch):
    asked = []
    load = SyntheticFaces.load_split
    monkeypatch.setattr(SyntheticFaces, "load_split", lambda self, stage: asked.append(stage) or load(self, stage))
    calibrate()
    assert set(asked) == {"val"}
    said = capsys.readouterr().out
    before, after = stored("best.ckpt"), stored("calibrated.ckpt")
    calibration = after["hyper_parameters"].pop("calibration")
    assert before["hyper_parameters"].pop("calibration") is None
    torch.testing.assert_close(after.pop("state_dict"), before.pop("state_dict"), rtol=0, atol=0)
    assert str(before) == str(after)

    # What was found is what the definitions give on the validation split.
    model = ExpressionClassifier.load_from_checkpoint(FOLDER / "best.ckpt").eval()
    images, labels = split("val")
    with torch.inference_mode():
        plain = model(images).numpy()
    temperature = fit_temperature(plain, labels)
    moved = calibrated(plain, Calibration(temperature))
    assert calibration["temperature"] == pytest.approx(temperature, rel=1e-3)
    thresholds = {level: fit_threshold(moved, labels, level) for level in ("0.5", "0.9")}
    assert calibration["thresholds"] == pytest.approx(thresholds, abs=1e-3)
    assert calibration["samples"] == 40
    assert calibration["source"] == "SyntheticFaces, validation split"
    assert f"temperature {calibration['temperature']:.4f}" in said
    assert "prediction sets at 90%" in said

    # The run folder means the calibrated checkpoint, whose probabilities are those of the temperature.
    main(["test", "--ckpt_path=lightning_logs/version_0", *TINY_RUN[1:]])
    found = measured("lightning_logs/version_0-test/version_0", "test")
    images, labels = split("test")
    with torch.inference_mode():
        warm = calibrated(model(images).numpy(), Calibration(calibration["temperature"]))
    sets = mass_before(warm) <= calibration["thresholds"]["0.9"]
    assert found["coverage/0.9"] == pytest.approx(sets[np.arange(30), labels].mean(), abs=1e-6)
    assert found["set_size/0.9"] == pytest.approx(sets.sum(1).mean(), abs=1e-6)
    assert found["nll"] == pytest.approx(float(-np.log(warm[np.arange(30), labels]).mean()), rel=1e-4)
    assert f"prediction sets at 90%: cover {found['coverage/0.9']:.1%} of 30" in capsys.readouterr().out
    assert "coverage/0.9" not in measured(
        "lightning_logs/version_0-validate/version_0", "val"
    )  # measured without the calibration that was only being found

    # Calibrated once more, it is what it was: from the probabilities without a calibration.
    calibrate(ckpt=FOLDER / "calibrated.ckpt")
    assert stored("calibrated.ckpt")["hyper_parameters"]["calibration"] == calibration


def test_a_calibrated_checkpoint_goes_to_other_verbs_and_a_training_drops_it(capsys, caplog):
    calibrate()
    # What a calibrated run has saved can be given to another verb.
    main(
        [
            "test",
            "--config=lightning_logs/version_0-validate/version_0/config.yaml",
            f"--ckpt_path={FOLDER / 'calibrated.ckpt'}",
        ]
    )
    assert "coverage/0.9" in measured("lightning_logs/version_0-test/version_0", "test")
    capsys.readouterr()
    assert exit_code(lambda: main(["test", "--ckpt_path=lightning_logs/version_0", "--print_config"])) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["calibration"]
    assert printed == stored("calibrated.ckpt")["hyper_parameters"]["calibration"]
    caplog.clear()
    main(["fit", f"--ckpt_path={FOLDER / 'calibrated.ckpt'}", *TINY_RUN[1:], "--trainer.max_epochs=4"])
    assert "the calibration of these weights is dropped, since training changes them" in caplog.text
    trained = torch.load("lightning_logs/version_1/checkpoints/best.ckpt", weights_only=True)
    assert trained["hyper_parameters"]["calibration"] is None


def test_mirror_images_are_calibrated_together_and_exported(capsys):
    calibrate("--model.mirror=true")
    kept = stored("calibrated.ckpt")["hyper_parameters"]
    assert kept["mirror"] is True
    model = ExpressionClassifier.load_from_checkpoint(FOLDER / "calibrated.ckpt").eval()
    plain = ExpressionClassifier.load_from_checkpoint(FOLDER / "best.ckpt").eval()
    image, labels = split("val")
    with torch.inference_mode():
        mean = (plain(image) + plain(image.flip(-1))) / 2
        np.testing.assert_allclose(
            model(image).numpy(), calibrated(mean.numpy(), Calibration(kept["calibration"]["temperature"])), atol=1e-5
        )
        assert kept["calibration"]["temperature"] == pytest.approx(fit_temperature(mean.numpy(), labels), rel=1e-3)
        capsys.readouterr()
        main(["export", "--ckpt_path=lightning_logs/version_0", "--out=model.pt2"])
        assert "tensor" not in capsys.readouterr().err
        program, metadata = load_exported(Path("model.pt2"))
        assert (metadata["mirror"], metadata["calibration"]) == (True, kept["calibration"])
        torch.testing.assert_close(program(image), model(image), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_find_the_same_and_one_writes(workdir):
    size = "--data.val_size=41"  # one is seen by neither twice nor not at all
    calibrate(size)
    alone = stored("calibrated.ckpt")["hyper_parameters"]["calibration"]
    (FOLDER / "calibrated.ckpt").unlink()
    options = [*TINY_RUN[1:], size, "--trainer.devices=2", "--trainer.strategy=ddp", *CALIBRATE]
    assert run_together(["validate", f"--ckpt_path={FOLDER / 'best.ckpt'}", *options], workdir, 2) == [0, 0]
    together = stored("calibrated.ckpt")["hyper_parameters"]["calibration"]
    assert together["samples"] == alone["samples"] == 41
    assert together["temperature"] == pytest.approx(alone["temperature"], rel=1e-4)
    assert together["thresholds"] == pytest.approx(alone["thresholds"], abs=1e-4)
    written = [(workdir / f"process-{rank}.log").read_text().count("with this calibration") for rank in range(2)]
    assert written == [1, 0]


def test_what_cannot_be_calibrated_is_refused(workdir, capsys):
    main(["fit", "--model=KNNClassifier", "--model.k=1", *TINY_DATA, *TINY_RUN])
    capsys.readouterr()
    assert exit_code(lambda: calibrate(ckpt="lightning_logs/version_1")) == 2
    error = "the calibration of KNNClassifier, which has no logits to be divided by a temperature; expected an"
    assert error in capsys.readouterr().err
    assert list(workdir.rglob("calibrated.ckpt")) == []
    for wrong in ([0.9, 1.0], [0]):
        with pytest.raises(FaceExprError, match=r"^coverages has (1.0|0); expected numbers between 0 and 1"):
            Calibrate(coverages=wrong)


def test_no_training_goes_on_from_weights_alone(capsys):
    main(["export", f"--ckpt_path={FOLDER}/best.ckpt", "--out=model.safetensors"])
    calibrate(*VAL, ckpt="model.safetensors")
    made = next(Path().rglob("calibrated.ckpt"))
    capsys.readouterr()
    assert exit_code(lambda: main(["fit", f"--ckpt_path={made}", *TINY_RUN])) == 2
    assert f"{made} holds the weights alone, and not how far their training has come; " in capsys.readouterr().err


@pytest.mark.parametrize(("method", "warns"), [("temperature", False), ("vector", True)])
def test_only_vector_scaling_warns_of_classes_without_a_sample(method, warns, recwarn):
    probabilities = np.random.default_rng(0).dirichlet([1.0] * 4, 30).astype(np.float32)
    fit_calibration(SampleTable(np.arange(30), probabilities, np.arange(30) % 2), [0.9], method, "here")
    said = [str(warning.message) for warning in recwarn]
    text = "no sample of 2 classes is in this split, to which vector scaling gives almost no probability; "
    assert any(line.startswith(text) for line in said) == warns


@pytest.mark.parametrize(("number", "warns"), [(49, True), (50, False)])
def test_a_calibration_on_few_samples_warns(number, warns, recwarn):
    probabilities = np.random.default_rng(0).dirichlet([1.0] * 2, number).astype(np.float32)
    fit_calibration(SampleTable(np.arange(number), probabilities, np.arange(number) % 2), [0.9], "temperature", "here")
    text = "49 samples to calibrate on; expected 50 or more, or it says little"
    assert (text in [str(warning.message) for warning in recwarn]) == warns


def test_no_two_checkpoints_share_a_calibrated_copy():
    names = ("last.ckpt", "last.calibrated.ckpt", "uncalibrated.ckpt")
    copies = [str(name_calibrated(Path(name), Path("logs"))) for name in names]
    assert copies == ["last.calibrated.ckpt", "last.calibrated.ckpt", "uncalibrated.calibrated.ckpt"]


def test_sets_hold_under_corruptions_and_classes_come_into_balance(capsys: pytest.CaptureFixture[str]) -> None:
    calibrate()
    clean = stored("calibrated.ckpt")["hyper_parameters"]["calibration"]
    calibrate("--calibration.corruptions=3", "--calibration.balance=0.5")
    found = stored("calibrated.ckpt")["hyper_parameters"]["calibration"]
    assert (clean["balance"], found["balance"]) == (0.0, 0.5)
    assert found["source"].endswith("as it is and under 9 corruptions of strength 3")
    assert "balance 0.5 " in capsys.readouterr().out
    images, labels = split("val")
    model = ExpressionClassifier.load_from_checkpoint(FOLDER / "calibrated.ckpt").eval()
    for name in ("blur", "noise", "darker"):
        with torch.inference_mode():
            before = mass_before(model(corrupt(images, torch.arange(40), name, 3)).numpy())
        held = (before[np.arange(40), labels] <= found["thresholds"]["0.9"]).mean()
        assert held >= 0.9


@pytest.mark.parametrize(("option", "value"), [("balance", 1.5), ("corruptions", 6)])
def test_a_calibration_beyond_its_range_is_refused(option: str, value: float) -> None:
    with pytest.raises(FaceExprError, match=rf"^{option} is {value}; expected 0 "):
        Calibrate(**{option: value})  # type: ignore[arg-type]
