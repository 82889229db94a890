"""Scores with their protocol: the same pictures each time, told apart from worse ones, kept by content."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from frugan.data import write
from frugan.data.dataset import Dataset, from_arrays
from frugan.evaluation import METRICS, PIXEL_SWD, EvaluationConfig, Evaluator, quick_score
from frugan.features import CallableExtractor, open_extractor
from frugan.metrics.distribution import frechet_distance_of, kid_exact
from frugan.metrics.neighbours import precision_recall
from frugan.model import Model
from frugan.models.stylegan2 import Generator, StyleGAN2Config
from tests.tiny_extractor import TinyExtractor


def make(num_classes: int = 0) -> Model:
    torch.manual_seed(0)
    size = {"resolution": 8, "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "mapping_layers": 2}
    return Model(Generator(StyleGAN2Config(num_classes=num_classes, **size)).eval())


def own_pictures(model: Model, count: int, seeds: int = 0) -> Dataset:
    return from_arrays(model.sample(range(seeds, seeds + count)).numpy())


def test_a_score_is_repeatable_and_leaves_the_random_state_alone() -> None:
    model = make()
    data = own_pictures(model, 20)
    before = torch.get_rng_state()
    first, second = quick_score(model, data, 12), quick_score(model, data, 12)
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
    assert first.protocol["reals"] == first.protocol["fakes"] == 12
    assert quick_score(model, data, 99).protocol["reals"] == 20


def test_pictures_of_the_same_kind_score_better_than_others() -> None:
    model = make()
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    near = quick_score(model, own_pictures(model, 64), 64).scores[PIXEL_SWD]
    far = quick_score(model, from_arrays(noise), 64).scores[PIXEL_SWD]
    assert 0 < near < 0.5 * far
    assert quick_score(model, own_pictures(model, 64, seeds=10_000), 64).scores[PIXEL_SWD] == pytest.approx(0, abs=1e-6)


def test_spread_tells_a_collapse() -> None:
    model = make()
    data = own_pictures(model, 32)
    varied = quick_score(model, data, 32)
    with torch.no_grad():
        model.generator.mapping.fc0.weight.zero_()  # every latent gives the same w
    alike = quick_score(model, data, 32)
    assert alike.fake_spread < 1e-3 < varied.fake_spread
    assert alike.real_spread == varied.real_spread


def test_fakes_have_the_classes_of_the_reals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(num_classes=3)
    images = np.zeros((7, 3, 8, 8), dtype=np.uint8)
    data = from_arrays(images, [2, 2, 0, 2, 2, 2, 2], ["a", "b", "c"])
    asked: list[int] = []
    sample = Model.sample

    def noting(self: Model, seeds: range, **keywords: object) -> torch.Tensor:
        asked.extend(keywords["classes"])  # type: ignore[call-overload]
        return sample(self, seeds, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "sample", noting)
    quick_score(model, data, 7)
    assert sorted(asked) == [0, 2, 2, 2, 2, 2, 2]


# ---- scores by a feature network ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRUGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


BY_NETWORK = tuple(name for name in METRICS if name not in ("swd", "ms-ssim", "classes"))


def config(*metrics: str, **settings: object) -> EvaluationConfig:
    return EvaluationConfig(metrics=metrics or ("kid", "fid"), **({"num_fake": 24} | settings))  # type: ignore[arg-type]


def noise(count: int, channels: int = 3, seed: int = 0) -> Dataset:
    return from_arrays(np.random.default_rng(seed).integers(0, 256, (count, channels, 8, 8), dtype=np.uint8))


def test_every_score_is_named_by_its_extractor_and_comes_with_its_protocol() -> None:
    model = make()
    scores = Evaluator(own_pictures(model, 30), TinyExtractor(), config(*BY_NETWORK)).score(model)
    wanted = (
        "KID KID-subsets FD Precision Recall Density Coverage IS PPL-w-end PPL-w-full PPL-z-end PPL-z-full NN-ratio"
    )
    assert sorted(scores.values) == sorted(f"{name}-tiny" for name in wanted.split())
    assert set(scores.spreads) == {"KID-tiny", "KID-subsets-tiny", "IS-tiny"}
    assert all(np.isfinite(value) for value in scores.values.values())
    known = json.loads(json.dumps(scores.as_dict(), allow_nan=False))["protocol"]
    assert known["extractor"] == "tiny" and known["resizer"] == "none" and known["fingerprint"] == "0"
    assert (known["num_fake"], known["num_real"], known["available_real"]) == (24, 30, 30)
    assert known["seeds"] == "10000-10023" and known["psi"] == 1.0 and known["ddof"] == 0
    assert model.hash in known["fakes"] and model.hash in scores.text() and "KID-tiny" in scores.text()


def test_only_the_network_of_2015_gives_a_fid() -> None:
    model = make()
    data = own_pictures(model, 30)
    named = Evaluator(data, TinyExtractor("inception_2015"), config("fid")).score(model)
    assert list(named.values) == ["FID-inception_2015"]


def test_scores_are_those_of_the_features() -> None:
    a, b = noise(20, seed=1), noise(26, seed=2)
    extractor = TinyExtractor()
    scores = Evaluator(b, extractor, config(num_fake=None)).score(a)
    x, y = (extractor(torch.from_numpy(set_.images).float())["pool"] for set_ in (a, b))
    assert scores.values["KID-tiny"] == pytest.approx(kid_exact(x, y).value, rel=1e-6)
    assert scores.values["FD-tiny"] == pytest.approx(frechet_distance_of(x, y), rel=1e-6)
    divided = Evaluator(b, extractor, config("fid", num_fake=None, ddof=1)).score(a)
    assert divided.values["FD-tiny"] == pytest.approx(frechet_distance_of(x, y, ddof=1), rel=1e-6)
    assert scores.protocol.seeds is None and scores.protocol.psi is None


def test_a_set_against_itself_scores_perfectly() -> None:
    data = noise(40)
    scores = Evaluator(data, TinyExtractor(), config("fid", "pr", "dc", "nn", num_fake=None)).score(data).values
    assert scores["FD-tiny"] == pytest.approx(0, abs=1e-5)
    assert scores["Precision-tiny"] == scores["Recall-tiny"] == scores["Coverage-tiny"] == 1
    assert scores["NN-ratio-tiny"] == 0


def test_features_are_looked_at_once_and_kept_by_content(cache: Path) -> None:
    model, data = make(), noise(30)
    first = TinyExtractor()
    evaluator = Evaluator(data, first, config())
    scores = evaluator.score(model)
    assert first.seen == 54 and len(list((cache / "features").glob("*.safetensors"))) == 2
    again = TinyExtractor()
    assert Evaluator(noise(30), again, config()).score(make()).values == scores.values
    assert again.seen == 0
    for changed in (config(psi=0.5), config(seed=1), config(noise="none"), config(num_fake=25)):
        other = TinyExtractor()
        Evaluator(data, other, changed).score(model)
        assert other.seen == changed.num_fake, changed
    other = TinyExtractor(fingerprint="1")
    Evaluator(data, other, config()).score(model)
    assert other.seen == 54
    fewer = TinyExtractor()
    Evaluator(data, fewer, config(num_real=29)).score(model)
    assert fewer.seen == 29


def test_a_model_that_trains_on_is_not_kept_and_its_reals_are_read_once(cache: Path) -> None:
    model, extractor = make(), TinyExtractor()
    evaluator = Evaluator(noise(30), extractor, config())
    first = evaluator.score(model, is_lasting=False)
    with torch.no_grad():
        model.generator.mapping.fc0.weight.mul_(0.1)
    second = evaluator.score(model, is_lasting=False)
    assert extractor.seen == 30 + 24 + 24 and first.values != second.values
    assert len(list((cache / "features").iterdir())) == 1


def test_damaged_or_unwritable_features_are_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = make(), noise(30)
    wanted = Evaluator(data, TinyExtractor(), config()).score(model).values
    for damage in (lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""):
        for file in (cache / "features").iterdir():
            file.write_bytes(damage(file.read_bytes()))
        extractor = TinyExtractor()
        assert Evaluator(data, extractor, config()).score(model).values == wanted
        assert extractor.seen == 54
    (cache.parent / "file").write_text("")
    monkeypatch.setenv("FRUGAN_CACHE", str(cache.parent / "file"))
    assert Evaluator(data, TinyExtractor(), config()).score(model).values == wanted


def test_any_callable_is_an_extractor_and_one_without_a_known_state_is_not_kept(cache: Path) -> None:
    calls: list[int] = []

    def function(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images.mean(dim=(2, 3))

    extractor = CallableExtractor(function, name="mean", num_features=3)
    for _ in range(2):
        scores = Evaluator(noise(30), extractor, config()).score(make())
    assert set(scores.values) == {"KID-mean", "KID-subsets-mean", "FD-mean"}
    assert sum(calls) == 2 * 54 and not (cache / "features").exists()


def test_an_evaluation_leaves_the_random_state_alone() -> None:
    model = make()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    Evaluator(own_pictures(model, 30), TinyExtractor(), config(*BY_NETWORK)).score(model)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]


def test_grey_and_transparent_pictures_and_classes() -> None:
    for channels in (1, 4):
        data = noise(20, channels)
        assert Evaluator(data, TinyExtractor(), config(num_fake=None)).score(data).values["FD-tiny"] < 1e-5
    model = make(num_classes=3)
    labelled = from_arrays(noise(30).images, [2] * 30, ["a", "b", "c"])
    plain = Evaluator(noise(30), TinyExtractor(), config("fid")).score(model)
    only_last = Evaluator(labelled, TinyExtractor(), config("fid")).score(model)
    assert plain.values != only_last.values  # each follows the classes of its reals
    assert Evaluator(labelled, TinyExtractor(), config("ppl", "nn")).score(model).values["PPL-w-end-tiny"] > 0


def test_the_sheet_shows_copies_first() -> None:
    data = noise(30)
    copied = from_arrays(np.concatenate([noise(20, seed=5).images, data.images[[17, 3]]]))
    evaluator = Evaluator(data, TinyExtractor(), config("nn", num_fake=None))
    scores = evaluator.score(copied)
    found = scores.neighbours
    assert found is not None
    assert found.indices[20, 0] == 17 and found.indices[21, 0] == 3
    assert found.distances[20:, 0].max() == 0 < found.distances[:20, 0].min()
    sheet = evaluator.sheet(copied, scores, rows=4)
    assert sheet.shape[0] == 3 and sheet.shape[1] > 4 * 8 and sheet.float().std() > 10
    model = make()
    own = Evaluator(data, TinyExtractor(), config("nn"))
    assert own.sheet(model, own.score(model), rows=50).shape[0] == 3
    with pytest.raises(ValueError, match="nn"):
        evaluator.sheet(copied, dataclasses.replace(scores, neighbours=None))


def test_progress_tells_how_long_it_will_take() -> None:
    told: list[tuple[int, int, str]] = []
    Evaluator(noise(40), TinyExtractor(), config(), lambda *words: told.append(words)).score(make())
    assert any("left" in text for _, _, text in told)
    assert {(40, 40), (24, 24)} <= {(done, total) for done, total, _ in told}


@pytest.mark.parametrize(
    ("act", "part"),
    [
        (lambda: config("kit"), "did you mean 'kid'"),
        (lambda: EvaluationConfig(metrics=()), "at least one metric"),
        (lambda: config("pr", num_fake=3), "pr needs at least 4 generated pictures, got 3"),
        (lambda: config("is", num_fake=9), "is needs at least 10 generated pictures, got 9"),
        (lambda: config(ddof=2), "ddof"),
        (lambda: config(seed=-1), "seed"),
        (lambda: config(subsets=0), "subsets"),
        (lambda: Evaluator(noise(5), TinyExtractor(), config("kid", "dc")), "dc needs at least 6 real pictures, got 5"),
        (lambda: Evaluator(noise(5), TinyExtractor(), config(num_real=6)), "there are 5"),
        (lambda: Evaluator(noise(10), TinyExtractor(taps=("pool",)), config("is")), "class scores"),
        (lambda: Evaluator(noise(9), TinyExtractor(), config()).score(noise(9)), "24 .* there are 9"),
        (lambda: Evaluator(noise(9), TinyExtractor(), config("ppl", num_fake=None)).score(noise(9)), "on a model"),
        (lambda: Evaluator(noise(9), TinyExtractor(), config(num_fake=None)).score(make()), "num_fake is None"),
        (lambda: Evaluator(noise(9), TinyExtractor(), config("pr", num_fake=None)).score(noise(2)), "at least 4"),
        (
            lambda: Evaluator(from_arrays(np.zeros((9, 3, 4, 4), np.uint8)), TinyExtractor(), config()).score(make()),
            "same size, got 8 and 4 px",
        ),
    ],
)
def test_mistakes_say_what_is_allowed(act: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        act()  # type: ignore[operator]


@pytest.mark.slow
def test_blur_scores_worse_with_the_real_network() -> None:
    """End to end with EfficientNet-Lite0, where its weights are installed."""
    try:
        extractor = open_extractor("efficientnet_lite0")
    except ValueError as error:
        pytest.skip(str(error))
    from frugan.data import DataConfig, prepare
    from frugan.data.demo import open_demo

    data = prepare(open_demo("faces"), DataConfig(resolution=32))
    half, rest = data.take(range(0, 48, 2)), data.take(range(1, 48, 2))
    pixels = torch.from_numpy(rest.images).float()
    blurred = torch.nn.functional.avg_pool2d(pixels, 5, 1, padding=2, count_include_pad=False).byte().numpy()
    evaluator = Evaluator(half, extractor, config("kid", "fid", num_fake=None))
    sharp, soft = evaluator.score(rest), evaluator.score(from_arrays(blurred))
    name = "KID-efficientnet_lite0"
    assert abs(sharp.values[name]) < 3 * sharp.spreads[name] < soft.values[name]
    assert soft.values["FD-efficientnet_lite0"] > 1.2 * sharp.values["FD-efficientnet_lite0"]


class Copier(Model):
    """Draws given pictures."""

    pictures = torch.empty(0)

    def sample(self, seeds: range, **_: object) -> torch.Tensor:  # type: ignore[override]
        return self.pictures[: len(seeds)]


def test_the_quick_score_tells_copies_from_new_pictures() -> None:
    noise = np.random.Generator(np.random.Philox(3)).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    dataset, copier = from_arrays(noise[:30]), Copier(make().generator)
    Copier.pictures = torch.from_numpy(noise[:30])
    assert quick_score(copier, dataset, 100).nearest_neighbour_ratio == 0.0
    Copier.pictures = torch.from_numpy(noise[30:])
    assert quick_score(copier, dataset, 100).nearest_neighbour_ratio == pytest.approx(1.0, abs=0.05)
    alike = from_arrays(np.repeat(noise[:1], 8, axis=0))
    assert quick_score(copier, alike, 100).nearest_neighbour_ratio is None


# ---- class by class -------------------------------------------------------------------------------------------------


def labelled(model: Model, counts: dict[str, int]) -> Dataset:
    """Pictures that the model itself draws of its classes, under these names."""
    classes = [number for number, count in enumerate(counts.values()) for _ in range(count)]
    images = model.sample(range(len(classes)), classes=classes).numpy()
    return from_arrays(images, classes, list(counts))


def test_scores_by_class_are_those_of_the_class_alone() -> None:
    model = make(num_classes=3)
    reals = labelled(model, {"0": 20, "1": 12, "2": 1})
    scores = Evaluator(reals, TinyExtractor(), config("classes", num_per_class=8)).score(model)
    table = scores.classes
    assert table is not None and [(row.num_fake, row.num_real) for row in table.rows] == [(8, 20), (8, 12), (8, 1)]
    extractor = TinyExtractor()
    fakes = extractor(model.sample(range(10_008, 10_016), classes=[1] * 8).float(), ("pool",))["pool"]
    own = extractor(reals.batch(range(20, 32)).float(), ("pool",))["pool"]
    values = table.rows[1].values
    assert values["FD"] == pytest.approx(frechet_distance_of(fakes, own), rel=1e-6)
    assert values["KID"] == pytest.approx(kid_exact(fakes, own).value, rel=1e-6)
    single = table.rows[2].values
    assert [name for name, value in single.items() if value is not None] == ["own"]
    first, second = table.rows[0].values["FD"], values["FD"]
    assert first is not None and table.mean("FD") == (pytest.approx((first + second) / 2), 2)
    assert scores.values["intra-FD-tiny"] == pytest.approx((first + second) / 2)
    text = scores.text()
    assert "too few pictures for FD, so not in its mean: 2 (1)" in text and "compare it at equal numbers only" in text
    plain = json.loads(json.dumps(scores.as_dict(), allow_nan=False))["by_class"]
    assert plain["classes"][2]["values"]["FD"] is None and plain["means"]["FD"]["classes"] == 2


def test_each_class_is_found_by_its_name_and_a_mix_up_is_seen() -> None:
    model = make(num_classes=2)
    with torch.no_grad():
        model.generator.mapping.fc0.weight[:, :8] *= 0.02  # latents hardly matter: pictures of a class are alike
    named = dataclasses.replace(model, info={"class_names": ["ant", "bee"]})
    right = labelled(model, {"ant": 12, "bee": 12})
    swapped = [1] * 12 + [0] * 12
    wrong = from_arrays(np.asarray(right.images), swapped, ["ant", "bee"])
    backward = from_arrays(np.asarray(right.images), swapped, ["bee", "ant"])
    shares = []
    for reals in (right, wrong, backward):
        table = Evaluator(reals, TinyExtractor(), config("classes", num_per_class=12)).score(named).classes
        assert table is not None
        shares.append(table.mean("own")[0])
    assert shares[0] > 0.9 and shares[1] < 0.1 and shares[2] == shares[0]


def test_classes_that_do_not_fit_are_refused() -> None:
    model = dataclasses.replace(make(num_classes=2), info={"class_names": ["ant", "bee"]})
    with pytest.raises(ValueError, match="need real pictures with classes"):
        Evaluator(noise(20), TinyExtractor(), config("classes"))
    strangers = labelled(model, {"ant": 6, "bees": 6})
    with pytest.raises(ValueError, match=r"knows no class 'bees'.*did you mean 'bee'"):
        Evaluator(strangers, TinyExtractor(), config("classes")).score(model)
    with pytest.raises(ValueError, match="this one was trained without"):
        Evaluator(strangers, TinyExtractor(), config("classes")).score(make())
    folder = Evaluator(strangers, TinyExtractor(), config("classes", num_fake=None))
    with pytest.raises(ValueError, match="need generated pictures with classes: a sub-folder for each"):
        folder.score(noise(20))
    with pytest.raises(ValueError, match=r"same classes: no real pictures have 'wasp', and no generated .* 'bees'\."):
        folder.score(labelled(model, {"ant": 6, "wasp": 6}))
    with pytest.raises(ValueError, match=r"same classes: no generated pictures have 'ant'\."):
        folder.score(labelled(model, {"bees": 6}))


def test_pictures_with_classes_are_scored_class_by_class() -> None:
    model = make(num_classes=2)
    reals, fakes = labelled(model, {"ant": 9, "bee": 7}), labelled(model, {"bee": 8, "ant": 12})
    table = Evaluator(reals, TinyExtractor(), config("classes", num_fake=None)).score(fakes).classes
    assert table is not None and table.protocol.seeds is None
    assert [(row.name, row.num_fake, row.num_real) for row in table.rows] == [("ant", 12, 9), ("bee", 8, 7)]
    extractor = TinyExtractor()
    seen = [
        extractor(pictures.float(), ("pool",))["pool"]
        for pictures in (fakes.batch(range(8)), reals.batch(range(9, 16)))
    ]
    assert table.rows[1].values["FD"] == pytest.approx(frechet_distance_of(*seen), rel=1e-6)
    assert table.rows[1].values["Recall"] == pytest.approx(precision_recall(*seen, 3).recall)
    few = Evaluator(reals, TinyExtractor(), config("classes", num_fake=10)).score(fakes).classes
    assert few is not None and [row.num_fake for row in few.rows] == [5, 5]


def test_how_classes_are_drawn_is_in_the_protocol() -> None:
    model = dataclasses.replace(make(num_classes=2), info={"class_names": ["ant", "bee"]})
    fitting, strangers = labelled(model, {"ant": 6, "bee": 6}), labelled(model, {"cat": 6, "dog": 6})
    told = [
        Evaluator(reals, TinyExtractor(), config("fid")).score(model).protocol.classes
        for reals in (fitting, strangers, noise(20))
    ]
    assert told[0] is not None and "as often as the real pictures" in told[0]
    assert told[1] is not None and "others" in told[1] and told[2] is not None and "none" in told[2]
    assert Evaluator(noise(20), TinyExtractor(), config("fid")).score(make()).protocol.classes is None


def test_the_sheet_of_classes_has_a_row_for_each() -> None:
    model = make(num_classes=2)
    evaluator = Evaluator(labelled(model, {"0": 6, "1": 6}), TinyExtractor(), config("classes"))
    evaluator.score(model)
    sheet, unsaid = evaluator.class_sheet(model)
    assert sheet.shape[0] == 3 and sheet.shape[1] > 2 * 64 and sheet.shape[2] > 4 * 64
    assert unsaid == ""


def test_the_sheet_of_classes_shows_the_fake_that_came_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(num_classes=2)
    reals = labelled(model, {"犬": 4, "b": 4})
    backward = reals.take(np.arange(8)[::-1].copy())
    evaluator = Evaluator(reals, TinyExtractor(), config("classes", num_fake=None))
    evaluator.score(backward)
    shown: list[list[tuple[str, Tensor]]] = []
    labelled_grid = write.labelled_grid

    def note(rows: list[tuple[str, Tensor]], **more: object) -> Tensor:
        shown.append(rows)
        return labelled_grid(rows, **more)

    monkeypatch.setattr(write, "labelled_grid", note)
    _, unsaid = evaluator.class_sheet(backward)
    assert unsaid == "names that a picture cannot show have numbers: #0 is '犬'"
    assert [title for title, _ in shown[0]] == ["#0", "b"]
    for (_, row), own in zip(shown[0], (range(4), range(4, 8)), strict=True):
        assert len(row) == 4 and torch.equal(row[0], row[1]), "an exact double is there for each"
        assert any(torch.equal(row[0], picture) for picture in reals.batch(own))


class Counting(Model):
    """Counts the pictures that it draws."""

    drawn = 0

    def stream(self, seeds: range, *arguments: object, **more: object) -> Iterator[Tensor]:  # type: ignore[override]
        for part in super().stream(seeds, *arguments, **more):  # type: ignore[arg-type]
            Counting.drawn += len(part)
            yield part


def test_the_sheet_of_classes_draws_each_picture_once_more_at_most() -> None:
    base = make(num_classes=6)
    model = Counting(base.generator, None, {})
    reals = labelled(model, {str(number): 4 for number in range(6)})
    evaluator = Evaluator(reals, TinyExtractor(), config("classes", num_per_class=10))
    evaluator.score(model)
    Counting.drawn = 0
    evaluator.class_sheet(model)
    assert 0 < Counting.drawn <= 60
