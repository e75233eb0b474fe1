"""Plots are written, for few and for many classes, and show something."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from selmix_hf import save_plots
from selmix_hf.method.objective_names import get_objective
from selmix_hf.reports.metrics import counts_of
from selmix_hf.reports.plots import plot_matrix, plot_objective, plot_recalls
from selmix_hf.training.state import PairState

FILES = ["gain_matrix.png", "pair_distribution.png", "recall_per_class.png", "objective.png"]


class Finished:
    """What save_plots needs of a trained SelMixTrainer, for K classes."""

    def __init__(self, num_classes):
        generator = torch.Generator().manual_seed(0)
        self.gain = torch.randn(num_classes, num_classes, generator=generator)
        counts = torch.randint(1, 20, (num_classes, num_classes), generator=generator)
        probability = torch.softmax(self.gain.flatten(), 0).reshape(num_classes, -1)
        self.pair_state = PairState(0, probability, start_counts=counts)
        self.gain_counts = counts + 20 * torch.eye(num_classes, dtype=torch.long)
        self.class_names = [f"class {k}" for k in range(num_classes)]
        self.objective = get_objective("min_recall")
        numbers = {"gain_set_mean_recall": 0.5, "gain_set_worst_recall": 0.1, "effective_pairs": 7.0}
        history = [{"step": 10 * t, "gain_set_psi": 0.1 * t, **numbers} for t in range(5)]
        self.state = SimpleNamespace(log_history=[*history, {"step": 50, "loss": 1.0}], best_global_step=20)
        self.callback_handler = SimpleNamespace(callbacks=[])
        self.args = SimpleNamespace(load_best_model_at_end=True, worst_share=0.1)


def colours(path):
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).astype(int) @ [65536, 256, 1]))


@pytest.mark.parametrize("num_classes", [3, 60])
def test_plots_are_written_and_not_blank(num_classes, tmp_path):
    paths = save_plots(Finished(num_classes), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == FILES
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 300
        assert colours(path) > 20


def test_another_set_is_named_in_the_title(tmp_path):
    figure = plot_recalls([0.75, 0.5], [0.6, 2 / 3], ["a", "b"], "the test set")
    title = figure.axes[0].get_title()
    assert "on the test set" in title and "worst 0.500 → 0.600" in title and "mean 0.625 → 0.633" in title


def test_the_mean_of_the_worst_share_is_drawn_where_it_is_more_than_one_class():
    before, after = np.linspace(0, 1, 30), np.linspace(0.1, 1, 30)
    names = [str(k) for k in range(30)]
    axes = plot_recalls(before, after, names, "the test set", worst_share_interval=(0.05, 0.25)).axes[0]
    means = before[:3].mean(), after[:3].mean()
    assert f"worst tenth {means[0]:.3f} → {means[1]:.3f} (95%: 0.050 to 0.250)\nworst 0.000" in axes.get_title()
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(means)
    few = plot_recalls(before[:10], after[:10], names[:10], "the test set").axes[0]
    assert "tenth" not in few.get_title() and [line.get_ydata()[0] for line in few.lines] == [0, 0.1]


@pytest.mark.parametrize("num_classes", [3, 60])
def test_intervals_of_recalls(num_classes):
    """Of both sides where there are bars, of the recalls after where there are points."""
    recall, low, high = np.full(num_classes, 0.5), np.full(num_classes, 0.3), np.full(num_classes, 0.8)
    names = [str(k) for k in range(num_classes)]
    figure = plot_recalls(recall, recall, names, "the test set", [(low, high), (low, high)])
    segments = [segment for lines in figure.axes[0].collections for segment in lines.get_segments()]
    assert len(segments) == (6 if num_classes == 3 else 60)
    assert all(segment[:, 1].tolist() == [0.3, 0.8] for segment in segments)
    assert "95% intervals" in figure.axes[0].get_title()
    plain = plot_recalls(recall, recall, names, "the gain set")
    assert not plain.axes[0].collections and "95%" not in plain.axes[0].get_title()


def test_the_colours_of_a_gain_are_centred_on_zero():
    figure = plot_matrix(torch.tensor([[2.0, -1.0], [0.0, 0.5]]), ["a", "b"], "G", "gain", signed=True)
    assert figure.axes[0].images[0].get_clim() == (-2.0, 2.0)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    many = plot_matrix(torch.zeros(60, 60), [str(k) for k in range(60)], "P", "probability")
    assert len(many.axes[0].get_yticklabels()) < 20


def test_the_objective_and_the_weights_kept_over_steps():
    upper, lower = plot_objective(Finished(3).state.log_history, "min_recall", kept_step=20).axes
    lines = {line.get_label(): line for line in upper.lines}
    assert set(lines) == {"mean recall", "worst recall", "min_recall", "weights kept"}
    assert list(lines["min_recall"].get_xdata()) == [0, 10, 20, 30, 40]
    assert list(lines["min_recall"].get_ydata()) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert set(lines["weights kept"].get_xdata()) == {20}
    assert list(lower.lines[-1].get_ydata()) == [7.0] * 5


def test_a_real_run(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    run = tiny.trainer(tmp_path / "run", freeze_backbone=True, **tiny.BARE)
    with pytest.raises(ValueError, match="there is nothing to plot before trainer.train()"):
        save_plots(run, tmp_path)
    run.train()
    counts = torch.tensor([[5, 1, 1, 1]] * 4)
    assert all(path.is_file() for path in save_plots(run, tmp_path, counts, counts, "the test set"))
    assert ("matplotlib.pyplot" in sys.modules) is loaded  # no display, no global state


@pytest.mark.parametrize("freeze", [False, True])
def test_after_is_what_the_run_returned_and_before_is_its_start_also_after_a_resume(freeze, tmp_path):
    """At a rate that destroys the model the run returns its start; resumed in the last period there is no new G."""
    options = {"freeze_backbone": freeze, "learning_rate": 30.0, "eval_strategy": "epoch", "save_strategy": "steps"}
    options |= {"save_steps": 2, "save_total_limit": 10, "load_best_model_at_end": False}
    run = tiny.trainer(tmp_path / "run", "convnext", **options)
    at_start = counts_of(run.predict(run.gain_dataset)[:2], 4)
    run.train()
    assert torch.equal(run.pair_state.start_counts, at_start)
    assert torch.equal(run.gain_counts, counts_of(run.predict(run.gain_dataset)[:2], 4))
    assert not torch.equal(run.gain_counts, at_start)

    resumed = tiny.trainer(tmp_path / "resumed", "convnext", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert torch.equal(resumed.pair_state.start_counts, at_start)
    assert torch.equal(resumed.gain_counts, run.gain_counts)
    assert [path.name for path in save_plots(resumed, tmp_path / "plots")] == FILES[1:]

    best = {**options, "eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    kept = tiny.trainer(tmp_path / "best", "convnext", objective="mean_recall", **best)
    kept.train()
    assert torch.equal(kept.gain_counts, counts_of(kept.predict(kept.gain_dataset)[:2], 4))
