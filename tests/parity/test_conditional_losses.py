"""The class-conditional losses give the numbers and gradients of their authors' code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from frugan.losses import conditional as losses
from frugan.models.heads import adc_labels
from tests.parity.test_losses import Numbers, close

Cases = list[dict[str, Any]]


def read(fixtures_dir: Path, name: str) -> tuple[Numbers, Cases]:
    folder = fixtures_dir / "studiogan"
    numbers = load_file(folder / f"loss-{name}-a.io.safetensors")
    return numbers, json.loads((folder / f"loss-{name}-a.meta.json").read_text()).get("cases", [])


def one_hot(label: Tensor, count: int) -> Tensor:
    return F.one_hot(label, count).float()


def compared(numbers: Numbers, case: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, losses.Similarities]:
    """Embeddings and proxies that require gradients, and how similar they are."""
    name = case["input_set"]
    embedding, proxies = (numbers[f"{name}.{part}"].to(dtype).requires_grad_() for part in ("embed", "proxy"))
    labels = one_hot(numbers[f"{name}.label"], case["num_classes"])
    return embedding, proxies, losses.similarities(embedding, proxies, labels)


def test_2c(fixtures_dir: Path) -> None:
    numbers, cases = read(fixtures_dir, "2c")
    assert len(cases) > 20
    for case in cases:
        embedding, proxies, found = compared(numbers, case, torch.float64)
        loss = losses.contrastive_2c(found, temperature=case["temperature"]).mean()
        close(loss, numbers[f"{case['key']}.loss"])
        close(loss, torch.tensor(case["formula_float64"]), atol=1e-7)
        gradients = torch.autograd.grad(loss, (embedding, proxies))
        close(gradients[0], numbers[f"{case['key']}.grad_embed"], rtol=1e-4, atol=1e-6)
        close(gradients[1], numbers[f"{case['key']}.grad_proxy"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("form", "infix"), [("exact", "exact."), ("released", "")])
def test_d2d_ce(fixtures_dir: Path, form: losses.D2DForm, infix: str, dtype: torch.dtype) -> None:
    numbers, cases = read(fixtures_dir, "d2dce")
    assert len(cases) > 40
    for case in cases:
        embedding, proxies, found = compared(numbers, case, dtype)
        loss = losses.d2d_ce(found, temperature=case["temperature"], margin=case["m_p"], form=form).mean()
        key = f"{case['key']}.{infix}"
        close(loss, numbers[f"{key}loss"], atol=2e-6)
        gradients = torch.autograd.grad(loss, (embedding, proxies))
        close(gradients[0], numbers[f"{key}grad_embed"], rtol=1e-4, atol=3e-6)
        close(gradients[1], numbers[f"{key}grad_proxy"], rtol=1e-4, atol=3e-6)


class TestClassifiers:
    @pytest.fixture
    def numbers(self, fixtures_dir: Path) -> Numbers:
        return read(fixtures_dir, "classifier")[0]

    @pytest.mark.parametrize("name", ["ac", "ac_large"])
    def test_cross_entropy(self, numbers: Numbers, name: str) -> None:
        logits = numbers[f"{name}.cls_output"].requires_grad_()
        loss = losses.class_loss(logits, one_hot(numbers[f"{name}.label"], 5)).mean()
        close(loss, numbers[f"{name}.loss"])
        close(torch.autograd.grad(loss, logits)[0], numbers[f"{name}.grad_cls_output"])

    def test_multi_hinge(self, numbers: Numbers) -> None:
        real, fake = (numbers[f"mh.{side}_adv_output"].requires_grad_() for side in ("real", "fake"))
        real_labels, fake_labels = (one_hot(numbers[f"mh.{side}_label"], 5) for side in ("real", "fake"))
        of_real = losses.multi_hinge(real, losses.with_fake_class(real_labels, are_fake=False)).mean()
        of_fake = losses.multi_hinge(fake, losses.with_fake_class(fake_labels, are_fake=True)).mean()
        close(of_real, numbers["mh.d_real"])
        close(of_fake, numbers["mh.d_fake"])
        close(torch.autograd.grad(of_real, real)[0], numbers["mh.grad_d_real"])
        close(torch.autograd.grad(of_fake, fake)[0], numbers["mh.grad_d_fake"])
        of_generator = losses.multi_hinge(fake, losses.with_fake_class(fake_labels, are_fake=False)).mean()
        close(of_generator, numbers["mh.g"])
        close(torch.autograd.grad(0.05 * of_generator, fake)[0], numbers["mh.grad_g"] * 0.05)

    def test_feature_matching(self, numbers: Numbers) -> None:
        fake = numbers["fm.fake_h"].requires_grad_()
        loss = losses.feature_matching(numbers["fm.real_h"], fake)
        close(loss, numbers["fm.loss"])
        close(torch.autograd.grad(loss, fake)[0], numbers["fm.grad_fake_h"])

    def test_codes(self, numbers: Numbers) -> None:
        mean, variance = numbers["info.mu"].requires_grad_(), numbers["info.var"].requires_grad_()
        loss = losses.continuous_codes_loss(mean, variance, numbers["info.c"]).mean()
        close(loss, numbers["info.nll"])
        gradients = torch.autograd.grad(loss, (mean, variance))
        close(gradients[0], numbers["info.grad_mu"])
        close(gradients[1], numbers["info.grad_var"])
        logits = numbers["info.discrete_logits"].requires_grad_()
        codes = [one_hot(code, 4) for code in numbers["info.discrete_c"].T]
        loss = losses.discrete_codes_loss(logits.split(4, dim=1), codes).mean()
        close(loss, numbers["info.discrete_ce_sum"])
        close(torch.autograd.grad(loss, logits)[0], numbers["info.grad_discrete_logits"])

    def test_adc_with_cross_entropy(self, numbers: Numbers) -> None:
        real, fake = (numbers[f"adc_ac.{side}_cls_output"].requires_grad_() for side in ("real", "fake"))
        real_labels, fake_labels = (one_hot(numbers[f"adc_ac.{side}_label"], 5) for side in ("real", "fake"))
        as_real, as_fake = (adc_labels(fake_labels, is_fake=side) for side in (False, True))
        of_real = losses.class_loss(real, adc_labels(real_labels, is_fake=False)).mean()
        loss = 0.5 * (of_real + losses.class_loss(fake, as_fake).mean())
        close(loss, numbers["adc_ac.D"])
        gradients = torch.autograd.grad(loss, (real, fake))
        close(gradients[0], numbers["adc_ac.D_grad_real"])
        close(gradients[1], numbers["adc_ac.D_grad_fake"])
        loss = 0.5 * (losses.class_loss(fake, as_real) - losses.class_loss(fake, as_fake)).mean()
        close(loss, numbers["adc_ac.G"])
        close(torch.autograd.grad(loss, fake)[0], numbers["adc_ac.G_grad_fake"])

    @pytest.mark.parametrize("kind", ["2c", "d2dce"])
    def test_adc_with_proxies(self, numbers: Numbers, kind: str) -> None:
        table = numbers[f"adc_{kind}.proxy_table"].requires_grad_()
        real, fake = (numbers[f"adc_{kind}.{side}_embed"].requires_grad_() for side in ("real", "fake"))
        real_labels, fake_labels = (one_hot(numbers[f"adc_{kind}.{side}_label"], 5) for side in ("real", "fake"))

        def term(embedding: Tensor, labels: Tensor, are_fake: bool) -> Tensor:
            pairs = adc_labels(labels, is_fake=are_fake)
            found = losses.similarities(embedding, pairs @ table, pairs)
            if kind == "2c":
                return losses.contrastive_2c(found, temperature=1.0).mean()
            return losses.d2d_ce(found, temperature=0.5, margin=0.98, form="released").mean()

        loss = 0.5 * (term(real, real_labels, False) + term(fake, fake_labels, True))
        close(loss, numbers[f"adc_{kind}.D"])
        gradients = torch.autograd.grad(loss, (real, fake, table))
        for gradient, name in zip(gradients, ("real_embed", "fake_embed", "proxy_table"), strict=True):
            close(gradient, numbers[f"adc_{kind}.D_grad_{name}"], rtol=1e-4, atol=1e-6)
        loss = 0.5 * (term(fake, fake_labels, False) - term(fake, fake_labels, True))
        close(loss, numbers[f"adc_{kind}.G"])
        gradients = torch.autograd.grad(loss, (fake, table))
        for gradient, name in zip(gradients, ("fake_embed", "proxy_table"), strict=True):
            close(gradient, numbers[f"adc_{kind}.G_grad_{name}"], rtol=1e-4, atol=1e-6)

    def test_the_state_of_a_classifier(self, numbers: Numbers) -> None:
        features, logits, labels = numbers["diag.h"], numbers["diag.logits"], one_hot(numbers["diag.label"], 5)
        close(losses.true_probability(logits, labels), numbers["diag.gt_probability"])
        gradients = losses.classifier_gradients(features, logits, labels)
        close(gradients.norm(dim=1), numbers["diag.class_grad_norm"])
