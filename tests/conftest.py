"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden fixtures made by running the research code."""
    folder = Path(os.environ.get("IBLLM_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"golden fixtures not found at {folder}; set IBLLM_REFERENCE to their folder")
    return folder
