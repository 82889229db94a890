"""Networks of PyTorch-StudioGAN: its files of G, G_ema and D, for all of its backbones but the StyleGANs.

A file holds the weights of one network in `state_dict`, beside what a training needs. All settings are read off the
names and shapes, but for what leaves no trace in them; that is said in the notes. Facts: POSTECH-CVLab's repository
from 2020 to 2023; `tests/parity/test_biggan.py` holds the networks to its numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from frugan.interop.imported import Foreign, ImportProblem, build_network
from frugan.interop.studiogan_names import (
    BOTTOM,
    Content,
    Named,
    State,
    bare,
    is_discriminator,
    is_generator,
    named,
)
from frugan.models.biggan import (
    BigGANConfig,
    BigGANDiscriminator,
    BigGANDiscriminatorConfig,
    BigGANGenerator,
    Latent,
)
from frugan.models.heads import (
    Aux,
    Bottleneck,
    ClassifierHead,
    EmbeddingHead,
    HeadConfig,
    InfoCodes,
    MultiHingeHead,
    PickHead,
    ProjectionHead,
)
from frugan.ops.spectral import settle_exactly

FAMILY = "PyTorch-StudioGAN"
LICENCE = (
    "those of whoever trained these weights: ask them before you use or share pictures and models. The code of "
    "PyTorch-StudioGAN is MIT (parts that are NVIDIA's are not read here); the sets it learned from have terms of "
    "their own."
)
_EARLY_EMBEDDING = ("linear3.weight", "linear3.weight_orig")
_STATISTICS = (
    "pictures use the statistics of batches that training kept; the published scores used standing statistics, taken "
    "anew from many batches: `frugan evaluate --statistics standing` scores by such"
)


def holds(content: Content) -> bool:
    """Whether these are the weights of a network that is read here."""
    state = bare(content)
    return is_generator(state) or is_discriminator(state)


@dataclass(frozen=True)
class Told:
    """The settings of a network, its weights under our names, the authors' name of each, and what to say about it."""

    config: BigGANConfig | BigGANDiscriminatorConfig
    state: State
    theirs: Mapping[str, str]
    notes: tuple[str, ...] = ()


def from_authors(content: Content, *, num_classes: int | None = None, codes: InfoCodes | None = None) -> Told:
    """What a file tells of its network.

    `num_classes` is needed of discriminators whose head has as many outputs, or twice as many; `codes` says how
    InfoGAN's codes are divided (None: at most one discrete code). Raises ImportProblem where the network is not known,
    lacks a weight that tells a setting, or has settings that do not fit.
    """
    state = bare(content)
    try:
        if is_generator(state):
            return _generator(named(state, True), codes)
        if is_discriminator(state):
            return _discriminator(named(state, False), num_classes, codes)
    except ImportProblem:
        raise
    except ValueError as problem:  # settings that cannot be
        raise ImportProblem(f"its settings do not fit: {problem}") from problem
    raise ImportProblem("no network of PyTorch-StudioGAN is in it: blocks.0.0 and linear0 or linear1 should be there")


