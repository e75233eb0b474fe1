"""Predicted against realised gains: the step is the one that autograd takes, and exact where the theorem is."""

import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from selmix_hf import get_objective
from selmix_hf.method.confusion import confusion_counts, smooth_confusion
from selmix_hf.method.gain import gain_matrix, metric_gradient
from selmix_hf.method.gain_fidelity import (
    centroid_mixes,
    choose_pairs,
    class_centroids,
    class_variances,
    drawn_mixes,
    gain_fidelity,
    rank_correlation,
)

K, D, N = 4, 6, 60


def problem(noise=1.0, seed=0):
    """Features of a gain set around class means, their labels, and a head that is often right; float64."""
    generator = torch.Generator().manual_seed(seed)
    means_KD = torch.randn(K, D, generator=generator, dtype=torch.float64)
    labels_N = torch.arange(N) % K
    features_ND = means_KD[labels_N] + noise * torch.randn(N, D, generator=generator, dtype=torch.float64)
    weight_KD = means_KD + 0.3 * torch.randn(K, D, generator=generator, dtype=torch.float64)
    return features_ND, labels_N, weight_KD, torch.randn(K, generator=generator, dtype=torch.float64) / 2


def measured(features, labels, weight, bias, psi, step, mixes=None, gradient=None, **options):
    centroids = class_centroids(features, labels, K)
    counts = confusion_counts(labels, features @ weight.T + (0 if bias is None else bias), K)
    gradient = metric_gradient(psi, counts) if gradient is None else gradient
    gain = gain_matrix(centroids, weight, bias, gradient, 0.8, **options)
    pairs = choose_pairs(K, K * K)
    mixes = centroid_mixes(centroids, pairs) if mixes is None else mixes(pairs)
    return gain_fidelity(features, labels, weight, bias, psi, gain, pairs, mixes, step, **options)


@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "h_mean", "macro_f1"])
@pytest.mark.parametrize("num_mixes", [1, 8])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_step_is_that_of_autograd(name, num_mixes, with_bias):
    """Both matrices after a large step, against a head that SGD has moved."""
    features, labels, weight, bias = problem()
    bias, psi, step = bias if with_bias else None, get_objective(name), 0.7

    def mixes(pairs):
        if num_mixes == 1:
            return centroid_mixes(class_centroids(features, labels, K), pairs)
        return drawn_mixes(features, labels, pairs, num_mixes, 0.6, seed=3)

    found = measured(features, labels, weight, bias, psi, step, mixes)
    multipliers = psi.initial_multipliers(K)

    def values(weight, bias):
        logits = features @ weight.T + (0 if bias is None else bias)
        soft = torch.stack([logits.softmax(1)[labels == k].mean(0) for k in range(K)])
        prior = (torch.bincount(labels) / N).double()[:, None]
        hard = smooth_confusion(confusion_counts(labels, logits, K), psi.class_prior)
        prior = torch.full_like(prior, 1 / K) if psi.class_prior == "balanced" else prior
        return [float(psi.lagrangian(matrix, multipliers)) for matrix in (prior * soft, hard)]

    before = values(weight, bias)
    for m, (pair, batch) in enumerate(zip(found.pairs, mixes(found.pairs), strict=True)):
        head = [t.clone().requires_grad_() for t in (weight, bias) if t is not None]
        F.cross_entropy(F.linear(batch, *head), pair[:1].expand(len(batch))).backward()
        moved = [t.detach() - step * t.grad for t in head]
        after = values(moved[0], moved[1] if with_bias else None)
        assert float(found.soft[m]) == pytest.approx(after[0] - before[0], abs=1e-12)
        assert float(found.hard[m]) == pytest.approx(after[1] - before[1], abs=1e-12)
    assert float(found.hard.abs().max()) > 0.01


