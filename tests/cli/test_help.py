"""Help that lists classes and options as they are typed, and errors that name the nearest."""

import re
from pathlib import Path

import pytest
from conftest import exit_code

import faceexpr.data
from faceexpr.cli.main import VERBS, main

LISTS = [
    ("data", {*faceexpr.data.__all__} - {"Augmentation", "ExpressionDataModule"}),
    ("model", ["ExpressionClassifier", "FaceDetector", "KNNClassifier"]),
    ("model.net", ["CompactResNet", "MLP", "ResNet", "SimpleCNN", "TimmNet", "TorchvisionNet"]),
    ("model.loss", ["CrossEntropy", "Focal"]),
    ("trainer.logger", ["CSVLogger", "CometLogger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]),
]


def said(capsys, *args):
    """Return what a command line prints that only helps."""
    assert exit_code(lambda: main([*args])) == 0
    return capsys.readouterr().out


def said_of_help(capsys, verb, flag):
    """Return what ``faceexpr VERB --help`` prints, which takes no parser and ends as any function does."""
    main([verb, flag])
    return capsys.readouterr().out


def test_the_overview_has_a_line_for_each_verb_and_no_word_of_the_parser(capsys):
    text = said(capsys, "--help")
    assert all(f"\n    {verb} " in text for verb in VERBS)
    assert not re.search("required|each subcommand", text)


@pytest.mark.parametrize(("option", "names"), LISTS)
def test_the_classes_of_an_option_are_listed_with_a_line_each(option, names, workdir, capsys):
    _, *lines = said(capsys, "fit", f"--{option}.help").splitlines()
    # Classes that tests have made before are known too, by their paths and without a word.
    listed = dict(re.fullmatch(r"  (\S+) *(.*)", line).groups() for line in lines if line)
    own = {name: line for name, line in listed.items() if "." not in name and not name.startswith("Stub")}
    assert set(own) >= set(names)
    assert not [name for name in own if re.match("Base|Dummy|.*(Module|Task)$|_|ExpressionNet|ExpressionLoss", name)]
    assert all(0 < len(own[name]) <= 90 for name in names)


def test_callbacks_that_every_run_has_are_no_choice(workdir, capsys):
    text = said(capsys, "fit", "--trainer.callbacks.help")
    assert "\n  EarlyStopping  " in text
    assert not re.search(r"\n  (Callback|Checkpoint|ProgressBar|BestCheckpoint|RunRecord|Slices) ", text)


@pytest.mark.parametrize(
    ("args", "flags"),
    [
        (["--model.net.help", "ResNet"], ["--model.net.depth {18,34,50}", "--model.net.final_relu {true,false}"]),
        (["--data=FER2013", "--data.augment.help"], ["--data.augment.flip FLIP", "--data.augment.rotation ROTATION"]),
        (["--data.augment.help"], ["--data.augment.flip FLIP"]),
        (["--data.help=FER2013"], ["--data.path PATH", "--data.augment.help"]),
        (["--config=wider_light", "--model.net.suppression.help"], ["--model.net.suppression.iou IOU"]),
        (["--model=FaceDetector", "--model.net.help=FasterRCNN"], ["--model.net.min_size MIN_SIZE"]),
        (["--model.optimizer.help=torch.optim.SGD"], ["--model.optimizer.momentum MOMENTUM"]),
        (["--trainer.help"], ["--trainer.max_epochs MAX_EPOCHS"]),
        (["--checkpoint.help"], ["--checkpoint.save_top_k SAVE_TOP_K"]),
    ],
)
def test_the_options_of_a_class_are_printed_as_they_are_typed(args, flags, workdir, capsys):
    text = said(capsys, "fit", *args)
    prefix = flags[0].rpartition(".")[0]
    for flag in flags:
        assert f"\n  {flag}" in text
    typed = re.findall(r"\n  (--\S+)", text)
    assert [flag for flag in typed if not flag.startswith(f"{prefix}.")] == []
    assert "known subclasses" not in text
    assert f"{prefix}.num_classes" not in typed  # which the program gives


def test_the_help_of_fit_is_what_a_newcomer_needs_and_then_all_options(workdir, capsys):
    beginning = said_of_help(capsys, "fit", "--help")
    whole = said(capsys, "fit", "--help", "all")
    short, _, pointer = beginning.rstrip().rpartition("\n\n")
    assert pointer == "`faceexpr fit --help all` lists every option."
    assert beginning.startswith("Train a model.")
    assert 18 <= len(short.splitlines()) <= 25
    assert whole.startswith(f"{short}\n\nusage: faceexpr fit [OPTION VALUE ...]\n")
    rest = whole.removeprefix(short)
    for flag in re.findall(r"--(?:config|data|model|trainer|ckpt_path|print_config)\b", beginning):
        assert flag in rest
    assert "known subclasses" not in rest
    assert re.search(r"Nothing\s+is\s+taken\s+where\s+nothing\s+is\s+given", rest)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_each_option_that_help_begins_with_is_one(verb, workdir, capsys):
    beginning = said_of_help(capsys, verb, "-h")
    whole = said(capsys, verb, "-h", "all")
    known = {*re.findall(r"\n  (?:-\w \S+, )?(--[\w.]+)", whole.removeprefix(beginning.rpartition("\n\n")[0]))}
    written = {*re.findall(r"--[\w.]*\w", beginning)} - {"--help", "--data.test", "--data.path", "--data.paths"}
    named = {flag.removesuffix(".help") for flag in written} - {"--data.OPTION", "--data.batch_size"}
    assert len(named) > 4
    assert named - known == set()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fit", "--data=FER20133"], "FER20133; the nearest is FER2013; see --data.help\n"),
        (["fit", "--model.net=ResNte"], "ResNte; the nearest is ResNet; see --model.net.help\n"),
        (["fit", "--model.net=ResNet", "--model.net.dpeth=18"], "the nearest is depth; see --model.net.help ResNet"),
        (["fit", "--model.nte.depth=18"], "the nearest is net; see --model.help ExpressionClassifier"),
        (["fit", "--data.augment.flpi=1"], "the nearest is flip; see --data.augment.help Augmentation"),
        (["fit", "--trainer.logger.nmae=x"], "the nearest is name; see --trainer.logger.help TensorBoardLogger"),
        (["fit", "--trainer.callbacks+=EarlyStoping"], "the nearest is EarlyStopping; see --trainer.callbacks.help"),
        (["fit", "--trainer.max_epochz=3"], "the nearest is --trainer.max_epochs"),
        (["fit", "--trainer.max_epoch", "3"], "--trainer.max_epoch 3; the nearest is --trainer.max_epochs"),
        (["fit", "--data=FER2013", "--data.pat=x"], "the nearest is path; see --data.help FER2013"),
        (["analyze", "photos", "--min_scor=0.9"], "--min_scor=0.9; the nearest is --min_score"),
        (["sweep", "--parameters={seed_everything: [1]}", "--limi=1"], "--limi=1; the nearest is --limit"),
        (["detectron2", "fit", "--max_ite=1"], "--max_ite=1; the nearest is --max_iter"),
        (["fit", "--config=typo.yaml"], "typo.yaml: --trainer.max_epoch is no option; the nearest is --trainer.max_"),
        (["test", "--ckpt_pth=x"], "the nearest is --ckpt_path"),
        (["analyze", "photos", "--detecter=x"], "the nearest is --detector"),
        (["predict", "--ckpt_path=fer2013_compact", "--data.paths=[faces]"], "--data.paths is no option of FER2013; "
            "expected --data FaceFiles with it\n"),
        (["predict", "--ckpt_path=fer2013_compact", "faces/"], "error: faces/ follows no option; expected as "
            "in --data FaceFiles --data.paths faces/\n"),
        (["fit", "analyze", "photo.jpg"], "error: analyze photo.jpg begins with another verb; expected one\n"),
        (["fit", "--data=FaceFolder"], "error: --data.path is required by FaceFolder\n"),
        (["fit", "--data=faces"], "--data is faces; expected a class, as in --data FaceFolder --data.path faces\n"),
        (["fit", "--trainer.max_epochs=two"], "error: --trainer.max_epochs is two; expected a whole number\n"),
        (["fit", "--data=FaceFolder", "--data.path=a", "--data.class_names=b"], "is b; expected a list, as [a, b]\n"),
        (["fit", "--model.optimizer.lr=high"], "error: --model.optimizer.lr is high; expected a number\n"),
        (["analyze", "photos", "--min_score=high"], "error: --min_score is high; expected a number\n"),
        (["analyze", "photos", "--coco=maybe"], "error: --coco is maybe; expected true or false\n"),
        (["analyze", "photos", "--shape=round"], "error: --shape is round; expected one of square, stretched\n"),
        (["sweep", "--limit=x"], "error: --limit is x; expected a whole number\n"),
        (["fit", "--model.net.help=ResNte"], "--model.net is ResNte; the nearest is ResNet"),
        (["fit", "--data.agument.help"], "--data.agument is no option; the nearest is --data.augment"),
        (["fit", "--data.batch_size.help"], "--data.batch_size takes no class"),
    ],
)  # fmt: skip
def test_a_wrong_option_class_or_value_is_answered_with_what_may_be_meant(args, message, workdir, capsys):
    Path("typo.yaml").write_text("trainer: {max_epoch: 3}")
    Path("faces").mkdir()
    assert exit_code(lambda: main(args)) == 2
    assert message in capsys.readouterr().err
