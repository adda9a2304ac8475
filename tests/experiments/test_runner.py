"""What is missing is run, what was cut off goes on, what is done is left alone."""

import json
import shutil
from unittest.mock import Mock

import pytest
from conftest import REPOSITORY, exit_code
from torch.utils.tensorboard import SummaryWriter

from experiments.paper import runner
from experiments.paper.__main__ import main
from experiments.paper.experiments import DATASET_1, DATASET_1_IMAGES, EXPERIMENTS, RUNS, experiment
from experiments.paper.runner import lock, obstacle
from experiments.paper.runs import Record, digest, read_record
from faceexpr.utils.errors import INTERRUPTED, FaceExprError

CNN, PLUS, KNN = experiment("simple_cnn"), experiment("simple_cnn_ferplus"), experiment("knn")


class Launched:
    """Stands for the processes: writes what they would, and remembers how they were called."""

    def __init__(self):
        self.calls = []
        self.codes = {}

    def __call__(self, args, folder, log, kept_open):
        self.calls.append(tuple(args))
        verb = args[0]
        code = self.codes.get(verb, 0)
        if code:
            log.write_text(f"faceexpr {verb}: error: there is a reason\n")
            return code
        if verb == "sweep":
            for trial in ("trial_000", "trial_001"):
                write_metrics(folder / RUNS / "knn/seed_0" / trial, "val")
        else:
            place = args.index("--trainer.logger.save_dir") + 1
            version = args[args.index("--trainer.logger.version") + 1]
            write_metrics(folder / args[place] / version, "val" if verb == "fit" else "test")
        return 0

    @property
    def verbs(self):
        return [call[0] for call in self.calls]


def write_metrics(folder, stage):
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({stage: {}}))


@pytest.fixture
def launched(monkeypatch):
    processes = Launched()
    monkeypatch.setattr(runner, "launch", processes)
    return processes


@pytest.fixture
def out(tmp_path):
    """A folder of runs with all data, as far as anybody looks at them before a run."""
    (tmp_path / "data/fer2013").mkdir(parents=True)
    (tmp_path / "data/fer2013/fer2013.csv").write_text("emotion,pixels,Usage\n")
    (tmp_path / "data/fer2013/fer2013new.csv").write_text("votes\n")
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    return tmp_path


def run_all(out, experiments, seeds=None):
    return runner.Runner(out, seeds, ()).run(experiments)


def test_each_is_trained_and_then_tested_once(out, launched):
    assert run_all(out, [CNN, KNN]) == []
    assert launched.verbs == ["fit", "test", "sweep", "test", "test"]
    assert launched.calls[0] == (
        "fit", "--config", "configs/expression/fer2013_simple_cnn.yaml", "--data.path", "data/fer2013",
        "--seed_everything", "0", "--trainer.logger", "TensorBoardLogger",
        "--trainer.logger.save_dir", "lightning_logs/paper/simple_cnn", "--trainer.logger.name", "",
        "--trainer.logger.version", "seed_0", "--ckpt_path", "last",
    )  # fmt: skip
    record = read_record(out / RUNS / "simple_cnn/seed_0")
    assert record.command.endswith("--data.path data/fer2013 --seed_everything 0")
    assert record.done == ["fit", "test"]
    assert set(record.minutes) == {"fit", "test"}
    assert (out / RUNS / "simple_cnn/seed_0/checkpoints").is_dir()
    assert not list((out / RUNS / "knn").rglob("checkpoints"))  # they hold the data thirty times
    assert run_all(out, [CNN, KNN]) == []
    assert len(launched.calls) == 5


