"""D and G against their definitions: literal loops, finite differences, autograd steps and hand-worked classes.

Shape suffixes: K classes, D features.
"""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selmix_hf.method.confusion import ClassStatistics, resolve_class_prior, smooth_confusion
from selmix_hf.method.gain import gain_matrix, metric_gradient
from selmix_hf.method.objective_names import OBJECTIVES, get_objective
from selmix_hf.method.pair_distribution import pair_distribution

# counts whose smoothed rows are, times 4: (3.5 .25 .25), (1.25 1.5 1.25), (.25 2.25 1.5)
COUNTS = torch.tensor([[3, 0, 0], [1, 1, 1], [0, 2, 1]])
# D of mean recall there: r (1 - r) / 3 on the diagonal, -r q / 3 beside it
MEAN_RECALL_D = torch.tensor(
    [[0.109375, -0.0546875, -0.0546875], [-0.1171875, 0.234375, -0.1171875], [-0.0234375, -0.2109375, 0.234375]],
    dtype=torch.float64,
).div(3)


def literal_gain(z, weight, bias, gradient, beta, feature_step=1.0, bias_step=None):
    """G_ij = sum_kl D_kl (e_i - p_ij)_l (feature_step z_ij . z_k + bias_step), in plain loops."""
    z, weight = np.asarray(z, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    num_classes, gradient = len(z), gradient.tolist()
    bias = np.zeros(num_classes) if bias is None else np.asarray(bias, dtype=np.float64)
    gain = [[0.0] * num_classes for _ in range(num_classes)]
    for i in range(num_classes):
        for j in range(num_classes):
            mixed = beta * z[i] + (1 - beta) * z[j]
            logits = weight @ mixed + bias
            p = np.exp(logits - logits.max())
            p /= p.sum()
            error = -p
            error[i] = np.delete(p, i).sum()  # 1 - p_i, of which float64 would lose the digits near p_i = 1
            product, error = (feature_step * z @ mixed + bias_step).tolist(), error.tolist()
            for k in range(num_classes):
                for c in range(num_classes):
                    gain[i][j] += gradient[k][c] * error[c] * product[k]
    return torch.tensor(gain, dtype=torch.float64)


def random_case(num_classes, num_features, seed=0, scale=1.0):
    """Features, head and D at random, float64."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    gradient = torch.randn(num_classes, num_classes, generator=generator, dtype=torch.float64)
    return z, weight, bias, gradient - gradient.mean(1, keepdim=True)


def random_counts(num_classes, seed=0, high=30):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, high, (num_classes, num_classes), generator=generator) + torch.eye(num_classes).long()


def aligned_case(num_classes, margin, num_features=None, seed=0):
    """Orthonormal centroids, own logits about `margin` above the others, and the D of mean recall; float32."""
    generator = torch.Generator().manual_seed(seed)
    num_features = num_features or num_classes
    z = torch.linalg.qr(torch.randn(num_features, num_classes, generator=generator)).Q.T.contiguous()
    weight = margin * z + 0.3 * torch.randn(num_classes, num_features, generator=generator)
    bias = 0.3 * torch.randn(num_classes, generator=generator)
    counts = random_counts(num_classes, seed, 5) + torch.diag(
        torch.randint(0, 100, (num_classes,), generator=generator)
    )
    return z, weight, bias, metric_gradient(get_objective("mean_recall"), counts).float()


def relative_error(got, expected):
    return float((got.double() - expected).abs().max() / expected.abs().max())


# --- G against the definition ------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 0.8, 0.5, 0.0])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 3), (3, 2), (5, 4), (7, 1)])
def test_gain_equals_the_definition(num_classes, num_features, with_bias, beta):
    for seed, scale in ((0, 1.0), (1, 5.0), (2, 30.0)):
        z, weight, bias, gradient = random_case(num_classes, num_features, seed, scale)
        bias = bias if with_bias else None
        expected = literal_gain(z, weight, bias, gradient, beta, bias_step=float(with_bias))
        got = gain_matrix(z, weight, bias, gradient, beta)
        assert got.dtype == torch.float64 and relative_error(got, expected) < 1e-10
        blocks = gain_matrix(z, weight, bias, gradient, beta, block_size=2)
        assert torch.allclose(blocks, got, rtol=0, atol=1e-12 * float(expected.abs().max()))


@settings(max_examples=25, deadline=None)
@given(
    num_classes=st.integers(2, 5),
    num_features=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    beta=st.floats(0, 1),
    steps=st.tuples(st.floats(0, 2), st.floats(0, 2)),
    block=st.integers(1, 6),
)
def test_gain_equals_the_definition_at_any_step(num_classes, num_features, seed, beta, steps, block):
    z, weight, bias, gradient = random_case(num_classes, num_features, seed, 3.0)
    got = gain_matrix(z, weight, bias, gradient, beta, feature_step=steps[0], bias_step=steps[1], block_size=block)
    expected = literal_gain(z, weight, bias, gradient, beta, *steps)
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)


def test_rows_that_no_column_sum_cancels():
    """D need not have rows that sum to 0 for G to follow the definition."""
    z, weight, bias, _ = random_case(4, 3)
    gradient = torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = literal_gain(z, weight, bias, gradient, 0.7, bias_step=1.0)
    assert relative_error(gain_matrix(z, weight, bias, gradient, 0.7), expected) < 1e-10


@pytest.mark.parametrize(("low", "high"), [(0.6, 1.0), (0.5, 1.0), (0.0, 1.0), (0.2, 0.9), (0.0, 0.4)])
def test_quadrature_equals_a_dense_average(low, high):
    z, weight, bias, gradient = random_case(4, 3, scale=3.0)
    step = (high - low) / 1000
    dense = sum(gain_matrix(z, weight, bias, gradient, low + step * (n + 0.5)) for n in range(1000)) / 1000
    assert relative_error(gain_matrix(z, weight, bias, gradient, (low, high)), dense) < 1e-5
    # and is not the gain at the mean beta
    assert relative_error(gain_matrix(z, weight, bias, gradient, (low + high) / 2), dense) > 1e-3


def test_quadrature_splits_where_the_classes_weigh_the_same():
    """Between confident classes the gain bends at beta 1/2: eight nodes over [0, 1] would be off by 3e-2."""
    case = [t.double() for t in aligned_case(8, 20)]
    dense = sum(gain_matrix(*case, (n + 0.5) / 4000) for n in range(4000)) / 4000
    assert relative_error(gain_matrix(*case, (0.0, 1.0)), dense) < 1e-4


def test_an_interval_of_no_length_is_its_value():
    case = random_case(4, 3)
    assert torch.equal(gain_matrix(*case, (0.7, 0.7)), gain_matrix(*case, 0.7))


def test_the_own_mixup_does_not_depend_on_beta():
    z, weight, bias, gradient = random_case(5, 3)
    diagonals = [gain_matrix(z, weight, bias, gradient, beta).diagonal() for beta in (0.2, 0.6, 1.0, (0.6, 1.0))]
    assert all(torch.allclose(d, diagonals[0], atol=1e-12) for d in diagonals)


def test_hand_worked_gains():
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    d = MEAN_RECALL_D
    # a zero head: p = 1/3 everywhere and rows of D sum to 0, so G_ij = beta D_ii + (1 - beta) D_ji
    expected = 0.5 * d.diagonal()[:, None] + 0.5 * d.T
    assert torch.allclose(gain_matrix(eye, zero, None, d, 0.5), expected, atol=1e-15)
    assert float(gain_matrix(eye, zero, None, d, 0.5)[0, 1]) == pytest.approx((0.109375 - 0.1171875) / 2 / 3)
    # a bias adds the column sum of D
    columns = torch.tensor([-0.03125, -0.03125, 0.0625], dtype=torch.float64) / 3
    with_bias = gain_matrix(eye, zero, torch.zeros(3), d, 0.5)
    assert torch.allclose(with_bias, expected + columns[:, None], atol=1e-15)
    # own logit ln 2: p_ii = 1/2, others 1/4, G_ij = D_ii (1 - 1/2 + 1/4)
    doubled = gain_matrix(eye, math.log(2) * eye, None, d, 1.0)
    assert torch.allclose(doubled, 0.75 * d.diagonal()[:, None].expand(3, 3), atol=1e-15)


# --- G against what a step of the head does ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean_recall", "h_mean", "g_mean", "min_recall", "worst_share_recall", "macro_f1"])
@pytest.mark.parametrize("beta", [0.8, 1.0])
def test_gain_is_the_change_of_the_objective(name, beta):
    """psi(pi softmax(C~ + eps V_ij [z_k, 1])), central difference in eps."""
    objective = get_objective(name, {"coverage": 0.9}, worst_share=0.6)
    counts = random_counts(4)
    multipliers = objective.update_multipliers({}, counts)
    z, weight, bias, _ = random_case(4, 3)
    gain = gain_matrix(z, weight, bias, metric_gradient(objective, counts, multipliers=multipliers), beta)
    prior = resolve_class_prior(objective.class_prior, counts.sum(1))
    logits = smooth_confusion(counts, objective.class_prior).log()
    extended = torch.cat([z, torch.ones(4, 1, dtype=torch.float64)], 1)

    def moved(change):
        return float(objective.lagrangian(prior[:, None] * torch.softmax(logits + change, 1), multipliers))

    for i in range(4):
        for j in range(4):
            mixed = beta * extended[i] + (1 - beta) * extended[j]
            error = torch.eye(4, dtype=torch.float64)[i] - torch.softmax(weight @ mixed[:3] + bias, 0)
            change = 1e-5 * (extended @ mixed)[:, None] * error
            assert float(gain[i, j]) == pytest.approx((moved(change) - moved(-change)) / 2e-5, abs=1e-8)


class Averaged(torch.nn.Module):
    """Logits are the mean of two linear layers on the two halves of the features."""

    def __init__(self, num_classes, num_features):
        super().__init__()
        self.first = torch.nn.Linear(num_features // 2, num_classes, dtype=torch.float64)
        self.second = torch.nn.Linear(num_features // 2, num_classes, dtype=torch.float64)

    def forward(self, z):
        first, second = z.chunk(2, -1)
        return (self.first(first) + self.second(second)) / 2


@pytest.mark.parametrize("kind", ["linear", "no bias", "averaged"])
def test_gain_is_what_an_sgd_step_does(kind):
    """One real SGD step on the cross entropy of a mixup, times D, for each kind of head."""
    torch.manual_seed(0)
    num_classes, num_features = 3, 4
    z, _, _, gradient = random_case(num_classes, num_features)
    steps = {}
    if kind == "averaged":
        head = Averaged(num_classes, num_features)
        weight = torch.cat([head.first.weight, head.second.weight], 1).detach() / 2
        bias = (head.first.bias + head.second.bias).detach() / 2
        steps = {"feature_step": 1 / 4, "bias_step": 1 / 2}
    else:
        head = torch.nn.Linear(num_features, num_classes, bias=kind == "linear", dtype=torch.float64)
        weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    gain = gain_matrix(z, weight.clone(), bias, gradient, 0.7, **steps)
    before = head(z).detach()
    state = {key: value.clone() for key, value in head.state_dict().items()}
    for i in range(num_classes):
        for j in range(num_classes):
            head.load_state_dict(state)
            loss = torch.nn.functional.cross_entropy(head(0.7 * z[i] + 0.3 * z[j]), torch.tensor(i))
            optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert float(gain[i, j]) == pytest.approx(float((gradient * (head(z).detach() - before)).sum()), abs=1e-12)


# --- D -----------------------------------------------------------------------------------------------------------


def test_metric_gradient_by_hand():
    assert torch.allclose(metric_gradient(get_objective("mean_recall"), COUNTS), MEAN_RECALL_D, atol=1e-15)
    # the smallest recall, wholly weighted, has the same derivative in its row and none elsewhere
    multipliers = {"min_recall": torch.tensor([0.0, 0.0, 1.0])}
    got = metric_gradient(get_objective("min_recall"), COUNTS, multipliers=multipliers)
    assert torch.allclose(got, torch.cat([torch.zeros(2, 3), 3 * MEAN_RECALL_D[2:]]).double(), atol=1e-15)


@pytest.mark.parametrize("class_prior", ["validation", "balanced", (0.6, 0.1, 0.3)])
@pytest.mark.parametrize("constraints", [{}, {"coverage": 0.95}, {"head_tail_coverage": 0.9}])
@pytest.mark.parametrize("name", [*OBJECTIVES, "callable"])
def test_metric_gradient_equals_finite_differences(name, constraints, class_prior):
    counts = random_counts(3, 3)
    function = (lambda c: (c.diagonal().sqrt() * torch.arange(1, 4)).sum()) if name == "callable" else name
    objective = get_objective(function, constraints, class_prior=class_prior, class_counts=[9, 7, 5], tail_share=0.5)
    generator = torch.Generator().manual_seed(0)
    multipliers = {
        key: torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.1
        for key, value in objective.initial_multipliers(3).items()
    }
    prior = resolve_class_prior(class_prior, counts.sum(1))
    logits = smooth_confusion(counts, class_prior).log()

    def moved(change):
        return objective.lagrangian(prior[:, None] * torch.softmax(logits + change, 1), multipliers)

    expected, h = torch.zeros(3, 3, dtype=torch.float64), 1e-5
    for k in range(3):
        for c in range(3):
            change = torch.zeros(3, 3, dtype=torch.float64)
            change[k, c] = h
            expected[k, c] = (moved(change) - moved(-change)) / (2 * h)
    got = metric_gradient(objective, counts, multipliers=multipliers)
    assert got.dtype == torch.float64
    assert torch.allclose(got, expected, rtol=0, atol=1e-8) and float(got.abs().max()) > 1e-3


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(list(OBJECTIVES)),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 2**31),
    prior=st.sampled_from(["validation", "balanced"]),
)
def test_rows_of_the_gradient_sum_to_zero(name, num_classes, seed, prior):
    objective = get_objective(name, class_counts=range(num_classes, 0, -1), class_prior=prior)
    gradient = metric_gradient(objective, random_counts(num_classes, seed))
    assert torch.allclose(gradient.sum(1), torch.zeros(num_classes, dtype=torch.float64), atol=1e-12)


def test_frequencies_with_num_samples_equal_counts():
    counts, objective = random_counts(5), get_objective("h_mean")
    expected = metric_gradient(objective, counts)
    total = int(counts.sum())
    assert torch.allclose(metric_gradient(objective, counts.double() / total, total), expected, atol=1e-14)
    assert torch.allclose(metric_gradient(objective, (counts / total).float(), total), expected, atol=1e-6)
    for same in (metric_gradient(objective, counts.float()), metric_gradient(objective, counts, total)):
        assert torch.equal(same, expected)
    # the number of samples matters: fewer are smoothed more
    assert not torch.allclose(metric_gradient(objective, counts.double() / total, total // 10), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("confusion", "num_samples", "message"),
    [
        (torch.eye(3) / 3, None, "confusion holds frequencies: give num_samples"),
        (torch.eye(3) / 3, 0, "give num_samples"),
        (torch.tensor([[2, -1], [0, 1]]), None, "square and non-negative"),
        (torch.tensor([[0.6, -0.1], [0.0, 0.5]]), 10, "square and non-negative"),
        (torch.ones(2, 3), None, r"square and non-negative, found shape \(2, 3\)"),
        (torch.ones(4), None, r"found shape \(4,\)"),
        (
            torch.tensor([[1.5, 0.2], [0.0, 1.0]]),
            None,
            "counts, or frequencies that sum to 1; found fractions summing to 2.7",
        ),
        (torch.tensor([[float("nan"), 0.2], [0.0, 1.0]]), None, "fractions summing to nan"),
        (torch.eye(3).long(), 4, "the counts hold 3 samples, but num_samples is 4"),
        (torch.eye(3) * 2, 4, "the counts hold 6 samples, but num_samples is 4"),
        (torch.diag(torch.tensor([3, 0, 2])), None, "no sample of 1 of 3 classes: 1"),
        (torch.diag(torch.tensor([0.5, 0, 0.5])), 8, "no sample of 1 of 3 classes: 1"),
    ],
)
def test_bad_confusions_are_refused(confusion, num_samples, message):
    with pytest.raises(ValueError, match=message):
        metric_gradient(get_objective("mean_recall"), confusion, num_samples)


def test_gradient_works_under_no_grad():
    with torch.no_grad():
        got = metric_gradient(get_objective("mean_recall"), COUNTS)
    assert not got.requires_grad and torch.allclose(got, MEAN_RECALL_D)


# --- properties --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(5)), name=st.sampled_from(["min_recall", "h_mean"]))
def test_permuting_classes_permutes_everything(seed, order, name):
    objective, counts = get_objective(name, {"coverage": 0.9}), random_counts(5, seed)
    multipliers = objective.update_multipliers({}, counts)
    z, weight, bias, _ = random_case(5, 3, seed)
    gradient = metric_gradient(objective, counts, multipliers=multipliers)
    gain = gain_matrix(z, weight, bias, gradient)
    shuffled = counts[order][:, order]
    shuffled_multipliers = objective.update_multipliers({}, shuffled)
    shuffled_gradient = metric_gradient(objective, shuffled, multipliers=shuffled_multipliers)
    shuffled_gain = gain_matrix(z[order], weight[order], bias[order], shuffled_gradient)
    assert torch.allclose(shuffled_gradient, gradient[order][:, order], atol=1e-12)
    assert torch.allclose(shuffled_gain, gain[order][:, order], atol=1e-10)
    p, shuffled_p = (pair_distribution(g, target_share=0.5).probability for g in (gain, shuffled_gain))
    assert torch.allclose(shuffled_p, p[order][:, order], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), exponent=st.floats(-25, 25))
def test_the_scale_of_the_gains_does_not_change_an_auto_p(seed, exponent):
    gain = gain_matrix(*random_case(5, 3, seed)).float()
    p = pair_distribution(gain, target_share=0.3).probability
    assert torch.allclose(pair_distribution(10**exponent * gain, target_share=0.3).probability, p, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), constant=st.floats(-1e3, 1e3), beta=st.floats(0, 1))
def test_a_constant_added_to_all_logits_changes_nothing(seed, constant, beta):
    z, weight, bias, gradient = random_case(4, 3, seed)
    expected = gain_matrix(z, weight, bias, gradient, beta)
    assert torch.allclose(gain_matrix(z, weight, bias + constant, gradient, beta), expected, rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), factor=st.floats(-10, 10))
def test_the_gain_is_linear_in_the_gradient(seed, factor):
    z, weight, bias, gradient = random_case(4, 3, seed)
    scaled = gain_matrix(z, weight, bias, factor * gradient)
    assert torch.allclose(scaled, factor * gain_matrix(z, weight, bias, gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["g_mean", "h_mean", "min_recall"])
def test_a_class_without_recall_draws_the_gains(name):
    objective = get_objective(name)
    counts = torch.diag(torch.tensor([18, 17, 0, 19, 16])) + torch.diag(torch.tensor([2, 3, 20, 1]), 1)
    counts[4, 0] = 4
    z, weight, bias, _ = aligned_case(5, 4.0, seed=1)
    multipliers = objective.update_multipliers({}, counts)
    gain = gain_matrix(z, weight, bias, metric_gradient(objective, counts, multipliers=multipliers))
    assert bool(gain.isfinite().all())
    five_largest = gain.flatten().topk(5).indices // 5
    assert five_largest.tolist() == [2] * 5
    assert bool((pair_distribution(gain).probability[2] > 0).any())


# --- precision, overflow, size -----------------------------------------------------------------------------------


def obvious_gain(z, weight, bias, gradient, beta):
    """a_i - sum_l p_l a_l with the softmax of every pair, in the dtype of z."""
    logits = z @ weight.T + bias
    align = z @ (z.T @ gradient) + gradient.sum(0)
    p = torch.softmax(beta * logits[:, None] + (1 - beta) * logits[None], -1)
    a = beta * align[:, None] + (1 - beta) * align[None]
    return a.diagonal(dim1=0, dim2=2).T - (p * a).sum(-1)


@pytest.mark.parametrize("margin", [10, 20, 30, 50])
@pytest.mark.parametrize("beta", [0.8, (0.6, 1.0)])
def test_float32_keeps_its_digits_on_aligned_logits(margin, beta):
    case = aligned_case(40, margin)
    exact = gain_matrix(*(t.double() for t in case), beta)
    got = gain_matrix(*case, beta)
    assert got.dtype == torch.float32
    assert relative_error(got, exact) < 1e-5


def test_float32_keeps_its_digits_on_random_logits():
    """Logits between -50 and 50."""
    z, weight, bias, gradient = random_case(60, 80)
    weight *= 50 / float((z @ weight.T).abs().max())
    exact = gain_matrix(z, weight, bias, gradient, 0.8)
    assert 49 < float((z @ weight.T).abs().max()) < 51
    assert relative_error(gain_matrix(*(t.float() for t in (z, weight, bias, gradient)), 0.8), exact) < 1e-4


@pytest.mark.parametrize(("margin", "error"), [(20, 1e-3), (30, 0.1)])
def test_the_obvious_form_loses_them(margin, error):
    """The same sum without the own class taken out, which is right in float64, is useless in float32."""
    case = aligned_case(40, margin)
    exact = gain_matrix(*(t.double() for t in case), 0.8)
    # at margin 30 even float64 keeps only the digits that 1 - p leaves
    assert relative_error(obvious_gain(*(t.double() for t in case), 0.8), exact) < 1e-6
    obvious = obvious_gain(*case, 0.8)
    assert relative_error(obvious, exact) > error > 100 * relative_error(gain_matrix(*case, 0.8), exact)
    if margin == 30:
        assert float(((obvious > 0) != (exact > 0)).float().mean()) > 0.2


@pytest.mark.parametrize("beta", [0.8, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["random", "aligned", "wrong"])
def test_huge_logits(kind, beta):
    """Logits of +-500, at random, for the right class or for another: exponentials underflow, the gain is right."""
    signs = torch.randint(0, 2, (6, 6), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    identity = torch.eye(6, dtype=torch.float64)
    favoured = {"random": signs, "aligned": 2 * identity - 1, "wrong": 2 * identity.roll(1, 0) - 1}[kind]
    weight = 500 * favoured + torch.tensor([0.0, 1, -1, 2, -2, 3])  # small integers: no ties, exact in float32
    _, _, bias, gradient = random_case(6, 2)
    case = (identity, weight, torch.round(bias * 8) / 8, gradient)
    expected = literal_gain(*case, beta, bias_step=1.0)
    largest = float(expected.abs().max())
    got = gain_matrix(*case, beta, block_size=4)
    assert bool(got.isfinite().all())
    # aligned at beta 1: all gains are below 1e-300
    assert torch.allclose(got, expected, rtol=0, atol=1e-10 * largest)
    got = gain_matrix(*(t.float() for t in case), beta, block_size=4)
    assert bool(got.isfinite().all())
    assert torch.allclose(got.double(), expected, rtol=0, atol=1e-4 * largest + 1e-38)
    assert largest > 0.1 or kind == "aligned"


def test_pairs_that_underflow_are_recomputed():
    """Two classes that each predict the other's opposite: every product of exponentials vanishes in float32."""
    weight = torch.tensor([[0.0, -400], [-400, 0], [-150, -150]])
    z, bias = torch.eye(2, dtype=torch.float32), None
    z = torch.cat([z, torch.full((1, 2), 0.5)])
    _, _, _, gradient = random_case(3, 2)
    expected = literal_gain(z, weight, bias, gradient, 0.5, bias_step=0.0)
    assert relative_error(gain_matrix(z, weight, bias, gradient, 0.5), expected) < 1e-5


@pytest.fixture(scope="module")
def thousand():
    """K = 1000, 20 validation images a class; the head never predicts the last seventy, the others with recall .55."""
    num_classes, num_features, tail = 1000, 128, 70
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(num_classes, num_features, generator=generator), dim=1)
    weight = 12 * means + 0.3 * torch.randn(means.shape, generator=generator)
    bias = 0.1 * torch.randn(num_classes, generator=generator)
    weight[-tail:] *= 0.3
    bias[-tail:] -= 3
    labels = torch.arange(num_classes).repeat_interleave(20)
    features = means[labels] + 0.28 * torch.randn(len(labels), num_features, generator=generator)
    statistics = ClassStatistics(num_classes, num_features)
    statistics.update(labels, features @ weight.T + bias, features)
    return statistics.centroids.float(), weight, bias, statistics.counts


