"""The Hub id of a dataset, by the addresses of the files that it was made from."""

import tiny
from torch.utils.data import Subset

from selmix_hf.data.hub_ids import hub_ids
from selmix_hf.data.long_tail import make_long_tailed


def fetched(repository, **options):
    """Images as `load_dataset` leaves them: the files that it fetched are what tells the repository."""
    dataset = tiny.images(**options)
    address = f"hf://datasets/{repository}@0b2714987fa478483af9968de7c934580d0bb9a2/data/train-00000.parquet"
    dataset.info.download_checksums = {address: {"num_bytes": 9, "checksum": None}}
    dataset.info.builder_name = "parquet"
    return dataset


def test_the_id_outlives_what_is_done_to_a_dataset():
    dataset = fetched("me/pictures", counts=(9, 9, 9, 9))
    splits = make_long_tailed(dataset, 2, validation_per_class=2)
    renamed = splits["train"].rename_column("image", "picture")
    for made in (dataset, *splits.values(), renamed, renamed.map(lambda row: row), Subset(dataset, [0, 3])):
        assert hub_ids(made) == ["me/pictures"]


def test_ids_of_several_and_of_none():
    assert hub_ids(fetched("me/a"), fetched("me/b"), fetched("me/a"), fetched("mnist")) == ["me/a", "me/b", "mnist"]
    local = tiny.images()
    local.info.download_checksums = {"/home/me/train.parquet": {}}
    assert hub_ids(local, tiny.images(), [1, 2], None) == []