def test_dataset_1_is_trained_on_fold_by_fold_and_measured_before_the_training_and_before_suppression(out, launched):
    for folder in (DATASET_1_IMAGES, RUNS / "wider_faster_rcnn/seed_0/checkpoints"):
        (out / folder).mkdir(parents=True)
    (out / DATASET_1).write_text("{}")
    twin = experiment("dataset1_faster_rcnn")
    assert "needs the checkpoint of wider_faster_rcnn" in str(obstacle(twin, out, asked_for=True))
    (out / RUNS / "wider_faster_rcnn/seed_0/checkpoints/best.ckpt").write_bytes(b"")
    assert obstacle(twin, out, asked_for=True) is None
    assert run_all(out, [twin, experiment("dataset1_light_scratch")], seeds=(0, 6)) == []
    assert launched.verbs == [
        "fit",
        "test",
        "test",
        "test",
        "fit",
        "test",
        "test",
        "fit",
        "test",
        "test",
        "fit",
        "test",
    ]
    every = launched.calls[2]
    fit, test, start = launched.calls[4:7]  # seed 6 has fold 1
    assert fit[3:11:2] == ("--data.train", "--data.images", "--data.test_list", "--data.val_list")
    assert fit[8:11:2] == tuple(f"configs/paper/dataset1/{part}_1.txt" for part in ("test", "val"))
    assert fit[11:13] == ("--model.weights", f"{RUNS}/wider_faster_rcnn/seed_0")
    assert test[:3] == ("test", "--ckpt_path", f"{RUNS}/{twin.name}/seed_6")
    assert every[2:5] == (f"{RUNS}/{twin.name}/seed_0", "--model.net.suppression.method", "none")
    assert start[1:3] == ("--ckpt_path", f"{RUNS}/wider_faster_rcnn/seed_0")
    assert set(fit[3:11]) <= set(start)
    assert run_all(out, [twin]) == []
    (out / DATASET_1).unlink()
    assert "expected Dataset 1 there" in str(obstacle(twin, out, asked_for=True))


def test_detectron2_measures_into_a_further_version(out):
    one, folder = experiment("dataset1_detectron2"), out / RUNS / "dataset1_detectron2/seed_0"
    record = Record(one.name, 0, "", "", "", done=["fit"])
    write_metrics(folder / "version_0", "val")
    assert runner.next_step(one, 0, out, record).args[-1].endswith("seed_0/version_0")
    write_metrics(folder / "version_1", "test")
    assert runner.next_step(one, 0, out, record) is None


def test_a_failure_is_told_and_the_others_go_on(out, launched, capsys):
    launched.codes["fit"] = 2
    assert run_all(out, [CNN, KNN]) == ["simple_cnn, seed 0"]
    assert "simple_cnn, seed 0: fit failed: there is a reason" in capsys.readouterr().out
    record = read_record(out / RUNS / "simple_cnn/seed_0")
    assert (record.failed, record.done) == ("there is a reason", [])
    launched.codes, launched.calls = {}, []
    assert run_all(out, [CNN, KNN]) == []
    assert launched.verbs == ["fit", "test"]  # the same command goes on with what is missing


def test_an_interruption_ends_the_command(out, monkeypatch):
    monkeypatch.setattr(runner, "launch", Mock(side_effect=KeyboardInterrupt))
    assert exit_code(lambda: run_all(out, [CNN])) == INTERRUPTED


def test_another_configuration_puts_the_run_aside(out, launched):
    run_all(out, [CNN])
    path = out / CNN.configs[0]
    path.write_text("# another comment\n" + path.read_text())
    run_all(out, [CNN])
    assert len(launched.calls) == 2  # a comment changes nothing
    path.write_text(path.read_text().replace("max_epochs: 24", "max_epochs: 25"))
    run_all(out, [CNN])
    assert launched.verbs == ["fit", "test"] * 2
    assert (out / RUNS / "simple_cnn/replaced/seed_0_1/metrics.json").is_file()


def test_a_training_from_elsewhere_is_only_tested(out, launched):
    folder = out / RUNS / "simple_cnn/seed_0"
    write_metrics(folder, "val")
    (folder / "checkpoints/best.ckpt").write_bytes(b"")
    with SummaryWriter(str(folder)) as writer:
        for epoch in range(3):
            writer.add_scalar("val/loss", 1.0, epoch, walltime=1e9 + 300 * epoch)
    run_all(out, [CNN])
    assert launched.verbs == ["test"]
    record = read_record(folder)
    assert record.minutes["fit"] >= 10  # from its event file