def test_a_thousand_classes_quickly_and_right(thousand):
    z, weight, bias, counts = thousand
    gradient = metric_gradient(get_objective("mean_recall"), counts)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        gain = gain_matrix(z, weight, bias, gradient)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
    z64, weight64, bias64 = z.double(), weight.double(), bias.double()
    generator = torch.Generator().manual_seed(1)
    pairs = torch.randint(1000, (20, 2), generator=generator).tolist()
    for i, j in [*pairs, (7, 7), (999, 999), divmod(int(gain.argmax()), 1000)]:
        mixed = 0.8 * z64[i] + 0.2 * z64[j]
        step = -torch.softmax(weight64 @ mixed + bias64, 0)
        step[i] += 1
        expected = float((z64 @ mixed + 1) @ gradient @ step)
        assert float(gain[i, j]) == pytest.approx(expected, abs=1e-5 * float(gain.abs().max()))


def test_blocks_do_not_change_a_thousand_classes(thousand):
    z, weight, bias, counts = thousand
    gradient = metric_gradient(get_objective("mean_recall"), counts)
    whole = gain_matrix(z, weight, bias, gradient)
    assert relative_error(gain_matrix(z, weight, bias, gradient, block_size=300), whole.double()) < 1e-6


def test_seventy_classes_without_recall_get_most_of_p(thousand, monkeypatch):
    z, weight, bias, counts = thousand
    recall = counts.diagonal() / 20
    assert int((recall[-70:] == 0).sum()) == 70 and 0.5 < float(recall[:-70].mean()) < 0.6

    def tail_mass(target_share):
        objective = get_objective("min_recall")
        multipliers = objective.update_multipliers({}, counts)
        gain = gain_matrix(z, weight, bias, metric_gradient(objective, counts, multipliers=multipliers))
        return float(pair_distribution(gain, target_share=target_share).probability[-70:].sum())

    assert tail_mass(0.1) > 0.99 and tail_mass(0.5) > 0.55

    # half a sample spread over all cells leaves a class without recall too small a probability to have a gradient
    def smooth_evenly(counts, class_prior):
        smoothed = counts + 1 / (2 * len(counts))
        return resolve_class_prior(class_prior, counts.sum(1))[:, None] * smoothed / smoothed.sum(1, keepdim=True)

    for module in ("gain", "objectives"):  # where it is used
        monkeypatch.setattr(f"selmix_hf.method.{module}.smooth_confusion", smooth_evenly)
    assert tail_mass(0.1) < 0.07 and tail_mass(0.5) < 0.1


