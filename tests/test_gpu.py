"""What needs a CUDA card: the same numbers as the CPU, half precision, training and resuming."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import frugan
from frugan.augment.ada import apply, draw, preset
from frugan.config import override
from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import EvaluationConfig, Evaluator
from frugan.losses.regularize import path_lengths, r1_penalty
from frugan.metrics.multiscale import Descriptors, PyramidConfig, multiscale_similarity, pyramid_distances
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from frugan.models.stylegan2_discriminator import Discriminator, StyleGAN2DiscriminatorConfig
from frugan.ops.resample import Fir, downsample2d, fir_filter, upsample2d
from frugan.recipes import RECIPES
from frugan.training.feed import open_feeds
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import Precision, Recipe, tiny
from frugan.training.replay import WARM
from frugan.training.run import Start, fit, train
from tests.tiny_extractor import TinyExtractor
from tests.training.rig import ENVIRONMENT, ROOT, Keeper
from tests.training.tiny_tasks import noise_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
]
CARD = torch.device("cuda:0")
TRAINED = ("reacgan-small", "pix2pix-small", "cyclegan-small", "gaugan-small", "progan-small", "stylegan2-ada")
"""A recipe of each task, and one with ADA, lazy R1 and path lengths."""
SETTINGS = {"resolution": 32, "channel_base": 512, "channel_max": 32, "conv_clamp": 256.0}


@pytest.fixture(autouse=True)
def exact() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(StyleGAN2Config(z_dim=32, w_dim=32, mapping_layers=2, **SETTINGS))


@pytest.fixture
def discriminator() -> Discriminator:
    torch.manual_seed(1)
    return Discriminator(StyleGAN2DiscriminatorConfig(**SETTINGS))


def test_the_card_draws_what_the_processor_draws(generator: Generator) -> None:
    z = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    expected = generator(z)
    torch.testing.assert_close(generator.cuda()(z.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)


def test_second_derivatives_agree(generator: Generator, discriminator: Discriminator) -> None:
    def gradients(device: str) -> list[torch.Tensor]:
        g, d = generator.to(device), discriminator.to(device)
        w = g.mapping(torch.ones(4, 32, device=device)).detach().requires_grad_()
        images = g.synthesis(w, noise="none")
        penalty = path_lengths(images, w, torch.ones_like(images)).sum()
        first = torch.autograd.grad(penalty, [g.synthesis.b8.conv0.weight])
        real = torch.linspace(-1, 1, images.numel(), device=device).view_as(images).requires_grad_()
        second = torch.autograd.grad(r1_penalty(d(real), real).sum(), [d.b8.conv0.weight])
        return [gradient.cpu() for gradient in (*first, *second)]

    for card, processor in zip(gradients("cuda"), gradients("cpu"), strict=True):
        torch.testing.assert_close(card, processor, atol=1e-4 * float(processor.abs().max()), rtol=1e-3)


def test_augmentations_agree() -> None:
    config, generator = preset("bgcfnc"), torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 24, 20, generator=generator) * 2 - 1
    draws = draw(
        config,
        lambda *shape: torch.rand(8, *shape, generator=generator),
        lambda *shape: torch.randn(8, *shape, generator=generator),
        *images.shape[1:],
    )
    gradients = []
    for device in ("cuda", "cpu"):
        places = images.to(device).requires_grad_()
        changed = apply(places, config, 0.7, {name: numbers.to(device) for name, numbers in draws.items()})
        gradients.append([part.detach().cpu() for part in (changed, *torch.autograd.grad(changed.sum(), places))])
    for card, processor in zip(*gradients, strict=True):
        torch.testing.assert_close(card, processor, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(generator: Generator, discriminator: Discriminator, dtype: torch.dtype) -> None:
    generator.cuda()
    discriminator.cuda()
    z = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).cuda()
    with torch.no_grad():
        exact, rough = generator(z), generator(z, dtype=dtype)
    assert rough.dtype == torch.float32
    assert float((exact - rough).abs().mean()) < 0.05 * float(exact.std())
    assert torch.isfinite(discriminator(rough, dtype=dtype)).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_runs_and_goes_on(tmp_path: Path, precision: Precision) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
    data = {"images": from_arrays(pictures)}
    recipe = fit(tiny(RECIPES["stylegan2-auto"]()), data)
    for setting in (("training.total_images", "24"), ("training.precision", precision)):
        recipe = override(recipe, *setting)
    start = Start(device="cuda")
    assert train(tmp_path / "run", recipe, data, start).reason == "finished"
    longer = override(recipe, "training.total_images", "48")
    assert train(tmp_path / "run", longer, data, start).images_seen == 48


def little(name: str, count: int = 24) -> tuple[Recipe, dict[str, Dataset]]:
    """A recipe for a training of seconds in the precision that the card prefers, and noise for it."""
    small = tiny(RECIPES[name](), images=24)
    data = noise_for(small, count)
    return override(fit(small, data), "training.precision", "auto"), data


def loop_of(recipe: Recipe, data: dict[str, Dataset]) -> Loop:
    torch.manual_seed(0)
    task, ranks = recipe.task.build(data, recipe.training.batch), Ranks(0, 1, CARD)
    feeds = open_feeds(data, recipe.training.seed, ranks.device)
    return Loop(task, recipe.optimisers, recipe.training, feeds, ranks, Keeper())


def pictures_of(model: Model, data: dict[str, Dataset]) -> torch.Tensor:
    """A model's first pictures as numbers on the CPU."""
    if model.is_translator:
        return model.translate(data["source"].batch(range(4))).cpu().int()
    classes = [0, 1, 2, 0] if model.class_names else None
    return model.sample(range(4), classes=classes).cpu().int()


