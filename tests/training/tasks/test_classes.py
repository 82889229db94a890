"""Class-conditional GANs: heads and terms that fit, statistics and spectral norms that move when they should, resuming,
several processes, and what is given out.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from frugan import checkpoint
from frugan.augment import flipshift
from frugan.config import from_dict, to_dict
from frugan.losses import conditional
from frugan.model import load
from frugan.models.biggan import BigGANConfig, BigGANDiscriminatorConfig, BigGANGenerator
from frugan.models.heads import (
    ClassifierHead,
    EmbeddingHead,
    HeadConfig,
    InfoCodes,
    MultiHingeHead,
    PickHead,
    ProjectionHead,
)
from frugan.models.standing import StandingStatistics
from frugan.ops.normalize import Pooling
from frugan.recipes import conditional as conditional_recipes
from frugan.training.door import Draw, Share, Shared, Stats, Step
from frugan.training.loop import Loop
from frugan.training.ranks import Ranks
from frugan.training.recipe import EmaConfig, tiny
from frugan.training.run import Start, fit, train
from frugan.training.tasks import classes as classes_module
from frugan.training.tasks.adversary import DraganConfig, LeCamConfig, MaxGpConfig, R1Config, WganGpConfig
from frugan.training.tasks.classes import ClassesConfig, ClassesTask
from frugan.training.tasks.conditioning import (
    AdcConfig,
    ConditioningConfig,
    ContrastiveConfig,
    CrossEntropyConfig,
    D2DConfig,
    MultiHingeConfig,
    TacConfig,
)
from frugan.training.tasks.gan import GanConfig
from frugan.training.tasks.statistics import RunningStatistics, note_statistics
from frugan.training.tasks.terms import ConsistencyConfig, LatentOptimisationConfig, TermsConfig, TopKConfig
from tests.training.rig import (
    assert_close_tensors,
    assert_equal_tensors,
    assert_same_bits,
    make_loop,
    resume,
    run_alone,
    tensors_of,
    together,
)
from tests.training.tiny_tasks import (
    ALL_TERMS,
    GENTLE,
    Job,
    classes_config,
    gan_config,
    make,
    noise_for,
    pictures,
    training_config,
)

Pair = tuple[HeadConfig | None, ConditioningConfig | None]
PAIRS: dict[str, Pair] = {
    "none": (None, None),
    "projection": (ProjectionHead(), None),
    "pick": (PickHead(), None),
    "acgan": (ClassifierHead(), CrossEntropyConfig()),
    "acgan on fakes": (ClassifierHead(normalized=True), CrossEntropyConfig(on_fakes=True)),
    "tac": (ClassifierHead(aux="tac"), CrossEntropyConfig(aux=TacConfig())),
    "adc": (ClassifierHead(aux="adc"), CrossEntropyConfig(aux=AdcConfig())),
    "2c": (EmbeddingHead(dim=6), ContrastiveConfig()),
    "reacgan": (EmbeddingHead(dim=6), D2DConfig()),
    "released": (EmbeddingHead(dim=6), D2DConfig(form="released", negative_margin=0.1)),
    "reacgan tac": (EmbeddingHead(dim=6, aux="tac"), D2DConfig(aux=TacConfig(discriminator=0.5))),
    "reacgan adc": (EmbeddingHead(dim=6, aux="adc"), D2DConfig(aux=AdcConfig())),
    "multi-hinge": (MultiHingeHead(), MultiHingeConfig()),
}


def start(config: ClassesConfig, classes: int = 3, **training: Any) -> tuple[Loop, ClassesTask]:
    torch.manual_seed(0)
    data = {"images": pictures(12, classes=classes)}
    setting = training_config(**training)
    task = config.build(data, setting.batch)
    optimisers = {"generator": dataclasses.replace(GENTLE, lr=0.01), "discriminator": GENTLE}
    return make_loop(Job(task, data, optimisers, setting)), task


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}


# -- heads and terms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_every_head_trains_with_its_terms(name: str) -> None:
    head, conditioning = PAIRS[name]
    config = classes_config(head, conditioning)
    assert from_dict(ClassesConfig, to_dict(config)) == config
    loop, task = start(config)
    before = tensors_of(loop)
    stats = loop.iterate()
    assert all(value.isfinite().all() for value in stats.values())
    after = tensors_of(loop)
    parameters = {f"net.{net}/{key}" for net, module in task.nets.items() for key, _ in module.named_parameters()}
    unused = {key for key in parameters - changed(before, after) if not key.endswith(".strength")}
    assert not unused
    has_terms = conditioning is not None and not isinstance(conditioning, MultiHingeConfig)
    assert ("discriminator/classes" in stats) == ("generator/classes" in stats) == has_terms
    assert ("discriminator/twin" in stats) == ("tac" in name)
    assert ("positives_active" in stats) == isinstance(conditioning, D2DConfig)
    assert ("true_probability" in stats) == ("class_gradient" in stats) == has_terms
    assert stats["feature_norm"] > 0


@pytest.mark.parametrize(
    ("head", "conditioning", "message"),
    [
        (ClassifierHead(), D2DConfig(), "D2DConfig needs a discriminator whose head is EmbeddingHead, got ClassifierH"),
        (EmbeddingHead(dim=4), CrossEntropyConfig(), "CrossEntropyConfig needs .* ClassifierHead, got EmbeddingHead"),
        (None, CrossEntropyConfig(), "needs a discriminator whose head is ClassifierHead, got none"),
        (ProjectionHead(), MultiHingeConfig(), "whose head is MultiHingeHead, got ProjectionHead"),
        (EmbeddingHead(dim=4), None, "nothing would train the discriminator's EmbeddingHead: set conditioning"),
        (ClassifierHead(aux="tac"), CrossEntropyConfig(), "needs a head with aux=None, got aux='tac'"),
        (EmbeddingHead(dim=4), D2DConfig(aux=AdcConfig()), "needs a head with aux='adc', got aux=None"),
    ],
)
def test_heads_and_terms_that_do_not_fit_are_refused(
    head: HeadConfig | None, conditioning: ConditioningConfig | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classes_config(head, conditioning)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classes_config(MultiHingeHead(), MultiHingeConfig(), loss="logistic"), "set loss='hinge', got 'logis"),
        (lambda: CrossEntropyConfig(on_fakes=True, aux=AdcConfig()), "on_fakes does not go with AdcConfig"),
        (lambda: D2DConfig(temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: D2DConfig(margin=1.5), r"margin is a cosine and must be in \[-1, 1\], got 1.5"),
        (lambda: ContrastiveConfig(weight=-1.0), "weight must be at least 0, got -1.0"),
        (lambda: classes_config(discriminator_steps=0), "discriminator_steps must be at least 1, got 0"),
        (lambda: EmaConfig(start_images=-1), "start_images must be at least 0, got -1"),
        (lambda: TopKConfig(final=1.5), r"final must be in \[0, 1\], got 1.5"),
        (
            lambda: classes_config().fit({"images": pictures(4)}),
            "learns classes and the pictures have no labels: put each class in a folder",
        ),
        (
            lambda: dataclasses.replace(
                classes_config(), discriminator=dataclasses.replace(classes_config().discriminator, num_classes=4)
            ),
            "must have the same num_classes, got 3 and 4",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_fitting_takes_size_and_classes_and_keeps_the_parts_of_z() -> None:
    generator = BigGANConfig(resolution=32, num_classes=10, z_dim=80, width=4, attention=(16,))
    judge = BigGANDiscriminatorConfig(resolution=32, num_classes=10, width=4, head=ProjectionHead(), attention=(16,))
    config = ClassesConfig(generator=generator, discriminator=judge)
    fitted = config.fit({"images": pictures(4, 64, channels=1, classes=2)})
    assert (fitted.generator.resolution, fitted.generator.channels, fitted.generator.num_classes) == (64, 1, 2)
    assert fitted.generator.z_dim == 100 and fitted.generator.attention == (16,)
    assert fitted.discriminator.resolution == 64
    assert config.needs_classes and not classes_config(None, None).needs_classes
    free = classes_config(None, None).fit({"images": pictures(4, 8, classes=2)})
    assert free.generator.num_classes == 0
    assert config.shrink(16).generator.attention == (16,)


def test_an_unconditional_recipe_leaves_labels_out() -> None:
    loop, task = start(classes_config(None, None))
    stats = loop.iterate()
    assert not any(name.startswith("true") for name in stats)
    assert task.eval_model(loop.average.nets, 8).sample(seeds=[0, 1]).shape == (2, 3, 8, 8)


def test_labels_of_fakes_are_uniform_or_those_of_the_set() -> None:
    labels = [0] * 10 + [1, 2]
    torch.manual_seed(0)
    data = dataclasses.replace(pictures(12, classes=3), labels=torch.tensor(labels).numpy())
    draw = Draw(("labels",), torch.device("cpu"), Share(3000))
    shares = {}
    for kind in ("uniform", "as_data"):
        task = classes_config(fake_labels=kind).build({"images": data}, 8)
        found = task.random_labels(draw)
        assert found is not None
        shares[kind] = found.mean(dim=0)
    torch.testing.assert_close(shares["uniform"], torch.full((3,), 1 / 3), atol=0.03, rtol=0.0)
    torch.testing.assert_close(shares["as_data"], torch.tensor([10, 1, 1]) / 12, atol=0.03, rtol=0.0)


# -- what is said and done in a step ----------------------------------------------------------------------------------


def test_one_pass_is_two_passes() -> None:
    states = []
    for one_pass in (True, False):
        loop, task = start(classes_config(one_pass=one_pass))
        calls: list[int] = []
        forward = task.discriminator.forward
        task.discriminator.forward = lambda images, *rest, **more: (  # type: ignore[method-assign, misc]
            calls.append(len(images)),  # noqa: B023
            forward(images, *rest, **more),  # noqa: B023
        )[1]
        before = tensors_of(loop)
        loop.iterate()
        states.append(tensors_of(loop))
        assert calls == ([16, 16, 8] if one_pass else [8, 8, 8, 8, 8])
    assert_close_tensors(before, *states)
    assert not start(classes_config(norm="batch", one_pass=True))[1].one_pass


def test_the_first_class_terms_by_hand() -> None:
    """From the very numbers that the loop draws; the discriminator stands still."""
    config = classes_config(discriminator_steps=1)
    torch.manual_seed(0)
    data = {"images": pictures(12, classes=3)}
    task = config.build(data, 8)
    still = dataclasses.replace(GENTLE, lr=0.0)
    loop = make_loop(Job(task, data, {"generator": still, "discriminator": still}, training_config()))
    batch = loop.feeds["images"].batch(8, Share(8), 0)
    assert batch.labels is not None
    verdict = task.discriminator(batch.images, batch.labels)
    found = conditional.similarities(verdict.embedding, verdict.proxies, batch.labels)
    wanted = 0.5 * conditional.d2d_ce(found, temperature=0.5, margin=0.9).mean()
    draw = Draw((0, 0, 0, "generator", 0), torch.device("cpu"), Share(8))
    labels = F.one_hot(draw.integers(0, 3), 3).float()
    fakes = task.generator(draw.normal(4), labels, pooling=Pooling(momentum=0.0))
    of_fakes = task.discriminator(fakes, labels)
    found = conditional.similarities(of_fakes.embedding, of_fakes.proxies, labels)
    stats = loop.iterate()
    torch.testing.assert_close(stats["discriminator/classes"], wanted)
    torch.testing.assert_close(
        stats["generator/classes"], 0.5 * conditional.d2d_ce(found, temperature=0.5, margin=0.9).mean()
    )
    torch.testing.assert_close(stats["generator/loss"], -of_fakes.logits.mean())


def test_the_state_of_the_classifier_is_that_of_autograd() -> None:
    """|gradient| by each class's weights or proxy, in closed form."""
    for head, conditioning in (PAIRS["acgan"], PAIRS["reacgan"], PAIRS["2c"], PAIRS["released"]):
        _, task = start(classes_config(head, conditioning))
        images, labels = torch.randn(8, 3, 8, 8), F.one_hot(torch.arange(8) % 3, 3).float()
        verdict = task.discriminator(images, labels)
        stats = Stats()
        ranks = make_loop(make("gan")).ranks
        task.conditioning.teach(stats, verdict, labels, verdict, labels, ranks)
        noted = stats.reduce(ranks)
        if verdict.classes is not None:
            (wanted,) = torch.autograd.grad(
                conditional.class_loss(verdict.classes, labels).mean(), verdict.classes, retain_graph=True
            )
            by_class = wanted.T @ verdict.features
        else:
            assert verdict.embedding is not None and verdict.proxies is not None
            own = (verdict.embedding * verdict.proxies).sum(dim=1).detach().requires_grad_()
            found = dataclasses.replace(conditional.similarities(verdict.embedding, verdict.proxies, labels), own=own)
            if isinstance(conditioning, ContrastiveConfig):
                values = conditional.contrastive_2c(found, temperature=conditioning.temperature)
            else:
                assert isinstance(conditioning, D2DConfig)
                values = conditional.d2d_ce(
                    found,
                    temperature=conditioning.temperature,
                    margin=conditioning.margin,
                    negative_margin=conditioning.negative_margin,
                    form=conditioning.form,
                )
            (pull,) = torch.autograd.grad(values.mean(), own)
            by_class = labels.T @ (pull[:, None] * verdict.embedding)
        torch.testing.assert_close(noted["class_gradient"], by_class.norm(dim=1).mean().detach())
        torch.testing.assert_close(noted["feature_norm"], verdict.features.norm(dim=1).mean().detach())