def test_two_classes():
    """K = 2 by hand: z = +-1, no bias, a zero head, D = (d, -d; -e, e)."""
    z = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    gradient = torch.tensor([[0.3, -0.3], [-0.1, 0.1]], dtype=torch.float64)
    gain = gain_matrix(z, torch.zeros(2, 1), None, gradient, 0.75)
    # p = 1/2; (e_0 - p) = (1/2, -1/2); z_00 = 1, z_01 = 1/2: sum_k z_k (D_k0 - D_k1) / 2 = (.6 + .2) / 2 = .4
    assert gain.tolist() == [pytest.approx([0.4, 0.2]), pytest.approx([0.2, 0.4])]


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [-0.1, 1.1, (0.8, 0.6), (0.5, 1.2), float("nan")])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        gain_matrix(*random_case(3, 2), beta)


@pytest.mark.parametrize(
    ("position", "bad", "message"),
    [
        (0, torch.ones(3), "must have shape"),
        (1, torch.ones(4, 2), r"weight must have shape \(3, 2\) beside 3 centroids, found \(4, 2\)"),
        (2, torch.ones(2), r"bias must have shape \(3,\)"),
        (3, torch.ones(2, 2), r"metric_gradient must have shape \(3, 3\)"),
        (0, torch.tensor([[1.0, 2], [3, float("nan")], [5, 6]]), "centroids holds .* The first is that of class 1"),
        (
            1,
            torch.tensor([[1.0, 2], [3, float("inf")], [5, -float("inf")]]),
            "weight holds values that are not finite",
        ),
        (2, torch.tensor([1.0, 2, float("nan")]), "bias holds values"),
        (3, torch.full((3, 3), float("nan")), "metric_gradient holds values"),
    ],
)
def test_bad_inputs(position, bad, message):
    case = list(random_case(3, 2))
    case[position] = bad
    with pytest.raises(ValueError, match=message):
        gain_matrix(*case)


def test_finite_inputs_whose_sum_overflows_are_accepted():
    z, weight, bias, gradient = (t.float() for t in random_case(3, 2))
    bias = torch.tensor([3e38, 3e38, 3e38])
    assert bool(gain_matrix(z, torch.zeros_like(weight), bias, gradient).isfinite().all())


def test_an_overflowing_head_is_named():
    z, weight, bias, gradient = (t.float() for t in random_case(3, 2))
    with pytest.raises(ValueError, match="gain is not finite: the head's logits .* first for class \\d;"):
        gain_matrix(1e20 * z, 1e30 * weight, bias, gradient)


def test_inputs_are_left_alone():
    case = random_case(4, 3)
    copies = [t.clone() for t in case]
    gain_matrix(*case)
    assert all(torch.equal(t, copy) for t, copy in zip(case, copies, strict=True))
