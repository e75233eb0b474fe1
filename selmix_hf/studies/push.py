"""The push of a finished run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selmix_hf.hub.upload import PushError, create_repository, help_after_failure, push_folder, repeat_call
from selmix_hf.training.selmix import SelMixTrainer


def push_run(script: str, trainer: SelMixTrainer, name: str, card: Mapping[str, Any]) -> None:
    """Push what a run has saved, by the first process. Trainer's own push would name a trainer that is soon gone.

    Args:
        script: file name of the recipe, for messages.
        trainer: whose output_dir is pushed, as its hub_* options say.
        name: of the repository, where they name none.
        card: arguments of `create_model_card`.

    Raises:
        SystemExit: with a sentence, or the status of Ctrl-C: the push failed, and how to repeat it was said.
    """
    if not trainer.is_world_process_zero():
        return
    args, folder = trainer.args, str(Path(str(trainer.args.output_dir)).absolute())
    name, where = args.hub_model_id or name, (args.hub_private_repo, args.hub_revision)
    code = f"from selmix_hf.hub.upload import push_folder; {repeat_call(folder, name, *where)}"
    readable = not set(code) & set('"$`\\!')
    again = f'python -c "{code}"' if readable else f"python -c {shlex.quote(code)}"
    try:
        help = help_after_failure(folder, again)
        repo_id = create_repository(name, help, args.hub_private_repo, args.hub_token)
        trainer.create_model_card(model_name=repo_id, **card)
        address = push_folder(folder, repo_id, again, *where, args.hub_token)
    except PushError as error:
        raise SystemExit(f"{script}: the run is complete, but {error}") from error
    except KeyboardInterrupt:  # how to repeat it was said
        raise SystemExit(130) from None
    print(f"Pushed: {address}", flush=True)
