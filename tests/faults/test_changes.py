"""What is otherwise in the run that resumes: refused with both values, allowed and said, or without an effect."""

import re
import shutil

import pytest
import semi_supervised_run
import tiny
import torch
from transformers import TrainingArguments

from selmix_hf import Stage1Trainer
from selmix_hf.training.checkpoints import load_pair_state
from selmix_hf.training.state import geometry_of

SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 5, "load_best_model_at_end": False}
SELMIX = {"max_steps": 4, "eval_strategy": "no", "lr_scheduler_type": "cosine", "train_transform": tiny.to_tensor}
SELMIX |= {"eval_transform": tiny.to_tensor, **SAVING}
STAGE1 = {"max_steps": 4, "learning_rate": 0.01, "report_to": "none", "disable_tqdm": True, "use_cpu": True, **SAVING}
OF_STAGE1 = ("loss", "mixup_alpha", "sampling", "train_transform", "optimizers", "sample_weights", "processing_class")


def selmix(folder, model=None, **options):
    model = tiny.model("vit") if model is None else model
    return tiny.trainer(folder, model, **{**SELMIX, **options})


def frozen(folder, **options):
    view = {"train_transform": tiny.random_view, "feature_views": 2}
    return selmix(folder, **{"freeze_backbone": True, **view, **options})


def stage1(folder, model="resnet", **options):
    own = {"train_dataset": tiny.images(), "processing_class": tiny.processor()}
    own |= {name: options.pop(name) for name in OF_STAGE1 if name in options}
    model = tiny.model(model) if isinstance(model, str) else model
    return Stage1Trainer(model, TrainingArguments(str(folder), **{**STAGE1, **options}), **own)


