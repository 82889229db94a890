"""Shared test set-up: one thread per process, parity data from outside the project."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` accepts new golden numbers and public names; say why in the commit."""
    parser.addoption("--update-golden", action="store_true", help="accept new golden numbers and public names")


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The folder with the authors' numbers; tests that need it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
    folder = Path(os.environ.get("FRUGAN_FIXTURES", default))
    if not (folder / "INDEX.md").is_file():
        pytest.skip(f"parity data not found in {folder} (set FRUGAN_FIXTURES)")
    return folder
