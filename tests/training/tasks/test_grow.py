"""Progressive growing: when what holds, what each network sees, every loss, and a kill in the middle of a fade."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from frugan.checkpoint import list_checkpoints, read_info
from frugan.data.dataset import to_float
from frugan.losses.adversarial import AdversarialKind
from frugan.model import load
from frugan.models.progan import ProGANDiscriminator, ProGANDiscriminatorConfig, ProGANGenerator
from frugan.training.recipe import Recipe
from frugan.training.run import Start, train
from frugan.training.tasks.adversary import LeCamConfig, R1Config, WganGpConfig
from frugan.training.tasks.grow import GrowConfig, GrowTask, GrowthConfig, Stage, faded
from tests.training.rig import make_loop
from tests.training.tiny_runs import assert_same_end, spreads, tiny_recipe
from tests.training.tiny_tasks import FULL, GENTLE, QUICK_ADA, Job, grow_config, pictures, training_config


def job_of(config: GrowConfig, classes: int = 0, **training: Any) -> Job:
    torch.manual_seed(1)
    data, setting = {"images": pictures(12, 16, classes=classes)}, training_config(**training)
    return Job(config.build(data, setting.batch), data, {"generator": GENTLE, "discriminator": GENTLE}, setting)


def task_of(job: Job) -> GrowTask:
    assert isinstance(job.task, GrowTask)
    return job.task


# -- the schedule -----------------------------------------------------------------------------------------------------


def slow_stage(images_seen: int, top: int, start: int, stable: int, fade: int) -> tuple[int, float]:
    """Resolution and alpha by the level of detail, as the article's authors reckon it."""
    lod = torch.tensor(float(top // start)).log2().item()
    phase = images_seen // (stable + fade)
    lod -= phase + max(images_seen - phase * (stable + fade) - stable, 0) / fade
    lod = max(lod, 0.0)
    return int(top / 2 ** int(lod // 1)), 1 - lod % 1


@pytest.mark.parametrize(("top", "start"), [(64, 4), (1024, 4), (32, 8), (16, 16)])
def test_the_schedule_is_the_articles(top: int, start: int) -> None:
    growth = GrowthConfig(start=start, stable_images=600, fade_images=800)
    numbers = []
    for images_seen in range(0, 14_000, 40):
        stage = growth.at(images_seen, top)
        resolution, alpha = slow_stage(images_seen, top, start, 600, 800)
        assert (stage.resolution, stage.alpha) == (resolution, pytest.approx(alpha, abs=1e-9)), images_seen
        numbers.append(stage.number)
    assert sorted(numbers) == numbers and len(set(numbers)) == 2 * (top // start).bit_length() - 1
    assert growth.at(growth.images(top), top) == Stage(top, 1.0, numbers[-1])


def test_without_fades_the_next_size_comes_at_once_and_without_growth_all_at_the_start() -> None:
    growth = GrowthConfig(stable_images=10, fade_images=0)
    assert [growth.at(seen, 16).resolution for seen in (0, 9, 10, 19, 20, 99)] == [4, 4, 8, 8, 16, 16]
    assert {growth.at(seen, 16).alpha for seen in range(40)} == {1.0}
    fading = GrowthConfig(stable_images=0, fade_images=10)
    assert [fading.at(seen, 8) for seen in (0, 5, 10)] == [Stage(4, 1.0, 0), Stage(8, 0.5, 1), Stage(8, 1.0, 2)]
    assert grow_config(growth=None).stage(0) == Stage(16, 1.0, 0)


def test_batch_rates_moments_and_progress_follow_the_stage() -> None:
    config = grow_config(snapshots={"8": 24}, r1=R1Config(gamma=1.0, every=4))
    job = job_of(config)
    plans = {seen: job.task.plan(seen) for seen in (0, 16, 24, 32, 48, 64, 72, 80)}
    assert [plan.batch for plan in plans.values()] == [8, 8, 8, 8, 8, 4, 4, 4]
    assert [plan.reset_moments for plan in plans.values()] == [0, 0, 1, 2, 2, 4, 4, 4]
    assert [plan.snapshot_images for plan in plans.values()] == [None, None, 24, 24, 24, None, None, None]
    assert plans[24].progress == {"resolution": 8, "alpha": 0.5}
    scales = {seen: plan.lr_scale for seen, plan in plans.items()}
    assert scales[0] == pytest.approx({"generator": 0.006738, "discriminator": 0.8 * 0.006738}, rel=1e-3)
    assert scales[16]["generator"] == pytest.approx(0.573753, rel=1e-4)  # exp(-5 (1 - 16 / 24)^2)
    assert scales[24] == {"generator": 0.5, "discriminator": 0.4} and scales[80]["generator"] == 1.0
    assert plans[0].beta_power == {"discriminator": 0.8}
    assert [phase.name for phase in plans[0].phases] == ["discriminator", "r1", "generator"]


def test_a_training_grows_and_adam_begins_anew_at_both_ends_of_a_fade() -> None:
    loop = make_loop(job_of(grow_config()))
    seen, steps = [], []
    while loop.progress.images_seen < 88:
        stage = task_of_loop(loop).config.stage(loop.progress.images_seen)
        loop.iterate()
        seen.append((stage.resolution, stage.alpha))
        state = loop.optimisers["generator"].state_dict()
        steps.append(max(int(value) for name, value in state.items() if name.endswith("|step")))
    assert seen == [
        *((4, 1.0), (4, 1.0), (4, 1.0), (8, 0.5), (8, 1.0), (8, 1.0), (8, 1.0), (16, 0.5)),
        *((16, 0.75), (16, 1.0), (16, 1.0), (16, 1.0), (16, 1.0), (16, 1.0), (16, 1.0))[: len(seen) - 8],
    ]
    assert steps[:8] == [1, 2, 3, 1, 1, 2, 3, 1]


def task_of_loop(loop: Any) -> GrowTask:
    assert isinstance(loop.task, GrowTask)
    return loop.task


# -- what the networks see --------------------------------------------------------------------------------------------


def test_reals_are_averaged_down_and_faded_like_fakes() -> None:
    images = torch.randn(2, 3, 16, 16)
    assert faded(images, 16, 1.0) is images
    half = images.reshape(2, 3, 8, 2, 8, 2).mean(dim=(3, 5))
    torch.testing.assert_close(faded(images, 8, 1.0), half)
    quarter = half.reshape(2, 3, 4, 2, 4, 2).mean(dim=(3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(faded(images, 8, 0.3), 0.7 * quarter + 0.3 * half)


def test_both_networks_get_the_stage_and_pictures_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(grow_config())
    calls: list[tuple[str, int, float]] = []
    judge, draw = ProGANDiscriminator.forward, ProGANGenerator.forward

    def judged(self: Any, images: Tensor, *args: Any, alpha: float, **others: Any) -> Tensor:
        calls.append(("judge", images.shape[-1], alpha))
        return judge(self, images, *args, alpha=alpha, **others)

    def drawn(self: Any, *args: Any, resolution: int, alpha: float, **others: Any) -> Tensor:
        calls.append(("draw", resolution, alpha))
        return draw(self, *args, resolution=resolution, alpha=alpha, **others)

    monkeypatch.setattr(ProGANDiscriminator, "forward", judged)
    monkeypatch.setattr(ProGANGenerator, "forward", drawn)
    loop = make_loop(job)
    loop.progress.images_seen = 24
    loop.iterate()
    assert set(calls) == {("judge", 8, 0.5), ("draw", 8, 0.5)}
    assert [kind for kind, _, _ in calls] == ["draw", "judge", "judge", "judge", "draw", "judge"]


def test_layers_that_are_not_grown_yet_do_not_move() -> None:
    loop = make_loop(job_of(grow_config()))
    before = {name: tensor.clone() for name, tensor in loop.task.nets["generator"].state_dict().items()}
    loop.iterate()
    after = loop.task.nets["generator"].state_dict()
    moved = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {"b4"}
    loop.progress.images_seen = 24
    loop.iterate()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {"b4", "b8"} and "b4.torgb.weight" in moved


# -- losses -----------------------------------------------------------------------------------------------------------

LOSSES: dict[str, dict[str, Any]] = {
    "wgan-gp": {},
    "logistic and everything": {
        "loss": "logistic",
        "gradient_penalty": None,
        **{k: v for k, v in FULL.items() if k != "path_length"},
    },
    "relativistic": {
        "loss": "relativistic",
        "gradient_penalty": None,
        "r1": R1Config(gamma=1.0, gamma_fake=1.0, every=1),
    },
    "hinge, ada": {"loss": "hinge", "gradient_penalty": None, "augment": QUICK_ADA},
    "least squares, noise": {"loss": "least_squares_flipped", "gradient_penalty": None, "layer_noise": 0.2},
    "five steps": {"discriminator_steps": 5},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [0, 3])
def test_growing_goes_with_every_loss(name: str, classes: int) -> None:
    loop = make_loop(job_of(grow_config(num_classes=classes, **LOSSES[name]), classes))
    loop.progress.images_seen = 0
    for at in (0, 24, 64):
        loop.progress.images_seen = at
        stats = loop.iterate()
        assert all(bool(torch.isfinite(value).all()) for value in stats.values()), stats
        assert ("discriminator/classes" in stats) == ("generator/classes" in stats) == (classes > 0)
    assert not loop.progress.skipped


def test_classes_are_learned_by_their_weight_unless_the_head_is_another() -> None:
    for weight in (0.0, 2.0):
        stats = make_loop(job_of(grow_config(num_classes=3, class_weight=weight), 3)).iterate()
        # Equal class logits at the start cost log 3 for reals and for fakes each.
        assert float(stats["discriminator/classes"]) == pytest.approx(weight * 2 * 1.0986, rel=0.5)
    config = grow_config(num_classes=3)
    config = dataclasses.replace(config, discriminator=dataclasses.replace(config.discriminator, head="projection"))
    assert "discriminator/classes" not in make_loop(job_of(config, 3)).iterate()


def test_the_discriminators_noise_follows_its_confidence() -> None:
    job = job_of(grow_config(loss="least_squares_flipped", gradient_penalty=None, layer_noise=0.2))
    task = task_of(job)
    assert task.noise_strength == 0.0
    with torch.no_grad():
        task.discriminator.out.bias.fill_(7.0)  # takes everything for fake, with more than certainty
    loop = make_loop(job)
    loop.iterate()
    assert float(task.state_dict()["confidence"]) == pytest.approx(0.1)
    task.load_state_dict({**task.state_dict(), "confidence": torch.tensor(0.9)})
    assert task.noise_strength == pytest.approx(0.2 * 0.4**2)
    seen: list[Tensor] = []
    judge = task.discriminator.forward

    def judged(*args: Any, factors: Any, **others: Any) -> Tensor:
        seen.append(factors(1000))
        return judge(*args, factors=factors, **others)

    task.discriminator.forward = judged  # type: ignore[method-assign]
    loop.iterate()
    assert seen[0].shape == (8, 1000) and not torch.equal(seen[0], seen[1])
    assert float(seen[0].mean()) == pytest.approx(1.0, abs=0.1)
    assert float(seen[0].std()) == pytest.approx(0.2 * 0.4**2 * 1000**0.5, rel=0.05)


def test_minibatch_discrimination_is_calibrated_on_reals() -> None:
    config = grow_config()
    config = dataclasses.replace(
        config, discriminator=dataclasses.replace(config.discriminator, discrimination_kernels=4)
    )
    task = task_of(job_of(config))
    assert task.discriminator.discrimination is not None
    assert bool((task.discriminator.discrimination.log_scale != 0).all())


# -- what its users meet ----------------------------------------------------------------------------------------------


def test_on_the_way_pictures_are_enlarged_to_one_size() -> None:
    task = task_of(job_of(grow_config()))
    for seen, side in ((0, 4), (24, 8), (200, 16)):
        model = task.eval_model({"generator": task.generator.eval()}, seen)
        images = model.sample(range(4))
        assert images.shape == (4, 3, 16, 16) and model.resolution == 16
        step = 16 // side
        small = images[:, :, ::step, ::step]
        assert torch.equal(small.repeat_interleave(step, 2).repeat_interleave(step, 3), images)
        stage = task.config.stage(seen)
        own = task.generator(model.z(range(4)), resolution=side, alpha=stage.alpha)
        torch.testing.assert_close(to_float(small), own.clamp(-1, 1), atol=0.5 / 127, rtol=0)
        assert model.discriminator is not None
        wanted = task.discriminator(F.avg_pool2d(to_float(images), step), alpha=stage.alpha)
        torch.testing.assert_close(model.discriminator(to_float(images), None), wanted)
    assert model.generator.at_resolution(8).config.resolution == 8


RUN: Mapping[str, Any] = {"batch": 8, "snapshot_images": 16, "total_images": 56, "checkpoint_seconds": 0.0}


def grow_recipe(**training: Any) -> Recipe:
    task = grow_config(growth=GrowthConfig(stable_images=8, fade_images=16), snapshots={"8": 8})
    base = tiny_recipe(**(dict(RUN) | training))
    images = dataclasses.replace(base.data["images"], resolution=16)
    return dataclasses.replace(base, task=task, data={"images": images})


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("unchecked")
def test_stopped_in_a_fade_it_goes_on_bit_for_bit_and_shows_each_stage(tmp_path: Path) -> None:
    data = {"images": pictures(12, 16)}
    for run, stops in (("whole", ()), ("stopped", (16, 24, 40))):
        for total in (*stops, 56):
            assert (
                train(tmp_path / run, grow_recipe(total_images=total), data, Start(device="cpu")).reason == "finished"
            )
            info = read_info(list_checkpoints(tmp_path / run / "checkpoints")[-1])
            stage = grow_recipe().task.stage(total)
            assert info["stage"] == {"resolution": stage.resolution, "alpha": stage.alpha}
            assert load(tmp_path / run).resolution <= 16
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
    progress = [line["progress"] for line in lines_of(tmp_path / "whole") if "progress" in line]
    assert {(line["resolution"], line["alpha"]) for line in progress} >= {(4, 1.0), (8, 0.5), (8, 1.0), (16, 0.5)}
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "Growth" in report and "Schedule: resolution" not in report
    scores = [line["images_seen"] for line in lines_of(tmp_path / "whole") if "scores" in line]
    assert scores == [0, 16, 24, 32, 40, 48, 56]
    sizes = set()
    for path in (tmp_path / "whole" / "grids").glob("fakes-*.png"):
        with Image.open(path) as grid:
            sizes.add(grid.size)
    assert len(sizes) == 1
    assert (tmp_path / "whole" / "progress.gif").stat().st_size > 0


def test_a_run_gives_out_its_last_stage_however_well_smaller_pictures_score(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spreads(monkeypatch, {seen: [(1.0 + seen, 0.1)] for seen in range(0, 64, 8)})
    train(tmp_path, grow_recipe(), {"images": pictures(12, 16)}, Start(device="cpu"))
    found = load(tmp_path).info
    assert (found["images_seen"], found["stage"]) == (48, {"resolution": 16, "alpha": 1.0})


@pytest.mark.usefixtures("unchecked")
def test_micro_batches_and_a_batch_that_changes(tmp_path: Path) -> None:
    data = {"images": pictures(12, 16)}
    recipe = grow_recipe(micro_batch=2, total_images=52)
    assert train(tmp_path, recipe, data, Start(device="cpu")).images_seen == 52
    seen = [line["images_seen"] for line in lines_of(tmp_path) if "losses" in line]
    assert [b - a for a, b in itertools.pairwise(seen)][-2:] == [4, 4]


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: grow_config(growth=GrowthConfig(start=32)), r"grows from 32 px must end at 32 times a power of two"),
        (
            lambda: grow_config().fit({"images": pictures(2, 24)}),
            r"must end at 4 times a power of two \(4, 8, 16, .*\), got 24",
        ),
        (lambda: GrowthConfig(start=6), "start must be a power of two of at least 4, got 6"),
        (lambda: GrowthConfig(stable_images=0, fade_images=0), "must not both be 0"),
        (lambda: grow_config(batches={"12": 4}), "batches must be by resolution, a power of two.*got '12'"),
        (lambda: grow_config(lr_scales={"8": 0.0}), "lr_scales must be above 0, got 0.0 at 8 px"),
        (lambda: grow_config(discriminator_steps=0), "discriminator_steps must be at least 1, got 0"),
        (lambda: grow_config(loss="least_squares_flipped", lecam=LeCamConfig()), "lecam needs a loss that gives reals"),
        (
            lambda: grow_config(discriminator=ProGANDiscriminatorConfig(resolution=8)),
            "generator and discriminator must have the same resolution, got 16 and 8",
        ),
        (
            lambda: job_of(grow_config(batches={"16": 3})),
            "at 16 px the batch must be a multiple of the minibatch-stddev group 2, .* got 3",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.usefixtures("unchecked")
def test_settings_that_cannot_be_leave_no_run_behind(tmp_path: Path) -> None:
    data = {"images": pictures(12, 16)}
    wrong = grow_recipe(total_images=8)
    wrong = dataclasses.replace(wrong, task=dataclasses.replace(wrong.task, batches={"16": 3}))
    with pytest.raises(ValueError, match="must be a multiple of the minibatch-stddev group"):
        train(tmp_path, wrong, data, Start(device="cpu"))
    assert train(tmp_path, grow_recipe(total_images=8), data, Start(device="cpu")).reason == "finished"


def test_fitting_and_shrinking_keep_the_method() -> None:
    config = grow_config(augment=QUICK_ADA, discriminator_steps=2, layer_noise=0.1, class_weight=0.5)
    fitted = config.fit({"images": pictures(3, 32, 1, classes=3)})
    for net in (fitted.generator, fitted.discriminator):
        assert (net.resolution, net.channels, net.num_classes) == (32, 1, 3)
    small = fitted.shrink(8)
    for kept in ("loss", "gradient_penalty", "r1", "discriminator_steps", "layer_noise", "class_weight"):
        assert getattr(small, kept) == getattr(config, kept)
    assert small.generator.resolution == 8 and small.growth is not None
    assert grow_config(growth=None).shrink(8).growth is None


def test_wgan_settings_of_the_paper() -> None:
    kind: AdversarialKind = GrowConfig(
        generator=grow_config().generator, discriminator=grow_config().discriminator
    ).loss
    assert kind == "wasserstein"
    assert WganGpConfig() == WganGpConfig(weight=10.0, target=1.0, drift=0.001)
