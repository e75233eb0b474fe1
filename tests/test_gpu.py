"""What only an accelerator shows; run with -m gpu."""

import copy

import pytest
import tiny
import torch

from selmix_hf.method.gain import gain_matrix
from selmix_hf.method.pair_distribution import pair_distribution

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
ON_GPU = {"use_cpu": False, "dataloader_pin_memory": True}


def test_gain_and_pairs_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    centroids, weight, bias, gradient = (
        torch.randn(*shape, generator=generator) for shape in ((300, 64), (300, 64), (300,), (300, 300))
    )
    gradient -= gradient.mean(1, keepdim=True)
    exact = gain_matrix(*(tensor.double() for tensor in (centroids, weight, bias, gradient)))
    on_gpu = gain_matrix(*(tensor.cuda() for tensor in (centroids, weight, bias, gradient)))
    assert on_gpu.is_cuda
    assert float((on_gpu.cpu() - exact).abs().max() / exact.abs().max()) < 1e-5
    first, second = (pair_distribution(gain.float(), "selmix", "auto", 0.5) for gain in (exact, on_gpu))
    torch.testing.assert_close(second.probability.cpu(), first.probability, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_run_on_the_gpu_is_that_of_the_cpu(tmp_path, frozen):
    model = tiny.model("vit")
    found = []
    for name, options in (("cpu", {}), ("gpu", ON_GPU)):  # one after the other: accelerate has one device a process
        run = tiny.trainer(tmp_path / name, copy.deepcopy(model), freeze_backbone=frozen, **options)
        run.train()
        assert next(run.model.parameters()).is_cuda == (name == "gpu")
        found.append({name: w.cpu() for name, w in tiny.weights(run).items()})
    assert tiny.largest_difference(*found) < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("mixing", ["feature", "puzzlemix"])
def test_mixed_precision_trains(tmp_path, precision, mixing):
    plain = tiny.trainer(tmp_path / "plain", tiny.model("resnet"), mixing=mixing, **ON_GPU, **tiny.BARE)
    mixed = tiny.trainer(
        tmp_path / "mixed", tiny.model("resnet"), mixing=mixing, **{precision: True}, **ON_GPU, **tiny.BARE
    )
    for run in (plain, mixed):
        run.train()
    assert tiny.losses(mixed) == pytest.approx(tiny.losses(plain), rel=0.1)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("step", [3, 4])
def test_resume_on_the_gpu_is_exact(tmp_path, frozen, step):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "load_best_model_at_end": False}
    options |= {"freeze_backbone": frozen, "full_determinism": False, **ON_GPU}
    whole = tiny.trainer(tmp_path, tiny.model("vit"), **options)
    whole.train()
    again = tiny.trainer(tmp_path, tiny.model("vit", seed=1), **options)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(again)) < 1e-6


def test_the_head_refits_on_the_gpu(tmp_path):
    trainer = tiny.trainer(tmp_path, tiny.model("resnet"), gain_set_use="train", freeze_backbone=True, **ON_GPU)
    trainer.train()
    assert trainer.head.weight.is_cuda and bool(trainer.head.weight.isfinite().all())


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(tmp_path):
    trainer = tiny.trainer(tmp_path, tiny.model("resnet"), **ON_GPU, **tiny.BARE)
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(trainer.head.weight.clone())
        return outputs["logits"].sum() * (float("nan") if len(seen) == 3 else 1.0)

    trainer.compute_loss_func = loss
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 2"):
        trainer.train()
    assert torch.equal(trainer.head.weight, seen[2])
