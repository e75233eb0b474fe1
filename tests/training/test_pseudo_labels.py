"""Pseudo-labels: which are used, what is told of them, and that true ones are never seen in a run."""

import math

import numpy as np
import pytest
import tiny
import torch

from selmix_hf.data.pairs import PairSampler
from selmix_hf.training.pseudo_labels import choose, pseudo_label_report, second_labels

PREDICTED = np.array([0, 0, 0, 0, 1, 1, 2])
CONFIDENCE = np.array([0.9, 0.5, 0.99, 0.7, 0.4, 0.6, 0.3])
FROZEN = {"freeze_backbone": True}
VIEWS = {**FROZEN, "feature_views": 2, "train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}
KINDS = {
    "whole": ("resnet", {}),
    "frozen": ("resnet", FROZEN),
    "views, frozen": ("convnext", VIEWS),
    "augmentation": ("convnext", {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}),
    "ema": ("resnet", {"pseudo_label_source": "ema", "ema_decay": 0.5}),
    "ema, frozen": ("resnet", {"pseudo_label_source": "ema", "ema_decay": 0.5, **FROZEN}),
}


def trainer(folder, kind="whole", **options):
    model, own = KINDS[kind]
    own = {"pseudo_label_steps": 4, **tiny.BARE, **own, **options}
    return tiny.trainer(folder, model, **{"unlabeled_dataset": tiny.unlabeled(), **own})


def sampler_of(run):
    (found,) = [x for x in _inside(run.get_train_dataloader()) if isinstance(x, PairSampler)]
    return found


def _inside(loader):
    """The samplers in a loader, however accelerate has wrapped them."""
    found = loader.batch_sampler
    while found is not None:
        yield found
        found = getattr(found, "sampler", None) or getattr(found, "batch_sampler", None)


class Pairs(torch.utils.data.Dataset):
    """(pixels, class) as of torchvision, or pixels alone."""

    def __init__(self, dataset, labelled=True):
        self.dataset, self.labelled = dataset, labelled
        if labelled:
            self.targets = dataset["label"][:]

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        pixels = tiny.to_tensor(self.dataset[index]["image"])
        return (pixels, self.targets[index]) if self.labelled else pixels


def test_threshold():
    assert choose(PREDICTED, CONFIDENCE, 0.6).tolist() == [0, -1, 0, 0, -1, 1, -1]
    assert choose(PREDICTED, CONFIDENCE).tolist() == PREDICTED.tolist()


def test_a_share_of_each_class():
    """Half of four, of two and of one, rounded up: 2, 1, 1."""
    assert choose(PREDICTED, CONFIDENCE, share=0.5).tolist() == [0, -1, 0, -1, -1, 1, 2]
    assert choose(PREDICTED, CONFIDENCE, 0.5, 0.5).tolist() == [0, -1, 0, -1, -1, 1, -1]


def test_classes_without_unlabelled_samples_fall_back_to_the_labelled():
    pseudo, labels = np.array([0, -1, 2]), np.array([0, 1, 1, 2])
    assert second_labels(pseudo, labels, 3).tolist() == [0, -1, 2, -1, 1, 1, -1]
    assert second_labels(pseudo, labels, 3, views=2).tolist() == [0, -1, 2] * 2 + [-1, 1, 1, -1] * 2


def test_report():
    labels, before = np.array([0, 0, 1, -1]), np.array([0, 1, -1, 2])
    report = pseudo_label_report(labels, before, ["a", "b", "c"], np.array([0, 1, 1, 2]))
    assert report == {
        "pseudo_labels_used": 0.75,
        "pseudo_label_missing": 1,
        "pseudo_label_agreement": 0.5,  # of two that were used both times
        "pseudo_label_accuracy": pytest.approx(2 / 3),
        "pseudo_label_worst_recall": 0,
        "pseudo_labels/a": 2,
        "pseudo_labels/b": 1,
        "pseudo_labels/c": 0,
    }
    none = pseudo_label_report(np.full(2, -1), np.array([0, 0]), ["a", "b"])
    assert math.isnan(none["pseudo_label_agreement"]) and none["pseudo_labels_used"] == 0
    assert "pseudo_labels/a" not in pseudo_label_report(labels, None, [str(k) for k in range(101)])


@pytest.mark.parametrize("kind", KINDS)
def test_true_labels_are_never_seen(kind, tmp_path):
    runs = []
    for name, labels in (("none", None), ("wrong", [3] * 20 + [0] * 20)):
        run = trainer(tmp_path / name, kind, unlabeled_dataset=tiny.unlabeled(labels))
        run.train()
        runs.append((tiny.weights(run), run.pseudo_labels))
    assert tiny.largest_difference(runs[0][0], runs[1][0]) == 0
    assert torch.equal(runs[0][1], runs[1][1])
    labelled_only = trainer(tmp_path / "labelled", kind, unlabeled_dataset=None, pseudo_label_source="model")
    labelled_only.train()
    assert tiny.largest_difference(runs[0][0], tiny.weights(labelled_only)) > 0


@pytest.mark.parametrize("kind", ["whole", "frozen", "views, frozen"])
def test_second_samples_are_those_of_the_pseudo_label(kind, tmp_path):
    run = trainer(tmp_path, kind, pseudo_label_share=0.5)
    run.train()
    views = run.args.feature_views
    run.pair_state.pseudo_labels = torch.tensor([0, 1, 3, -1] * 10)  # no unlabelled sample of class 2
    uniform = torch.full((4, 4), 1 / 16)
    run.pair_state.probability = uniform
    sampler = sampler_of(run)
    sampler.num_pairs = 400
    _, second, *_ = sampler.draw()
    generator = np.random.default_rng([sampler.seed, sampler.get_period()])
    from selmix_hf.method.draws import draw_class_pairs

    wanted = draw_class_pairs(uniform, 400, generator)[:, 1]
    pseudo, train = run.pair_state.pseudo_labels.numpy(), np.array(run.train_dataset["label"])
    from_unlabelled = second < 40 * views
    assert set(wanted[from_unlabelled]) == {0, 1, 3} and set(wanted[~from_unlabelled]) == {2}
    assert (pseudo[second[from_unlabelled] % 40] == wanted[from_unlabelled]).all()
    assert (train[(second[~from_unlabelled] - 40 * views) % len(train)] == 2).all()
    assert views == 1 or (second[from_unlabelled] >= 40).any()


@pytest.mark.parametrize("kind", ["whole", "frozen", "views, frozen"])
def test_the_rows_that_are_drawn_are_those_that_are_mixed(kind, tmp_path):
    """Features or pixels of a second row come from the unlabelled set, then from the labelled one."""
    run = trainer(tmp_path, kind, max_steps=4)
    run.train()
    if kind == "whole":
        dataset = run.unlabeled.second_set()
        found = [dataset[row]["image"].tobytes() for row in (3, 40)]
        assert found == [tiny.unlabeled()[3]["image"].tobytes(), run.train_dataset[0]["image"].tobytes()]
        return
    first = run.store_features()
    joined, views = run.unlabeled.second_features(first), run.args.feature_views
    assert torch.equal(joined.take([40 * views, 40 * views + 3]), first.take([0, 3]))
    own = torch.cat(run.passes.views_of(run.unlabeled_dataset))
    assert torch.allclose(joined.take([39, 0, 40 * views - 1]), own[[39, 0, 40 * views - 1]])


def test_pseudo_labels_are_those_of_the_model(tmp_path):
    run = trainer(tmp_path, "whole", pseudo_label_threshold=0.3, max_steps=4)
    with torch.no_grad():
        pixels = torch.stack([tiny.to_tensor(row["image"]) for row in tiny.unlabeled()])
        confidence, predicted = run.model.eval()(pixel_values=pixels).logits.softmax(-1).max(-1)
    run.train()
    assert run.pseudo_labels.tolist() == choose(predicted.numpy(), confidence.numpy(), 0.3).tolist()


def test_they_are_made_anew_when_their_time_is_over(tmp_path):
    run = trainer(tmp_path, "frozen", pseudo_label_steps=8, max_steps=20, unlabeled_labels=[0] * 40)
    run.train()
    logs = [log for log in run.state.log_history if "pseudo_labels_used" in log]
    assert [log["step"] for log in logs] == [0, 8, 16]
    assert "pseudo_label_agreement" not in logs[0]
    assert all(0 <= log["pseudo_label_agreement"] <= 1 for log in logs[1:])
    assert all(sum(log[f"pseudo_labels/{name}"] for name in tiny.NAMES) == 40 for log in logs)
    assert all(log["pseudo_label_accuracy"] == log["pseudo_labels/red"] / 40 for log in logs)


@pytest.mark.parametrize("kind", ["whole", "frozen"])
def test_a_teacher(kind, tmp_path):
    seen = []

    def teacher(pixel_values):
        seen.append(len(pixel_values))
        return torch.eye(4)[torch.tensor([2])].repeat(len(pixel_values), 1) * 9

    run = trainer(tmp_path, kind, teacher=teacher, max_steps=4)
    run.train()
    assert run.pseudo_labels.tolist() == [2] * 40 and sum(seen) == 40
    module = tiny.model("resnet", seed=7)
    taught = trainer(tmp_path, kind, teacher=module, max_steps=4)
    taught.train()
    pixels = torch.stack([tiny.to_tensor(row["image"]) for row in tiny.unlabeled()])
    with torch.no_grad():
        assert taught.pseudo_labels.tolist() == module(pixel_values=pixels).logits.argmax(-1).tolist()


def test_the_oracle_of_a_study_is_the_true_classes(tmp_path):
    truth = np.arange(40) % 4
    run = trainer(tmp_path, "frozen", pseudo_label_source="oracle", unlabeled_labels=truth)
    run.train()
    assert run.pseudo_labels.tolist() == truth.tolist()
    assert {log["pseudo_label_accuracy"] for log in run.state.log_history if "pseudo_label_accuracy" in log} == {1.0}


@pytest.mark.parametrize("kind", ["whole", "frozen"])
def test_an_average_that_forgets_at_once_is_the_model(kind, tmp_path):
    plain, average = (
        trainer(tmp_path / source, kind, pseudo_label_source=source, ema_decay=0.0) for source in ("model", "ema")
    )
    plain.train()
    average.train()
    assert tiny.largest_difference(tiny.weights(plain), tiny.weights(average)) == 0
    slow = trainer(tmp_path / "slow", kind, pseudo_label_source="ema", ema_decay=0.999)
    slow.train()
    first = [log for log in slow.state.log_history if "pseudo_labels_used" in log]
    assert first[1]["pseudo_label_agreement"] > 0.9  # the average has hardly moved


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_bitwise_the_same(kind, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 3, "max_steps": 10}
    options |= {"save_total_limit": 9, "load_best_model_at_end": False, "pseudo_label_steps": 8}
    whole = trainer(tmp_path / "whole", kind, **options)
    whole.train()
    for step in (3, 6, 9):
        again = trainer(tmp_path / "again", kind, **options)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0
        assert torch.equal(whole.pseudo_labels, again.pseudo_labels)


def test_a_changed_threshold_is_refused_on_resume(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "load_best_model_at_end": False, "eval_strategy": "no"}
    trainer(tmp_path, "frozen", **options).train()
    with pytest.raises(
        ValueError, match="'pseudo_label_threshold': 0.0}, this run has {'pseudo_label_threshold': 0.9"
    ):
        trainer(tmp_path, "frozen", pseudo_label_threshold=0.9, **options).train(resume_from_checkpoint=True)


def test_a_class_that_nobody_predicts_is_said(tmp_path, monkeypatch):
    from selmix_hf.training import pseudo_labels

    told = []
    monkeypatch.setattr(pseudo_labels.logger, "warning", lambda text, *_: told.append(text))
    only_red = torch.tensor([9.0, 0, 0, 0])
    run = trainer(tmp_path, "frozen", teacher=lambda pixel_values: only_red.repeat(len(pixel_values), 1), max_steps=4)
    run.train()
    assert told == ["step 0: no unlabelled sample is used as green, blue, grey; the labelled set serves for them."]
    assert [log["pseudo_label_missing"] for log in run.state.log_history if "pseudo_label_missing" in log] == [3]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pseudo_label_steps": 6}, "pseudo_label_steps must be a multiple of refresh_steps=4, found 6"),
        ({"pseudo_label_threshold": 1.0}, r"pseudo_label_threshold must lie in \[0, 1\), found 1.0"),
        ({"pseudo_label_share": 0.0}, r"pseudo_label_share must lie in \(0, 1\], found 0.0"),
        ({"pseudo_label_source": "mean"}, "pseudo_label_source must be 'model', 'ema' or 'oracle', found 'mean'"),
        ({"pseudo_label_source": "oracle"}, "'oracle' takes the true classes: give unlabeled_labels"),
        ({"pseudo_label_source": "ema", "teacher": print}, "two sources of pseudo-labels"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\)"),
        ({"unlabeled_labels": [9] * 40}, "labels in 'unlabeled_labels' must be 0 to 3; 40 are not"),
        ({"unlabeled_labels": ["red"] * 40}, "the labels in 'unlabeled_labels' are missing in places or not integers"),
        ({"unlabeled_dataset": None, "pseudo_label_source": "ema"}, "='ema' is for pseudo-labels: give unlabeled"),
        (
            {"pseudo_label_source": "oracle", "unlabeled_labels": [0] * 40, "pseudo_label_share": 0.5},
            "'oracle' uses every label",
        ),
        ({"unlabeled_labels": [0]}, "one class a sample of unlabeled_dataset, 40, found 1"),
        ({"unlabeled_dataset": None, "teacher": print}, "teacher is for pseudo-labels: give unlabeled_dataset"),
        ({"unlabeled_dataset": []}, "unlabeled_dataset is empty"),
        ({"reuse_samples": True}, "reuse_samples lets a sample be first and second"),
        ({"unlabeled_dataset": tiny.images().remove_columns("image")}, "expected the image of an example in 'image'"),
    ],
)
def test_what_cannot_work_is_refused(options, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        trainer(tmp_path, **options)


def test_a_teacher_must_be_callable(tmp_path):
    with pytest.raises(TypeError, match="teacher must be called with the model's inputs and give logits, found 3"):
        trainer(tmp_path, teacher=3)


@pytest.mark.parametrize("freeze", [False, True])
def test_pairs_and_bare_inputs(freeze, tmp_path):
    sets = {"train_dataset": Pairs(tiny.images()), "gain_dataset": Pairs(tiny.images(tiny.GAIN_COUNTS, seed=1))}
    wrong = Pairs(tiny.images(tiny.UNLABELED_COUNTS, seed=5))
    wrong.targets = [3] * 40
    runs = []
    for name, second in (("pairs", wrong), ("bare", Pairs(wrong.dataset, labelled=False))):
        run = trainer(tmp_path / name, freeze_backbone=freeze, unlabeled_dataset=second, **sets)
        run.train()
        runs.append(tiny.weights(run))
    assert tiny.largest_difference(*runs) == 0


def test_a_transform_of_the_dataset_that_makes_labels(tmp_path):
    """The habit of the examples of transformers; the unlabelled set has labels, the other time none."""

    def labelled(batch):
        return {"pixel_values": list(map(tiny.to_tensor, batch["image"])), "labels": batch["label"]}

    def bare(batch):
        return {"pixel_values": list(map(tiny.to_tensor, batch["image"]))}

    sets = {"train_dataset": tiny.images(), "gain_dataset": tiny.images(tiny.GAIN_COUNTS, seed=1)}
    sets = {name: dataset.with_transform(labelled) for name, dataset in sets.items()}
    runs = []
    for name, second in (
        ("none", tiny.unlabeled().with_transform(bare)),
        ("true", tiny.unlabeled([1] * 40).with_transform(labelled)),
    ):
        run = trainer(tmp_path / name, unlabeled_dataset=second, **sets)
        run.train()
        runs.append(tiny.weights(run))
    assert tiny.largest_difference(*runs) == 0


def test_a_random_transform_of_the_dataset_resumes_at_a_boundary(tmp_path):
    def views(batch):
        return {**batch, "image": [image.rotate(90 * int(torch.randint(4, ()))) for image in batch["image"]]}

    options = {
        "save_strategy": "steps",
        "save_steps": 4,
        "max_steps": 8,
        "unlabeled_dataset": tiny.unlabeled().with_transform(views),
    }
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    again = trainer(tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(whole.pseudo_labels, again.pseudo_labels)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda pixel_values: torch.zeros(len(pixel_values), 10), r"shape \(16, 10\)"),
        (lambda pixel_values: torch.zeros(len(pixel_values)), r"shape \(16,\)"),
        (lambda pixel_values: torch.full((len(pixel_values), 4), torch.nan), r"shape \(16, 4\)"),
    ],
)
def test_a_teacher_that_gives_no_logits(answer, found, tmp_path):
    run = trainer(tmp_path, teacher=answer)
    with pytest.raises(ValueError, match=rf"finite logits of shape \(16, 4\) for a batch, found {found}"):
        run.train()


