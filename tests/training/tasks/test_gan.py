"""The GAN task: every loss and regulariser where and as strong as it should be, and what is trained or not."""

import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frugan.augment import ada
from frugan.augment import diffaugment as diffaug
from frugan.augment.ada import AdaConfig, AdaControllerConfig
from frugan.augment.diffaugment import DiffAugmentConfig, Mode
from frugan.config import from_dict, to_dict
from frugan.data import Dataset, to_float
from frugan.losses import regularize
from frugan.losses.adversarial import AdversarialKind, discriminator_loss, generator_loss
from frugan.model import Model
from frugan.training.door import Draw, Share
from frugan.training.loop import Loop
from frugan.training.recipe import AdamConfig
from frugan.training.tasks.adversary import LeCamConfig, R1Config, WganGpConfig
from frugan.training.tasks.gan import GanConfig, GanTask, PathLengthConfig
from tests.training.rig import ENVIRONMENT, ROOT, assert_close_tensors, make_loop, tensors_of
from tests.training.tiny_tasks import (
    FULL,
    GENTLE,
    QUICK_ADA,
    Job,
    gan_config,
    generator_config,
    pictures,
    training_config,
)

LOSSES: tuple[AdversarialKind, ...] = ("logistic", "hinge", "least_squares", "wasserstein", "relativistic")


def start(
    config: GanConfig,
    data: Dataset | None = None,
    generator: AdamConfig | None = None,
    discriminator: AdamConfig | None = None,
    **training: Any,
) -> tuple[Loop, GanTask]:
    torch.manual_seed(0)
    chosen = {"images": pictures(resolution=config.generator.resolution) if data is None else data}
    setting = training_config(**training)
    adam = AdamConfig(lr=0.002)
    optimisers = {"generator": generator or adam, "discriminator": discriminator or adam}
    task = config.build(chosen, setting.batch)
    return make_loop(Job(task, chosen, optimisers, setting)), task


def watch(net: nn.Module, note: Callable[..., object]) -> None:
    """Call `note` with the arguments of every forward of a network from here on."""
    forward = net.forward

    def watched(*arguments: Any, **keywords: Any) -> Any:
        note(*arguments, **keywords)
        return forward(*arguments, **keywords)

    net.forward = watched  # type: ignore[method-assign]