@pytest.mark.parametrize("name", ["mean_recall", "min_recall", "h_mean", "g_mean"])
def test_a_tiny_step_along_the_logits_of_the_confusion_matrix_is_as_predicted(name):
    psi = get_objective(name)
    errors = []
    for step in (1e-4, 1e-5):
        found = measured(*problem(), psi, step)
        errors.append(float((found.centroid - found.predicted).abs().max()) / float(found.predicted.abs().max()))
    assert errors[0] < 1e-2 and errors[1] == pytest.approx(errors[0] / 10, rel=0.05)  # second order
    assert found.slope("centroid") == pytest.approx(1, abs=1e-3)
    assert found.rank_correlation("centroid") == pytest.approx(1)


def test_without_variance_within_classes_the_soft_matrix_moves_as_predicted():
    """Every sample at its centroid, and G taken at the soft matrix itself: nothing of the theorem is left out."""
    features, labels, weight, bias = problem(noise=0)
    psi = get_objective("h_mean")
    soft = torch.stack([(features @ weight.T + bias).softmax(1)[labels == k].mean(0) for k in range(K)]) / K
    gradient = metric_gradient(psi, soft, num_samples=10**15)  # so many that smoothing changes nothing
    found = measured(features, labels, weight, bias, psi, 1e-6, gradient=gradient)
    assert torch.allclose(found.soft, found.predicted, rtol=1e-3, atol=1e-3 * float(found.predicted.abs().max()))
    assert found.within_class_variance == pytest.approx(0, abs=1e-20)
    spread = measured(*problem(noise=1.0), psi, 1e-6)
    assert spread.rank_correlation("soft") < found.rank_correlation("soft") == pytest.approx(1)