@pytest.mark.parametrize("penalty", [WganGpConfig(), DraganConfig(), MaxGpConfig()])
@pytest.mark.parametrize("norm", ["batch", None])
def test_gradient_penalties(penalty: Any, norm: str | None) -> None:
    loop, _ = start(classes_config(None, None, norm=norm, loss="wasserstein", gradient_penalty=penalty))
    assert loop.iterate()["discriminator/gradient_penalty"] > 0


def test_consistency_is_about_mirrored_and_shifted_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = TermsConfig(consistency=ConsistencyConfig(reals=1.0, fakes=1.0))
    config = classes_config(terms=terms, discriminator_steps=1)
    stats = start(config)[0].iterate()
    assert all(stats[f"discriminator/consistency{side}"] > 0 for side in ("", "_fakes"))
    monkeypatch.setattr(flipshift, "apply", lambda images, draws: images)
    stats = start(config)[0].iterate()
    assert all(stats[f"discriminator/consistency{side}"] < 1e-9 for side in ("", "_fakes"))


def test_the_best_fakes_alone_teach_the_generator() -> None:
    loop, _ = start(classes_config(terms=TermsConfig(top_k=TopKConfig(final=0.25, decay=0.25, every_images=1))))
    first, later = loop.iterate(), loop.iterate()
    assert float(first["generator/loss"]) != 0
    config = TopKConfig(final=0.25, decay=0.5, every_images=10)
    assert [config.share_at(images) for images in (0, 9, 10, 20, 1000)] == [1.0, 1.0, 0.5, 0.25, 0.25]
    assert later["generator/loss"].isfinite()


