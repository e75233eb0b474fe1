"""Going on inexactly: what is said, and what of a checkpoint is used. Whole runs are in `faults/`."""

from types import SimpleNamespace

import pytest
import torch

from selmix_hf.training.inexact import compare_options, inexact_sentence, load_what_is_there, require_same_optimizer
from selmix_hf.training.same_options import save_options


def run(**more):
    return SimpleNamespace(has_geometry=False, **more)


def whole(folder, facts):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).touch()
    save_options(folder, facts, [])
    return str(folder)


def test_a_change_is_refused_with_both_values_or_is_a_reason(tmp_path):
    checkpoint = whole(tmp_path, {f"option_{k}": k for k in range(6)})
    now = {f"option_{k}": -1 for k in range(6)}
    with pytest.raises(
        ValueError, match=r"option_0=-1, which was 0; .*option_3=-1, which was 3 and 2 more\. A run goes"
    ):
        compare_options(run(), checkpoint, now, inexact=False)
    assert compare_options(run(), checkpoint, now, inexact=True)[5] == "option_5=-1, which was 5"


def test_an_older_checkpoint_has_no_options(tmp_path):
    checkpoint = whole(tmp_path, {})
    (tmp_path / "options.json").unlink()
    assert compare_options(run(), checkpoint, {"learning_rate": 1.0}, inexact=False) == []
    (tmp_path / "scheduler.pt").unlink()
    assert compare_options(run(), checkpoint, {}, inexact=True) == ["scheduler.pt is missing"]


def test_the_sentence():
    assert inexact_sentence("runs/checkpoint-8", ["rng_state.pth is missing", "a=1, which was 2"]) == (
        "The run went on from checkpoint-8 inexactly and ends at other weights than the unbroken run would: "
        "rng_state.pth is missing; a=1, which was 2."
    )


def trained(cls=torch.optim.SGD, steps=3, **options):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = cls([weight], **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(steps):
        weight.grad = torch.ones(2)
        optimizer.step()
        scheduler.step()
    made = run(optimizer=optimizer, lr_scheduler=scheduler, state=SimpleNamespace(global_step=steps))
    made.args = SimpleNamespace(lr_scheduler_type="linear")
    return made


def test_momentum_is_loaded_and_the_schedule_brought_to_its_step(tmp_path):
    old = trained(lr=0.1, momentum=0.9)
    torch.save(old.optimizer.state_dict(), tmp_path / "optimizer.pt")
    new = trained(lr=0.2, momentum=0.5, steps=0)
    new.state.global_step = 3
    load_what_is_there(new, str(tmp_path))
    group = new.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.2 / 4, 0.5)
    buffers = [next(iter(one.optimizer.state.values()))["momentum_buffer"] for one in (old, new)]
    assert torch.equal(*buffers)


def test_the_state_of_another_optimizer_is_left(tmp_path):
    torch.save(trained(torch.optim.Adam, lr=0.1).optimizer.state_dict(), tmp_path / "optimizer.pt")
    new = trained(lr=0.2, momentum=0.5, steps=0)
    new.state.global_step = 1
    load_what_is_there(new, str(tmp_path))
    assert not new.optimizer.state and new.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_schedule_that_follows_a_metric_is_loaded_where_it_is_there(at_hand, tmp_path):
    new = trained(lr=0.1, steps=0)
    new.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(new.optimizer)
    new.args.lr_scheduler_type = "reduce_lr_on_plateau"
    new.state.global_step = 5
    if at_hand:
        torch.save({"best": 0.25}, tmp_path / "scheduler.pt")
    load_what_is_there(new, str(tmp_path))
    assert (new.lr_scheduler.best == 0.25) == at_hand


def test_an_optimizer_that_another_one_was_loaded_into(tmp_path):
    new, old = trained(lr=0.1, steps=0), trained(torch.optim.Adam, lr=0.1)
    require_same_optimizer(new, tmp_path)
    new.optimizer.load_state_dict(old.optimizer.state_dict())
    with pytest.raises(
        ValueError, match=r"optimizer.pt is the state of another optimizer than this run's SGD: it has no"
    ):
        require_same_optimizer(new, tmp_path)
