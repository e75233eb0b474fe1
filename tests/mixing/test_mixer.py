"""`mixing` of the trainer: what enters the model, its labels and shares, what is refused, and the ways to run."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from token_ids import bert, reviews, tokenizer

from selmix_hf import SelMixTrainer
from selmix_hf.mixing.mixer import InputMixer
from selmix_hf.mixing.mixup import cutmix, input_mixup
from selmix_hf.mixing.puzzlemix import puzzlemix, saliency
from selmix_hf.mixing.registry import MIXING

OF_INPUTS = [name for name, entry in MIXING.items() if entry.before_model]
RATES = {"objective": "mean_recall", "learning_rate": 0.02, **tiny.BARE}
AUGMENTED = {"train_transform": tiny.random_view, "eval_transform": tiny.to_tensor}


def recorded(run):
    """Keep every training batch, and what the model was given for its loss."""
    run.batches, run.given, plain_loss = [], [], run.compute_loss

    def compute_loss(model, inputs, **kwargs):
        run.batches.append({name: value.clone() for name, value in inputs.items()})
        handle = model.register_forward_pre_hook(
            lambda module, args, kwargs: run.given.append(kwargs["pixel_values"]) if module.training else None,
            with_kwargs=True,
        )
        try:
            return plain_loss(model, inputs, **kwargs)
        finally:
            handle.remove()

    run.compute_loss = compute_loss
    return run


def mixed_by_hand(name, model, batch):
    first, second = batch["pixel_values"].chunk(2)
    entry, uniform = MIXING[name], batch["mixing_uniform"]
    numbers = {0: [], 1: [uniform[:, 0]], 2: [uniform]}[entry.num_uniform]
    if entry.needs_saliency:
        model.eval()
        classes = torch.cat([batch["labels"], batch["second_labels"]])
        both = saliency(batch["pixel_values"], classes, lambda x: model(pixel_values=x).logits)
        numbers += both.chunk(2)
    return entry.mix(first, second, batch["mixing_coefficient"], *numbers)


def test_names_stand_for_their_functions():
    assert [MIXING[name].mix for name in ("input", "cutmix", "puzzlemix")] == [input_mixup, cutmix, puzzlemix]
    assert [name for name, entry in MIXING.items() if entry.on_features] == ["feature"] == [*MIXING][:1]


@pytest.mark.parametrize("name", OF_INPUTS)
def test_the_model_sees_one_mixed_image_a_pair(name, tmp_path):
    run = recorded(tiny.trainer(tmp_path, "convnext", mixing=name, max_steps=1, **AUGMENTED, **RATES))
    start = tiny.weights(run)
    run.train()
    (batch,), (given,) = run.batches, run.given
    model = tiny.model("convnext")
    model.load_state_dict(start)
    mixed, share = mixed_by_hand(name, model, batch)
    assert given.shape == (8, 3, tiny.SIDE, tiny.SIDE) and torch.allclose(given, mixed, atol=1e-6)
    loss = F.cross_entropy(model(pixel_values=mixed).logits, batch["labels"]).item()
    assert tiny.losses(run) == pytest.approx([loss], abs=1e-5)
    (logged,) = [log["mixed_share"] for log in run.state.log_history if "mixed_share" in log]
    assert logged == pytest.approx(float(share.mean()), abs=1e-6) and logged < 1


@pytest.mark.parametrize("name", MIXING)
def test_labels_are_those_of_the_first_samples(name, tmp_path):
    run = recorded(tiny.trainer(tmp_path, mixing=name, max_steps=4, per_device_train_batch_size=16, **RATES))
    run.train()
    of_class = dict(enumerate(run.train_dataset["label"]))
    pixels = torch.stack([tiny.to_tensor(image) for image in run.train_dataset["image"]])
    for batch in run.batches:
        halves = [batch["labels"]] if name == "feature" else [batch["labels"], batch["second_labels"]]
        for rows, labels in zip(batch["pixel_values"].chunk(2), halves, strict=False):
            found = torch.cdist(rows.flatten(1), pixels.flatten(1)).argmin(1)
            assert [of_class[row] for row in found.tolist()] == labels.tolist()
    assert ("second_labels" in run.batches[0]) == ("mixing_uniform" in run.batches[0]) == (name != "feature")
    assert any("mixed_share" in log for log in run.state.log_history) == (name != "feature")


def test_uniform_numbers_of_a_pair_come_from_its_seeds(tmp_path):
    drawn = []
    for number, batch in enumerate((8, 4)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch, "max_steps": 4}
        run = recorded(tiny.trainer(tmp_path / str(number), mixing="cutmix", **options, **RATES))
        run.train()
        drawn.append(torch.cat([batch["mixing_uniform"] for batch in run.batches]))
    assert torch.equal(*drawn) and len(drawn[0].unique()) == 2 * 32 and 0 <= drawn[0].min() <= drawn[0].max() < 1
    assert drawn[0].mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("name", OF_INPUTS)
def test_accumulation_traces_the_same_curve(name, tmp_path):
    runs = []
    for batch in (8, 2):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch, **RATES}
        runs.append(tiny.trainer(tmp_path / str(batch), mixing=name, **options))
        runs[-1].train()
    shares = [[log["mixed_share"] for log in run.state.log_history if "mixed_share" in log] for run in runs]
    assert len(shares[0]) == 8 and shares[0] == pytest.approx(shares[1], abs=1e-6)
    assert tiny.losses(runs[0]) == pytest.approx(tiny.losses(runs[1]), abs=1e-6)
    assert tiny.largest_difference(tiny.weights(runs[0]), tiny.weights(runs[1])) < 1e-6


@pytest.mark.parametrize("kind", ["resnet", ("vit", {"hidden_dropout_prob": 0.2})], ids=str)
def test_the_look_for_saliency_leaves_no_trace(kind, tmp_path):
    """No gradient, training flag, buffer or random state is another."""
    model = tiny.model(kind) if isinstance(kind, str) else tiny.model(kind[0], **kind[1])
    mixer = InputMixer("puzzlemix", model)
    model.train()
    next(iter(model.children())).eval()
    flags = [module.training for module in model.modules()]
    before = tiny.weights(model)
    drawn = {"mixing_coefficient": torch.full((4,), 0.6), "mixing_uniform": torch.rand(4, 2)}
    inputs, labels = {"pixel_values": torch.randn(8, 3, 16, 16)}, torch.tensor([0, 1, 2, 3])
    state = torch.get_rng_state()
    mixed = mixer(inputs, labels, {**drawn, "second_labels": labels.flip(0)})["pixel_values"]
    assert mixed.shape == (4, 3, 16, 16) and not mixed.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == flags
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert tiny.largest_difference(before, tiny.weights(model)) == 0


def test_saliency_is_that_of_the_drawn_classes(tmp_path):
    """Other classes of the second samples give another mask, and only then."""
    model, pixels = tiny.model("convnext"), torch.randn(16, 3, 16, 16)
    labels, uniform = torch.arange(8) % 4, torch.full((8, 2), 0.5)
    drawn = {"mixing_coefficient": torch.full((8,), 0.6), "mixing_uniform": uniform}
    mixer = InputMixer("puzzlemix", model)
    runs = [
        mixer({"pixel_values": pixels}, labels, {**drawn, "second_labels": (labels + shift) % 4})["pixel_values"]
        for shift in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("name", OF_INPUTS)
def test_true_labels_of_unlabelled_images_are_never_seen(name, tmp_path):
    runs = []
    for folder, labels in (("none", None), ("wrong", [3] * 20 + [0] * 20)):
        options = {"unlabeled_dataset": tiny.unlabeled(labels), "pseudo_label_steps": 4, **RATES}
        runs.append(recorded(tiny.trainer(tmp_path / folder, mixing=name, **options)))
        runs[-1].train()
    assert tiny.largest_difference(*map(tiny.weights, runs)) == 0
    pixels = torch.stack([tiny.to_tensor(image) for image in tiny.unlabeled()["image"]])
    last = runs[0].batches[-4:]  # of the period whose pseudo-labels are still there
    seconds = torch.cat([batch["pixel_values"].chunk(2)[1] for batch in last])
    classes = torch.cat([batch["second_labels"] for batch in last])
    distance, row = torch.cdist(seconds.flatten(1), pixels.flatten(1)).min(1)
    assert (distance < 1e-3).any()  # the others come from the labelled set
    pseudo = runs[0].pseudo_labels[row[distance < 1e-3]]
    assert torch.equal(pseudo, classes[distance < 1e-3])


@pytest.mark.parametrize("name", OF_INPUTS)
def test_reused_samples_are_rows_of_several_pairs(name, tmp_path):
    runs = []
    for reuse in (True, False):
        run = tiny.trainer(tmp_path / str(reuse), "convnext", mixing=name, reuse_samples=True, **AUGMENTED, **RATES)
        run.data_collator.reuse = reuse
        runs.append(recorded(run))
        run.train()
    assert sum(len(batch["pixel_values"]) for batch in runs[0].batches) < 16 * 8
    assert tiny.losses(runs[0]) == pytest.approx(tiny.losses(runs[1]), abs=1e-6)
    assert tiny.largest_difference(*map(tiny.weights, runs)) < 1e-6


@pytest.mark.parametrize("name", OF_INPUTS)
def test_the_head_alone_through_mixed_images(name, tmp_path):
    """The way out that the refusal of freeze_backbone names."""
    model = tiny.model("resnet").requires_grad_(False)
    model.classifier.requires_grad_(True)
    run = tiny.trainer(tmp_path, model, mixing=name, **RATES)
    before = tiny.weights(run)
    run.train()
    changed = {name for name, value in tiny.weights(run).items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize("options", [{"bf16": True}, {"activation_checkpointing": True}], ids=str)
def test_precision_and_memory(options, tmp_path):
    plain = tiny.trainer(tmp_path / "plain", "vit", mixing="puzzlemix", **RATES)
    other = tiny.trainer(tmp_path / "other", "vit", mixing="puzzlemix", **options, **RATES)
    before = tiny.weights(other)
    for run in (plain, other):
        run.train()
    assert all(not torch.equal(value, before[name]) for name, value in tiny.weights(other).items() if "query" in name)
    assert tiny.losses(other)[0] == pytest.approx(tiny.losses(plain)[0], abs=0.05)


# --- a function of one's own -------------------------------------------------------------------------------------


def halves(first, second, coefficient):
    """The left half of the first image beside the right half of the second."""
    middle = first.shape[-1] // 2
    mixed = torch.cat([first[..., :middle], second[..., middle:]], -1)
    return mixed, torch.full_like(coefficient, 0.5)


def mean(first, second, coefficient):
    return torch.lerp(second, first, coefficient[:, None])


def test_a_function_mixes_images(tmp_path):
    run = recorded(tiny.trainer(tmp_path, mixing=halves, max_steps=2, **RATES))
    run.train()
    for batch, given in zip(run.batches, run.given, strict=True):
        assert "mixing_uniform" not in batch
        first, second = batch["pixel_values"].chunk(2)
        assert torch.equal(given, torch.cat([first[..., :8], second[..., 8:]], -1))
    assert [log["mixed_share"] for log in run.state.log_history if "mixed_share" in log] == [0.5, 0.5]
    run.create_model_card()
    assert "'mixing': 'halves'" in (tmp_path / "README.md").read_text()


def test_a_function_mixes_stored_features(tmp_path):
    """As "feature" does, where that is what it computes."""
    runs = [
        tiny.trainer(tmp_path / name, freeze_backbone=True, **own, **RATES)
        for name, own in (("own", {"mixing": mean}), ("plain", {}))
    ]
    for run in runs:
        run.train()
    assert tiny.losses(runs[0]) == pytest.approx(tiny.losses(runs[1]), abs=1e-6)
    assert tiny.largest_difference(*map(tiny.weights, runs)) < 1e-6
    shares = [log["mixed_share"] for log in runs[0].state.log_history if "mixed_share" in log]
    assert len(shares) == 8 and all(0.6 < share < 1 for share in shares)


@pytest.mark.parametrize(
    ("own", "found"),
    [
        (lambda first, second, coefficient: first[:, :1], r"found \[1, 1, 16, 16\]"),
        (lambda first, second, coefficient: (first, coefficient[:, None]), r"found \[1, 1\]"),
        (lambda first, second, coefficient: None, "found NoneType"),
    ],
)
def test_a_function_that_returns_something_else(own, found, tmp_path):
    with pytest.raises(ValueError, match=rf"mixing '<lambda>' must return mixed inputs \[1, 3, 16, 16\].*{found}"):
        tiny.trainer(tmp_path, mixing=own)


def test_a_name_goes_to_the_options(tmp_path):
    run = tiny.trainer(tmp_path)
    with pytest.raises(TypeError, match=r"must be a function here, found 'cutmix': names go to SelMixConfig\(mixing"):
        SelMixTrainer(run.model, run.args, None, run.train_dataset, gain_dataset=run.gain_dataset, mixing="cutmix")


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_INPUTS)
def test_texts_are_refused_before_training(name, tmp_path):
    with pytest.raises(ValueError, match=rf"mixing='{name}' .* one floating-point .*input_ids \(torch.int64 \[2, 6\]"):
        SelMixTrainer(
            bert(),
            tiny.config(tmp_path, mixing=name),
            train_dataset=reviews((40, 8), 0, (6, 6)),
            gain_dataset=reviews((12, 12), 1, (6, 6)),
            processing_class=tokenizer(),
        )


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("input", {"pixel_values": torch.zeros(2, 3, 8, 8), "pixel_mask": torch.ones(2, 8, 8)}),
        ("cutmix", {"pixel_values": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}),
        ("cutmix", {"input_values": torch.zeros(2, 100)}),
        ("puzzlemix", {"pixel_values": torch.zeros(2, 3, 4, 8, 8)}),
    ],
)
def test_other_inputs_are_refused(name, inputs):
    with pytest.raises(
        ValueError, match=rf"mixing='{name}' mixes what enters the model, .*'feature'.*enters the head"
    ):
        InputMixer(name, torch.nn.Identity()).check(inputs)


def test_images_that_puzzlemix_cannot_cut_are_refused_before_training(tmp_path):
    def odd(image):
        return tiny.to_tensor(image)[:, :15]

    with pytest.raises(ValueError, match="puzzlemix cuts images into .* equal blocks, found 15 x 16 pixels"):
        tiny.trainer(tmp_path, "convnext", mixing="puzzlemix", train_transform=odd, eval_transform=odd)


@pytest.mark.parametrize("changed", ["input", halves])
def test_a_resumed_run_keeps_its_mixing(changed, tmp_path):
    options = {**RATES, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    tiny.trainer(tmp_path, **{**options, "mixing": "cutmix"}).train()
    with pytest.raises(ValueError, match="was made with {'mixing': 'cutmix'}, this run has"):
        tiny.trainer(tmp_path, **options, mixing=changed).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
