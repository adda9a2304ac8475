"""The label vocabulary."""

import re

import pytest

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import ALIASES, COLOURS, FER_NAMES, FERPLUS_NAMES, canonical, colour, index_map


def test_every_alias_means_a_class_of_the_vocabulary_in_the_order_of_fer_2013():
    assert FERPLUS_NAMES == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral", "Contempt")
    assert set(ALIASES.values()) == set(FERPLUS_NAMES)
    for alias, name in ALIASES.items():
        assert alias == alias.lower()
        for spelling in (alias, alias.upper(), f" {alias} ", f"Emotion_{alias.title()}"):
            assert canonical(spelling, FERPLUS_NAMES) == name


@pytest.mark.parametrize("name", ["", "  ", "bored", "happ", "Not_Face", "Emotion_", "3", "contempt"])
def test_other_names_mean_nothing(name):
    assert canonical(name, FER_NAMES) is None


def test_classes_of_one_s_own():
    own = ("calm", "Happiness", "scared", "fear")
    # The name itself comes before any alias.
    asked = {"Calm": "calm", "happy": "Happiness", "Joy": "Happiness", "FEAR": "fear", "scared": "scared", "sad": None}
    assert {name: canonical(name, own) for name in asked} == asked


def test_indices_go_by_name_and_not_by_position_and_unknown_classes_are_named():  # case A08
    alphabetical = sorted(FER_NAMES)
    mapping = index_map(alphabetical, FER_NAMES)
    assert mapping == [0, 1, 2, 3, 6, 4, 5]
    assert index_map(FER_NAMES, alphabetical) == [mapping.index(index) for index in range(7)]
    assert index_map(["Happy", "Angry"], ["anger", "happiness"]) == [1, 0]
    assert index_map(["Neutral", "Happy"], FERPLUS_NAMES) == [6, 3]
    assert index_map([], FER_NAMES) == []
    with pytest.raises(FaceExprError, match=re.escape("Contempt, Bored, which the model does not know")) as error:
        index_map(["Happy", "Contempt", "Bored"], FER_NAMES)
    assert ", ".join(FER_NAMES) in str(error.value)


def test_every_class_has_a_colour_of_its_own():
    assert set(COLOURS) == set(FERPLUS_NAMES)
    assert len({*COLOURS.values(), colour("somebody else's class")}) == len(COLOURS) + 1
    assert colour("Happy") == COLOURS["Happy"]
