"""The soft confusion matrix, its derivative by the head, and the gain that follows."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks.soft_gain import MATRICES, gain_of
from selmix_hf.method.confusion import confusion_counts, smooth_confusion
from selmix_hf.method.gain import gain_along, gain_matrix, metric_gradient
from selmix_hf.method.objective_names import get_objective
from selmix_hf.method.soft_gain import HeadSamples, soft_confusion_counts, soft_direction

OBJECTIVES = [
    ("mean_recall", None),
    ("g_mean", None),
    ("h_mean", None),
    ("macro_f1", None),
    ("min_recall", None),
    ("mean_recall", {"coverage": 0.95}),
]


def problem(num_classes=4, num_features=5, per_class=(3, 9), seed=0, scale=1.0):
    """Samples of unequal classes and a head, float64."""
    generator = torch.Generator().manual_seed(seed)
    sizes_K = torch.randint(*per_class, (num_classes,), generator=generator)
    labels_N = torch.repeat_interleave(torch.arange(num_classes), sizes_K)
    random = [
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((len(labels_N), num_features), (num_classes, num_features), (num_classes,))
    ]
    return HeadSamples(random[0], labels_N), scale * random[1], random[2]


def psi_of(objective, samples, weight, bias, temperature, multipliers):
    """The Lagrangian at the soft matrix, written out class by class."""
    prob_NK = torch.softmax((samples.features @ weight.T + bias) / temperature, 1)
    num_classes = len(weight)
    rows = []
    for k in range(num_classes):
        of_class = prob_NK[samples.labels == k]
        half = torch.full((num_classes,), 0.5 / (num_classes - 1), dtype=torch.float64)
        half[k] = 0.5
        share = len(of_class) / len(prob_NK) if objective.class_prior == "validation" else 1 / num_classes
        rows.append(share * (of_class.sum(0) + half) / (len(of_class) + 1))
    return objective.lagrangian(torch.stack(rows), multipliers)


def test_a_hand_worked_matrix():
    # logits (0, log 3) and T = 1: probabilities 1/4, 3/4; T = 1/2: 1/10, 9/10
    samples = HeadSamples(torch.tensor([[1.0], [1.0]]), torch.tensor([0, 1]))
    weight = torch.tensor([[0.0], [math.log(3)]])
    soft = soft_confusion_counts(samples, weight, None)
    torch.testing.assert_close(soft, torch.tensor([[0.25, 0.75], [0.25, 0.75]]).double())
    colder = soft_confusion_counts(samples, weight, None, 0.5)
    torch.testing.assert_close(colder, torch.tensor([[0.1, 0.9], [0.1, 0.9]]).double())


def test_it_becomes_the_counts_as_the_temperature_falls():
    samples, weight, bias = problem()
    counts = confusion_counts(samples.labels, samples.features @ weight.T + bias, len(weight))
    soft = soft_confusion_counts(samples, weight, bias, 1e-4)
    torch.testing.assert_close(soft, counts.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "constraints"), OBJECTIVES)
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_derivative_is_that_of_finite_differences(name, constraints, temperature):
    samples, weight, bias = problem()
    objective = get_objective(name, constraints)
    multipliers = {key: torch.rand_like(value) for key, value in objective.initial_multipliers(4).items()}
    soft = soft_confusion_counts(samples, weight, bias, temperature)
    direction, of_bias = soft_direction(objective, soft, samples, weight, bias, temperature, multipliers)

    def moved(k, d, by):
        changed = weight.clone(), bias.clone()
        (changed[1][k] if d is None else changed[0][k, d]).add_(by)
        return float(psi_of(objective, samples, *changed, temperature, multipliers))

    step = 1e-6
    for k in range(4):
        for d in (0, 3, None):
            expected = (moved(k, d, step) - moved(k, d, -step)) / (2 * step)
            found = of_bias[k] if d is None else direction[k, d]
            assert float(found) == pytest.approx(expected, abs=1e-8, rel=1e-6)


def test_processes_add_up():
    samples, weight, bias = problem()
    objective = get_objective("h_mean")
    parts = [HeadSamples(samples.features[i::2], samples.labels[i::2]) for i in (0, 1)]
    soft = sum(soft_confusion_counts(part, weight, bias, 0.3) for part in parts)
    torch.testing.assert_close(soft, soft_confusion_counts(samples, weight, bias, 0.3))
    both = [soft_direction(objective, soft, part, weight, bias, 0.3) for part in parts]
    whole = soft_direction(objective, soft, samples, weight, bias, 0.3)
    for i in (0, 1):
        torch.testing.assert_close(both[0][i] + both[1][i], whole[i])


def test_a_process_without_samples_adds_nothing():
    samples, weight, bias = problem()
    none = HeadSamples(samples.features[:0], samples.labels[:0])
    assert not bool(soft_confusion_counts(none, weight, bias, 0.3).any())
    soft = soft_confusion_counts(samples, weight, bias, 0.3)
    for part in soft_direction(get_objective("mean_recall"), soft, none, weight, bias, 0.3):
        assert not bool(part.any())


def test_chunks_change_nothing(monkeypatch):
    samples, weight, bias = problem()
    objective = get_objective("mean_recall")
    soft = soft_confusion_counts(samples, weight, bias, 0.3)
    whole = soft_direction(objective, soft, samples, weight, bias, 0.3)
    monkeypatch.setattr("selmix_hf.method.soft_gain._AT_ONCE", 8)  # two samples at a time
    torch.testing.assert_close(soft_confusion_counts(samples, weight, bias, 0.3), soft)
    for found, expected in zip(soft_direction(objective, soft, samples, weight, bias, 0.3), whole, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["mean_recall", "h_mean"])
def test_the_gain_is_what_a_small_step_on_the_mix_changes(name):
    """Every pair by brute force: one SGD step on the cross entropy of the mix, and psi of the soft matrix after it."""
    samples, weight, bias = problem(seed=1)
    objective, temperature, beta, rate = get_objective(name), 0.5, 0.8, 1e-6
    soft = soft_confusion_counts(samples, weight, bias, temperature)
    direction = soft_direction(objective, soft, samples, weight, bias, temperature)
    centroids = torch.stack([samples.features[samples.labels == k].mean(0) for k in range(4)])
    gain = gain_along(centroids, weight, bias, *direction, beta)
    before = psi_of(objective, samples, weight, bias, temperature, None)
    for i in range(4):
        for j in range(4):
            head = [tensor.clone().requires_grad_() for tensor in (weight, bias)]
            mixed = beta * centroids[i] + (1 - beta) * centroids[j]
            loss = F.cross_entropy((mixed @ head[0].T + head[1])[None], torch.tensor([i]))
            steps = torch.autograd.grad(loss, head)
            after = [tensor.detach() - rate * step for tensor, step in zip(head, steps, strict=True)]
            change = (psi_of(objective, samples, *after, temperature, None) - before) / rate
            assert float(gain[i, j]) == pytest.approx(float(change), rel=1e-3, abs=1e-6)


def test_from_counts_the_direction_is_that_of_the_gain_matrix():
    samples, weight, bias = problem()
    centroids = torch.stack([samples.features[samples.labels == k].mean(0) for k in range(4)])
    counts = confusion_counts(samples.labels, samples.features @ weight.T + bias, 4)
    gradient = metric_gradient(get_objective("mean_recall"), counts)
    along = gain_along(centroids, weight, bias, gradient.T @ centroids, gradient.sum(0), (0.6, 1.0))
    torch.testing.assert_close(along, gain_matrix(centroids, weight, bias, gradient, (0.6, 1.0)))


def test_a_class_that_is_never_hit_has_a_gain_that_counts():
    """Class 2 lies near class 1 and is taken for it: counts leave it less than a tenth of the soft matrix's gain."""
    centre = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.3, 3.9]]).double()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(400)
    features = centre[labels] + 0.3 * torch.randn(1200, 2, generator=generator, dtype=torch.float64)
    samples = HeadSamples(features, labels)
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.9]]).double(), torch.zeros(3).double()
    counts = confusion_counts(labels, features @ weight.T + bias, 3)
    assert counts[2, 2] == 0
    objective = get_objective("mean_recall")
    centroids = torch.stack([features[labels == k].mean(0) for k in range(3)])
    hard = gain_matrix(centroids, weight, bias, metric_gradient(objective, counts))
    soft = soft_confusion_counts(samples, weight, bias, 0.3)
    gain = gain_along(centroids, weight, bias, *soft_direction(objective, soft, samples, weight, bias, 0.3))
    assert float(gain[2].max()) == float(gain.max()) > 10 * float(hard[2].max())