def test_codes_are_read_by_a_head_that_the_generators_optimiser_trains() -> None:
    codes = InfoCodes(num_discrete=1, discrete_size=3, num_continuous=2)
    loop, task = start(classes_config(codes=codes, discriminator_steps=1))
    before = tensors_of(loop)
    stats = loop.iterate()
    assert {"generator/info_discrete", "generator/info_continuous"} <= stats.keys()
    assert not any("info" in name for name in stats if name.startswith("discriminator"))
    moved = changed(before, tensors_of(loop))
    assert "net.reader/discrete.weight" in moved and "net.discriminator/head.codes.discrete.weight" in moved
    assert any(name.startswith("adam.generator/reader.") for name in moved | set(tensors_of(loop)))
    assert not any("codes" in name for name in tensors_of(loop) if name.startswith("adam.discriminator"))
    assert task.discriminator.head.codes is task.nets["reader"]


def test_latents_take_as_many_steps_as_they_should() -> None:
    lengths = {}
    for steps in (1, 3):
        optimisation = LatentOptimisationConfig(steps=steps, fraction=0.5, clip=None, beta=10.0)
        loop, task = start(classes_config(latent_optimisation=optimisation, discriminator_steps=1))
        step = Step(task.plan(0), 0, loop.ranks, Stats(), shared={"lecam": False}, phase="generator")
        draw = Draw(("steps",), torch.device("cpu"), Share(8))
        labels = F.one_hot(torch.arange(8) % 3, 3).float()
        painted = task.paint(step, draw, labels, None)
        assert painted.moved is not None and painted.codes is not None
        z = Draw(("steps",), torch.device("cpu"), Share(8)).normal(4)
        torch.testing.assert_close((painted.codes[:, :4] - z).square().sum(dim=1), painted.moved)
        stays = painted.moved == 0
        assert stays.any() and not stays.all()
        lengths[steps] = float(painted.moved.detach().sum())
        with torch.no_grad():
            still = task.discriminator(task.generator(z, labels, pooling=Pooling(momentum=0.0)), labels).logits
            better = task.discriminator(painted.images, labels).logits
        assert better[~stays].mean() > still[~stays].mean()
        stats = loop.iterate()
        assert stats["generator/latent_steps"] > 0 and stats["discriminator/latent_steps"] > 0
    assert lengths[3] > 1.5 * lengths[1]


