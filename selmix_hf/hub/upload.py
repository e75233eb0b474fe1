"""Uploads to the Hub: which files go up, and what is said when that fails. A failed push loses nothing."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What a model repository needs. A list of what goes up, not of what stays: an output folder also collects optimizers,
# random states, features, logs and whatever else its owner puts there, and what went public cannot be called back.
MODEL_FILES = (
    *("model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json", "config.json"),
    *("generation_config.json", "adapter_config.json", "adapter_model.safetensors", "selmix_head.safetensors"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.*"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.*"),
    *("merges.txt", "*.spm", "*.model", "*.tiktoken"),
    *("README.md", "LICENSE*", "plots/*.png", "split.json", "results.json", "class_names.json"),
)
DEFAULT_MESSAGE = "Upload by selmix_hf"


class PushError(RuntimeError):
    """Nothing was lost: the message says why the push failed, where the files are and how to repeat it."""


def model_files(folder: str | os.PathLike[str], more: Iterable[str] = ()) -> list[str]:
    """The files of a folder that belong into a model repository, relative to it and sorted.

    Args:
        folder: such as `output_dir` or one of its checkpoints.
        more: further names, for instance of a tokenizer's files.
    """
    folder = Path(folder)
    patterns = [*MODEL_FILES, *more]
    if _has_own_code(folder):
        patterns.append("*.py")
    paths = (*folder.glob("*"), *folder.glob("plots/*"))
    found = [path.relative_to(folder).as_posix() for path in paths if path.is_file()]
    # a pattern says nothing of the files in subfolders: fnmatch's * would match their slashes
    wanted = [
        name for name in found if any(name.count("/") == p.count("/") and fnmatchcase(name, p) for p in patterns)
    ]
    if left := sorted(set(found) - set(wanted)):
        logger.info(f"not uploaded, since no model needs it: {', '.join(left)}")
    return sorted(wanted)


def _has_own_code(folder: Path) -> bool:
    """Whether the model's classes are Python files beside its weights."""
    try:
        return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def create_repository(repo_id: str, help: str, private: bool | None = None, token: str | None = None) -> str:
    """Make a model repository where there is none; its full name, "owner/name".

    Args:
        repo_id, private, token: see `push_folder`.
        help: what to do if it fails, for the message.

    Raises:
        PushError: no token, offline, no permission, a server error, no connection, a bad name.
    """
    with _explained(f"opening the repository {repo_id!r}", help):
        return str(huggingface_hub.HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id)


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    again: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = DEFAULT_MESSAGE,
    more_files: Iterable[str] = (),
) -> str:
    """Upload the `model_files` of a folder to a model repository, made where there is none.

    Args:
        folder: where the files are.
        repo_id: "name" or "owner/name".
        again: the call that repeats the push, for the message; default this one.
        private: of a new repository; default is the owner's setting.
        revision: branch, made where there is none; default "main".
        token: default is the one that `hf auth login` stored, or HF_TOKEN.
        more_files: see `model_files`.

    Returns:
        address of the commit.

    Raises:
        PushError: as `create_repository`, and a card that the Hub does not accept.
    """
    help = help_after_failure(folder, again or repeat_call(folder, repo_id, private, revision))
    name, repo_id = repo_id, create_repository(repo_id, help, private, token)
    card = Path(folder) / "README.md"
    if "/" not in name and card.is_file():  # written before the owner was known
        text = card.read_text(encoding="utf-8")
        card.write_text(text.replace(f', "{name}")', f', "{repo_id}")'), encoding="utf-8")
    with _explained(f"the push to {repo_id!r}", help):
        return upload(folder, repo_id, revision, token, commit_message, more_files)