def test_bad_temperatures_are_refused():
    samples, weight, bias = problem()
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be a positive number, found"):
            soft_confusion_counts(samples, weight, bias, wrong)


def test_smoothing_is_that_of_the_counts():
    samples, weight, bias = problem()
    soft = soft_confusion_counts(samples, weight, bias, 0.3)
    expected = psi_of(get_objective("mean_recall"), samples, weight, bias, 0.3, None)
    assert float(get_objective("mean_recall").value(smooth_confusion(soft))) == pytest.approx(float(expected))


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_benchmark_measures_the_gain_of_the_gain_set(matrix):
    generator = torch.Generator().manual_seed(0)
    weight, features = torch.randn(5, 3, generator=generator), torch.randn(40, 3, generator=generator)
    labels, centroids = torch.arange(40) % 5, torch.randn(5, 3, generator=generator)
    found, objective = gain_of(matrix, HeadSamples(features, labels), centroids, weight), get_objective("mean_recall")
    head, bias, mix = weight.double().requires_grad_(), torch.zeros(5, dtype=torch.float64, requires_grad=True), 0.8
    if matrix == "soft":
        prob = ((features.double() @ head.T + bias) / 0.3).softmax(1)
        counts = torch.stack([prob[labels == k].sum(0) for k in range(5)])
        objective.lagrangian(smooth_confusion(counts, objective.class_prior), {}).backward()
        directions = head.grad, bias.grad
    else:
        counts = confusion_counts(labels, (features @ weight.T).argmax(1), 5)
        gradient = metric_gradient(objective, counts)
        directions = gradient.T @ centroids.double(), gradient.sum(0)
    z = mix * centroids[:, None].double() + (1 - mix) * centroids[None].double()  # mixes i, j
    step = torch.eye(5, dtype=torch.float64)[:, None] - (z @ head.detach().T).softmax(2)
    expected = (step * (z @ directions[0].T + directions[1])).sum(2)
    assert torch.allclose(found.double(), expected, atol=1e-5)
