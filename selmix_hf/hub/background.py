"""Checkpoints that go to the Hub while the training goes on, which no failed upload stops."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

from selmix_hf.hub.upload import model_files, reason_of, upload


class TrainingPushes:
    """Uploads in the background, one after the other.

    Args:
        folder: `output_dir`; the files of an upload are linked there until it ends, since checkpoints are deleted
            when newer ones come.
        tell: called with one sentence about the first upload that fails.
    """

    def __init__(self, folder: str | os.PathLike[str], tell: Callable[[str], None]) -> None:
        self.folder = Path(folder)
        self._tell = tell
        self._told = False
        self._pool = futures.ThreadPoolExecutor(1, "selmix-push")
        self._jobs: list[futures.Future[None]] = []

    def busy(self) -> bool:
        """Whether an upload is under way."""
        return not all(job.done() for job in self._jobs)

    def push(
        self,
        checkpoint: str | os.PathLike[str],
        paths_in_repo: Sequence[str | None],
        more_files: Sequence[str],
        **how: Any,
    ) -> None:
        """Upload the model in a checkpoint to each of the folders of the repository; no error leaves this call.

        Args:
            checkpoint: its folder.
            paths_in_repo: folders in the repository, None for the root.
            more_files: see `upload.model_files`.
            how: repo_id, revision, token and commit_message of `upload.upload`.
        """
        try:
            stage = tempfile.mkdtemp(prefix="tmp_push_", dir=self.folder)
            for name in model_files(checkpoint, more_files):
                (Path(stage) / name).parent.mkdir(exist_ok=True)
                _link(Path(checkpoint) / name, Path(stage) / name)
        except OSError as error:
            self._failed(error)
            return
        self._jobs = [job for job in self._jobs if not job.done()]
        self._jobs.append(self._pool.submit(self._upload, stage, paths_in_repo, more_files, how))

    def wait(self) -> None:
        """Until the last upload has ended, well or not."""
        futures.wait(self._jobs)

    def _upload(
        self, stage: str, paths_in_repo: Sequence[str | None], more: Sequence[str], how: dict[str, Any]
    ) -> None:
        try:
            for path in paths_in_repo:
                upload(stage, **how, more_files=more, path_in_repo=path)
        except Exception as error:  # of huggingface_hub, of its HTTP client, of the file system
            self._failed(error)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _failed(self, error: Exception) -> None:
        if not self._told:
            self._tell(
                f"a push during training failed: {reason_of(error)} The run goes on and its checkpoints stay in "
                f"{self.folder}; after it, trainer.push_to_hub() uploads the model. Further failures are not reported."
            )
        self._told = True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy(source, target)
