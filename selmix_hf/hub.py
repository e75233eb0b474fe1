"""Heads and models on the Hub. A push that fails loses nothing and is repeated with one call."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import transformers
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from selmix_hf.config import SelMixConfig
from selmix_hf.fingerprint import backbone_fingerprint
from selmix_hf.heads import ClassifierHead
from selmix_hf.model_card import render
from selmix_hf.objectives import Objective

WEIGHTS, CONFIG = "selmix_head.safetensors", "config.json"
# checkpoints with optimizers and random states, and other models than the one that is pushed
NOT_UPLOADED = ["_*", "checkpoint-*", "head/*", "stage1/*", "seed_*/*", "training_args.bin", "*.pt", "*.pth"]


class PushError(RuntimeError):
    """Nothing was lost: the message says why the push failed, where the files are and how to repeat it."""


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    again: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Upload by selmix_hf",
) -> str:
    """Upload a folder to a model repository, made where there is none; `NOT_UPLOADED` stays behind.

    Args:
        folder: what to upload.
        repo_id: "name" or "owner/name".
        again: the call that repeats the push, for the message.
        private: of a new repository; default is the owner's setting.
        revision: branch, made where there is none; default "main".
        token: default is the one that `hf auth login` stored, or HF_TOKEN.

    Returns:
        address of the commit.

    Raises:
        PushError: no token, offline, no permission, a server error, no connection, a bad name.
    """
    api = huggingface_hub.HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=Path(folder),
            revision=revision,
            commit_message=commit_message,
            ignore_patterns=NOT_UPLOADED,
        )
    except Exception as error:  # whatever it is, the user has to know where the files are
        raise PushError(
            f"the push to {repo_id!r} failed: {_reason(error)} Nothing is lost: the files are in {folder}. "
            f"To repeat the push: {again}"
        ) from error
    return str(commit.commit_url)


def _reason(error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it."
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "no valid token; run `hf auth login` or set HF_TOKEN to one with write permission."
    if status == 403:
        return "the token may not write there; use one with write permission, or a repository of your own."
    if status is not None and status >= 500:
        return f"the Hub answered {status}; try again later."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}."


@dataclass
class SelMixHead:
    """A head that was trained on a frozen backbone: kilobytes instead of the whole model.

    Attributes:
        tensors: weights and biases by their names in the model.
        architecture: the model's class in transformers.
        base_model, base_revision: where the backbone comes from.
        class_names: K names.
        fingerprint: of the backbone, see `fingerprint.backbone_fingerprint`.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    architecture: str
    base_model: str
    base_revision: str | None
    class_names: list[str]
    fingerprint: str

    @classmethod
    def from_model(
        cls,
        model: Any,
        head: ClassifierHead,
        class_names: list[str],
        base_model: str | None = None,
        base_revision: str | None = None,
    ) -> SelMixHead:
        """The head of a model whose backbone is as it was loaded.

        Args:
            model: a model of transformers.
            head: of `heads.find_head`.
            class_names: K names.
            base_model, base_revision: default is what the model was loaded from.

        Raises:
            ValueError: it is not known where the backbone comes from.
        """
        base_model = base_model or getattr(model.config, "_name_or_path", "")
        if not base_model:
            raise ValueError(
                "the model was not loaded by from_pretrained, so nobody could find its backbone: give base_model, or "
                "push the whole model by push_to_hub."
            )
        return cls(
            {
                f"{name}.{kind}": tensor.detach().cpu().clone().contiguous()
                for name, module in zip(head.names, head.modules, strict=True)
                for kind, tensor in module.named_parameters()
            },
            type(model).__name__,
            base_model,
            base_revision or getattr(model.config, "_commit_hash", None),
            list(class_names),
            backbone_fingerprint(model, head.parameters()),
        )

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the weights (safetensors) and config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, Path(folder) / WEIGHTS)
        config = {"selmix_head": 1} | {name: value for name, value in asdict(self).items() if name != "tensors"}
        (Path(folder) / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, revision: str | None = None, token: str | None = None
    ) -> SelMixHead:
        """Read a head from a folder or from the Hub.

        Raises:
            FileNotFoundError: there is no such folder or repository, or it holds no head.
        """
        paths = {}
        for file in (WEIGHTS, CONFIG):
            try:
                local = Path(name) / file
                paths[file] = (
                    str(local)
                    if Path(name).is_dir() and local.is_file()
                    else huggingface_hub.hf_hub_download(str(name), file, revision=revision, token=token)
                )
            except Exception as error:  # of huggingface_hub, of its HTTP client, of the file system
                raise FileNotFoundError(
                    f"no head could be read from {str(name)!r}: {file} is neither in a folder of that name in "
                    f"{Path.cwd()} nor on the Hub ({_reason(error)}) A whole model is loaded by "
                    "AutoModelForImageClassification.from_pretrained."
                ) from error
        config = json.loads(Path(paths[CONFIG]).read_text(encoding="utf-8"))
        config.pop("selmix_head", None)
        return cls(tensors=load_file(paths[WEIGHTS]), **config)

    def push_to_hub(
        self,
        repo_id: str,
        folder: str | os.PathLike,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Save to a folder, which stays, and upload that; the arguments and errors of `push_folder`."""
        self.save_pretrained(folder)
        again = f"SelMixHead.from_pretrained({str(folder)!r}).push_to_hub({repo_id!r}, {str(folder)!r})"
        return push_folder(folder, repo_id, again, private, revision, token, "Upload a head trained by SelMix")

    def attach(self, model: nn.Module) -> Any:
        """Put the head onto a model with the same backbone, in place, and return the model.

        Raises:
            ValueError: no such layer, another feature width, number of classes or backbone.
        """
        parameters = {}
        for name, tensor in self.tensors.items():
            try:
                parameters[name] = model.get_parameter(name)
            except AttributeError as error:
                raise ValueError(
                    f"the head belongs to a {self.architecture} with a parameter {name!r}; this "
                    f"{type(model).__name__} has none. Load the backbone by load_base()."
                ) from error
            expected, found = tuple(tensor.shape), tuple(parameters[name].shape)
            if expected != found:
                raise ValueError(
                    f"{name} is {expected} (classes x features) in the head, {found} in the model: "
                    + (
                        f"load the model with num_labels={expected[0]}."
                        if expected[1:] == found[1:]
                        else "wrong backbone."
                    )
                )
        found_fingerprint = backbone_fingerprint(model, parameters.values())
        if found_fingerprint != self.fingerprint:
            raise ValueError(
                f"the model's backbone is not the one that the head was trained on: expected fingerprint "
                f"{self.fingerprint[:12]} ({self.base_model}, revision {self.base_revision or 'unknown'}), found "
                f"{found_fingerprint[:12]}. Weights, their dtype or the revision differ: use load_base()."
            )
        for name, tensor in self.tensors.items():
            parameters[name].data.copy_(tensor)
        config: Any = getattr(model, "config", None)
        if config is not None:
            config.id2label = dict(enumerate(self.class_names))
            config.label2id = {name: k for k, name in enumerate(self.class_names)}
        return model

    def load_base(self, **kwargs: Any) -> Any:
        """The whole model: the base model from its folder or the Hub, with this head.

        Args:
            kwargs: for the base's from_pretrained, such as token.

        Raises:
            FileNotFoundError: the base model cannot be loaded.
            ValueError: as `attach`.
        """
        model_class = getattr(transformers, self.architecture)
        try:
            config = transformers.AutoConfig.from_pretrained(self.base_model, revision=self.base_revision, **kwargs)
            config.num_labels = len(self.class_names)
            model = model_class.from_pretrained(
                self.base_model, revision=self.base_revision, config=config, ignore_mismatched_sizes=True, **kwargs
            )
        except OSError as error:
            raise FileNotFoundError(
                f"the head's base model {self.base_model!r} (revision {self.base_revision or 'main'}) could not be "
                f"loaded ({str(error).splitlines()[0]}). Load it yourself and call attach(model)."
            ) from error
        return self.attach(model)


class HubTrainer(Trainer):
    """The part of `SelMixTrainer` that writes cards and pushes."""

    args: SelMixConfig
    objective: Objective
    head: ClassifierHead
    class_names: list[str]
    train_counts: np.ndarray
    _evaluations: Sequence[dict[str, Any]] = ()

    def push_head_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        base_model: str | None = None,
        base_revision: str | None = None,
    ) -> str | None:
        """Upload the head alone, which a frozen backbone makes possible; it is kept in output_dir/head.

        Args:
            repo_id, private, revision, token: see `push_folder`.
            base_model, base_revision: default is what the model was loaded from.

        Returns:
            address of the commit; None on all processes but the first.

        Raises:
            ValueError: the backbone was trained too.
            PushError: as `push_folder`.
        """
        if not self.args.freeze_backbone:
            raise ValueError("the backbone was trained too, so the head alone is of no use: call push_to_hub().")
        if not self.is_world_process_zero():
            return None
        head = SelMixHead.from_model(self.model, self.head, self.class_names, base_model, base_revision)
        return head.push_to_hub(repo_id, Path(str(self.args.output_dir)) / "head", private, revision, token)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Save the model to output_dir and upload it; no optimizer, random state or training_args.bin goes along.

        Args:
            commit_message, token, revision, private: as for Trainer.
            blocking: must stay True, so that a failure is seen.
            kwargs: of `create_model_card`.

        Returns:
            address of the commit; None on all processes but the first.

        Raises:
            PushError: as `push_folder`; the saved model stays in output_dir.
        """
        if not blocking:
            raise ValueError("blocking=False would hide a failed push: leave it True.")
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        return push_folder(
            str(self.args.output_dir),
            self.args.hub_model_id or Path(str(self.args.output_dir)).name,
            "trainer.push_to_hub()",
            self.args.hub_private_repo if private is None else private,
            revision or self.args.hub_revision,
            token or self.args.hub_token,
            commit_message or "End of training",
        )

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As Trainer's; evaluations are remembered for the card, which `train` would forget."""
        if any(name.endswith("_mean_recall") for name in logs):
            self._evaluations = [*self._evaluations, {**logs, "step": self._step_of_weights()}]
        super().log(logs, *args, **kwargs)

    def _step_of_weights(self) -> int:
        """After a run that ended with its best checkpoint the weights are older than the last step."""
        best = self.state.best_global_step if self.args.load_best_model_at_end and not self.is_in_train else None
        return self.state.global_step if best is None else best

    def create_model_card(  # type: ignore[override]
        self, model_name: str | None = None, dataset_args: Any = None, **kwargs: Any
    ) -> None:
        """Write README.md into output_dir: numbers of `evaluate(test, metric_key_prefix="test")`, or else those of
        validation, said to be so.

        Args:
            model_name: default is `hub_model_id` or the name of output_dir.
            dataset_args: not used.
            kwargs: see `model_card.render`.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        name = model_name or self.args.hub_model_id or folder.name
        render(
            name,
            self.model,
            self.args,
            self.objective.metric.name,
            self.class_names,
            self.train_counts,
            self._evaluations,
            self._step_of_weights(),
            **kwargs,
        ).save(folder / "README.md")
