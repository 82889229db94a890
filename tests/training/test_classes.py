"""Classes that a training needs, that are too small, and that are not those a run was begun with."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from frugan.data.dataset import Dataset, from_arrays
from frugan.data.pictures import DataConfig
from frugan.training.classes import class_counts, class_worries, require_classes
from frugan.training.folder import RunError
from frugan.training.held_out import hold_out
from frugan.training.recipe import Recipe
from frugan.training.run import Start, fit, train
from frugan.training.tasks.gan import GanConfig
from tests.training.tiny_runs import tiny_recipe


class Needy(GanConfig):
    """A task that needs classes."""

    @property
    def needs_classes(self) -> bool:
        return True


def labelled(labels: list[int], names: list[str]) -> dict[str, Dataset]:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 3, 4, 4), dtype=np.uint8)
    return {"images": from_arrays(images, labels, names)}


def needy() -> Recipe:
    recipe = tiny_recipe()
    settings = {field.name: getattr(recipe.task, field.name) for field in dataclasses.fields(recipe.task)}
    return dataclasses.replace(recipe, task=Needy(**settings))


def test_a_recipe_that_needs_classes_says_what_to_do() -> None:
    bare = {"images": from_arrays(np.zeros((4, 3, 4, 4), np.uint8))}
    with pytest.raises(RunError, match=r"'tiny' needs classes.*a sub-folder of its own.*dataset.json.*stylegan2"):
        fit(needy(), bare)
    off = dataclasses.replace(needy(), data={"images": DataConfig(resolution=4, labels="none")})
    with pytest.raises(RunError, match="leave --no-labels out"):
        fit(off, bare)
    with pytest.raises(RunError, match="are of one, 'a': give at least two"):
        fit(needy(), labelled([0, 0, 0], ["a", "b"]))
    require_classes(needy(), labelled([0, 1], ["a", "b"]))
    require_classes(tiny_recipe(), bare)


def test_small_and_empty_classes_are_named() -> None:
    dataset = labelled([0, 0, 2], ["cats, big", "it's", "猫"])["images"]
    assert class_counts(dataset) == [2, 0, 1]
    none, single = class_worries(dataset)
    assert '1 of 3 classes has no picture here ("it\'s")' in none and "a single picture ('猫')" in single
    assert class_worries(from_arrays(np.zeros((2, 3, 4, 4), np.uint8))) == []


@pytest.mark.usefixtures("unchecked")
def test_other_classes_at_resume_are_named_and_refused(tmp_path: Path) -> None:
    run, start = tmp_path / "run", Start(device="cpu")
    forced = dataclasses.replace(start, force=True)
    begun = labelled([0, 1, 0, 1, 0, 1], ["a/b", 'c "d"'])
    train(run, fit(tiny_recipe(total_images=8), begun), begun, start)
    more = labelled([0, 1, 2, 1, 0, 1], ["a/b", 'c "d"', "new one"])
    renamed = labelled([0, 1, 0, 1, 0, 1], ["a/b", "é"])
    for how in (start, forced):
        with pytest.raises(RunError, match=r"2 classes and there are 3 now.*'new one'.*forced or not.*--from") as found:
            train(run, fit(tiny_recipe(), more), more, how)
        assert "--force" not in str(found.value), "what would not help is not offered"
    with pytest.raises(RunError, match=r"new classes: 'é'\n  missing classes: 'c \"d\"'"):
        train(run, fit(tiny_recipe(), renamed), renamed, start)
    assert train(run, fit(tiny_recipe(), renamed), renamed, forced).images_seen == 16


def test_a_class_is_never_held_out_as_a_whole() -> None:
    data = labelled([0] * 38 + [1, 2], ["common", "one", "other"])
    learned, held = hold_out(data, 0.9)
    assert set(learned["images"].labels.tolist()) == {0, 1, 2}
    assert len(learned["images"]) + len(held["images"]) == 40
    assert not set(learned["images"].names) & set(held["images"].names)


def test_nothing_is_kept_aside_where_every_picture_is_a_class_of_its_own() -> None:
    data = labelled(list(range(20)), [str(index) for index in range(20)])
    learned, held = hold_out(data, 0.1)
    assert len(learned["images"]) == 20 and held == {}