def test_what_cannot_run_says_why(out, launched, capsys):
    (out / "data/fer2013/fer2013new.csv").unlink()
    run_all(out, [PLUS, experiment("two_step"), CNN])
    said = capsys.readouterr().out
    assert "simple_cnn_ferplus: cannot run here: " in said
    assert "fer2013new.csv does not exist; expected FER+'s votes there" in said
    assert "two_step: cannot run here: " in said
    assert f"about {CNN.minutes} min ({CNN.minutes} min for all that is missing)" in said  # and can run
    assert launched.verbs == ["fit", "test"]
    # What was asked for and cannot run has failed.
    assert runner.Runner(out, (0, 1), [PLUS.name]).run([PLUS]) == [f"{PLUS.name}, seed 0", f"{PLUS.name}, seed 1"]
    assert capsys.readouterr().out.count("cannot run here") == 1  # and not once for each seed


def test_seeds_are_runs_of_their_own_and_what_is_named_twice_runs_once(out, launched):
    project = out / "project"
    shutil.copytree(REPOSITORY / "configs", project / "configs")
    arguments = ["--data", str(out / "data"), "--out", str(out / "runs"), "--project", str(project)]
    main([*arguments, "--only", "simple_cnn", "simple_cnn", "--seeds", "3", "4", "3"])
    assert launched.verbs == ["fit", "test"] * 2
    assert sorted(path.name for path in (project / RUNS / "simple_cnn").iterdir()) == ["seed_3", "seed_4"]


def test_a_gpu_is_asked_for_where_nobody_would_wait(out, monkeypatch):
    monkeypatch.setattr("experiments.paper.runner.gpu_name", lambda: None)
    large = experiment("resnet50_imagenet")
    assert "it takes days without a GPU" in str(obstacle(large, out, asked_for=False))
    assert obstacle(large, out, asked_for=True) is None


def test_a_step_without_a_result_is_not_run_for_ever(out, monkeypatch, capsys):
    monkeypatch.setattr(runner, "launch", lambda *given: 0)
    assert run_all(out, [CNN]) == ["simple_cnn, seed 0"]
    assert "test failed: it has ended well and left no result" in capsys.readouterr().out


def test_two_commands_do_not_share_a_folder(out, launched):
    with (out / ".paper.lock").open("a") as file:
        assert lock(file)
        with pytest.raises(FaceExprError, match="another process runs experiments"):
            run_all(out, [CNN])
    assert launched.calls == []


def test_experiments_name_files_that_are_there_and_use_every_one():
    named = {name for one in EXPERIMENTS for name in (*one.configs, *filter(None, [one.sweep]))}
    assert [name for name in named if not (REPOSITORY / name).is_file()] == []
    own = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "configs/paper").glob("*.yaml")}
    assert own <= named
    assert len({one.name for one in EXPERIMENTS}) == len(EXPERIMENTS)
    assert all(len(one.seeds) == 3 for one in EXPERIMENTS if one.kind == "fit" and one.minutes < 10)
    # Each has a configuration of its own: of two that are the same, one would be another's result.
    digests = [
        digest([REPOSITORY / name for name in (*one.configs, *filter(None, [one.sweep]))])
        for one in EXPERIMENTS
        if one.configs
    ]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--only", "nothing"], "--only: there is no experiment nothing; expected knn, mlp, "),
        (["--seeds", "-1"], "--seeds has -1; expected 0 or more"),
        (["--data", "nowhere"], "--data: nowhere is no folder"),
        (["--project", "data"], "has no configs/paper; expected a clone of the project"),
        (["--out", str(REPOSITORY)], "--out is the project itself"),
        (["--data", "configs", "--out", "."], "data is in the place of a link to"),
        (["--data", "null"], "--data and --out are needed"),
    ],
)
def test_bad_options_are_one_sentence(out, monkeypatch, capsys, args, message):
    monkeypatch.chdir(out)
    defaults = ["--data", "data", "--out", "runs", "--project", str(REPOSITORY)]
    assert exit_code(lambda: main([*defaults, *args])) == 2
    assert message in capsys.readouterr().err
