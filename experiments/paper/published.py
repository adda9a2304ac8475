"""The paper's own numbers, each with where it stands there. Accuracies and AP50 are in percent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A number of the paper.

    Attributes:
        value: as it is printed.
        source: table, figure or section.
    """

    value: float
    source: str


KNN_RAW = Published(31.5, "section 6.2.1, Table 5")
KNN_HISTOGRAM = Published(24.7, "section 7")
KNN_ONE = Published(38, "section 6.2.1, Figure 8")
RANDOM = Published(14.3, "section 6.2.1")

MLP: dict[str, Published] = {
    "sigmoid": Published(17.49, "Table 3"),
    "relu": Published(22.81, "Tables 3 and 5"),
    "tanh": Published(20.19, "Table 3"),
}
"""By activation function."""

SIMPLE_CNN = Published(54.79, "Table 5")
RESNET = Published(62.77, "Table 5")
RESNET_FIRST_EPOCH = Published(55.2, "section 6.2.3")
RESNET_HAPPY = Published(83.84, "section 6.2.3, Figure 15")
RESNET_HARD = Published(55, "section 6.2.3, Figure 15")
HARD = ("Neutral", "Sad", "Fear", "Angry")
"""The classes that the paper finds near `RESNET_HARD`."""

AP50 = Published(70, "section 6.1")
DATASET_1 = {"images": 400, "faces": 1000}
"""About so many, section 3.1."""

TABLE_1: dict[str, str] = {
    "Number of Workers": "4",
    "Image per Batch": "4",
    "Base Learning Rate": "0.00025",
    "Warm-up Iteration": "1200",
    "Max Iteration": "2200",
    "Gamma": "0.05",
    "Batch Size per Image": "32",
    "Number of Classes": "1 (face)",
}

TABLE_2 = (1024, 1024, 64, 32, 7)
"""Output channels of the fully connected layers."""

TABLE_4_SIMPLE = (
    ("Conv1", "5x5x64, stride 1, pad 0, ReLU"),
    ("MaxPool1", "5x5, stride 2"),
    ("Conv2", "3x3x64, stride 1, pad 0, ReLU"),
    ("MaxPool2", "3x3, stride 2"),
    ("Conv3", "3x3x128, stride 1, pad 0, ReLU"),
    ("MaxPool3", "3x3, stride 2"),
    ("Fully-connected 1", "1024, ReLU"),
    ("Fully-connected 2", "1024, ReLU"),
    ("Fully-connected 3", "7, ReLU"),
)
TABLE_4_RESNET = (
    ("Convolutional layers", "of ResNet50, pre-trained weights"),
    ("Fully-connected 1", "1024, ReLU"),
    ("Fully-connected 2", "1024, ReLU"),
    ("Fully-connected 3", "7, ReLU"),
)