def test_latent_optimisation_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="without batch normalisation"):
        classes_config(norm="batch", latent_optimisation=LatentOptimisationConfig())
    with pytest.raises(ValueError, match="beta must be above 0, got 0"):
        LatentOptimisationConfig(beta=0.0)
    _, task = start(classes_config(latent_optimisation=LatentOptimisationConfig()))
    step = Step(task.plan(0), 0, Ranks(0, 2, torch.device("cpu")), Stats())
    with pytest.raises(ValueError, match="works in one process, got 2"):
        task.begin(step, Shared(("x",)))


# -- statistics, norms, averages --------------------------------------------------------------------------------------


def running(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.named_buffers() if "running" in name}


def test_statistics_move_with_the_generators_step_alone_and_once() -> None:
    loop, task = start(classes_config())
    before, watched = running(task.generator), []
    losses = task.losses

    def noting(phase: Any, *rest: Any) -> Any:
        for terms in losses(phase, *rest):
            watched.append((phase.name, running(task.generator)))
            yield terms

    task.losses = noting  # type: ignore[method-assign]
    stats = loop.iterate()
    assert [name for name, _ in watched] == ["discriminator", "discriminator", "generator"]
    for _, seen in watched:
        assert_equal_tensors(before, seen)  # so a step that is made again is harmless
    for name, value in running(task.generator).items():
        noted = stats[f"generator {name}"]
        assert not torch.equal(value, before[name])
        torch.testing.assert_close(value, before[name].lerp(noted, 0.1))


