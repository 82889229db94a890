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
