import pytest
import torch

from frugan.ops import modulate
from tests import reference

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
FORMS = [modulate.modulated_conv2d, modulate.modulated_conv2d_grouped]
CASES = [
    {"kernel": kernel, "up": up, "demodulate": demodulate}
    for kernel in (1, 3)
    for up in (1, 2)
    for demodulate in (True, False)
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def settings(case):
    return {
        "demodulate": case["demodulate"],
        "fir": FIR if case["up"] > 1 else None,
        "up": case["up"],
        "padding": case["kernel"] // 2,
        "flip_weight": case["up"] == 1,
    }


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_both_forms_follow_the_definition(form, case, batch):
    inputs = [
        draw(batch, 4, 5, 6),
        draw(5, 4, case["kernel"], case["kernel"], seed=1),
        draw(batch, 4, seed=2),
    ]
    options = settings(case)
    expected = reference.derivatives(lambda *a: reference.modulated_conv2d(*a, **options), inputs)
    got = reference.derivatives(lambda *a: form(*a, **options), inputs)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(form(*inputs, gain=1.5, **options), 1.5 * expected[0])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("up", [1, 2])
def test_both_forms_are_differentiable_twice(form, up):
    options = settings({"kernel": 3, "up": up, "demodulate": True})
    inputs = tuple(t.requires_grad_() for t in (draw(2, 2, 2, 2), draw(1, 2, 3, 3, seed=1), draw(2, 2, seed=2)))
    assert torch.autograd.gradcheck(lambda *a: form(*a, **options), inputs)
    assert torch.autograd.gradgradcheck(lambda *a: form(*a, **options), inputs)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_float16_stays_finite_where_weights_and_styles_are_large(form, scale):
    x = draw(2, 64, 4, 4, dtype=torch.float32)
    weight, styles = draw(8, 64, 3, 3, seed=1, dtype=torch.float32) * scale, draw(2, 64, seed=2, dtype=torch.float32)
    exact = form(x, weight, styles * scale, padding=1)
    half = form(x.half(), weight, styles * scale, padding=1)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_float16_with_a_dead_style_or_filter_is_zero_not_nan(form):
    x = torch.ones(2, 4, 3, 3, dtype=torch.float16)
    weight, styles = torch.ones(3, 4, 3, 3), torch.ones(2, 4)
    weight[1] = 0
    styles[1] = 0
    out = form(x, weight, styles, padding=1)
    assert torch.isfinite(out).all()
    assert (out[1] == 0).all() and (out[:, 1] == 0).all() and (out[0, 0] != 0).all()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_bfloat16_on_the_cpu(form):
    x, weight, styles = (draw(*s, dtype=torch.float32) for s in ((2, 8, 6, 6), (8, 8, 3, 3), (2, 8)))
    for up in (1, 2):
        options = {"fir": FIR.float(), "up": up, "padding": 1, "flip_weight": up == 1}
        exact = form(x, weight, styles, **options)
        got = form(x.bfloat16(), weight, styles, **options)
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("up", [1, 2])
def test_without_gradients_the_values_stay_and_nothing_given_is_written_to(up):
    options = settings({"kernel": 3, "up": up, "demodulate": True}) | {"gain": 1.5}
    given = [draw(2, 4, 5, 6), draw(5, 4, 3, 3, seed=1), draw(2, 4, seed=2), draw(5, seed=3)]
    kept = [tensor.clone() for tensor in given]
    expected = modulate.modulated_conv2d(*given, **options)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(modulate.modulated_conv2d(*given, **options), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(given, kept, atol=0, rtol=0)


@pytest.mark.parametrize(
    "kernel, demodulate, size, quick",
    [
        (3, True, 16, "winograd"),
        (3, True, 18, None),
        (1, False, 6, "baddbmm"),
        (3, False, 16, None),
        (1, True, 8, None),
    ],
)
def test_drawn_pictures_are_those_of_training(monkeypatch, kernel, demodulate, size, quick):
    runs = []
    for module, name in ((modulate.winograd, "convolve_scaled"), (modulate.torch, "baddbmm")):
        run = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, run=run: runs.append(name) or run(*a))
    x, styles = draw(2, 64, size, size, dtype=torch.float32), draw(2, 64, seed=2, dtype=torch.float32)
    weight = draw(64, 64, kernel, kernel, seed=1, dtype=torch.float32)
    bias = draw(64, seed=3, dtype=torch.float32)
    options = {"demodulate": demodulate, "padding": kernel // 2, "gain": 1.5}
    expected = modulate.modulated_conv2d(x, weight, styles, bias, **options)
    assert not runs
    with torch.inference_mode():
        got = modulate.modulated_conv2d(x, weight, styles, bias, **options)
    assert runs == {"winograd": ["convolve_scaled"], "baddbmm": ["baddbmm"], None: []}[quick]
    torch.testing.assert_close(got, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("change", [{"up": 2, "fir": FIR.float()}, {"flip_weight": False}, {"bias": None}])
def test_drawn_pictures_without_a_quick_form(change):
    given = {
        "x": draw(2, 64, 16, 16, dtype=torch.float32),
        "weight": draw(64, 64, 3, 3, seed=1, dtype=torch.float32),
        "styles": draw(2, 64, seed=2, dtype=torch.float32),
        "bias": draw(64, seed=3, dtype=torch.float32),
        "padding": 1,
    } | change
    expected = modulate.modulated_conv2d(**given)
    with torch.inference_mode():
        got = modulate.modulated_conv2d(**given)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