def test_noted_statistics_are_those_of_the_batch() -> None:
    _, task = start(classes_config())
    z, labels = torch.randn(8, 4), F.one_hot(torch.arange(8) % 3, 3).float()
    fresh = copy.deepcopy(task.generator)
    stats = Stats()
    with note_statistics(task.generator, "generator", stats):
        images = task.generator(z, labels, pooling=Pooling(momentum=1.0))
    images.sum().backward()  # the running statistics that this needs are as they were  # type: ignore[no-untyped-call]
    fresh(z, labels, pooling=Pooling(momentum=1.0))
    noted = stats.reduce(make_loop(make("gan")).ranks)
    for name, value in running(fresh).items():
        torch.testing.assert_close(noted[f"generator {name}"], value)


def test_batch_normalisation_of_the_discriminator_moves_in_its_own_steps() -> None:
    loop, task = start(classes_config(norm="batch"))
    before = running(task.discriminator)
    stats = loop.iterate()
    for name, value in running(task.discriminator).items():
        torch.testing.assert_close(value, before[name].lerp(stats[f"discriminator {name}"], 0.1))


def test_spectral_norms_follow_once_an_iteration() -> None:
    loop, task = start(classes_config())
    before = tensors_of(loop)
    stats = loop.iterate()
    moved = changed(before, tensors_of(loop))
    assert "net.generator/start.u" in moved and "net.discriminator/head.out.v" in moved
    matrix = task.generator.start.weight.detach()  # type: ignore[union-attr]
    top = torch.linalg.matrix_norm(matrix, 2)  # type: ignore[arg-type]
    assert float(stats["generator_singular"]) >= 0.5 * float(top)
    assert float(stats["discriminator_singular"]) > 0