def fixmatch(folder, **options):
    return semi_supervised_run.make(folder, **{"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **options})


MAKE = {"selmix": selmix, "frozen": frozen, "stage1": stage1, "fixmatch": fixmatch}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in MAKE}
    for kind, folder in folders.items():
        MAKE[kind](folder).train()
    return {kind: str(folder / "checkpoint-2") for kind, folder in folders.items()}


def sized(side):
    """A transform with something in it."""

    def view(image):
        return tiny.to_tensor(image.resize((side, side)))

    return view


VIT = {"hidden_dropout_prob": 0.2}
REFUSED = [
    ("selmix", {"target_share": 0.9}, "target_share=0.9, which was None"),
    ("selmix", {"inverse_temperature": "5"}, "inverse_temperature='5', which was 'auto'"),
    ("selmix", {"min_rate": 5.0}, "min_rate=5.0, which was 10.0"),
    ("selmix", {"min_memory": 0.5}, "min_memory=0.5, which was 0.8"),
    ("selmix", {"tail_share": 0.5}, "tail_share=0.5, which was 0.1"),
    ("selmix", {"class_prior": "balanced"}, "class_prior='balanced', which was None"),
    ("selmix", {"constraint_rate": 0.1}, "constraint_rate=0.1, which was 0.3"),
    ("selmix", {"constraint_update": "exponential"}, "constraint_update='exponential', which was 'projected"),
    ("selmix", {"constraint_tolerance": 0.1}, "constraint_tolerance=0.1, which was 0.01"),
    ("selmix", {"head_start": "best"}, "head_start='best', which was 'as_is'"),
    ("selmix", {"learning_rate": 0.2}, "learning_rate=0.2, which was 0.1"),
    ("selmix", {"learning_rate": None}, "learning_rate=None, which was 0.1"),
    ("selmix", {"backbone_learning_rate": 0.02}, "backbone_learning_rate=0.02, which was 0.01"),
    ("selmix", {"weight_decay": 0.1}, "weight_decay=0.1, which was 0.0"),
    ("selmix", {"lr_scheduler_type": "linear"}, "lr_scheduler_type='linear', which was 'cosine'"),
    ("selmix", {"warmup_steps": 1}, "warmup_steps=1, which was 0"),
    ("selmix", {"max_grad_norm": 1.0}, "max_grad_norm=1.0, which was 0.0"),
    ("selmix", {"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1, which was 0.0"),
    ("selmix", {"optim": "adamw_torch"}, "optim='adamw_torch', which was 'sgd'"),
    ("selmix", {"optim_args": "momentum=0.9"}, "optim_args='momentum=0.9', which was None"),
    ("selmix", {"bf16": True}, "bf16=True, which was False"),
    ("selmix", {"max_steps": 6}, "max_steps=6, which was 4"),
    ("selmix", {"max_steps": 3}, "max_steps=3, which was 4"),
    ("selmix", {"train_transform": tiny.random_view}, "trainer.train_transform='random_view .*, which was 'to_tensor"),
    ("selmix", {"eval_transform": sized(16)}, "trainer.eval_transform='sized.<locals>.view "),
    ("selmix", {"model": VIT}, r"model.config.hidden_dropout_prob=0.2, which was 0.0"),
    ("selmix", {"model": {"num_attention_heads": 4}}, "model.config.num_attention_heads=4, which was 2"),
    ("selmix", {"ignore_data_skip": True}, "ignore_data_skip=True, which was False"),
    ("frozen", {"feature_views": 1}, "feature_views=1, which was 2"),
    ("frozen", {"feature_dtype": "float16"}, "feature_dtype='float16', which was 'float32'"),
    ("stage1", {"loss": "cross_entropy"}, "trainer.loss='cross_entropy', which was 'logit_adjusted'"),
    ("stage1", {"mixup_alpha": 0.2}, "trainer.mixup_alpha=0.2, which was 0.0"),
    ("stage1", {"sampling": "square_root"}, "trainer.sampling='square_root', which was 'natural'"),
    ("stage1", {"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1, which was 0.0"),
    ("stage1", {"learning_rate": 0.1}, "learning_rate=0.1, which was 0.01"),
    ("stage1", {"seed": 7}, "seed=7, which was 42"),
    ("stage1", {"per_device_train_batch_size": 4}, "samples_per_step=4, which was 8"),
    ("stage1", {"gradient_accumulation_steps": 2}, "samples_per_step=16, which was 8"),
    ("stage1", {"processing_class": None, "train_transform": tiny.to_tensor}, "train_transform='to_tensor"),
    ("fixmatch", {"threshold": 0.5}, "trainer.threshold=0.5, which was 0.3"),
    ("fixmatch", {"ema_decay": 0.5}, "trainer.ema_decay=0.5, which was 0.999"),
    ("fixmatch", {"unlabeled_weight": 2.0}, "trainer.unlabeled_weight=2.0, which was 1.0"),
    ("fixmatch", {"rampup_steps": 9}, "trainer.rampup_steps=9, which was 0"),
    ("fixmatch", {"strong_transform": tiny.random_view}, "trainer.strong_transform='random_view"),
]


def changed(kind, folder, options):
    options = dict(options)
    if isinstance(options.get("model"), dict):
        options["model"] = tiny.model("vit", **options["model"])
    if "processing_class" in options:
        options["processing_class"] = tiny.processor()
    return MAKE[kind](folder, **options)


@pytest.mark.parametrize(("kind", "options", "sentence"), REFUSED, ids=lambda given: str(given)[:40])
def test_refused_with_both_values_or_gone_on_with_inexactly(kind, options, sentence, made, tmp_path, warnings):
    run = changed(kind, tmp_path, options)
    with pytest.raises(ValueError, match=f"made with other options than this run has: .*{sentence}.* inexact=True"):
        run.train(resume_from_checkpoint=made[kind])
    assert run.state.global_step == 0 and not warnings
    run.look_at_options(made[kind], inexact=True)
    assert run.goes_on_inexactly and "ends at other weights" in warnings[-1]


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("selmix", {"metric_for_best_model": "mean_recall"}, "metric_for_best_model='mean_recall', which was 'selec"),
        (
            "selmix",
            {"model": {"num_hidden_layers": 3}},
            "model.tensors=.*model.config.num_hidden_layers=3, which was 2",
        ),
        ("stage1", {"model": "convnext"}, "model.class='ConvNextForImageClassification', which was 'ResNetFor"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_what_makes_another_run_is_refused_at_any_rate(kind, options, sentence, made, tmp_path):
    run = changed(kind, tmp_path, options)
    with pytest.raises(ValueError, match=f"{sentence}.* Set them as they were, or start anew from its weights"):
        run.train(resume_from_checkpoint=made[kind], inexact=True)


@pytest.mark.parametrize(
    "options",
    [{"seed": 7}, {"per_device_train_batch_size": 4}, {"refresh_steps": 2}, {"beta_min": 0.5}, {"confusion": "hard"}],
    ids=str,
)
def test_what_the_draws_depend_on_is_refused_at_any_rate(options, made, tmp_path):
    run = selmix(tmp_path, **options)
    run.look_at_options(made["selmix"], inexact=False)  # compared with the draws
    with pytest.raises(ValueError, match="this run has .*: a resumed run must keep them, or its periods would begin"):
        load_pair_state(made["selmix"], geometry_of(run))


def test_another_number_of_classes(made, tmp_path):
    names = [*tiny.NAMES, "violet"]
    sets = {"train_dataset": tiny.images((9, 9, 9, 9, 9), names=names)}
    sets["gain_dataset"] = tiny.images((5, 5, 5, 5, 5), 1, names=names)
    run = selmix(tmp_path, tiny.model("vit", num_classes=5), **sets)
    with pytest.raises(ValueError, match="has 4 classes, here 5"):
        run.train(resume_from_checkpoint=made["selmix"], inexact=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"save_steps": 1}, "save_steps=1, which was 2"),
        ({"eval_strategy": "steps", "eval_steps": 2}, "eval_strategy='steps', which was 'no'"),
        ({"activation_checkpointing": True}, "activation_checkpointing=True, which was False"),
        (
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            r"processes of a step: '4 x 2 x 1', which was '8 x 1 x 1' \(the same samples a step, and the same weights",
        ),
    ],
    ids=str,
)
def test_allowed_and_said(options, sentence, made, tmp_path, warnings):
    run = selmix(tmp_path, **options)
    run.look_at_options(made["selmix"], inexact=False)
    assert not run.goes_on_inexactly and len(warnings) == 1
    assert warnings[0].startswith("The run goes on from checkpoint-2 with ")
    assert re.search(sentence, warnings[0])


@pytest.mark.parametrize(("dropout", "inexact"), [(0.0, False), (0.2, True)])
def test_another_number_of_processes(dropout, inexact, tmp_path, warnings, monkeypatch):
    """With dropout, each process would draw from a state that it never had."""
    model = {"hidden_dropout_prob": dropout}
    selmix(tmp_path, tiny.model("vit", **model)).train()
    run = selmix(tmp_path, tiny.model("vit", **model), per_device_train_batch_size=4)
    monkeypatch.setattr(type(run.args), "world_size", property(lambda _: 2))
    run.look_at_options(str(tmp_path / "checkpoint-2"), inexact=False)
    assert run.goes_on_inexactly == inexact
    assert "'4 x 1 x 2', which was '8 x 1 x 1'" in warnings[-1] and ("inexactly" in warnings[-1]) == inexact


SILENT = {"logging_steps": 3, "save_total_limit": 2, "report_to": "none", "dataloader_num_workers": 2}
SILENT |= {"run_name": "again", "disable_tqdm": False, "save_only_model": True, "per_device_eval_batch_size": 3}
SILENT |= {"hub_model_id": "me/model", "hub_strategy": "end", "log_level": "error"}


@pytest.mark.parametrize("kind", MAKE)
def test_silent(kind, made, tmp_path, warnings):
    options = dict(SILENT)
    if kind == "fixmatch":
        options = {"dataloader_num_workers": 2}
    elif kind == "frozen":
        options["feature_cache_dir"] = str(tmp_path / "cache")
    run = MAKE[kind](tmp_path, **options)
    run.look_at_options(made[kind], inexact=False)
    assert not warnings and not run.goes_on_inexactly


# --- whole runs --------------------------------------------------------------------------------------------------


def test_the_same_script_goes_on_wherever_its_folder_is(tmp_path, warnings):
    """With all that is worked out: rate, periods, length of the run; in a folder that was moved."""

    def make(folder, **options):
        given = {"learning_rate": None, "head_start": "best", "refresh_steps": None, "max_steps": None, **SAVING}
        given |= {"per_device_train_batch_size": 4000, "save_steps": 10, "lr_scheduler_type": "cosine"}
        given |= {"backbone_learning_rate": None, "freeze_backbone": True, "eval_strategy": "no"}
        return tiny.trainer(folder, "convnext", **given, **options)

    whole = make(tmp_path / "a", feature_cache_dir=str(tmp_path / "cache"))
    whole.train()
    assert whole.args.max_steps == 30 and whole.args.refresh_steps == 10
    shutil.move(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoint-30")
    warnings.clear()
    again = make(tmp_path / "b", feature_cache_dir=str(tmp_path / "elsewhere"))
    again.train(resume_from_checkpoint=True)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0
    assert not warnings and again.args.learning_rate == whole.args.learning_rate


def test_a_new_learning_rate_is_used(made, tmp_path):
    run = selmix(tmp_path, learning_rate=0.2, lr_scheduler_type="linear", max_steps=8)
    run.train(resume_from_checkpoint=made["selmix"], inexact=True)
    rates = [log["learning_rate"] for log in run.state.log_history if "learning_rate" in log]
    assert rates[2:] == pytest.approx([0.2 * (8 - step) / 8 for step in range(2, 8)])


def test_another_optimizer_begins_anew(made, tmp_path):
    run = selmix(tmp_path, optim="adamw_torch", learning_rate=0.001)
    run.train(resume_from_checkpoint=made["selmix"], inexact=True)
    assert run.state.global_step == 4
    steps = {float(state["step"]) for state in run.optimizer.state.values()}
    assert steps == {2.0}


def test_another_optimizer_than_that_of_an_older_checkpoint_is_refused(made, tmp_path):
    older = shutil.copytree(made["selmix"], tmp_path / "older")
    for name in ("manifest.json", "options.json"):
        (older / name).unlink()
    with pytest.raises(
        ValueError, match=r"optimizer.pt is the state of another optimizer than this run's AdamW: it ha"
    ):
        selmix(tmp_path / "a", optim="adamw_torch").train(resume_from_checkpoint=str(older))


def test_momentum_goes_on_with_new_options(tmp_path):
    """Options of an inexact run are its own, and what the optimizer knows is kept."""
    momentum = {"optim_args": "momentum=0.9", "max_steps": 2}
    selmix(tmp_path, **momentum).train()
    run = selmix(tmp_path, **momentum, weight_decay=0.01)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"), inexact=True)
    saved = torch.load(tmp_path / "checkpoint-2" / "optimizer.pt", weights_only=True)
    found = run.optimizer.state_dict()
    assert torch.equal(found["state"][0]["momentum_buffer"], saved["state"][0]["momentum_buffer"])
    assert {group["weight_decay"] for group in found["param_groups"]} == {0.0, 0.01}


def test_a_run_that_has_gone_further_than_it_should(made, tmp_path):
    run = selmix(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="checkpoint-2 is of step 2, and this run ends at step 1: set max_steps"):
        run.train(resume_from_checkpoint=made["selmix"], inexact=True)


def test_an_own_optimizer_is_compared(tmp_path):
    def make(**options):
        model = tiny.model()
        return stage1(tmp_path, model, optimizers=(torch.optim.SGD(model.parameters(), **options), None))

    make(lr=0.1).train()
    make(lr=0.1).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    with pytest.raises(ValueError, match=r"trainer.optimizers.0.groups.0.lr=0.2, which was 0.1"):
        make(lr=0.2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_bitwise_resume_of_every_kind_is_no_change(made, tmp_path, warnings):
    for kind, checkpoint in made.items():
        whole, again = MAKE[kind](tmp_path / kind), MAKE[kind](tmp_path / kind)
        whole.train()
        warnings.clear()
        again.train(resume_from_checkpoint=checkpoint)
        assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) == 0
        again.train(resume_from_checkpoint=checkpoint)  # as in a notebook
        assert not warnings and not again.goes_on_inexactly


class Counting:
    """A transform that knows what it did, and what this process was told."""

    def __init__(self, resume=False):
        self.n, self.settings = 0, {"resume": resume, "folder": "/tmp/here/"}

    def __call__(self, image):
        self.n += 1
        return tiny.to_tensor(image)


def test_what_an_object_counts_or_was_told_is_said_and_not_refused(tmp_path, warnings):
    selmix(tmp_path, train_transform=Counting()).train()
    other = Counting(resume=True)
    other.n = 116  # and two looks at samples by the checks of a trainer
    run = selmix(tmp_path, train_transform=other)
    warnings.clear()
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    (said,) = [one for one in warnings if "goes on from" in one]
    assert "trainer.train_transform.n=118, which was 2" in said and "settings.resume=True, which was False" in said
    assert not run.goes_on_inexactly


def test_the_same_optimizer_goes_on_with_a_schedule_that_has_changed_it(tmp_path):
    model = tiny.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=10)
    stage1(tmp_path, model, optimizers=(optimizer, schedule)).train()
    again = stage1(tmp_path, model, optimizers=(optimizer, schedule))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert not again.goes_on_inexactly
