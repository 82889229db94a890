"""What is told while something takes its time."""

from typing import Any

import pytest

from frugan.cli.tell import Teller


def test_what_concerns_both_sides_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller()
    for text in ("left out 1", "left out 1", "left out 2"):
        teller.say_once(text)
    assert capsys.readouterr().out == "left out 1\nleft out 2\n"


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ({"discriminator/loss": 0.5, "generator/loss": 1.0, "generator/reconstruction": 9.0},
         "discriminator 0.50  generator 1.00"),
        ({"discriminators/discriminator": 0.5, "discriminators/reverse_discriminator": 0.25, "generators/cycle": 9.0},
         "discriminator 0.50  reverse discriminator 0.25"),
        ({"generator/loss": None}, ""),
    ],
)  # fmt: skip
def test_the_status_line_shows_the_main_losses(
    losses: dict[str, Any], shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"images_seen": 8, "total_images": 16, "images_per_second": 2.0, "stats": {}, "memory_mb": 5}
    Teller(plain_seconds=0).training({**line, "losses": losses})
    told = capsys.readouterr().out
    assert told.startswith("        8 of 16 images   50%  2.0 img/s  4 s left") and told.endswith(f"  {shown}  5 MB\n")


def told_at(teller: Teller, seconds: float, seen: int, speed: float) -> None:
    line = {"images_seen": seen, "total_images": 600, "images_per_second": speed, "seconds": seconds}
    teller.training({**line, "losses": {}, "stats": {}, "memory_mb": 5})


def test_a_training_slower_than_planned_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller()
    teller.plan(60)
    told_at(teller, 2, 4, 1.0)
    assert "slower" not in capsys.readouterr().out, "the first seconds tell nothing"
    told_at(teller, 10, 20, 2.0)
    shown = capsys.readouterr().out
    assert "slower than planned: 5 min are more likely than 60 s" in shown and "Ctrl-C keeps what is there" in shown
    told_at(teller, 20, 30, 1.0)
    assert "slower" not in capsys.readouterr().out


@pytest.mark.parametrize("budget", [60, None])
def test_a_training_about_as_quick_as_planned_is_not_called_slow(
    budget: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    teller = Teller()
    teller.plan(budget)
    told_at(teller, 10, 80, 8.0 if budget else 0.1)
    assert "slower" not in capsys.readouterr().out
