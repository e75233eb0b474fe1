"""An image that cannot be decoded is named by set, row and file wherever it is met, or left out."""

import errno
import logging
import shutil

import bad_pictures
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from selmix_hf import FixMatchTrainer, ImageCollator, Stage1Trainer, readable_images
from selmix_hf.data import bad_images
from selmix_hf.data.bad_images import BadImageError, Rows, naming_sets, read
from selmix_hf.data.seeded import fetch

CUT = bad_pictures.jpeg()[:-20]
QUICK = {"max_steps": 2, "refresh_steps": 2, **tiny.BARE}
GAIN = {"counts": tiny.GAIN_COUNTS, "seed": 1}


def in_folders(folder, bad):
    """An ImageFolder of two classes, three images each, the last of them bad."""
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(3):
            content = CUT if bad and (name, number) == ("dog", 2) else bad_pictures.jpeg()
            (folder / name / f"{number}.jpg").write_bytes(content)
    return ImageFolder(folder)


def test_a_row_is_named_with_its_file(tmp_path):
    rows = bad_pictures.images({3: b"no image", 5: CUT})
    for named in (read(rows, [0, 1]), Rows(rows)[0], fetch(rows, [0], [1])):
        assert len(named) > 0
    with pytest.raises(BadImageError, match=r"^row 3 \(bytes of row 3\) has no image .*: UnidentifiedImageError"):
        read(rows, [2, 3])
    with pytest.raises(BadImageError, match=r"^row 5 \(bytes of row 5\) .*: OSError, image file is truncated"):
        fetch(rows.with_transform(lambda batch: batch), [4, 5], [0, 0])
    with pytest.raises(BadImageError, match=r"^row 1 \(bytes of row 1\)"):  # as the rows of this set are numbered
        Rows(rows.select([0, 5]))[1]
    files = bad_pictures.images({3: b"no image"}, folder=tmp_path)
    (tmp_path / "7.png").unlink()
    for row in (3, 7):
        with pytest.raises(BadImageError, match=rf"^row {row} \({tmp_path}/{row}.png\)"):
            Rows(files)[row]