def test_a_teacher_stays_as_it_is(tmp_path):
    model = tiny.model("resnet")
    with pytest.raises(ValueError, match="teacher is the model itself"):
        tiny.trainer(tmp_path, model, unlabeled_dataset=tiny.unlabeled(), teacher=model)
    trainer(tmp_path, teacher=model, max_steps=4).train()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"unlabeled_dataset": None}, "'unlabeled': 40"),
        ({"unlabeled_dataset": tiny.images(tiny.UNLABELED_COUNTS[:1]).remove_columns("label")}, "'unlabeled': 40"),
        ({"unlabeled_dataset": tiny.unlabeled().shuffle(seed=1)}, "'unlabeled_rows': '[0-9a-f]{16}'}, this run has"),
        ({"ema_decay": 0.5}, "'ema_decay': 0.999"),
        ({"teacher": lambda **inputs: None}, "trainer.teacher='<lambda>', which was None"),
    ],
)
def test_a_resumed_run_keeps_its_unlabelled_data(changes, told, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer(tmp_path, **options).train()
    with pytest.raises(ValueError, match=f"was made with .*{told}"):
        trainer(tmp_path, **options, **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_repeats_are_counted_in_both_sets(tmp_path):
    run = trainer(tmp_path, max_steps=4)
    run.train()
    draws = run.pair_state.probability * 32
    counts = run.draws.second_counts(run.pseudo_labels)
    expected = max(
        (draws.sum(1).numpy() / run.train_counts).max(), (draws.sum(0).numpy() / np.maximum(counts, 1)).max()
    )
    (logged,) = [log["largest_repeat"] for log in run.state.log_history if "largest_repeat" in log]
    assert logged == pytest.approx(expected, rel=1e-4)
