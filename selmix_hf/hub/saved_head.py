"""A head that was trained on a frozen backbone: saved, pushed and pulled by itself."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selmix_hf.data.classes import set_class_names
from selmix_hf.hub.head_card import render_head
from selmix_hf.hub.upload import (
    call_again,
    create_repository,
    help_after_failure,
    push_folder,
    reason_of,
    require_base_on_the_hub,
)
from selmix_hf.models.architectures import register_architecture
from selmix_hf.models.fingerprint import backbone_fingerprint
from selmix_hf.models.head import ClassifierHead
from selmix_hf.models.peft_models import has_adapter
from selmix_hf.models.plain_files import require_plain

WEIGHTS, CONFIG = "selmix_head.safetensors", "config.json"
_FORMAT = 2  # 1 had no checksum
_FACTS = ("architecture", "base_model", "base_revision", "class_names", "fingerprint")


@dataclass
class SelMixHead:
    """A head that was trained on a frozen backbone: kilobytes instead of the whole model.

    Attributes:
        tensors: weights and biases by their names in the model.
        architecture: the model's class in transformers.
        base_model, base_revision: where the backbone comes from.
        class_names: K names.
        fingerprint: of the backbone, see `fingerprint.backbone_fingerprint`.

    Raises:
        ValueError: tensors that are none of floating point, not finite or not of these classes; facts of another type,
            or a name that two classes share.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    architecture: str
    base_model: str
    base_revision: str | None
    class_names: list[str]
    fingerprint: str

    def __post_init__(self) -> None:
        names = self.class_names
        texts = {name: getattr(self, name) for name in _FACTS if name != "class_names"}
        for name, value in texts.items():
            if not isinstance(value, str) and not (name == "base_revision" and value is None):
                raise ValueError(f"{name} of a head must be a string, found {value!r:.100}.")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"class_names of a head must be a list of strings, found {names!r:.100}.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class_names of a head must be distinct, found {twice!r} twice.")
        if not self.tensors:
            raise ValueError("a head must have weights, found none.")
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                found = tensor.dtype if not tensor.is_floating_point() else "some that are infinite or not a number"
                raise ValueError(f"{name} of a head must be finite floating-point numbers, found {found}.")
            if len(names) not in tensor.shape:
                raise ValueError(
                    f"{name} of a head has shape {tuple(tensor.shape)}, which is not of {len(names)} classes."
                )

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
            head: of `head_search.find_head`.
            class_names: K names.
            base_model: default is what the model was loaded from; a path will do as long as the head stays on this
                machine.
            base_revision: to be given if it was not "main", since transformers does not keep it; a push makes it the
                hash of the commit.

        Raises:
            ValueError: it is not known where the backbone comes from, or it has an adapter.
        """
        if has_adapter(model):
            raise ValueError(
                "the adapter belongs to the backbone, so the head alone is of no use: save_pretrained keeps both, in "
                "little more room."
            )
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
            base_revision,
            list(class_names),
            backbone_fingerprint(model, head.parameters()),
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the weights (safetensors) and config.json."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, Path(folder) / WEIGHTS)
        config = {"selmix_head": _FORMAT} | {name: getattr(self, name) for name in _FACTS}
        config["sha256"] = _checksum(config, Path(folder) / WEIGHTS)
        (Path(folder) / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], revision: str | None = None, token: str | None = None
    ) -> SelMixHead:
        """Read a head from a folder or from the Hub.

        Raises:
            FileNotFoundError: there is no such folder or repository, or it holds no head.
            ValueError: a file is damaged or of another format, or what it says cannot be of a head.
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
                    f"{Path.cwd()} nor on the Hub ({reason_of(error)}) A whole model is loaded by "
                    "AutoModelForImageClassification.from_pretrained."
                ) from error
        try:
            return cls(**_read(Path(paths[CONFIG]), Path(paths[WEIGHTS])))
        except ValueError as error:
            raise ValueError(
                f"the head in {str(name)!r} cannot be used: {error} Save or download it again."
            ) from error

    def push_to_hub(
        self,
        repo_id: str,
        folder: str | os.PathLike[str],
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        license: str | None = None,
    ) -> str:
        """Save to a folder, which stays, and upload that with a small card.

        Args:
            repo_id, private, revision, token: see `upload.push_folder`.
            folder: for the weights, config.json and README.md.
            license: an identifier of the Hub, for the card.

        Returns:
            address of the commit.

        Raises:
            ValueError: others could not load the base model.
            PushError: as `push_folder`.
        """
        found = require_base_on_the_hub(self.base_model, self.base_revision, token)
        head = replace(self, base_revision=found)  # a hash: a branch will have moved on when somebody loads it
        head.save_pretrained(folder)
        given = {"private": private, "revision": revision, "license": license}
        call = f"SelMixHead.from_pretrained({str(folder)!r}).push_to_hub"
        again = call_again(call, repo_id=repo_id, folder=str(folder), **given)
        repo_id = create_repository(repo_id, help_after_failure(folder, again), private, token)
        about = (self.architecture, self.base_model, found, self.class_names)
        render_head(repo_id, *about, license, revision).save(Path(folder) / "README.md")
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
            set_class_names(config, self.class_names)
        return model

    def load_base(self, **kwargs: Any) -> Any:
        """The whole model: the base model from its folder or the Hub, with this head.

        Args:
            kwargs: for the base's from_pretrained, such as token.

        Raises:
            FileNotFoundError: the base model cannot be loaded.
            ValueError: as `attach`; the architecture is no model of transformers, or see `plain_files.require_plain`.
        """
        model_class = _class_of(self.architecture)
        try:
            require_plain(self.base_model, revision=self.base_revision, token=kwargs.get("token"))
            kwargs = {"trust_remote_code": False, **kwargs}
            config = transformers.AutoConfig.from_pretrained(self.base_model, revision=self.base_revision, **kwargs)
            config.num_labels = len(self.class_names)
            register_architecture(config)
            model = model_class.from_pretrained(
                self.base_model,
                revision=self.base_revision,
                config=config,
                ignore_mismatched_sizes=True,
                use_safetensors=True,
                **{"dtype": next(iter(self.tensors.values())).dtype, **kwargs},  # the base may be stored in another
            )
        except OSError as error:
            raise FileNotFoundError(
                f"the head's base model {self.base_model!r} (revision {self.base_revision or 'main'}) could not be "
                f"loaded ({str(error).splitlines()[0]}). Load it yourself and call attach(model)."
            ) from error
        return self.attach(model)