def test_singular_values_are_looked_at_in_every_16th_iteration() -> None:
    loop, _ = start(classes_config(discriminator_steps=2))
    names = {"generator_singular", "discriminator_singular"}
    found = [names <= loop.iterate().keys() for _ in range(18)]
    assert [index for index, noted in enumerate(found) if noted] == [0, 16]


def test_the_generators_kernels_are_made_once_for_all_steps_of_the_discriminator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, task = start(classes_config(discriminator_steps=3), micro_batch=4)
    asked: list[torch.nn.Module] = []
    kernels = classes_module.kernels

    def counted(network: torch.nn.Module) -> Any:
        asked.append(network)
        return kernels(network)

    monkeypatch.setattr(classes_module, "kernels", counted)
    for _ in range(2):
        loop.iterate()
        # Once for the discriminator's steps; with gradients for each of the two micro-batches of the generator's own.
        assert asked.count(task.generator) == 1 + 2 and asked.count(task.discriminator) == 4 * 2
        asked.clear()


def test_the_average_is_the_newest_weights_until_it_starts() -> None:
    ema = EmaConfig(fixed=0.5, start_images=32, buffers=True)
    loop, task = start(classes_config(discriminator_steps=2), ema=ema)
    averaged = loop.average.nets["generator"]
    for _ in range(2):
        loop.iterate()
        assert_equal_tensors(dict(task.generator.state_dict()), dict(averaged.state_dict()))
    before = {name: value.clone() for name, value in averaged.state_dict().items()}
    assert loop.progress.images_seen == 32
    loop.iterate()
    newest = task.generator.state_dict()
    for name, value in averaged.state_dict().items():
        torch.testing.assert_close(value, before[name].lerp(newest[name], 0.5))