def seen_by(net: nn.Module) -> list[tuple[Any, ...]]:
    """The arguments of every forward of a network from here on: (images or w, ..., keyword arguments)."""
    calls: list[tuple[Any, ...]] = []
    watch(net, lambda *arguments, **keywords: calls.append((*arguments, keywords)))
    return calls


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The phase that runs stands last in the list."""
    names: list[str] = []
    losses = GanTask.losses

    def noting(self: GanTask, phase: Any, *rest: Any) -> Iterator[Any]:
        names.append(phase.name)
        yield from losses(self, phase, *rest)

    monkeypatch.setattr(GanTask, "losses", noting)
    return names


def still(lr: float = 0.0) -> AdamConfig:
    return AdamConfig(lr=lr)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", LOSSES)
def test_with_every_loss_the_discriminator_learns_to_tell(kind: AdversarialKind) -> None:
    config = gan_config(4, loss=kind)
    loop, _ = start(config, generator=still(), discriminator=AdamConfig(lr=0.01))
    gaps = [float(stats["real_logits"] - stats["fake_logits"]) for stats in (loop.iterate() for _ in range(25))]
    assert sum(gaps[-5:]) / 5 > sum(gaps[:5]) / 5 + 0.5


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", LOSSES)
def test_with_every_loss_the_generator_learns_to_please(kind: AdversarialKind) -> None:
    config = gan_config(4, loss=kind)
    loop, _ = start(config, generator=AdamConfig(lr=0.01), discriminator=still())
    logits = [float(loop.iterate()["fake_logits"]) for _ in range(25)]
    assert sum(logits[-5:]) / 5 > sum(logits[:5]) / 5 + 0.3


@pytest.mark.parametrize("kind", LOSSES)
def test_the_first_losses_by_hand(kind: AdversarialKind) -> None:
    """From the very numbers that the loop draws; neither side has moved yet."""
    config = gan_config(loss=kind, style_mixing=0.0)
    loop, task = start(config, generator=still(), discriminator=still())
    key, share = (0, 0, 0), Share(8)
    pairs = {}
    for name, window in (("generator", 0), ("discriminator", int(kind == "relativistic"))):
        draw = Draw((*key, name, 0), torch.device("cpu"), share)
        draw.shared.uniform()
        w = task.generator.mapping(draw.normal(8))
        noise = [draw.normal(*shape) for shape in task.generator.noise_shapes()]
        fakes = task.discriminator(task.generator.synthesis(w, noise=noise))
        pairs[name] = (task.discriminator(loop.feeds["images"].batch(8, share, window).images), fakes)
    stats = loop.iterate()
    wanted = generator_loss(kind, pairs["generator"][1], pairs["generator"][0]).mean()
    torch.testing.assert_close(stats["generator/loss"], wanted)
    torch.testing.assert_close(stats["discriminator/loss"], discriminator_loss(kind, *pairs["discriminator"]).mean())


def test_the_relativistic_loss_pairs_fresh_reals_with_fakes_of_their_class(phases: list[str]) -> None:
    r1 = R1Config(gamma=1.0, gamma_fake=1.0, every=1)
    config = gan_config(num_classes=3, loss="relativistic", r1=r1)
    data = pictures(40, classes=3)
    loop, task = start(config, data)
    judged: dict[str, list[tuple[Any, ...]]] = {}
    watch(task.discriminator, lambda *arguments, dtype: judged.setdefault(phases[-1], []).append(arguments))
    loop.iterate()
    assert [len(judged[name]) for name in ("generator", "discriminator", "r1")] == [2, 2, 2]
    for name in judged:
        assert torch.equal(judged[name][0][1], judged[name][1][1])  # labels of reals and fakes
    reals = {name: next(args[0] for args in judged[name] if is_of(args[0], data)) for name in judged}
    assert torch.equal(reals["discriminator"], reals["r1"])
    assert not torch.equal(reals["discriminator"], reals["generator"])
    assert loop.feeds["images"].position == 16  # two windows
    assert loop.progress.images_seen == 8


def is_of(images: Tensor, data: Dataset) -> bool:
    """Whether every image is one of the set, mirrored or not."""
    known = to_float(torch.from_numpy(data.images.copy()))
    known = torch.cat([known, known.flip(3)]).flatten(1)
    distances = (images.detach().flatten(1)[:, None] - known).abs().amax(dim=2)
    return bool((distances.amin(dim=1) < 1e-6).all())


# -- regularisers -----------------------------------------------------------------------------------------------------


def test_r1_has_half_of_gamma_times_its_interval() -> None:
    config = gan_config(r1=R1Config(gamma=3.0, every=4))
    loop, task = start(config, generator=still(), discriminator=still())
    images = loop.feeds["images"].batch(8, Share(8)).images.requires_grad_()
    penalty = regularize.r1_penalty(task.discriminator(images), images).mean()
    torch.testing.assert_close(loop.iterate()["r1/reals"], 1.5 * 4 * penalty.detach())
    assert "r1/reals" not in loop.iterate()
    for _ in range(2):
        loop.iterate()
    assert "r1/reals" in loop.iterate()  # the fifth


def test_r1_looks_through_the_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The penalty is on the derivative by the picture that goes into the augmentation."""
    config = gan_config(r1=R1Config(gamma=2.0, every=1), augment=DiffAugmentConfig(policy="cutout"))
    loop, _ = start(config, generator=still(), discriminator=still())
    seen: list[Tensor] = []
    penalty = regularize.r1_penalty

    def noting(logits: Tensor, images: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), images, retain_graph=True)
        seen.append(gradient)
        return penalty(logits, images)

    monkeypatch.setattr(regularize, "r1_penalty", noting)
    loop.iterate()
    erased = (seen[0].abs().sum(dim=1) == 0).sum(dim=(1, 2))
    assert bool((erased > 0).all()) and int(erased.max()) <= 16  # the box of 4 x 4 of 8 x 8, and nothing else


def test_path_lengths_move_their_mean_and_are_weighted() -> None:
    config = gan_config(path_length=PathLengthConfig(weight=3.0, every=4, decay=0.9))
    loop, task = start(config, generator=still(), discriminator=still())
    stats = loop.iterate()
    lengths = stats["path_length"]
    torch.testing.assert_close(task.state_dict()["path_mean"], 0.1 * lengths)
    # mean over i of (l_i - m)^2 is the variance plus the distance of the means; only the latter is known here.
    assert float(stats["path_length/loss"]) >= 3.0 * 4 * float((0.9 * lengths).square()) * 0.999
    assert "path_length" not in loop.iterate()
    torch.testing.assert_close(task.state_dict()["path_mean"], 0.1 * lengths)


