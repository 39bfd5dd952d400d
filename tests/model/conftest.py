"""Toy data that several tests read."""

import pytest

from model.evaluation.data import DataSet, read_data
from tests.fakes.colour_model import write_toy_data


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """120 images of a coloured square, half of them ``train``, half ``dev``."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder, 120)
    return read_data(folder)