def test_what_is_given_out_has_standing_statistics_and_no_spectral_norms() -> None:
    loop, task = start(classes_config())
    loop.iterate()
    state = copy.deepcopy(loop.average.nets["generator"].state_dict())
    model = task.eval_model(loop.average.nets, 16)
    generator = model.generator
    assert isinstance(generator, BigGANGenerator) and not generator.config.spectral
    assert_equal_tensors(dict(state), dict(loop.average.nets["generator"].state_dict()))
    again = task.eval_model(loop.average.nets, 16).generator
    assert isinstance(again, BigGANGenerator)
    assert_equal_tensors(dict(generator.state_dict()), dict(again.state_dict()))
    kept = dataclasses.replace(task.config, statistics=RunningStatistics())
    task.config = kept
    plain = task.eval_model(loop.average.nets, 16).generator
    assert isinstance(plain, BigGANGenerator)
    for name, value in running(plain).items():
        assert torch.equal(value, state[name])
        assert not torch.equal(value, dict(generator.named_buffers())[name])
    assert model.discriminator is not None
    labels = F.one_hot(torch.arange(4) % 3, 3).float()
    assert model.discriminator(torch.zeros(4, 3, 8, 8), labels).shape == (4,)
    assert model.sample(seeds=range(3), classes=["class 0", "class 1", "class 2"]).shape == (3, 3, 8, 8)


def test_a_model_with_adc_judges_labels_of_classes() -> None:
    head, conditioning = PAIRS["reacgan adc"]
    loop, task = start(classes_config(head, conditioning))
    model = task.eval_model(loop.average.nets, 0)
    assert model.discriminator is not None
    assert model.discriminator(torch.zeros(3, 3, 8, 8), torch.eye(3)).shape == (3,)


# -- the same terms on StyleGAN2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("none", "pick")])
def test_stylegan2_takes_the_same_terms(name: str) -> None:
    head, conditioning = PAIRS[name]
    base = gan_config(num_classes=3, loss="hinge")
    judge = dataclasses.replace(base.discriminator, head=head)
    config = dataclasses.replace(base, discriminator=judge, conditioning=conditioning, discriminator_steps=2)
    assert config.needs_classes and not base.needs_classes
    assert from_dict(GanConfig, to_dict(config)) == config
    torch.manual_seed(0)
    data = {"images": pictures(12, classes=3)}
    task = config.build(data, 8)
    loop = make_loop(Job(task, data, {"generator": GENTLE, "discriminator": GENTLE}, training_config()))
    stats = loop.iterate()
    assert all(value.isfinite().all() for value in stats.values())
    assert ("discriminator/classes" in stats) == (conditioning is not None and "multi" not in name)
    model = task.eval_model(loop.average.nets, 8)
    assert model.discriminator is not None
    assert model.discriminator(torch.zeros(3, 3, 8, 8), torch.eye(3)).shape == (3,)


def test_stylegan2_refuses_terms_that_are_not_its_heads() -> None:
    with pytest.raises(ValueError, match="D2DConfig needs a discriminator whose head is EmbeddingHead, got none"):
        gan_config(num_classes=3, conditioning=D2DConfig())


# -- resuming, several processes, memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reacgan", "reacgan-terms"])
def test_resume_is_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole, first = make_loop(make(kind)), make_loop(make(kind))
    for _ in range(4):
        whole.iterate()
    for _ in range(3):
        first.iterate()
    checkpoint.save(tmp_path / "000000001", *first.state())
    second = resume(make(kind), tmp_path)
    second.iterate()
    assert_same_bits(second, whole)


@pytest.mark.usefixtures("unchecked")
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    """Embeddings are compared with those of both, statistics of batches are those of both."""
    kinds = ("reacgan", "reacgan-terms")
    together("tests.training.rig", str(tmp_path), "2", *kinds)
    for kind in kinds:
        one, other = (safetensors.torch.load_file(tmp_path / f"{kind}.{rank}.safetensors") for rank in (0, 1))
        assert_equal_tensors(one, other)
        before, alone = run_alone(kind, 2)
        assert_close_tensors(before, alone, one)


