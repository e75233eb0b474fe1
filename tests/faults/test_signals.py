"""SIGTERM and SIGINT end a run after its step, with a checkpoint to go on from as if it had not been stopped."""

import os
import signal
import threading
import time
from pathlib import Path

import killed
import pytest
import tiny
from transformers import TrainerCallback

from selmix_hf import SelMixTrainer, Stopped
from selmix_hf.training import signals
from selmix_hf.training.head_start import HeadStart

TIMES = ("runtime", "per_second")
MOMENTS = {  # what sends at which step, and the step that the run ends after
    "the very first step": ("on_step_begin", 0, 1),
    "a step that is evaluated and not saved": ("on_step_begin", 2, 3),
    "an evaluation": ("on_evaluate", 5, 5),
    "the saving of a checkpoint": ("on_save", 2, 2),
    "the end of an epoch": ("on_step_begin", 3, 4),
    "the look at the gain set": ("on_epoch_begin", 4, 5),
    "the last step": ("on_step_begin", 5, 6),
}


class Sends(TrainerCallback):
    """Signals at one event."""

    def __init__(self, event, step, number=signal.SIGTERM, then=lambda control: None, times=1):
        self.step, self.number, self.then, self.times = step, number, then, times
        setattr(self, event, self.send)

    def send(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)
            self.then(control)


def facts(run):
    """What a run came to, and what lies in its folder."""
    logs = [{k: v for k, v in log.items() if not k.endswith(TIMES)} for log in run.state.log_history]
    logs = [log for log in logs if "train_loss" not in log]  # Trainer's, of the steps since the resume
    best = run.state.best_model_checkpoint and Path(run.state.best_model_checkpoint).name
    names = sorted(path.name for path in Path(run.args.output_dir).glob("checkpoint-*"))
    return tiny.weights(run), logs, (best, run.state.best_metric, run.state.best_global_step, names)


def make(kind, folder, **options):
    """Six steps, saved at every second one and evaluated at each; an epoch has four."""
    given = {"max_steps": 6, "eval_steps": 1, "eval_strategy": "steps", "logging_steps": 1}
    given |= {"load_best_model_at_end": True}
    if kind == "stage1 by epochs":
        kind, given["eval_strategy"], given["save_strategy"] = "stage1", "epoch", "epoch"
    if kind not in ("selmix", "frozen"):  # the lowest recall is best: that of an early step
        given |= {"metric_for_best_model": "mean_recall", "greater_is_better": False}
        given |= {"per_device_train_batch_size": 16}
    return killed.make(kind, folder, **given | options)


def bare(folder, **options):
    return make("stage1", folder, **{**tiny.BARE, "max_steps": 3, **options})


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    known = {}

    def found(kind):
        if kind not in known:
            run = make(kind, tmp_path_factory.mktemp(kind))
            run.train()
            known[kind] = facts(run)
        return known[kind]

    return found


def require_equal(run, wanted):
    weights, logs, rest = facts(run)
    assert tiny.largest_difference(weights, wanted[0]) == 0
    assert logs == wanted[1]
    assert rest == wanted[2]


CASES = [("selmix", moment) for moment in MOMENTS]
CASES += [
    ("frozen", "the look at the gain set"),
    ("stage1", "the very first step"),
    ("stage1 by epochs", "the end of an epoch"),
]
CASES += [("fixmatch", "a step that is evaluated and not saved"), ("fixmatch", "the last step")]


@pytest.mark.parametrize(("kind", "moment"), CASES, ids=map(" in ".join, CASES))
def test_the_resumed_run_is_the_unbroken_one(kind, moment, unbroken, tmp_path):
    event, step, ends_at = MOMENTS[moment]
    before = signal.getsignal(signal.SIGTERM)
    run = make(kind, tmp_path)
    run.add_callback(Sends(event, step))
    with pytest.raises(Stopped, match=f"SIGTERM ended the run at step {ends_at}.*checkpoint-{ends_at}'") as stopped:
        run.train()
    assert stopped.value.code == 75 and Path(stopped.value.checkpoint).name == f"checkpoint-{ends_at}"
    assert signal.getsignal(signal.SIGTERM) is before and not run.is_in_train
    resumed = run if kind == "selmix" else make(kind, tmp_path)  # as in a notebook, or in a new process
    resumed.train(resume_from_checkpoint=True)
    require_equal(resumed, unbroken(kind))


def test_the_last_checkpoint_of_a_stopped_run_goes_when_the_run_has_ended(tmp_path):
    """Also where the resumed run saves nothing: its best checkpoint is older."""
    names = []
    for stops in (False, True):
        folder = tmp_path / str(stops)
        run = make("selmix", folder, save_strategy="best", learning_rate=1e-9)
        if stops:
            run.add_callback(Sends("on_step_begin", 2))
            with pytest.raises(Stopped):
                run.train()
            assert (folder / "checkpoint-3").is_dir()
        run.train(resume_from_checkpoint=stops)
        names.append(sorted(path.name for path in folder.iterdir()))
    assert names[0] == names[1] == ["checkpoint-0"]


def test_a_run_within_a_run(tmp_path):
    """What ends the outer one names its own checkpoint."""
    inner, outer = bare(tmp_path / "inner"), make("stage1", tmp_path / "outer")
    inner.add_callback(Sends("on_step_begin", 1))
    train = TrainerCallback()
    train.on_save = lambda *_, **__: inner.train()
    outer.add_callback(train)
    with pytest.raises(Stopped, match="at step 2") as stopped:
        outer.train()
    assert stopped.value.code == 75 and Path(stopped.value.checkpoint) == tmp_path / "outer" / "checkpoint-2"