def upload(
    folder: str | os.PathLike[str],
    repo_id: str,
    revision: str | None,
    token: str | None,
    commit_message: str,
    more_files: Iterable[str] = (),
    path_in_repo: str | None = None,
) -> str:
    """The bare upload, whose errors are those of huggingface_hub; `path_in_repo` is a folder, default the root."""
    api = huggingface_hub.HfApi(token=token)
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=Path(folder),
        path_in_repo=path_in_repo,
        revision=revision,
        commit_message=commit_message,
        allow_patterns=[glob.escape(name) for name in model_files(folder, more_files)],
    )
    return str(commit.commit_url)


@contextmanager
def _explained(what: str, help: str) -> Iterator[None]:
    """Whatever ends a request to the Hub, the user has to know where the files are and how to repeat it."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning(f"{what} was interrupted. {help}")
        raise
    except Exception as error:  # of huggingface_hub, of its HTTP client, of the file system
        raise PushError(f"{what} failed: {reason_of(error)} {help}") from error


def help_after_failure(folder: str | os.PathLike[str], again: str) -> str:
    """What is said after the reason: where the files are, and the call that repeats the push."""
    return f"Nothing is lost: the files are in {folder}. To repeat the push: {again}"


def call_again(call: str, **given: Any) -> str:
    """The call as code, with the arguments that were given."""
    return f"{call}({', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)})"


def repeat_call(
    folder: str | os.PathLike[str], repo_id: str, private: bool | None = None, revision: str | None = None
) -> str:
    """The call of `push_folder` as code."""
    return call_again("push_folder", folder=str(folder), repo_id=repo_id, private=private, revision=revision)


def reason_of(error: BaseException) -> str:
    """Why a request to the Hub failed and what to do, in a sentence."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "no valid token; run `hf auth login` or set HF_TOKEN to one with write permission."
    if status == 403:
        return "the token may not write there; use one with write permission, or a repository of your own."
    if status is not None and status >= 500:
        return f"the Hub answered {status}; try again later."
    kind, lines = type(error), [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ConnectionError | TimeoutError) or kind.__module__.split(".")[0].startswith("httpx"):
        return f"there is no connection to the Hub, or it broke off ({kind.__name__}); try again later."
    if lines and lines[0].startswith("Invalid metadata in README.md"):
        return f"the Hub does not accept the card's metadata: {' '.join(lines[1:])}"
    return f"{kind.__name__}: {lines[0] if lines else 'no message'}."


def require_base_on_the_hub(
    base_model: str,
    revision: str | None = None,
    token: str | None = None,
    part: str = "head",
    advice: str = "Give base_model, the Hub id that everybody can load the backbone from, or push the whole model.",
) -> str | None:
    """Refuse a base model that others could not load; the full hash of its revision, where the Hub answers.

    Args:
        base_model, revision, token: of the base.
        part: what is pushed without it.
        advice: what to do instead, for the message.

    Raises:
        ValueError: it is a path of this machine, or there is no such model or revision on the Hub.
    """
    if hub_id(base_model) is None:
        found = f"{base_model!r}, a path of this machine" if base_model else "not known"
        raise ValueError(
            f"the {part}'s base model is {found}, so nobody else could find the backbone of an uploaded {part}. "
            f"{advice}"
        )
    if token is None and huggingface_hub.get_token() is None:
        return revision  # the Hub would not tell a private model from none; the push says what is missing
    try:
        return huggingface_hub.HfApi(token=token).model_info(base_model, revision=revision).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        if error.response is not None and error.response.status_code == 401:
            return revision
        raise ValueError(
            f"the {part}'s base model {base_model!r} (revision {revision or 'main'}) is not on the Hub, or the token "
            f"may not see it. {advice}"
        ) from error
    except Exception as error:  # the push itself will say it, and where the files are
        logger.info(f"the base model {base_model!r} was not looked up: {reason_of(error)}")
        return revision


def hub_id(name: str | None) -> str | None:
    """The name where it can be a Hub id; None for a path of this machine."""
    if not name or Path(name).exists():
        return None
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except ValueError:
        return None
    return name