def _class_of(architecture: str) -> Any:
    found = getattr(transformers, architecture, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise ValueError(f"the head's architecture {architecture!r} is no model of transformers.")


def _read(config_path: Path, weights_path: Path) -> dict[str, Any]:
    """What makes a head: its tensors and `_FACTS`."""
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG} is no JSON ({error}).") from error
    version = config.get("selmix_head") if isinstance(config, dict) else None
    if version not in (1, _FORMAT):
        raise ValueError(f"{CONFIG} must have selmix_head 1 or {_FORMAT}, the format, found {version!r:.100}.")
    expected = {"selmix_head", *_FACTS} | ({"sha256"} if version == _FORMAT else set())
    if config.keys() != expected:
        lacks, more = (
            ", ".join(sorted(keys)) or "nothing" for keys in (expected - config.keys(), config.keys() - expected)
        )
        raise ValueError(f"{CONFIG} lacks {lacks} and has {more} that a head does not have.")
    if version == _FORMAT and config["sha256"] != _checksum(config, weights_path):
        raise ValueError(f"{CONFIG} and {WEIGHTS} are not as they were saved: their sha256 is another.")
    try:
        tensors = load_file(weights_path)
    except SafetensorError as error:
        raise ValueError(f"{WEIGHTS} is no safetensors file ({error}).") from error
    return {"tensors": tensors, **{name: config[name] for name in _FACTS}}


def _checksum(config: dict[str, Any], weights: Path) -> str:
    """Of both files, wherever the lines of config.json break."""
    digest = hashlib.sha256(weights.read_bytes())
    facts = {name: value for name, value in config.items() if name != "sha256"}
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