def test_path_lengths_take_half_of_the_batch(phases: list[str]) -> None:
    loop, task = start(gan_config(path_length=PathLengthConfig(every=1)))
    sizes = Counter[tuple[str, int]]()
    watch(task.generator.synthesis, lambda w, **_: sizes.update([(phases[-1], len(w))]))
    loop.iterate()
    assert sizes == {("generator", 8): 1, ("path_length", 4): 1, ("discriminator", 8): 1}


def test_lecam_begins_on_time_with_the_newest_means() -> None:
    loop, task = start(gan_config(lecam=LeCamConfig(weight=0.5, decay=0.9, start_images=16)))
    for _ in range(2):
        stats = loop.iterate()
        assert "discriminator/lecam" not in stats
        newest = torch.stack([stats["real_logits"], stats["fake_logits"]])
        torch.testing.assert_close(task.state_dict()["logit_means"], newest)
    before = task.state_dict()["logit_means"].clone()
    stats = loop.iterate()
    assert float(stats["discriminator/lecam"]) > 0
    newest = torch.stack([stats["real_logits"], stats["fake_logits"]])
    torch.testing.assert_close(task.state_dict()["logit_means"], 0.9 * before + 0.1 * newest)


def test_lecam_compares_with_the_other_side(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, task = start(gan_config(lecam=LeCamConfig(weight=0.5)))
    task.load_state_dict({"path_mean": torch.zeros(()), "logit_means": torch.tensor([1.5, -2.5])})
    seen: list[tuple[float, float]] = []
    lecam = regularize.lecam

    def noting(real: Tensor, fake: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
        seen.append((float(ema_real), float(ema_fake)))
        return lecam(real, fake, ema_real, ema_fake)

    monkeypatch.setattr(regularize, "lecam", noting)
    loop.iterate()
    assert seen == [(1.5, -2.5)]


def test_wasserstein_has_its_penalty_and_drift() -> None:
    config = gan_config(loss="wasserstein", gradient_penalty=WganGpConfig(weight=7.0, drift=0.1))
    loop, _ = start(config)
    stats = loop.iterate()
    assert float(stats["discriminator/gradient_penalty"]) > 0
    assert float(stats["discriminator/drift"]) > 0
    free = gan_config(loss="wasserstein", gradient_penalty=WganGpConfig(weight=7.0, drift=0.0))
    assert "discriminator/drift" not in start(free)[0].iterate()


@pytest.mark.usefixtures("unchecked")
def test_the_wasserstein_penalty_brings_slopes_to_one() -> None:
    config = gan_config(4, loss="wasserstein", gradient_penalty=WganGpConfig())
    loop, _ = start(config, generator=still(), discriminator=AdamConfig(lr=0.003))
    penalties = [float(loop.iterate()["discriminator/gradient_penalty"]) for _ in range(60)]
    assert sum(penalties[-5:]) < 0.5 * sum(penalties[:5])


def test_lazy_regularisation_slows_adam_as_in_the_paper() -> None:
    config = gan_config(r1=R1Config(gamma=1.0, every=16), path_length=PathLengthConfig(every=4))
    adam = AdamConfig(lr=0.0025, beta1=0.5, beta2=0.99)
    loop, _ = start(config, generator=adam, discriminator=adam)
    loop.iterate()
    for name, ratio in (("generator", 4 / 5), ("discriminator", 16 / 17)):
        (group,) = loop.optimisers[name]._adam.param_groups
        assert group["lr"] == pytest.approx(0.0025 * ratio)
        assert group["betas"] == pytest.approx((0.5**ratio, 0.99**ratio))
    plain, _ = start(gan_config(r1=R1Config(gamma=1.0, every=1)), discriminator=adam)
    plain.iterate()
    (group,) = plain.optimisers["discriminator"]._adam.param_groups
    assert (group["lr"], group["betas"]) == (0.0025, (0.5, 0.99))


def adam_steps(loop: Loop, name: str) -> int:
    """Of the parameters that every phase moves: R1, for one, says nothing about the last bias."""
    return max(int(value) for key, value in loop.optimisers[name].state_dict().items() if key.endswith("|step"))


def test_r1_in_every_iteration_steps_together_with_the_loss_and_a_lazy_one_alone() -> None:
    for every, steps in ((1, 2), (2, 3)):
        loop, _ = start(gan_config(r1=R1Config(gamma=1.0, every=every)))
        loop.iterate()
        loop.iterate()
        assert adam_steps(loop, "discriminator") == steps


def test_regularisers_run_in_full_precision(phases: list[str]) -> None:
    loop, task = start(gan_config(**(FULL | {"augment": None})), precision="bf16")
    dtypes: set[tuple[str, Any]] = set()
    for net in (task.generator.synthesis, task.discriminator):
        watch(net, lambda *_, dtype, **__: dtypes.add((phases[-1], dtype)))
    loop.iterate()
    assert dtypes == {
        ("generator", torch.bfloat16),
        ("discriminator", torch.bfloat16),
        ("path_length", None),
        ("r1", None),
    }


# -- augmentation, labels, mixing -----------------------------------------------------------------------------------


PLACES: dict[Mode, dict[str, int]] = {
    "differentiable": {"generator": 1, "discriminator": 2, "r1": 2},
    "reals_only": {"discriminator": 1, "r1": 1},
    "discriminator_only": {"discriminator": 2, "r1": 2},
    "off": {},
}


AUGMENTATIONS = [(diffaug, "diffaugment", DiffAugmentConfig()), (ada, "apply", QUICK_ADA)]


@pytest.mark.parametrize(("module", "function", "augment"), AUGMENTATIONS)
@pytest.mark.parametrize("mode", PLACES)
def test_the_augmentation_stands_where_its_mode_says(
    mode: Mode, module: Any, function: str, augment: Any, phases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Counter[str]()
    real = getattr(module, function)

    def noting(images: Tensor, *rest: Any) -> Tensor:
        places.update([phases[-1]])
        assert images.requires_grad == (phases[-1] != "discriminator")
        return real(images, *rest)

    monkeypatch.setattr(module, function, noting)
    r1 = R1Config(gamma=1.0, gamma_fake=1.0)
    start(gan_config(r1=r1, augment=dataclasses.replace(augment, mode=mode)))[0].iterate()
    assert places == PLACES[mode]


def test_reals_and_fakes_are_augmented_each_by_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Tensor] = []
    real = diffaug.draw

    def noting(*arguments: Any) -> Any:
        found = real(*arguments)
        draws.append(found["brightness"])
        return found

    monkeypatch.setattr(diffaug, "draw", noting)
    start(gan_config(augment=DiffAugmentConfig()))[0].iterate()
    assert len(draws) == 3 and all(len(draw.unique()) == 8 for draw in draws)
    assert len(torch.cat(draws).unique()) == 24


def ada_config(p: float = 0.5, target: float = 0.6, **changes: Any) -> AdaConfig:
    controller = AdaControllerConfig(target=target, every=2, ramp_images=160)
    return dataclasses.replace(AdaConfig(p=p, controller=controller), **changes)


@pytest.mark.parametrize(("target", "moves"), [(-1.0, 1), (1.0, -1)])
def test_adas_probability_follows_the_discriminator(target: float, moves: int) -> None:
    loop, task = start(gan_config(augment=ada_config(target=target)), discriminator=still())
    with torch.no_grad():
        task.discriminator.b4.out.bias.fill_(-0.05)  # reals on both sides of 0: neither target is met
    found = []
    for _ in range(5):
        stats = loop.iterate()
        assert -1 < float(stats["real_sign"]) < 1
        found.append(float(stats["augment_p"]))
    step = moves * 2 * 8 / 160
    assert found == pytest.approx([0.5, 0.5, 0.5 + step, 0.5 + step, 0.5 + 2 * step])


def test_adas_probability_reaches_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    real = ada.apply

    def noting(images: Tensor, config: AdaConfig, p: float, *rest: Any) -> Tensor:
        seen.append(p)
        return real(images, config, p, *rest)

    monkeypatch.setattr(ada, "apply", noting)
    loop, _ = start(gan_config(augment=ada_config(p=0.2, target=-1.0)))
    for _ in range(3):
        loop.iterate()
    assert seen == pytest.approx([0.2] * 6 + [0.3] * 3)


def test_adas_probability_can_be_fixed() -> None:
    loop, task = start(gan_config(augment=ada_config(p=0.3, controller=None)))
    found = {round(float(loop.iterate()["augment_p"]), 6) for _ in range(5)}
    assert found == {0.3} and "ada" not in task.state_dict()


def test_ada_with_nothing_happening_is_no_augmentation() -> None:
    states = []
    for augment in (None, AdaConfig(p=0.0, controller=None)):
        loop, _ = start(gan_config(r1=R1Config(gamma=1.0, every=1), augment=augment))
        loop.iterate()
        states.append(tensors_of(loop))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_where_ada_stands_is_kept() -> None:
    config = gan_config(augment=ada_config(target=-1.0))
    loop, task = start(config)
    signs = [float(loop.iterate()["real_sign"]) for _ in range(3)]
    state = task.state_dict()
    assert state["ada"].tolist() == [pytest.approx(0.6), signs[2], 1.0]
    _, other = start(config)
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()["ada"], state["ada"])
    del state["ada"]  # a run that was begun without ADA
    other.load_state_dict(state)


@pytest.mark.parametrize("loss", LOSSES)
def test_ada_goes_with_every_loss(loss: AdversarialKind) -> None:
    penalty = WganGpConfig() if loss == "wasserstein" else None
    config = gan_config(loss=loss, gradient_penalty=penalty, r1=R1Config(gamma=1.0, gamma_fake=1.0), augment=QUICK_ADA)
    loop, task = start(config)
    for _ in range(3):
        assert all(bool(value.isfinite().all()) for value in loop.iterate().values())
    assert float(task.state_dict()["ada"][0]) in (0.25, 0.75)


def test_the_relativistic_loss_knows_only_differences() -> None:
    loop, task = start(gan_config(loss="relativistic"), generator=still(), discriminator=still())
    before = float(loop.iterate()["real_sign"])
    loop, task = start(gan_config(loss="relativistic"), generator=still(), discriminator=still())
    with torch.no_grad():
        task.discriminator.b4.out.bias.add_(100.0)
    assert float(loop.iterate()["real_sign"]) == pytest.approx(before) and abs(before) < 1


@pytest.mark.parametrize("augment", [DiffAugmentConfig(policy="cutout"), QUICK_ADA, None])
def test_augmentations_in_files(augment: Any) -> None:
    config = gan_config(augment=augment)
    plain = to_dict(config)
    assert from_dict(GanConfig, plain) == config
    if isinstance(augment, DiffAugmentConfig):
        del plain["augment"]["kind"]  # as it was written before there was ADA
        assert from_dict(GanConfig, plain) == config


def test_fakes_have_the_labels_of_the_set(phases: list[str]) -> None:
    labels = [0, 0, 0, 2]
    data = dataclasses.replace(pictures(4, classes=1), labels=torch.tensor(labels).numpy(), class_names=("a", "b", "c"))
    loop, task = start(gan_config(num_classes=3), data, batch=16)
    counts = torch.zeros(3)
    judged: list[Tensor] = []
    mapped: list[Tensor] = []
    watch(task.discriminator, lambda images, labels, dtype: judged.append(labels))
    watch(task.generator.mapping, lambda z, labels: mapped.append(labels))
    for _ in range(8):
        loop.iterate()
        assert torch.equal(mapped[0], judged[0])  # the generator's step
        assert torch.equal(mapped[-1], judged[-2])  # the discriminator's: fakes first
        counts += judged[0].sum(dim=0)
        judged.clear()
        mapped.clear()
    assert counts[1] == 0 and 8 <= counts[2] <= 60


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 6, 24), (1.0, 30, 30)])
def test_styles_are_mixed_in_that_share_of_batches(share: float, low: int, high: int) -> None:
    config = dataclasses.replace(gan_config(4, style_mixing=share), generator=generator_config(4))
    loop, task = start(config)
    calls = seen_by(task.generator.synthesis)
    for _ in range(15):
        loop.iterate()
    mixed = [bool((w != w[:, :1]).any()) for w, _ in calls]
    assert len(mixed) == 30 and low <= sum(mixed) <= high
    for w, _ in calls:
        assert len(w) == 8