@pytest.mark.parametrize("kind", ["pairs", "mappings", "images"])
def test_images_that_a_dataset_opens_without_reading_them(kind, tmp_path):
    (tmp_path / "good.jpg").write_bytes(bad_pictures.jpeg())
    (tmp_path / "bad.jpg").write_bytes(CUT)

    class Opened(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            image = Image.open(tmp_path / ("bad.jpg" if row == 1 else "good.jpg"))
            return {"pairs": (image, 0), "mappings": {"image": image, "label": 0}, "images": [image]}[kind]

    for named in (lambda: Rows(Opened())[1], lambda: read(torch.utils.data.Subset(Opened(), [0, 1]), [0, 1])):
        with pytest.raises(BadImageError, match=rf"^row 1 \({tmp_path}/bad.jpg\) .* truncated"):
            named()
    assert readable_images(Opened())[1].tolist() == [0, 2]
    for channels in (1, 3):  # a collator alone knows no row
        with pytest.raises(BadImageError, match=rf"^an image \({tmp_path}/bad.jpg\) cannot be decoded: OSError"):
            ImageCollator(tiny.processor(), channels=channels)([{"image": Image.open(tmp_path / "bad.jpg")}])


def test_of_a_dataset_of_torchvision(tmp_path):
    folder = in_folders(tmp_path, bad=True)
    with pytest.raises(BadImageError, match=rf"^row 5 \({tmp_path}/dog/2.jpg\) .* truncated"):
        next(iter(DataLoader(Rows(folder), batch_size=6)))
    with pytest.raises(BadImageError, match=rf"^row 1 \({tmp_path}/dog/2.jpg\)"):
        Rows(torch.utils.data.Subset(folder, [0, 5]))[1]


def test_other_errors_stay_what_they_are(monkeypatch):
    def wrong(batch):
        raise KeyError("image")

    def no_files(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(KeyError):
        read(bad_pictures.images({}).with_transform(wrong), [0, 1])
    monkeypatch.setattr(Image, "open", no_files)
    with pytest.raises(OSError, match="Too many open files"):
        read(bad_pictures.images({}), [0])


def test_a_set_is_named_also_from_a_worker():
    sets = {"train": bad_pictures.images({}), "test": bad_pictures.images({4: b"no image"}, (2, 2, 2, 2))}
    named = pytest.raises(BadImageError, match=r"^test: row 4 \(bytes of row 4\) has no image")
    with named, naming_sets(sets):
        try:
            Rows(sets["test"])[4]
        except BadImageError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()  # as a loader does


@pytest.mark.parametrize("freeze", [False, True])
def test_a_run_names_it(freeze, tmp_path):
    good, bad = tiny.images(), dict.fromkeys(range(1, 56), CUT)
    options = {"freeze_backbone": freeze, **QUICK}
    with pytest.raises(BadImageError, match=r"^train_dataset: row \d+ \(bytes of row \d+\) has no image"):
        tiny.trainer(tmp_path, train_dataset=bad_pictures.images(bad), **options).train()
    with pytest.raises(BadImageError, match=r"^gain_dataset: row 5 "):
        tiny.trainer(tmp_path, gain_dataset=bad_pictures.images({5: CUT}, **GAIN), **options).train()
    run = tiny.trainer(tmp_path, train_dataset=good, **options)
    test = bad_pictures.images({5: CUT}, **GAIN)
    with pytest.raises(BadImageError, match=r"^the set to evaluate: row 5 "):
        run.evaluate(test)
    with pytest.raises(BadImageError, match=r"^the set to evaluate as 'eval_second': row 5 "):
        run.evaluate({"first": good, "second": test})
    with pytest.raises(BadImageError, match=r"^the set to predict: row 5 "):
        run.predict(test)


def test_it_is_named_when_a_trainer_is_made(tmp_path):
    unlabelled = bad_pictures.images({0: CUT}, (3, 3, 3, 3)).remove_columns("label")
    named = r"^unlabeled_dataset: row 0 \(bytes of row 0\)"
    with pytest.raises(BadImageError, match=named):
        tiny.trainer(tmp_path, unlabeled_dataset=unlabelled, **QUICK)
    own = {"processing_class": tiny.processor(), "train_dataset": tiny.images()}
    with pytest.raises(BadImageError, match=named):
        FixMatchTrainer(tiny.model(), tiny.config(tmp_path, **QUICK), unlabeled_dataset=unlabelled, mu=1, **own)


def test_stage_1_names_it(tmp_path):
    args = tiny.config(tmp_path, max_steps=20, **tiny.BARE)
    run = Stage1Trainer(
        tiny.model(), args, train_dataset=bad_pictures.images({5: CUT}), processing_class=tiny.processor()
    )
    with pytest.raises(BadImageError, match=r"^train_dataset: row 5 "):
        run.train()


def test_files_that_the_dataset_does_not_decode_are_named_too(tmp_path):
    import datasets

    rows = bad_pictures.images({5: CUT}, **GAIN).cast_column("image", datasets.Image(decode=False))
    with pytest.raises(BadImageError, match=r"^gain_dataset: row 5 \(bytes of row 5\) .* truncated"):
        tiny.trainer(tmp_path, gain_dataset=rows, **QUICK).train()


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(BadImageError, match=r"^gain_dataset: row 0 \(bytes of row 0\) .* there is none"):
        tiny.trainer(tmp_path, gain_dataset=bad_pictures.images({0: None}, **GAIN), **QUICK)


def test_readable_images(caplog, tmp_path):
    good = bad_pictures.images({})
    assert readable_images(good)[0] is good
    with caplog.at_level(logging.WARNING):
        kept, rows = readable_images(bad_pictures.images({3: b"no image", 5: CUT}), "mine")
    assert len(kept) == 55 and rows.tolist() == [row for row in range(57) if row not in (3, 5)]
    assert kept["label"][:] == np.array(good["label"][:])[rows].tolist()
    assert caplog.messages == [
        "mine: 2 of 57 images cannot be decoded and are left out: row 3 (bytes of row 3), row 5 (bytes of row 5)."
    ]
    folder, rows = readable_images(in_folders(tmp_path, bad=True))
    assert len(folder) == 5 and rows.tolist() == [0, 1, 2, 3, 4] and folder.classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="mine: 4 of 4 images cannot be decoded: row 0"):
        readable_images(bad_pictures.images(dict.fromkeys(range(4), CUT), (1, 1, 1, 1)), "mine")


def test_a_missing_image_is_a_bad_one():
    kept, rows = readable_images(bad_pictures.images({1: None}, (1, 1, 1, 1)))
    assert len(kept) == 3 and rows.tolist() == [0, 2, 3]


def test_skip_leaves_rows_out_of_all_that_is_parallel(tmp_path, caplog):
    bad = {3: b"no image", 5: CUT}
    weights = np.arange(1.0, 58)
    truth = np.arange(40) % 4
    sets = {
        "train_dataset": bad_pictures.images(bad),
        "gain_dataset": bad_pictures.images({0: CUT}, **GAIN),
        "eval_dataset": {"own": bad_pictures.images({1: CUT}, **GAIN)},
    }
    with caplog.at_level(logging.WARNING):
        run = tiny.trainer(tmp_path, on_bad_image="skip", sample_weights=weights, **sets, **QUICK)
    run.train()
    assert len(run.train_dataset) == 55 and len(run.gain_dataset) == 32 and len(run.eval_dataset["own"]) == 32
    assert run.sample_weights.tolist() == np.delete(weights, [3, 5]).tolist()
    assert run.train_counts.sum() == 55 and "gain_dataset: 1 of 33 images" in caplog.text
    rows = bad_pictures.images({2: CUT}, (10, 10, 10, 10)).remove_columns("label")
    run = tiny.trainer(tmp_path, on_bad_image="skip", unlabeled_dataset=rows, unlabeled_labels=truth, **QUICK)
    assert len(run.unlabeled_dataset) == 39 and run.sets.truth.tolist() == np.delete(truth, 2).tolist()


def test_a_gain_set_that_also_evaluates_is_read_once(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(bad_images, "readable_images", lambda dataset, name: (names.append(name), (dataset, None))[1])
    gain = tiny.images(**GAIN)
    run = tiny.trainer(tmp_path, on_bad_image="skip", gain_dataset=gain, eval_dataset=gain, **QUICK)
    assert run.eval_dataset is run.gain_dataset and names == ["train_dataset", "gain_dataset"]


def test_skip_in_stage_1_and_beside_unlabelled_images(tmp_path):
    args = tiny.config(tmp_path, **QUICK)
    given = {"train_dataset": bad_pictures.images({3: CUT}), "eval_dataset": bad_pictures.images({1: CUT}, **GAIN)}
    given |= {"processing_class": tiny.processor(), "on_bad_image": "skip"}
    run = Stage1Trainer(tiny.model(), args, sample_weights=np.arange(57.0), **given)
    assert len(run.train_dataset) == 56 == len(run.sample_weights) and len(run.eval_dataset) == 32
    unlabelled = bad_pictures.images({0: CUT, 4: CUT}, (3, 3, 3, 3)).remove_columns("label")
    run = FixMatchTrainer(tiny.model(), args, unlabeled_dataset=unlabelled, mu=1, **given)
    assert len(run.unlabeled_dataset) == 10 and len(run.train_dataset) == 56
    with pytest.raises(ValueError, match="on_bad_image must be one of raise, skip, found 'drop'"):
        Stage1Trainer(tiny.model(), args, **{**given, "on_bad_image": "drop"})


def test_a_large_jpeg_serves_at_a_part_of_its_size(monkeypatch):
    rows = bad_pictures.images({3: bad_pictures.jpeg(64, 64)})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # the others have 256 pixels
    sample = read(rows, [2, 3])[1]
    assert sample["image"].size == (16, 16) and sample["label"] == rows["label"][3]
    assert [row for row, _ in bad_images.bad_images(rows)] == []
    with pytest.raises(BadImageError, match=r"^row 3 .*DecompressionBombError"):  # a transform gets what was stored
        read(rows.with_transform(lambda batch: batch), [3])


def test_another_large_file_is_named_or_left_out(monkeypatch, tmp_path):
    rows = bad_pictures.images({}, folder=tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "3.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(BadImageError, match=rf"^row 3 \({tmp_path}/3.png\) .*DecompressionBombError, Image size"):
        read(rows, [3])
    assert 3 not in readable_images(rows)[1]
    shutil.rmtree(tmp_path)