@pytest.mark.usefixtures("unchecked")
def test_micro_batches_compare_their_own_pictures_only() -> None:
    """Without anything that compares pictures they change nothing; with it they are another, finite loss."""
    config = classes_config(ProjectionHead(), None)
    states = []
    for micro_batch in (None, 4):
        loop, task = start(config, micro_batch=micro_batch)
        for parameter in task.generator.parameters():
            parameter.requires_grad_(False)
        task.generator.out.weight.requires_grad_()
        before = tensors_of(loop)
        loop.task.paint = lambda step, draw, labels, dtype, twice=False, apart=0.0, task=task: _unpooled(  # type: ignore[attr-defined]
            task, draw, labels
        )
        loop.iterate()
        states.append(tensors_of(loop))
    assert_close_tensors(before, *states)
    loop, _ = start(classes_config(terms=ALL_TERMS), micro_batch=4)
    assert all(value.isfinite().all() for value in loop.iterate().values())


def _unpooled(task: ClassesTask, draw: Draw, labels: Tensor | None) -> Any:
    from frugan.training.tasks.adversary import Painted

    return Painted(task.generator(draw.normal(4), labels))


def test_out_of_memory_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is made again with half of the pictures at once moves statistics once, as if begun so."""
    config = classes_config(discriminator_steps=1)
    wanted, _ = start(config, micro_batch=4)
    wanted.iterate()
    loop, task = start(config)
    losses, tries = task.losses, []

    def failing(phase: Any, step: Any, batch: Any, draw: Draw) -> Any:
        yield from losses(phase, step, batch, draw)
        tries.append(phase.name)
        if draw.share.count > 4:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(task, "losses", failing)
    loop.iterate()
    assert tries == ["discriminator", "discriminator", "discriminator", "generator", "generator"]
    assert_equal_tensors(tensors_of(wanted), tensors_of(loop))


@pytest.mark.usefixtures("unchecked")
def test_everything_at_once() -> None:
    config = classes_config(
        EmbeddingHead(dim=6, aux="adc"),
        D2DConfig(aux=AdcConfig()),
        terms=dataclasses.replace(ALL_TERMS, top_k=TopKConfig()),
        lecam=LeCamConfig(),
        r1=R1Config(gamma=0.1, gamma_fake=0.1, every=1),
        loss="logistic",
        gradient_penalty=DraganConfig(),
    )
    loop, _ = start(config)
    for _ in range(2):
        assert all(value.isfinite().all() for value in loop.iterate().values())


def test_who_opens_a_run_is_given_what_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny(conditional_recipes.small())
    data = noise_for(small, 12)
    recipe = fit(small, data)
    made: list[int] = []
    stand = classes_module.stand

    def noting(generator: BigGANGenerator, config: StandingStatistics) -> None:
        made.append(config.batches)
        stand(generator, config)

    monkeypatch.setattr(classes_module, "stand", noting)
    assert train(tmp_path / "run", recipe, data, Start()).reason == "finished"
    snapshots = list((tmp_path / "run" / "grids").glob("fakes-*.png"))
    assert len(made) == len(snapshots) > 1  # once for what is scored and what is stored
    newest = sorted((tmp_path / "run" / "checkpoints").glob("0*"))[-1]
    opened, stored = load(newest), checkpoint.load(newest)
    said = f"standing: of {made[0]} batches of 8 pictures"
    assert (
        said in opened.info["statistics"] and f"- statistics of batches: {said}" in (newest / "README.md").read_text()
    )
    generator = opened.generator
    assert isinstance(generator, BigGANGenerator) and generator.config.spectral
    task = recipe.task.build(data, recipe.training.batch)
    task.generator.load_state_dict(stored.parts["ema.generator"])
    running = copy.deepcopy(task.generator)
    scored = task.eval_model({"generator": task.generator}, 0)
    seeds = range(4)
    assert (opened.sample(seeds).int() - scored.sample(seeds).int()).abs().max() <= 1  # folded: other roundings
    with torch.no_grad():
        z, labels = opened.z(seeds), opened.one_hot([0, 1, 2, 0])
        assert (running.eval()(z, labels) - generator(z, labels)).abs().max() > 0.01
