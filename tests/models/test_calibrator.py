"""Temperature, prediction sets and mirror images, in numbers that are known in advance."""

from math import ceil

import numpy as np
import pytest
import torch
from red_finder import save_task, tiny_classifier

from faceexpr.metrics.calibration import calibration_error, negative_log_likelihood, set_values
from faceexpr.metrics.tables import SampleTable
from faceexpr.models.calibrator import (
    Calibration,
    balanced,
    calibrated,
    class_probabilities,
    fit_temperature,
    fit_threshold,
    fit_vector,
    mass_before,
    prediction_sets,
)
from faceexpr.tasks.classify import ExpressionClassifier
from faceexpr.utils.errors import FaceExprError
from faceexpr.visualization.classification import draw_sets


def drawn(count, seed, classes=7):
    """Return probabilities, and labels that are drawn from them: a classifier that means what it says."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.4] * classes, count).astype(np.float32)
    labels = (rng.random((count, 1)) > probabilities.cumsum(1)[:, :-1]).sum(1)
    return probabilities, labels


def table(probabilities, labels):
    return SampleTable(np.arange(len(labels)), probabilities, labels)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_a_classifier_that_is_too_sure_gets_its_temperature_back(temperature):
    honest, labels = drawn(20_000, seed=0)
    claimed = calibrated(honest, Calibration(1 / temperature))
    found = fit_temperature(claimed, labels)
    assert found == pytest.approx(temperature, rel=0.02)
    # Distributions say the same without the noise of drawing.
    assert fit_temperature(claimed, honest) == pytest.approx(temperature, rel=0.001)
    after = table(calibrated(claimed, Calibration(found)), labels)
    assert calibration_error(after) < 0.015


def test_probabilities_of_0_are_no_obstacle():
    probabilities = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.4, 0]], np.float32)
    found = fit_temperature(probabilities, np.array([0, 2, 1]))
    assert 1 < found < 100
    assert np.isfinite(calibrated(probabilities, Calibration(found))).all()


def brute_force(row, threshold):
    """Return a prediction set in the words of its definition."""
    ranked = sorted(range(len(row)), key=lambda index: (-row[index], index))
    return {index for place, index in enumerate(ranked) if sum(row[other] for other in ranked[:place]) <= threshold}


def test_sets_and_thresholds_are_those_of_the_definition():
    probabilities, labels = drawn(200, seed=2, classes=5)
    probabilities = probabilities.astype(np.float64).round(2)  # so that some are equally probable
    scores = mass_before(probabilities)[np.arange(200), labels]
    for level in ("0.8", "0.9", "0.95"):
        threshold = fit_threshold(probabilities, labels, level)
        ordered = sorted(scores)
        rank = ceil(round(201 * float(level), 6))
        assert threshold == ordered[rank - 1]
        sets = prediction_sets(probabilities, threshold)
        for row, found in zip(probabilities.tolist(), sets, strict=True):
            near = brute_force(row, threshold + 1e-12)
            assert set(np.flatnonzero(found)) in (near, brute_force(row, threshold - 1e-12))
        # Those that it was fitted on: exactly so many, but for equal scores.
        assert sets[np.arange(200), labels].sum() >= rank
    # At 1 all classes are in, also where the sum of rounded probabilities is above it.
    assert prediction_sets(np.array([[0, 1, 0], [0.3333334] * 3], np.float32), 1.0).all()
    # Too few samples give all classes.
    few = np.linspace(0, 0.9, 9)
    before = np.stack([few, np.zeros(9)], axis=1)  # the score of class 1
    seconds = np.ones(9, np.int64)
    found = [
        fit_threshold(before[:count], seconds[:count], level) for count, level in ((9, "0.9"), (8, "0.9"), (3, "0.5"))
    ]
    assert found == [few[8], 1.0, few[1]]


def test_sets_of_votes_hold_what_a_voter_says():
    probabilities, _ = drawn(200, seed=3, classes=3)
    votes = np.random.default_rng(3).multinomial(10, [0.6, 0.3, 0.1], 200)
    # Ten faces with a label each in the place of one face with ten votes.
    scores = np.sort(np.repeat(mass_before(probabilities).ravel(), votes.ravel()))
    for level in ("0.8", "0.9"):
        rank = 10 * ceil(round(201 * float(level), 6))
        assert fit_threshold(probabilities, (votes / 10).astype(np.float32), level) == scores[rank - 1]


def test_sets_hold_the_true_class_as_often_as_stated():
    claimed, labels = drawn(6000, seed=4)
    claimed = calibrated(claimed, Calibration(0.4))  # far too sure: coverage does not depend on a good calibration
    threshold = fit_threshold(claimed[:3000], labels[:3000], "0.9")
    held_out = prediction_sets(claimed[3000:], threshold)[np.arange(3000), labels[3000:]]
    # The threshold varies as the share does.
    assert held_out.mean() == pytest.approx(0.9, abs=2 * 3.3 * np.sqrt(0.9 * 0.1 / 3000))


def test_metrics_lines_and_figure_of_sets():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25]], np.float32)
    found = Calibration(1.0, {"0.5": 0.0, "0.9": 0.65}, 4, "drawn")
    samples = table(probabilities, np.array([0, 2, 2, 2]))
    values = set_values(samples, found)
    assert values == pytest.approx(
        {"coverage/0.5": 0.5, "set_size/0.5": 1, "coverage/0.9": 0.75, "set_size/0.9": (2 + 2 + 1 + 2) / 4}
    )
    assert set_values(samples, None) == {}
    sizes, classes = draw_sets(samples, ("Happy", "Sad", "Surprise"), found, "test").axes
    assert [bar.get_height() for bar in sizes.patches] == [0.25, 0.75, 0]
    assert [bar.get_height() for bar in classes.patches] == pytest.approx([1, 2 / 3])  # Sad has no sample


def test_a_mirrored_classifier_gives_the_mean_of_both():
    image = torch.randint(0, 256, (5, 1, 48, 48), dtype=torch.uint8)
    plain, both = tiny_classifier().eval(), tiny_classifier(mirror=True).eval()
    mean = (plain(image) + plain(image.flip(-1))) / 2
    torch.testing.assert_close(both(image), mean)
    torch.testing.assert_close(both(image), both(image.flip(-1)))


@pytest.mark.parametrize("mirror", [False, True])
def test_half_precision_ends_at_the_logits(mirror):
    def net(image):
        return (image.float().flatten(1)[:, :7] * 30).bfloat16()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, probabilities = class_probabilities(net, torch.rand(4, 1, 8, 8), mirror, Calibration(1.5))
    assert logits.dtype == probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(1), torch.ones(4), atol=1e-6, rtol=0)


def test_training_knows_neither_mirror_nor_temperature():
    batch = {
        "image": torch.randint(0, 256, (6, 1, 48, 48), dtype=torch.uint8),
        "target": torch.arange(6),
        "index": torch.arange(6),
        "share": torch.tensor(1.0),
    }
    results = []
    for options in ({}, {"mirror": True, "calibration": Calibration(3.0)}):
        model = tiny_classifier(**options)
        model.log = lambda *args, **kwargs: None
        results.append(model.training_step(batch, 0))
        evaluated = model._evaluate(batch, "val", model.val_loss)
        torch.testing.assert_close(evaluated["probabilities"], model(batch["image"]))
        assert float(model.val_loss.compute()) == pytest.approx(float(results[0]["loss"].detach()))
    torch.testing.assert_close(results[0]["loss"], results[1]["loss"])
    torch.testing.assert_close(results[0]["probabilities"], results[1]["probabilities"])


def test_a_calibration_belongs_to_the_weights(tmp_path, recwarn):
    found, other = Calibration(1.25, {"0.9": 0.5}, 30, "FER2013, validation split"), Calibration(3.0)
    path = save_task(tiny_classifier(calibration=found), tmp_path / "a.ckpt")
    loaded = ExpressionClassifier.load_from_checkpoint(path, map_location="cpu")
    assert loaded.calibration == found
    loaded.calibrate(None)
    save_task(loaded, tmp_path / "b.ckpt")
    assert ExpressionClassifier.load_from_checkpoint(tmp_path / "b.ckpt", map_location="cpu").calibration is None
    # What a configuration says counts for nothing.
    stored = torch.load(path, weights_only=True)
    for options, expected in (
        ({}, None),
        ({"calibration": found}, None),
        ({"calibration": other}, "not of these weights"),
        ({"mirror": True}, "mirror is True, but the calibration was found with False"),
    ):
        recwarn.clear()
        model = tiny_classifier(**options)
        model.on_load_checkpoint(stored)
        assert model.calibration == found
        said = " ".join(str(warning.message) for warning in recwarn)
        assert expected in said if expected else not said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0; expected a number above 0"),
        ({"thresholds": {"1.5": 0.5}}, "thresholds has 1.5; expected numbers between 0 and 1"),
        ({"thresholds": {"0.9": float("nan")}}, "thresholds.0.9 is nan; expected a number from 0 to 1"),
        ({"scales": (1.0,)}, r"scales are \[1.0\] and shifts \[\]; expected a finite"),
    ],
)
def test_what_is_no_calibration_is_refused(options, message):
    with pytest.raises(FaceExprError, match=f"^{message}"):
        Calibration(**options)


def test_a_calibration_is_asked_for_what_it_has():
    with pytest.raises(FaceExprError, match=r"^coverage is 0.7, but the classifier was calibrated for 0.8, 0.9; "):
        Calibration(1, {"0.8": 0.4, "0.9": 0.5}).threshold(0.7)
    assert Calibration(1, {"0.90": 0.5}).threshold(0.9) == 0.5
    assert Calibration(scales=[1.0], shifts=[0.0]) == Calibration(scales=(1.0,), shifts=(0.0,))
    with pytest.raises(FaceExprError, match=r"calibration has 2 scales; expected 7, one for each of Angry, "):
        ExpressionClassifier(calibration=Calibration(scales=(1.0, 1.0), shifts=(0.0, 0.0)))


def test_vector_scaling_mends_classes_that_are_said_too_often():
    rng = np.random.default_rng(5)
    claimed = calibrated(rng.dirichlet([0.6] * 4, 6000).astype(np.float32), Calibration())
    mend = Calibration(scales=(0.7, 1.0, 1.25, 1.0), shifts=(-0.9, 0.4, 0.0, -0.2))
    honest = calibrated(claimed, mend)
    labels = np.array([rng.choice(4, p=row / row.sum()) for row in honest.astype(np.float64)])
    temperature = fit_temperature(claimed, labels)
    found = fit_vector(claimed, labels, temperature)
    mended, warm = calibrated(claimed, found), calibrated(claimed, Calibration(temperature))
    losses = [negative_log_likelihood(table(values, labels)) for values in (honest, mended, warm)]
    assert losses[1] == pytest.approx(losses[0], abs=0.002)
    assert losses[2] > losses[0] + 0.02
    # With distributions in place of drawn labels there is no noise; shifts differ by one number for all classes.
    temperature = fit_temperature(claimed, honest)
    exact = fit_vector(claimed, honest, temperature)
    np.testing.assert_allclose(np.array(exact.scales) / temperature, mend.scales, rtol=0.005)
    assert np.ptp(np.array(exact.shifts) - mend.shifts) < 0.01
    np.testing.assert_allclose(calibrated(claimed, exact), honest, atol=2e-3)

    few = fit_vector(np.full((2, 3), 1 / 3, np.float32), np.array([0, 1]), 1.0)
    assert np.isfinite([*few.scales, *few.shifts]).all()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize(
    "calibration", [Calibration(1.7), Calibration(0.7, scales=(1.2, 0.9, 1.1), shifts=(0.3, 0.0, -0.4))]
)
def test_a_network_scales_its_probabilities_as_numpy_does(mirror, calibration):
    torch.manual_seed(1)
    image = torch.rand(5, 1, 4, 3)

    def net(images):
        return 3 * images[:, 0, 0]

    plain = class_probabilities(net, image, mirror, Calibration())[1].numpy()
    found = class_probabilities(net, image, mirror, calibration)[1].numpy()
    np.testing.assert_allclose(calibrated(plain, calibration), found, rtol=1e-4, atol=1e-7)


def test_balance_is_bayes_rule_for_other_shares():
    shares = np.array([0.6, 0.3, 0.1])
    likelihoods = np.random.default_rng(0).random((50, 3))
    posterior = likelihoods * shares
    posterior = (posterior / posterior.sum(1, keepdims=True)).astype(np.float32)
    equal = calibrated(posterior, balanced(Calibration(), shares, 1.0))
    assert equal == pytest.approx(likelihoods / likelihoods.sum(1, keepdims=True), abs=1e-5)
    half = likelihoods * shares**0.5
    half /= half.sum(1, keepdims=True)
    assert calibrated(posterior, balanced(Calibration(), shares, 0.5)) == pytest.approx(half, abs=1e-5)


def test_balance_is_kept_and_can_be_taken_back():
    shares = np.array([0.5, 0.5, 0.0])  # a class without a sample counts as the rarest that has some
    there = balanced(Calibration(1.5), shares, 0.75)
    assert (there.balance, there.temperature, there.scales) == (0.75, 1.5, (1.0, 1.0, 1.0))
    assert there.shifts == pytest.approx([0.75 * np.log(2)] * 3)
    back = balanced(there, shares, -0.75)
    assert back.balance == 0
    assert back.shifts == pytest.approx([0, 0, 0])


def test_tied_scales_find_shifts_that_were_made():
    probabilities, labels = drawn(40_000, seed=5, classes=3)
    spoilt = np.exp(np.log(probabilities.clip(1e-9)) * 2 + np.array([1.0, 0.0, -0.5]))
    spoilt = (spoilt / spoilt.sum(1, keepdims=True)).astype(np.float32)
    found = fit_vector(spoilt, labels, 1.0, tied=True)
    assert len(set(found.scales)) == 1
    assert found.scales[0] == pytest.approx(0.5, abs=0.02)
    shifts = np.array(found.shifts) - found.shifts[1]
    assert shifts == pytest.approx([-0.5, 0, 0.25], abs=0.04)