@pytest.mark.parametrize("name", TRAINED)
def test_every_task_trains_goes_on_and_is_opened_anywhere(name: str, tmp_path: Path) -> None:
    """Grids, scores, held-out logits and checkpoints on the way; the model draws on a CPU what it draws on the card."""
    recipe, data = little(name)
    recipe, start = override(recipe, "training.hold_out", "0.2"), Start(device=str(CARD))
    assert train(tmp_path / "run", recipe, data, start).reason == "finished"
    longer = override(recipe, "training.total_images", "48")
    first = train(tmp_path / "run", longer, data, start)
    assert (first.reason, first.images_seen) == ("finished", 48)
    assert train(tmp_path / "run", longer, data, start).reason == "already finished"
    card = pictures_of(frugan.load(str(tmp_path / "run"), device=CARD), data)
    processor = pictures_of(frugan.load(str(tmp_path / "run")), data)
    # A thousandth of [-1, 1] is an eighth of a grey level: that share of pixels may be rounded to the next one.
    apart = (card - processor).abs()
    assert apart.max() <= 1 and float(apart.float().mean()) < 0.13


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_checkpoint_holds_is_all_that_comes_next_depends_on(name: str) -> None:
    """The state comes back bit for bit, and the next losses are those of the loop that was never stopped, as far as
    sums on a card repeat.
    """
    recipe, data = little(name)
    whole, resumed = loop_of(recipe, data), loop_of(recipe, data)
    for _ in range(3):
        whole.iterate()
    info, parts = whole.state()
    resumed.load_state(info, {part: {key: value.cpu() for key, value in of.items()} for part, of in parts.items()})
    again = resumed.state()[1]
    assert again.keys() == parts.keys()
    for part, tensors in parts.items():
        assert again[part].keys() == tensors.keys()
        for key, value in tensors.items():
            assert torch.equal(again[part][key].cpu(), value.cpu()), f"{part} {key}"
    ours, theirs = whole.iterate(), resumed.iterate()
    first = whole.task.plan(info["progress"]["images_seen"]).phases[0].name  # nothing has been stepped before it
    compared = [name for name in ours if name.startswith(f"{first}/")]
    assert compared and ours.keys() == theirs.keys()
    for name in compared:
        torch.testing.assert_close(theirs[name], ours[name], rtol=0.01, atol=1e-3)
    assert all(bool(torch.isfinite(value).all()) for value in ours.values())