def test_mixing_changes_over_at_one_layer_for_all() -> None:
    loop, task = start(gan_config(8, style_mixing=1.0))
    calls = seen_by(task.generator.synthesis)
    for _ in range(10):
        loop.iterate()
    cutoffs = set()
    for w, _ in calls:
        layers = (w[:, 1:] != w[:, :-1]).any(dim=2)
        assert bool((layers == layers[0]).all()) and int(layers[0].sum()) == 1
        cutoffs.add(int(layers[0].nonzero()))
    assert cutoffs == {0, 1, 2}  # every place between four layers


def test_noise_is_drawn_for_every_picture() -> None:
    loop, task = start(gan_config())
    calls = seen_by(task.generator.synthesis)
    loop.iterate()
    for _, keywords in calls:
        assert [tuple(layer.shape) for layer in keywords["noise"]] == [(8, 1, 4, 4), (8, 1, 8, 8), (8, 1, 8, 8)]
        assert len(keywords["noise"][0].flatten(1).unique(dim=0)) == 8


def test_the_average_latent_follows_the_discriminators_fakes() -> None:
    loop, task = start(dataclasses.replace(gan_config(), w_average_decay=0.9), generator=still())
    first = loop.iterate()["w"]
    torch.testing.assert_close(task.generator.mapping.w_avg, 0.1 * first)
    second = loop.iterate()["w"]
    torch.testing.assert_close(task.generator.mapping.w_avg, 0.09 * first + 0.1 * second)
    average = loop.average.nets["generator"]
    assert torch.equal(average.get_buffer("mapping.w_avg"), task.generator.mapping.w_avg)


