"""What a run prints of itself: the metrics that its objective asks for."""

import pytest
import tiny

from selmix_hf.training.progress_lines import ProgressLines


def test_a_run_for_the_worst_half(tmp_path, capsys):
    options = {"objective": "worst_share_recall", "worst_share": 0.5, "freeze_backbone": True, "max_steps": 8}
    run = tiny.trainer(tmp_path, "convnext", **options)
    ProgressLines.replace_logs_of(run)
    run.train()
    logs = [log for log in run.state.log_history if "eval_psi" in log]
    assert all(log["eval_psi"] == log["eval_selection_score"] for log in logs)
    assert all(log["eval_psi"] == pytest.approx(log["eval_worst_share_recall"], abs=1e-12) for log in logs)
    assert all(log["eval_worst_share_recall"] >= log["eval_min_recall"] for log in logs)
    assert f"mean recall of the worst half {logs[0]['eval_psi']:.3f}" in capsys.readouterr().out
    multipliers = run.pair_state.multipliers["worst_share_recall"]
    assert float(multipliers.sum()) == pytest.approx(1) and float(multipliers.max()) <= 0.5
    assert run.pair_state.geometry["worst_share"] == 0.5


def test_a_run_for_the_minimum_is_not_shown_the_worst_share(tmp_path, capsys):
    run = tiny.trainer(tmp_path, "convnext", objective="min_recall", worst_share=0.5, freeze_backbone=True)
    ProgressLines.replace_logs_of(run)
    run.train()
    assert "mean recall" in (said := capsys.readouterr().out) and "worst half" not in said
    assert run.pair_state.geometry["worst_share"] == 0