@pytest.mark.parametrize("name", TRAINED)
def test_recorded_phases_train_as_those_that_run_themselves(name: str) -> None:
    """Sums on a card may round otherwise, and each step carries that on: losses agree to a twentieth."""
    recipe, data = little(name)
    recorded, plain = loop_of(recipe, data), loop_of(override(recipe, "training.replay", "false"), data)
    assert recorded.replays is not None and plain.replays is None
    for number in range(WARM + 4):
        ours, theirs = recorded.iterate(), plain.iterate()
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert bool(torch.isfinite(value).all()), f"{key} in iteration {number}"
    keeper = recorded._observer
    assert isinstance(keeper, Keeper) and keeper.events == []
    is_recordable = name not in ("pix2pix-small", "progan-small")  # one hands gradients on, one grows all the time
    assert recorded.replays.count >= is_recordable
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=0.05, atol=0.02, msg=lambda text, key=key: f"{key}: {text}")


def test_recordings_outlive_those_of_another_training_and_are_made_anew() -> None:
    recipe, data = little("stylegan2-ada")
    kept, other = loop_of(recipe, data), loop_of(recipe, data)
    assert kept.replays is not None
    for _ in range(WARM + 2):
        kept.iterate()
        other.iterate()
    del other
    torch.cuda.empty_cache()
    kept.iterate()
    kept.replays.forget()
    for _ in range(WARM + 2):
        stats = kept.iterate()
    keeper = kept._observer
    assert isinstance(keeper, Keeper) and keeper.events == []
    assert kept.replays.count > 0
    assert all(bool(torch.isfinite(value).all()) for value in stats.values())


@pytest.mark.slow
def test_a_compiled_training_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.compiled_training", str(tmp_path / "run"), str(CARD)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-2:] == ["24", "48"]


def test_an_evaluation_on_the_card_gives_the_scores_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, data = little("reacgan-small")
    train(tmp_path / "run", recipe, data, Start(device=str(CARD)))
    config = EvaluationConfig(metrics=("kid", "fid", "pr", "dc", "is", "swd"), num_fake=24)

    def scores(device: str, cache: str) -> dict[str, float]:
        monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / cache))
        model = frugan.load(str(tmp_path / "run"), device=device)
        return dict(Evaluator(data["images"], TinyExtractor().to(device), config).score(model).values)

    card, processor = scores(str(CARD), "card"), scores("cpu", "cpu")
    assert card.keys() == processor.keys()
    for name, value in processor.items():
        assert card[name] == pytest.approx(value, rel=0.02, abs=1e-3, nan_ok=True), name


def test_multiscale_scores_agree() -> None:
    config = PyramidConfig(patches=16, repeats=1)
    images = torch.randint(256, (2, 20, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[1] //= 2

    def scores(device: str) -> dict[int, float]:
        sides = []
        for seed, part in enumerate(images):
            side = Descriptors(20, (64, 64), config, torch.Generator().manual_seed(seed))
            side.add(part.to(device))
            sides.append(side)
        return pyramid_distances(sides[0], sides[1:], torch.Generator().manual_seed(2), device)[0]

    assert scores("cuda") == pytest.approx(scores("cpu"), rel=1e-4)
    card = multiscale_similarity(*images.cuda())
    torch.testing.assert_close(card.cpu(), multiscale_similarity(*images), atol=1e-9, rtol=0)


@pytest.mark.parametrize("make", [fir_filter, Fir], ids=["plane", "products"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(17, 16), (128, 129), (2, 3)], ids=str)
def test_filters_and_their_derivatives_agree(
    make: Callable[[tuple[float, ...]], Any], dtype: torch.dtype, size: tuple[int, int]
) -> None:
    gradients = []
    for device, kind in (("cuda", dtype), ("cpu", torch.float32)):
        fir = make((1.0, 3.0, 3.0, 1.0)).to(device)
        x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0)).to(dtype).to(device, kind)
        x.requires_grad_()
        up, down = upsample2d(x, fir), downsample2d(x, fir)
        value = up.float().square().sum() + down.float().square().sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.float().pow(3).sum(), x)
        gradients.append([part.detach().float().cpu() for part in (up, down, first, second)])
    bound = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}[dtype]
    for card, processor in zip(*gradients, strict=True):
        torch.testing.assert_close(card, processor, atol=bound * float(processor.abs().max()), rtol=bound)
