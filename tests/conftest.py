"""The environment every test runs in: offline, one thread a process, no screen, nothing of the user's caches touched.

The variables are set here, before any test module imports transformers or datasets, and processes that a test starts
inherit them. A value that is set already stays: HF_HUB_OFFLINE=0 pytest -m hub runs the tests that need the Hub.
"""

import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

OWN_HF_HOME = None
if "HF_HOME" not in os.environ:
    OWN_HF_HOME = tempfile.mkdtemp(prefix="selmix_hf_tests_")
    os.environ["HF_HOME"] = OWN_HF_HOME

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported stays: accelerate collects garbage whenever a Trainer trains, and would look at all of it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    if OWN_HF_HOME is not None:
        shutil.rmtree(OWN_HF_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data and checkpoints; the test is skipped where SELMIX_REFERENCE_DATA is not set."""
    folder = os.environ.get("SELMIX_REFERENCE_DATA")
    if not folder:
        pytest.skip(
            "set SELMIX_REFERENCE_DATA to a folder that holds data/cifar10/{train,test}.parquet, "
            "data/imagenet_sample/validation.parquet and "
            "checkpoints/{imagenet1k,cifar10-lt-r100}-tf_efficientnet_lite0"
        )
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"SELMIX_REFERENCE_DATA is {folder!r}, which is not a folder")
    return path


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Figures of few pixels that nothing lays out, but where they are what is tested."""
    if request.path.stem not in ("test_plots", "test_notebook", "test_fidelity_callback"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        class Quick(Figure):
            def savefig(self, name, **options):
                super().savefig(name, **{**options, "dpi": 20})

        def make(width, height):
            FigureCanvasAgg(figure := Quick(figsize=(width, height)))
            return figure

        monkeypatch.setattr("selmix_hf.reports.plots.make_figure", make)


@pytest.fixture
def few_refit_steps(monkeypatch):
    """Of a head that is refitted on both sets, where what surrounds it is tested."""
    monkeypatch.setattr("selmix_hf.training.refit._STEPS", 100)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The Hub of this test, and a good token for it."""
    from fake_hub import FakeHub, use

    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not hear Ctrl-C
    with FakeHub().running() as fake:
        use(fake, monkeypatch, tmp_path / "cache")
        yield fake
    signal.signal(signal.SIGINT, heard)


@pytest.fixture
def warnings(monkeypatch):
    """The warnings of transformers' logger, which this package's go to."""
    from transformers.utils import logging

    found = []
    for room in ("training.base", "training.resuming", "training.saving", "hub.upload"):
        logger = logging.get_logger(f"selmix_hf.{room}")
        monkeypatch.setattr(logger, "warning", lambda text, *_: found.append(text))
    return found


@pytest.fixture
def trained(hub, tmp_path):
    """A trainer whose frozen ViT came from the Hub."""
    import tiny
    from transformers import AutoModelForImageClassification

    tiny.model("vit").save_pretrained(tmp_path / "base")
    hub.put("me/base", tmp_path / "base")
    model = AutoModelForImageClassification.from_pretrained("me/base")
    trainer = tiny.trainer(tmp_path / "out", model, freeze_backbone=True, max_steps=4, **tiny.BARE)
    trainer.train()
    return trainer