def _generator(net: Named, codes: InfoCodes | None) -> Told:
    each, steps = net.each, net.num_steps
    first = net.shape("start.weight")
    widths = (first[0] // BOTTOM**2, *net.outputs()[each - 1 :: each])
    settings, notes = _given_codes(net, codes)
    settings |= _latent(net, settings)
    config = BigGANConfig(
        resolution=BOTTOM << steps,
        channels=net.shape("out.weight")[0],
        width=1,
        blocks=net.blocks,
        multipliers=widths,
        attention=net.attention([BOTTOM << step for step in range(1, steps + 1)]),
        spectral="start.u" in net.state,
        **settings,
    )
    width, multipliers = _divided(widths, replace(config, multipliers=None).steps)
    return Told(replace(config, width=width, multipliers=multipliers), net.state, net.theirs, notes)


def _given_codes(net: Named, codes: InfoCodes | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of a generator's InfoGAN codes, where it has some."""
    if "codes_layer.weight" not in net.state:
        return {}, ()
    made, given = net.shape("codes_layer.weight")
    is_mixed = net.theirs["codes_layer.weight"].startswith("info_mix")
    size = given - made if is_mixed else given
    notes = () if codes else (f"its InfoGAN codes are taken for one choice among {size}: no weight tells",)
    codes = codes or InfoCodes(num_discrete=1, discrete_size=size)
    if codes.size != size:
        raise ImportProblem(f"its InfoGAN codes are {size} numbers, those given would be {codes.size}")
    return {"codes": codes, "codes_into": "latent" if is_mixed else "condition"}, notes


def _latent(net: Named, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a generator shares z out, and how many classes it has: from the inputs of its layers."""
    codes: InfoCodes | None = settings.get("codes")
    first = net.shape("start.weight")[1]
    condition = net.shape(f"{net.first_norm()}.gain.weight")[1] if f"{net.first_norm()}.gain.weight" in net.state else 0
    whole = condition
    if settings.get("codes_into") == "condition":
        condition -= net.shape("codes_layer.weight")[0]
    num_classes, shared = net.shape("classes.weight") if "classes.weight" in net.state else (0, None)
    condition -= shared or 0
    latent: Latent
    if condition == 0:
        latent, latent_dim = "first", first
    elif net.each > 1 and whole == first:
        latent, latent_dim = "everywhere", condition
    elif condition == first:
        latent, latent_dim = "split", first * (net.num_steps + 1)
    elif shared is None:  # one-hot rows
        latent, latent_dim, num_classes = "first", first, condition
    else:
        raise ImportProblem(f"its layers read {first} and {whole} numbers, which no way to share z out explains")
    size = codes.size if codes is not None else 0
    return {"latent": latent, "z_dim": latent_dim + size, "num_classes": num_classes, "shared_dim": shared}


def _divided(widths: Sequence[int], table: Sequence[int]) -> tuple[int, tuple[int, ...] | None]:
    """The base width and the multipliers, None where they are the table's."""
    if len(table) == len(widths):
        width = widths[-1] // table[-1]
        if width and tuple(width * factor for factor in table) == tuple(widths):
            return width, None
    width = math.gcd(*widths)
    if width < 1:
        raise ImportProblem(f"its layers have {', '.join(map(str, widths))} outputs")
    return width, tuple(value // width for value in widths)


def _discriminator(net: Named, num_classes: int | None, codes: InfoCodes | None) -> Told:
    each, steps = net.each, net.num_steps
    doublings = steps if net.blocks != "resnet" else max(steps - 1, 1)
    widths = net.outputs()[::each] if each > 1 else net.outputs()
    if net.blocks == "deep_conv":
        widths = (*widths, net.shape("end.weight")[0])
    elif each > 1:
        widths = (net.shape("stem.weight")[0], *widths)
    state, theirs, notes = dict(net.state), dict(net.theirs), list[str]()
    found = _found_codes(net, codes)
    head, classes = _head(state, theirs, num_classes, notes)
    first = "stem" if each > 1 else "stages.0.conv1"
    config = BigGANDiscriminatorConfig(
        resolution=BOTTOM << doublings,
        channels=net.shape(f"{first}.weight")[1],
        num_classes=classes,
        width=1,
        blocks=net.blocks,
        multipliers=tuple(widths),
        head=head,
        norm=net.norm(),
        codes=found,
    )
    width, multipliers = _divided(widths, replace(config, multipliers=None).steps)
    config = replace(config, width=width, multipliers=multipliers)
    config = replace(config, attention=net.attention(config.stage_resolutions))
    return Told(config, state, theirs, tuple(notes))


def _found_codes(net: Named, codes: InfoCodes | None) -> InfoCodes | None:
    """InfoGAN's codes that a discriminator reads."""
    discrete, continuous = (
        net.shape(f"head.codes.{name}.weight")[0] if f"head.codes.{name}.weight" in net.state else 0
        for name in ("discrete", "mean")
    )
    if not discrete and not continuous:
        return None
    return codes or InfoCodes(
        num_discrete=1 if discrete else 0, discrete_size=discrete or 10, num_continuous=continuous
    )


def _head(
    state: State, theirs: dict[str, str], num_classes: int | None, notes: list[str]
) -> tuple[HeadConfig | None, int]:
    """The head of a discriminator and its classes; its weights get our names in place."""

    def rows(name: str) -> int:
        return state[f"{name}.weight"].shape[0] if f"{name}.weight" in state else 0

    _rename(state, theirs, "linear4", "linear2")  # the class logits of the first versions
    logits, outputs, table = rows("head.out"), rows("linear2"), rows("embedding")
    aux: Aux | None = "tac" if rows("linear_mi") else None
    labels = table or outputs
    if labels and num_classes and labels == 2 * num_classes:
        aux, labels = "adc", num_classes
    if num_classes and labels and labels != num_classes:
        raise ImportProblem(f"it knows {labels} classes, the generator {num_classes}")
    if outputs and table:
        return _embedding_head(state, theirs, outputs, aux, notes), labels
    if outputs:
        if state.pop("linear2.bias", None) is not None:
            notes.append("the discriminator's class logits had a bias, which was left out")
        _rename(state, theirs, "linear2", "head.classes.layer")
        _rename(state, theirs, "linear_mi", "head.twin_classes.layer")
        return ClassifierHead(aux=aux), labels
    if table:
        _rename(state, theirs, "embedding", "head.vectors")
        return ProjectionHead(), labels
    if logits == 1:
        return None, num_classes or 0
    if num_classes and logits in (num_classes, num_classes + 1):
        return (PickHead() if logits == num_classes else MultiHingeHead()), num_classes
    raise ImportProblem(
        f"its {logits} logits are those of a PickHead of {logits} or a MultiHingeHead of {logits - 1} classes: the "
        "generator's file, in the same folder, tells"
    )


def _embedding_head(state: State, theirs: dict[str, str], dim: int, aux: Aux | None, notes: list[str]) -> EmbeddingHead:
    for there, here in (
        ("linear2", "head.embedding.embed"),
        ("convert_head0", "head.embedding.narrow"),
        ("convert_head1", "head.embedding.wide"),
        ("embedding", "head.class_vectors.table"),
        ("linear_mi", "head.twin_embedding.embed"),
        ("embedding_mi", "head.twin_vectors.table"),
    ):
        _rename(state, theirs, there, here)
    for table in ("class_vectors", "twin_vectors"):  # lengths, and with them spectral norms, do not count there
        for vector in "uv":
            state.pop(f"head.{table}.table.{vector}", None)
    if "head.embedding.narrow.weight" not in state:
        return EmbeddingHead(dim=dim, aux=aux)
    notes.append("whether the discriminator's bottleneck was rectified (nonlinear_embed) no weight tells: it is not")
    width = state["head.embedding.narrow.weight"].shape[0]
    return EmbeddingHead(dim=dim, aux=aux, bottleneck=Bottleneck(width=width))


def _rename(state: State, theirs: dict[str, str], there: str, here: str) -> None:
    for name in [name for name in state if name.startswith(f"{there}.")]:
        new = here + name.removeprefix(there)
        state[new], theirs[new] = state.pop(name), theirs.pop(name)


def read(files: Sequence[tuple[str, Content]]) -> Foreign:
    """The networks in these files, each (name, content): a generator, and the discriminator that fits it.

    Of several generators an average (without an optimiser) comes first, then one that is called best. Raises
    ImportProblem where there is no generator, or a weight does not fit.
    """
    generators = [file for file in files if is_generator(bare(file[1]))]
    judges = [file for file in files if file not in generators]
    if not generators:
        names = ", ".join(name for name, _ in judges)
        raise ImportProblem(f"only discriminators are in it ({names}): the generator's file is needed too")
    (name, content), *others = sorted(generators, key=_preference)
    judge = min(judges, key=_preference, default=None)
    codes = _codes_of(judge)
    told = _told(name, content, None, codes)
    net = build_network(told.config, told.state, told.theirs, name)
    if not isinstance(net, BigGANGenerator):
        raise ImportProblem(f"{name} holds no generator")
    # StudioGAN lets its power iterations run on while it draws, from the average of vectors that its files have.
    settle_exactly(net)
    left = [other for other, _ in (*others, *judges) if judge is None or other != judge[0]]
    notes = [*told.notes, *([f"{', '.join(left)} was left out"] if left else [])]
    discriminator, more = _judge(judge, net.config)
    return Foreign(
        family=FAMILY,
        licence=LICENCE,
        generator=net,
        discriminator=discriminator,
        notes=(*notes, *more, _STATISTICS),
        facts={"files": [name, *([judge[0]] if judge and discriminator else [])]},
    )


def _preference(file: tuple[str, Content]) -> tuple[bool, bool, str]:
    name, content = file
    return "optimizer" in content and not is_discriminator(bare(content)), "best" not in name, name


def _told(name: str, content: Content, num_classes: int | None, codes: InfoCodes | None) -> Told:
    try:
        return from_authors(content, num_classes=num_classes, codes=codes)
    except ImportProblem as problem:
        raise ImportProblem(f"{name}: {problem}") from problem


def _codes_of(judge: tuple[str, Content] | None) -> InfoCodes | None:
    """The codes as far as a discriminator tells them: the discrete ones as one."""
    return None if judge is None else _found_codes(named(bare(judge[1]), False), None)


def _judge(
    judge: tuple[str, Content] | None, generator: BigGANConfig
) -> tuple[BigGANDiscriminator | None, tuple[str, ...]]:
    """The discriminator, where it fits the generator; and what to say about it."""
    if judge is None:
        return None, ("without a discriminator: training cannot go on as it was",)
    name, content = judge
    state = bare(content)
    if any(layer in state for layer in _EARLY_EMBEDDING):
        return None, (f"{name} has an embedding of the first versions, of two layers, and was left out",)
    told = _told(name, content, generator.num_classes, None)
    config = told.config
    if (config.resolution, config.channels) != (generator.resolution, generator.channels):
        return None, (f"{name} judges other pictures and was left out",)
    net = build_network(config, told.state, told.theirs, name)
    if not isinstance(net, BigGANDiscriminator):
        raise ImportProblem(f"{name} holds no discriminator")
    return net, told.notes
