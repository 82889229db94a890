"""The report page and the film: whole, partial, empty and hostile run folders."""

import html.parser
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from frugan.data.write import grid, save_png
from frugan.training.report import MAX_STILLS, write_progress_video, write_report

VOID = {"meta", "img", "input", "br", "link"}


class Page(html.parser.HTMLParser):
    """Collects tags and text, and checks that every element is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(seed: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (6, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def make_run(folder: Path, *, num_grids: int = 4, lines: int = 60) -> Path:
    (folder / "grids").mkdir(parents=True)
    save_png(folder / "grids" / "reals.png", grid(picture(0), columns=3))
    for index in range(num_grids):
        save_png(folder / "grids" / f"fakes-{index * 100:09d}.png", grid(picture(index), columns=3))
    (folder / "checkpoints" / "000000300").mkdir(parents=True)
    log = []
    for index in range(1, lines + 1):
        log.append(
            {
                "images_seen": index * 10,
                "iteration": index,
                "seconds": index * 2.0,
                "images_per_second": 5.0 + index % 3,
            }
            | {"memory_mb": 900.0, "losses": {"discriminator/real": 1 / index, "generator/fake": 0.5}}
            | {"stats": {"real_sign": 0.3}, "progress": {"resolution": 16}}
        )
        if index % 20 == 0:
            log.append({"images_seen": index * 10, "scores": {"KID-200": 5 / index}})
    log.append({"event": "finished", "images_seen": lines * 10, "text": "all pictures shown"})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    recipe = {"name": "auto", "reasons": ["few pictures"], "training": {"total_images": 600, "seed": 0}, "data": {}}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    facts = {"name": "faces", "created": "2026-11-21", "device": "cpu", "command": "frugan train pics --out r"}
    data = {"source": "pics", "count": 124, "resolution": 16, "class_names": ["cat", "dog"], "skipped": []}
    (folder / "run.json").write_text(json.dumps(facts | {"data": data, "model": {"kind": "StyleGAN2"}}))
    return folder


def test_report_of_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    path = write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    assert "Finished after 2 min: 600 pictures shown. Best KID-200: 0.08333, reached at 600." in page.text
    for expected in (
        "faces",
        "cat, dog",
        "few pictures",
        "all pictures shown",
        "KID-200",
        "Losses discriminator/real 0.01681 generator/fake 0.5",
    ):
        assert expected in page.text
    assert "frugan sample" in page.text and "frugan train pics --out r --images +200k" in page.text
    assert len(page.named("svg")) == 4
    assert [link["href"] for link in page.named("a") if link.get("data-caption")] == [
        f"grids/fakes-{index * 100:09d}.png" for index in range(4)
    ]
    assert not [file for file in run.iterdir() if file.name.endswith(".part")]


def test_pictures_kept_aside_are_not_training_pictures(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Training pictures 124 16 x 16 pixels" in Page(write_report(run)).text
    facts = json.loads((run / "run.json").read_text())
    facts["data"]["held_out"] = 12
    (run / "run.json").write_text(json.dumps(facts))
    assert "Training pictures 112 + 12 kept aside, 16 x 16 pixels" in Page(write_report(run)).text


def test_what_the_sheets_leave_unsaid_of_classes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "A row for each class" not in Page(write_report(run)).text
    facts = json.loads((run / "run.json").read_text())
    for names, told in (
        (["cat", "<犬>"], "A row for each class: names that a picture cannot show have numbers: #1 is '<犬>'."),
        ([str(number) for number in range(40)], "A row for each class: 32 of 40 classes are shown, evenly chosen."),
    ):
        (run / "run.json").write_text(json.dumps(facts | {"data": {"class_names": names}}))
        assert told in Page(write_report(run)).text


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = Page(write_report(run))
    assert not page.named("link") and all("src" not in script for script in page.named("script"))
    images = [str(image["src"]) for image in page.named("img")]
    assert len(images) == 6 and all(source.startswith("data:image/webp;base64,") for source in images)
    assert re.findall(r"https?://", page.source) == []
    for link in page.named("a"):
        assert (run / str(link["href"])).is_file()
    assert "default-src 'none'" in str([meta.get("content") for meta in page.named("meta")])


def test_settings_that_differ_from_the_recipe_are_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    usual = {"name": "auto", "training": {"total_images": 99_000, "seed": 0}, "data": {}}
    assert "training.total_images 600 99,000" in Page(write_report(run, usual)).text
    assert "All as the recipe comes" in Page(write_report(run, json.loads((run / "recipe.json").read_text()))).text
    assert "in the recipe" not in Page(write_report(run)).text


def test_an_empty_folder_makes_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert "Nothing has been trained" in page.text and not page.named("svg") and not page.named("img")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize("missing", ["recipe.json", "run.json", "log.jsonl", "grids"])
def test_whatever_is_missing_is_left_out(tmp_path: Path, missing: str) -> None:
    run = make_run(tmp_path / "run")
    (run / missing).rename(tmp_path / "gone")
    page = Page(write_report(run))
    assert ("StyleGAN2" in page.text) == (missing != "run.json")
    assert ("Curves" in page.text) == (missing != "log.jsonl")
    assert bool(page.named("img")) == (missing != "grids")


def test_torn_files_do_no_harm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("recipe.json", "run.json", "log.jsonl", "grids/fakes-000000100.png"):
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) * 2 // 3])
    (run / "grids" / "fakes-000000200.png").write_bytes(b"")
    (run / "before_after.png").write_text("no picture")
    page = Page(write_report(run))
    assert "1 unreadable line of the log left out" in page.text and "in progress" in page.text
    assert [link["data-caption"] for link in page.named("a") if link.get("data-caption")] == [
        "after 0 pictures",
        "after 300 pictures",
    ]
    assert write_progress_video(run).is_file()


def test_hostile_names_are_shown_not_run(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
    run = make_run(tmp_path / "run <b>&\"' %#?")
    (run / "run.json").write_text(
        json.dumps(
            {"name": evil, "device": evil, "command": [evil], "created": evil, "parent": evil, evil: evil}
        ).rstrip("}")
        + ", "
        + json.dumps({"data": {"class_names": [evil], "source": evil, evil: evil}, "model": {evil: evil}}).lstrip("{")
    )
    (run / "recipe.json").write_text(json.dumps({"name": evil, "reasons": [evil], evil: {evil: evil}}))
    with (run / "log.jsonl").open("a") as log:
        groups = {group: {evil: 1.0, f"{evil}/b": 2.0} for group in ("losses", "stats", "scores", "progress")}
        log.write(json.dumps({"images_seen": 700} | groups) + "\n")
        log.write(json.dumps({"event": evil, "images_seen": 700, "text": evil}) + "\n")
    page = Page(write_report(run, {evil: 1}))
    assert len(page.named("script")) == 1 and "<img src=x" not in page.source
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert evil in " ".join(page.words) and evil.split("/")[0] in page.text


def test_before_and_after_and_a_film_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    save_png(run / "before_after.png", grid(picture(5)))
    film = write_progress_video(run)
    page = Page(write_report(run))
    assert film == run / "progress.gif" and "Before and after" in page.text and "Watch it as a film" in page.text


def test_a_long_log_and_many_large_grids_stay_small(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_grids=1, lines=1)
    line = '{"images_seen": %d, "losses": {"a": %f, "b": 0.5}}\n'
    with (run / "log.jsonl").open("w") as log:
        log.writelines(line % (index * 16, index % 7) for index in range(1, 10_001))
    noise = torch.randint(0, 256, (3, 500, 500), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_png(run / "grids" / "reals.png", noise)
    for index in range(1, 40):
        (run / "grids" / f"fakes-{index:09d}.png").hardlink_to(run / "grids" / "reals.png")
    path = write_report(run)
    page = Page(path)
    assert path.stat().st_size < 5_000_000
    assert len(page.named("a")) == MAX_STILLS + 1 and "160,000" in page.text


def test_transparent_grids_lie_on_white(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    save_png(tmp_path / "grids" / "fakes-000000000.png", torch.zeros(4, 40, 40, dtype=torch.uint8))
    with Image.open(write_progress_video(tmp_path)) as film:
        assert film.convert("L").getpixel((5, 5)) > 250, "white, but for the palette"


def test_the_film_has_a_frame_for_each_grid_and_a_caption(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with Image.open(write_progress_video(run)) as film:
        assert film.n_frames == 4
        width, height = film.size
        durations = []
        for index in range(4):
            film.seek(index)
            durations.append(film.info["duration"])
            assert film.convert("L").crop((0, height - 24, width, height)).getextrema()[0] < 128
    with Image.open(run / "grids" / "fakes-000000000.png") as first:
        assert (width, height) == (first.width, first.height + 24)
    assert sum(durations) == 2500 and durations[-1] == 2000


def test_the_film_is_narrow_and_short(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    for index in range(70):
        save_png(tmp_path / "grids" / f"fakes-{index:09d}.png", torch.full((1, 20, 600), 3 * index, dtype=torch.uint8))
    with Image.open(write_progress_video(tmp_path, ".webp")) as film:
        assert film.n_frames == 60 and film.size == (480, 16 + 24)
    with pytest.raises(FileNotFoundError, match="no sample grids"):
        write_progress_video(tmp_path / "absent")


def test_series_of_one_kind_share_a_chart(tmp_path: Path) -> None:
    losses = {"d/real": 1.0, "d/fake": 2.0, "r1": 0.1}
    stats = {"real_logits": 0.5, "fake_logits": 0.1, "spread": 0.3, "real_sign": 0.5, "path_mean": 1.0}
    lines = [json.dumps({"images_seen": seen, "losses": losses, "stats": stats}) for seen in (10, 20)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    titles = [svg["aria-label"] for svg in Page(write_report(tmp_path)).named("svg")]
    assert titles == ["Losses: d", "Losses", "real_sign", "logits", "spread", "path_mean"]


def test_small_pictures_keep_hard_pixels(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    save_png(run / "before_after.png", torch.zeros(3, 100, 900, dtype=torch.uint8))
    classes = [image.get("class") for image in Page(write_report(run)).named("img")]
    assert classes == ["pixels"] * 6 + [None]