def test_main_steps_can_be_compiled_and_regularisers_are_not(
    phases: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def instead(net: nn.Module, dynamic: bool) -> None:
        forward = net.forward

        def quick(*arguments: Any, **keywords: Any) -> Any:
            compiled.append(phases[-1])
            return forward(*arguments, **keywords)

        net._compiled_call_impl = quick  # what torch itself sets

    monkeypatch.setattr(nn.Module, "compile", instead)
    config = gan_config(r1=R1Config(gamma=1.0, gamma_fake=1.0), path_length=PathLengthConfig(), compile=True)
    loop, _ = start(config)
    loop.iterate()
    assert Counter(compiled) == {"generator": 2, "discriminator": 3, "r1": 1}  # R2's fakes need no derivative
    compiled.clear()
    loop, task = start(gan_config(loss="wasserstein", gradient_penalty=WganGpConfig(), compile=True))
    loop.iterate()
    assert Counter(compiled) == {"generator": 2, "discriminator": 3}
    task.eval_model(loop.average.nets, loop.progress.images_seen).sample([0])
    assert len(compiled) == 5


@pytest.mark.soak
def test_a_compiled_training_is_the_same_training() -> None:
    """Some minutes of a C++ compiler, in a process of its own: the shape checks of the tests cannot be compiled."""
    program = "from tests.training.tasks.test_gan import compare_compiled; compare_compiled()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def compare_compiled() -> None:
    states = []
    for is_compiled in (False, True):
        loop, _ = start(gan_config(8, **FULL, compile=is_compiled), generator=GENTLE, discriminator=GENTLE)
        states.append(tensors_of(loop))
        for _ in range(3):
            loop.iterate()
        states.append(tensors_of(loop))
    assert_close_tensors(states[0], states[1], states[3], tolerance=1e-3)


# -- what is trained --------------------------------------------------------------------------------------------------


def test_several_discriminator_steps_see_pictures_of_their_own(phases: list[str]) -> None:
    data = pictures(64)
    loop, task = start(gan_config(discriminator_steps=3, r1=R1Config(gamma=1.0)), data)
    batches: list[tuple[str, Tensor]] = []
    watch(
        task.discriminator,
        lambda images, *_, **__: batches.append((phases[-1], images.detach())) if is_of(images, data) else None,
    )
    loop.iterate()
    assert [name for name, _ in batches] == ["discriminator"] * 3 + ["r1"]
    rows = torch.cat([images for name, images in batches if name == "discriminator"]).flatten(1)
    assert len(rows.unique(dim=0)) == 24
    assert adam_steps(loop, "discriminator") == 4 and adam_steps(loop, "generator") == 1
    assert loop.progress.images_seen == 24 and loop.feeds["images"].position == 24


LAYERS = ("b16.fromrgb", "b16.conv0", "b16.conv1", "b16.skip", "b8.conv0", "b8.conv1", "b8.skip")


@pytest.mark.parametrize("count", [0, 1, 4, 6, 7])
def test_freeze_d_freezes_the_first_layers_from_the_image(count: int) -> None:
    loop, task = start(gan_config(16, freeze_discriminator=count), discriminator=AdamConfig(lr=0.01))
    before = {name: parameter.clone() for name, parameter in task.discriminator.named_parameters()}
    loop.iterate()
    loop.iterate()
    moved = {
        name.rsplit(".", 1)[0]
        for name, parameter in task.discriminator.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    everything = {name.rsplit(".", 1)[0] for name in before}
    assert everything - moved == set(LAYERS[:count])


def test_freezing_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"freeze_discriminator must be in \[0, 7\] here, got 8"):
        start(gan_config(16, freeze_discriminator=8))


def test_scale_and_shift_trains_nothing_else() -> None:
    loop, task = start(gan_config(16, train="scale_shift"), generator=AdamConfig(lr=0.01))
    with torch.no_grad():
        for name, parameter in task.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    before = {name: parameter.clone() for name, parameter in task.generator.named_parameters()}
    for _ in range(3):
        loop.iterate()
    moved = {name for name, parameter in task.generator.named_parameters() if not torch.equal(parameter, before[name])}
    wanted = {
        name
        for name in before
        if name.startswith("synthesis") and (".affine." in name or name.endswith((".bias", ".noise_strength")))
    }
    assert moved == wanted
    assert {name.split(".")[-1] for name in moved} == {"weight", "bias", "noise_strength"}
    assert not any("conv1.weight" in name or "const" in name or name.startswith("mapping") for name in moved)


def test_the_model_for_its_users_is_the_average_with_the_discriminator() -> None:
    loop, task = start(gan_config(num_classes=3), pictures(classes=3))
    loop.iterate()
    model = task.eval_model(loop.average.nets, loop.progress.images_seen)
    assert isinstance(model, Model)
    assert model.generator is loop.average.nets["generator"] and model.discriminator is task.discriminator
    assert model.class_names == ("class 0", "class 1", "class 2")


def test_nothing_but_what_is_due_gets_gradients() -> None:
    loop, task = start(gan_config())
    loop.iterate()
    for net in task.nets.values():
        assert all(parameter.grad is None for parameter in net.parameters())


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style_mixing": 1.5}, r"style_mixing must be in \[0, 1\], got 1.5"),
        ({"discriminator_steps": 0}, "discriminator_steps must be at least 1, got 0"),
        ({"freeze_discriminator": -1}, "freeze_discriminator must be at least 0, got -1"),
        ({"w_average_decay": 1.5}, r"w_average_decay must be in \[0, 1\], got 1.5"),
        ({"generator": generator_config(16)}, "must have the same resolution, got 16 and 8"),
        ({"generator": generator_config(8, channels=1)}, "must have the same channels, got 1 and 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(gan_config(), **changes)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: R1Config(gamma=-1.0), "gamma must be at least 0, got -1.0"),
        (lambda: R1Config(gamma=1.0, every=0), "every must be at least 1, got 0"),
        (lambda: PathLengthConfig(every=0), "every must be at least 1, got 0"),
        (lambda: PathLengthConfig(fraction=0.0), r"fraction must be in \(0, 1\], got 0.0"),
        (lambda: PathLengthConfig(decay=2.0), r"decay must be in \[0, 1\], got 2.0"),
        (lambda: WganGpConfig(target=0.0), "target must be above 0, got 0.0"),
        (lambda: LeCamConfig(decay=-0.1), r"decay must be in \[0, 1\], got -0.1"),
    ],
)
def test_settings_of_regularisers_are_checked(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_fitting_and_shrinking_keep_the_method() -> None:
    config = gan_config(16, **FULL)
    fitted = config.fit({"images": pictures(5, 32, 4, classes=5)})
    assert (fitted.generator.resolution, fitted.discriminator.channels, fitted.generator.num_classes) == (32, 4, 5)
    assert dataclasses.replace(fitted, generator=config.generator, discriminator=config.discriminator) == config
    small = fitted.shrink(8)
    assert small.generator.resolution == small.discriminator.resolution == 8
    assert small.r1 == config.r1 and small.path_length == config.path_length and small.augment == config.augment
    quick = dataclasses.replace(config, augment=AdaConfig()).shrink(8).augment
    assert isinstance(quick, AdaConfig) and quick.p == 0.5 and quick.operations == AdaConfig().operations
    assert quick.controller is not None and quick.controller.ramp_images < 100
