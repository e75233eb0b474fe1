"""For comparison and analysis: a folder with a dataset of three classes and a checkpoint for them."""

import pytest
from miniature import write_dataset_and_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_dataset_and_checkpoint(tmp_path_factory.mktemp("squares"))
