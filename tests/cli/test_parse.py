"""Durations, seeds and amounts as people write them."""

import pytest

from frugan.cli import parse
from frugan.cli.tell import words


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200), ("1h30min", 5400), ("1.5h", 5400), ("1d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "min", "30 parsecs", "0s", "2h!", "-2h"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse.duration(text)


def test_images() -> None:
    assert parse.images("200k") == (200_000, False)
    assert parse.images("+1.5M") == (1_500_000, True)
    assert parse.images("5000") == (5000, False)


@pytest.mark.parametrize("text", ["", "k", "-5", "2 hours", "1e5", "++5"])
def test_a_number_of_images_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number of images"):
        parse.images(text)


def test_seeds() -> None:
    assert parse.seeds("0-3") == [0, 1, 2, 3]
    assert parse.seeds("7") == [7]
    assert parse.seeds("1,5,9-11") == [1, 5, 9, 10, 11]


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-4"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds"):
        parse.seeds(text)


def test_times_in_words() -> None:
    assert [words(seconds) for seconds in (5, 600, 7380, 190_000)] == ["5 s", "10 min", "2 h 3 min", "2 d 4 h"]


NAMES = ("cat", "dog", "cats, big", "3", "猫/house", "it's")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("cat,dog", [0, 1]),
        ("cats, big,dog", [2, 1]),
        (" dog , cat", [1, 0]),
        ("3", [3]),
        ("0-2,4", [0, 1, 2, 4]),
        ("猫/house,it's", [4, 5]),
        ("DOG", [1]),
    ],
)
def test_classes(text: str, numbers: list[int]) -> None:
    assert parse.classes(text, NAMES) == numbers


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("catt", "did you mean 'cat'[?]"),
        ("CATS", "did you mean 'cat' or 'cats, big'[?]"),
        ("zebra", "it has 'cat', 'dog'.*frugan info"),
        ("6", "0 to 5"),
        ("4-2", "0 to 5"),
        (" ", "no class"),
    ],
)
def test_classes_that_do_not_exist(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse.classes(text, NAMES)