def test_two_averaged_layers():
    """The step of each of them, by autograd, moves the mean of their logits."""
    features, labels, _, bias = problem()
    halves = [torch.randn(K, D // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    joined, psi, step = torch.cat(halves, 1) / 2, get_objective("mean_recall"), 0.5
    found = measured(features, labels, joined, bias, psi, step, feature_step=0.25, bias_step=0.5)
    mix = centroid_mixes(class_centroids(features, labels, K), found.pairs)[1]  # of the pair (0, 1)
    layers = [half.clone().requires_grad_() for half in halves] + [bias.clone().requires_grad_() for _ in halves]
    logits = sum(F.linear(z, w, b) for z, w, b in zip(mix.split(D // 2, 1), layers[:2], layers[2:], strict=True)) / 2
    F.cross_entropy(logits, torch.tensor([0])).backward()
    first, second, *biases = [layer.detach() - step * layer.grad for layer in layers]
    after = (features @ torch.cat([first, second], 1).T + sum(biases)) / 2
    hard = [
        float(psi.lagrangian(smooth_confusion(confusion_counts(labels, logits, K)), {}))
        for logits in (features @ joined.T + bias, after)
    ]
    assert float(found.hard[1]) == pytest.approx(hard[1] - hard[0], abs=1e-12) and hard[1] != hard[0]


def test_multipliers_and_prior_are_those_of_the_objective():
    psi = get_objective("mean_recall", {"coverage": 0.95})
    features, labels, weight, bias = problem()
    features, labels = features[:-7], labels[:-7]  # classes of different sizes
    pairs, gain = choose_pairs(K, K * K), torch.zeros(K, K)
    mixes = centroid_mixes(class_centroids(features, labels, K), pairs)
    multipliers = {"coverage": torch.tensor([0.0, 3.0, 0.0, 1.0], dtype=torch.float64)}
    given = features, labels, weight, bias, psi, gain, pairs, mixes, 0.5
    found = gain_fidelity(*given, multipliers=multipliers)
    moved = weight + 0.5 * torch.outer(
        F.one_hot(torch.tensor(2), K) - (mixes[11] @ weight.T + bias).softmax(1)[0], mixes[11][0]
    )
    shift = bias + 0.5 * (F.one_hot(torch.tensor(2), K) - (mixes[11] @ weight.T + bias).softmax(1)[0])
    values = []
    for w, b in ((weight, bias), (moved, shift)):
        counts = confusion_counts(labels, features @ w.T + b, K)
        values.append(float(psi.lagrangian(smooth_confusion(counts, "balanced"), multipliers)))
    assert pairs[11].tolist() == [2, 3]
    assert float(found.hard[11]) == pytest.approx(values[1] - values[0], abs=1e-12)
    assert not torch.equal(found.hard, gain_fidelity(*given).hard)


def test_ranks_and_slopes():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, 6, (2, 40), generator=generator).double()  # with ties
    expected = scipy.stats.spearmanr(first.numpy(), second.numpy()).statistic
    assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)
    assert rank_correlation(first, torch.ones(40)) != rank_correlation(first, torch.ones(40))  # nan
    found = measured(*problem(), get_objective("mean_recall"), 1e-9)
    assert float(found.hard.abs().max()) == 0  # no sample changes its class
    report = found.report()
    assert "gain_fidelity_hard_rank" not in report and report["gain_fidelity_hard_slope"] == 0
    expected = float(found.soft @ found.predicted / (found.predicted @ found.predicted))
    assert report["gain_fidelity_soft_slope"] == pytest.approx(expected)


def test_variances_by_hand():
    features = torch.tensor([[0.0, 0], [2, 0], [0, 3], [0, 3], [0, 6]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    centroids = class_centroids(features, labels, 2)
    assert centroids.tolist() == [[1, 0], [0, 4]]
    within, between = class_variances(features, labels, centroids)
    assert within == pytest.approx((1 + 2) / 2) and between == pytest.approx(0.25 + 4)
    with pytest.raises(ValueError, match="no sample of 1 of 3 classes"):
        class_centroids(features, labels, 3)


def test_pairs():
    assert choose_pairs(3, 9).tolist() == [[i, j] for i in range(3) for j in range(3)]
    probability = torch.zeros(50, 50)
    probability[7, 3:23] = 1 / 20
    pairs = choose_pairs(50, 40, probability)
    assert len({(i, j) for i, j in pairs.tolist()}) == len(pairs) == 40
    of_p = int((probability[pairs[:, 0], pairs[:, 1]] > 0).sum())
    assert 8 <= of_p <= 22 and torch.equal(pairs, choose_pairs(50, 40, probability))
    assert not torch.equal(pairs, choose_pairs(50, 40, probability, seed=1))


def test_drawn_mixes_are_of_their_classes():
    features, labels = torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([0, 0, 1, 1])
    mixes = drawn_mixes(features, labels, torch.tensor([[0, 1], [1, 1]]), 200, 0.6)
    assert mixes.shape == (2, 200, 1)
    # class 0 has at least .6: between 0 and .6 * 1 + .4 * 11
    assert 0 <= float(mixes[0].min()) < 1 and 4 < float(mixes[0].max()) <= 5
    assert float(mixes[0].mean()) == pytest.approx(0.8 * 0.5 + 0.2 * 10.5, abs=0.3)
    assert 10 <= float(mixes[1].min()) and float(mixes[1].max()) <= 11


def test_what_does_not_fit_is_refused():
    features, labels, weight, bias = problem()
    psi, pairs = get_objective("mean_recall"), choose_pairs(K, K * K)
    mixes, gain = torch.zeros(K * K, 1, D), torch.zeros(K, K)
    with pytest.raises(ValueError, match="features must be 60 x 6 and mixes M x B x 6"):
        gain_fidelity(features[:, :4], labels, weight, bias, psi, gain, pairs, mixes, 0.1)
    with pytest.raises(ValueError, match="expected a gain of 4 x 4 and pairs of 16 x 2"):
        gain_fidelity(features, labels, weight, bias, psi, gain, pairs[:3], mixes, 0.1)
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="step_size must be positive"):
            gain_fidelity(features, labels, weight, bias, psi, gain, pairs, mixes, step)