def test_a_run_that_is_stopped_twice(unbroken, tmp_path):
    """Once at its start, where checkpoint-0 is, and once before the resumed one made a step."""
    for number, resumes, name in ((signal.SIGINT, None, "checkpoint-0"), (signal.SIGTERM, True, "checkpoint-0")):
        run = make("selmix", tmp_path)
        run.add_callback(Sends("on_train_begin", 0, number))
        with pytest.raises(Stopped) as stopped:
            run.train(resume_from_checkpoint=resumes)
        assert stopped.value.code == 75 and Path(stopped.value.checkpoint).name == name
    run = make("selmix", tmp_path)
    run.train(resume_from_checkpoint=True)
    weights, _, rest = facts(run)  # the log has the start twice, as after every resume from checkpoint-0
    assert tiny.largest_difference(weights, unbroken("selmix")[0]) == 0 and rest == unbroken("selmix")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "part", [(SelMixTrainer, "store_features"), (HeadStart, "prepare")], ids=["features", "start"]
)
def test_before_there_is_a_checkpoint(part, number, tmp_path, monkeypatch):
    run = make("frozen", tmp_path, head_start="best", learning_rate=0.0)
    monkeypatch.setattr(*part, lambda *args: signal.raise_signal(number))
    with pytest.raises(Stopped, match="no checkpoint was written yet, begin anew") as stopped:
        run.train()
    assert stopped.value.code == 128 + number and stopped.value.checkpoint is None
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("options", [{}, {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}])
def test_a_checkpoint_also_where_the_run_would_write_none_to_go_on_from(options, tmp_path):
    whole = bare(tmp_path / "unbroken", **options)
    whole.train()
    run = bare(tmp_path, **options)
    run.add_callback(Sends("on_step_begin", 1))
    with pytest.raises(Stopped, match="checkpoint-2'"):
        run.train()
    resumed = bare(tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    assert tiny.largest_difference(tiny.weights(resumed), tiny.weights(whole)) == 0


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch):
    run = bare(tmp_path)
    run.add_callback(Sends("on_step_begin", 1, signal.SIGINT, times=2))
    with pytest.raises(Stopped):  # torchrun repeats within milliseconds what a terminal sent to all
        run.train()
    monkeypatch.setattr(signals, "_SAME", -1.0)
    run = bare(tmp_path / "second")
    run.add_callback(Sends("on_step_begin", 1, signal.SIGINT, times=2))
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert not list((tmp_path / "second").glob("checkpoint-*"))


def test_a_step_that_is_longer_than_the_grace_is_given_up(tmp_path):
    run = bare(tmp_path, save_strategy="steps", save_steps=1)
    run.stop_grace = 0.05
    run.add_callback(Sends("on_step_begin", 2, then=lambda control: time.sleep(30)))
    began = time.monotonic()
    with pytest.raises(Stopped, match="ended the run at step 2.*checkpoint-2'"):
        run.train()
    assert time.monotonic() - began < 20
    run.stop_grace = 0
    with pytest.raises(ValueError, match="stop_grace must be a positive number of seconds, or None, found 0"):
        run.train()


def test_a_run_that_ends_by_itself_at_the_same_step_gives_the_signal_on(tmp_path):
    """As by `EarlyStoppingCallback`: nothing is left to be resumed."""
    run = bare(tmp_path)
    run.add_callback(
        Sends("on_step_end", 2, signal.SIGINT, lambda control: setattr(control, "should_training_stop", 1))
    )
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert run.state.global_step == 2 and not run.is_in_train and "train_loss" in run.state.log_history[-1]


def test_signals_are_left_alone_in_another_thread_and_where_they_are_ignored(tmp_path):
    class Looks(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])

    seen = []
    own = [signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGINT, signal.SIG_IGN)]
    try:
        run = bare(tmp_path, max_steps=1)
        run.add_callback(Looks())
        run.train()
        thread = threading.Thread(target=run.train)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, own[1])
    (first, second), other = seen
    assert first is not own[0] and second is signal.SIG_IGN
    assert other == [own[0], signal.SIG_IGN]


def in_own_group(folder):
    os.setpgrp()
    run = bare(folder, dataloader_num_workers=2)
    run.add_callback(Sends("on_step_begin", 1, then=lambda control: os.killpg(0, signal.SIGINT)))
    run.train()


def test_the_exit_code_where_the_workers_of_a_loader_get_the_signal_too(tmp_path):
    process = killed.child(in_own_group, tmp_path)
    process.join(60)
    assert process.exitcode == 75
    assert (tmp_path / "checkpoint-2" / "manifest.json").is_file()


def one_of_two(folder, resumes, rank_of_signal=None, step=None):
    """What each of two processes runs: a signal to one of them after a step."""
    run = killed.make("selmix", folder, max_steps=4)
    if run.args.process_index == rank_of_signal:
        run.add_callback(Sends("on_step_begin", step))
    run.train(resume_from_checkpoint=resumes)
    os._exit(0)  # nothing of the parent's is run


def codes_of_two(*arguments):
    processes = killed.two(one_of_two, *arguments)
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_two_processes_end_after_the_same_step_whichever_got_the_signal(tmp_path):
    assert codes_of_two(tmp_path / "unbroken", False) == [0, 0]
    for rank, step, ends_at in ((0, 1, 3), (1, 1, 3), (1, 3, 4)):  # one step more, but where there is none
        folder = tmp_path / f"{rank} {step}"
        assert codes_of_two(folder, False, rank, step) == [75, 75]
        assert Path(killed.get_last_checkpoint(str(folder))).name == f"checkpoint-{ends_at}"
        assert codes_of_two(folder, True) == [0, 0]
        assert killed.weights_of(folder) == killed.weights_of(tmp_path / "unbroken")
