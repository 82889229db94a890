"""Pictures written: metadata, grids, animations."""

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from frugan.data import write
from frugan.data.pictures import PictureError, open_member, open_picture
from frugan.data.write import (
    OutputError,
    flatten,
    from_pillow,
    grid,
    labelled_grid,
    read_metadata,
    replacing,
    save_gif,
    save_png,
    save_sheet,
    save_video,
    side_by_side,
    to_pillow,
)


def pictures(count: int, channels: int = 3, height: int = 40, width: int = 48) -> Tensor:
    draw = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_gives_pixels_and_metadata_back(tmp_path: Path, channels: int) -> None:
    image = pictures(1, channels)[0]
    facts = {"frugan:seed": "17", "frugan:psi": "0.7", "frugan:model": "Ünïcode ∑ model"}
    save_png(tmp_path / "new" / "a.png", image, facts)
    assert read_metadata(tmp_path / "new" / "a.png") == facts
    with Image.open(tmp_path / "new" / "a.png") as opened:
        assert torch.equal(from_pillow(opened), image)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.png"]


def test_a_sheet_is_marked_and_no_member_of_a_set(tmp_path: Path) -> None:
    save_sheet(tmp_path / "sheet.png", pictures(1)[0], {"frugan:model": "abc"})
    save_png(tmp_path / "single.png", pictures(1)[0], {"frugan:model": "abc"})
    assert read_metadata(tmp_path / "sheet.png")["frugan:model"] == "abc"
    with pytest.raises(PictureError, match="a sheet of pictures"):
        open_member((tmp_path / "sheet.png").read_bytes())
    assert (
        open_member((tmp_path / "single.png").read_bytes()).size
        == open_picture((tmp_path / "sheet.png").read_bytes()).size
    )


def test_png_errors_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1, 3 or 4 channels"):
        save_png(tmp_path / "a.png", pictures(1, 2)[0])
    with pytest.raises(ValueError, match="metadata key"):
        save_png(tmp_path / "a.png", pictures(1)[0], {"k" * 80: "v"})
    to_pillow(pictures(1)[0]).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="only PNG"):
        read_metadata(tmp_path / "a.jpg")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="a folder has that name"):
        save_png(tmp_path / "folder.png", pictures(1)[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save_png(tmp_path / "file" / "a.png", pictures(1)[0])


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"a\.png: the disk is full"):
        save_png(path, pictures(1)[0])
    assert path.read_bytes() == b"old"


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_flatten_lays_transparent_pixels_over_the_background() -> None:
    clear = to_pillow(torch.zeros(4, 2, 3, dtype=torch.uint8))
    assert torch.equal(from_pillow(flatten(clear, (9, 8, 7)))[:, 0, 0], torch.tensor([9, 8, 7], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (7, 4, 2), (8, 4, 2), (9, 3, 3)]
)
def test_grid_chooses_columns_with_few_empty_places(count: int, columns: int, rows: int) -> None:
    assert grid(pictures(count), gap=2).shape == (3, rows * 42 + 2, columns * 50 + 2)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grid_places_every_picture_and_fills_the_rest(channels: int) -> None:
    images = pictures(5, channels)
    sheet = grid(images, columns=2, gap=3)
    assert sheet.shape == (channels, 3 * 43 + 3, 2 * 51 + 3)
    for index, image in enumerate(images):
        top, left = 3 + index // 2 * 43, 3 + index % 2 * 51
        assert torch.equal(sheet[:, top : top + 40, left : left + 48], image)
    assert (sheet[:3, -43:, 54:] == 255).all() and (sheet[3:, -43:, 54:] == 0).all()


def test_grid_background_and_scale() -> None:
    images = pictures(3, 3, 16, 12)
    sheet = grid(images, columns=3, gap=1, background=(1, 2, 3))
    assert sheet.shape == (3, 66, 3 * 49 + 1) and sheet[:, 0, 0].tolist() == [1, 2, 3]
    assert torch.equal(sheet[:, 1:65:4, 1:49:4], images[0]) and torch.equal(sheet[:, 4:65:4, 4:49:4], images[0])
    assert grid(images, scale=1, gap=0, columns=1).shape == (3, 48, 12)
    assert grid(pictures(1, 3, 33, 33), gap=0).shape == (3, 33, 33)
    assert grid(pictures(1, 4, 40, 40), gap=1, background=(5, 5, 5))[:, 0, 0].tolist() == [5, 5, 5, 255]


@pytest.mark.parametrize("arguments", [{"columns": 0}, {"gap": -1}, {"scale": 0}])
def test_grid_refuses_impossible_numbers(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be"):
        grid(pictures(2), **arguments)
    with pytest.raises(ValueError, match="at least one picture"):
        grid(pictures(2)[:0])


def test_labelled_grid_makes_room_for_text_and_keeps_pictures() -> None:
    images = pictures(4)
    plain = labelled_grid([("", images), ("", images[:2])], gap=4)
    assert plain.shape == (3, 2 * 44 + 4, 4 * 52 + 4)
    assert torch.equal(plain[:, 4:44, 4:52], images[0])
    named = labelled_grid([("cat <b>", images), ("x" * 400, images[:2])], ["a", "b"], [["one", "two"], []], gap=4)
    assert named.shape[1] > plain.shape[1] and plain.shape[2] < named.shape[2] <= plain.shape[2] + 2.5 * 48 + 4 + 1
    margin = named.shape[2] - plain.shape[2]
    assert (named[:, :, :margin] < 128).any(), "the titles are drawn"
    line = (named.shape[1] - plain.shape[1]) // 3
    assert torch.equal(named[:, 4 + line : 44 + line, margin + 4 : margin + 52], images[0])
    second = named[:, 44 + 2 * line + 4 :]
    assert torch.equal(second[:, :40, margin + 56 : margin + 104], images[1]) and (second[:, 40:] == 255).all()


def test_labelled_grid_takes_mixed_channels_and_dark_backgrounds() -> None:
    rows = [("grey", pictures(2, 1)), ("clear", torch.zeros(1, 4, 40, 48, dtype=torch.uint8))]
    sheet = labelled_grid(rows, background=(10, 10, 10))
    assert sheet[:, 0, 0].tolist() == [10, 10, 10] and sheet.max() > 200
    assert (sheet[:, -44:-4, -104:] == 10).all()


def test_labelled_grid_errors() -> None:
    with pytest.raises(ValueError, match="one common size"):
        labelled_grid([("a", pictures(1)), ("b", pictures(1, height=41))])
    with pytest.raises(ValueError, match="no pictures"):
        labelled_grid([])
    with pytest.raises(ValueError, match="more titles or captions"):
        labelled_grid([("a", pictures(1))], captions=[["x", "y"]])
    with pytest.raises(ValueError, match="more titles or captions"):
        labelled_grid([("a", pictures(1))], column_titles=["x", "y"])


def test_names_that_cannot_be_drawn_have_numbers_and_a_legend_says_them() -> None:
    names = ["cat", "猫", "café", "Straße", "0", " "]
    assert write.titles(names) == ["cat", "#1", "café", "#3 Strae", "0", "#5"]
    assert write.legend(names, range(6)) == (
        "names that a picture cannot show have numbers: #1 is '猫', #3 is 'Straße', #5 is ' '"
    )
    assert write.legend(names, [0, 2, 4]) == "" == write.legend(names, [0, 2], available=2)
    told = write.legend(names, [0, 3], available=1200)
    assert told.startswith("2 of 1,200 classes are shown, evenly chosen; names") and told.endswith("#3 is 'Straße'")


def test_evenly_chosen_items_reach_both_ends() -> None:
    assert write.even(range(5), 5) == [0, 1, 2, 3, 4] and write.even([], 3) == []
    chosen = write.even(range(88), 32)
    assert len(set(chosen)) == 32 and chosen[0] == 0 and chosen[-1] == 87
    assert {after - before for before, after in itertools.pairwise(chosen)} == {2, 3}


def test_side_by_side_shows_before_and_after() -> None:
    before, after = pictures(1, 1)[0], pictures(1, 3)[0]
    sheet = side_by_side([("before", before), ("after", after)])
    assert torch.equal(sheet[:, -44:-4, -52:-4], after)
    assert torch.equal(sheet[:, -44:-4, -104:-56], before.expand(3, -1, -1))
    with pytest.raises(ValueError, match="one size"):
        side_by_side([("a", before), ("b", pictures(1, height=8)[0])])
    with pytest.raises(ValueError, match="at least one"):
        side_by_side([])


def walk(count: int, channels: int = 3, height: int = 21, width: int = 33) -> Iterator[Tensor]:
    """A bright square that moves over a dark ground; flat colours, so that palettes and codecs keep them."""
    for index in range(count):
        frame = torch.full((channels, height, width), 30, dtype=torch.uint8)
        frame[:, 4:12, 2 * index : 2 * index + 8] = 220
        yield frame


def decoded(path: Path) -> tuple[list[np.ndarray], list[float]]:
    with Image.open(path) as image:
        frames = [
            (np.asarray(frame.convert("RGBA")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)
        ]
    return [frame for frame, _ in frames], [float(duration) for _, duration in frames]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_animation_gives_every_frame_back(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"walk{suffix}"
    save_gif(path, walk(6, channels), 0.05)
    frames, durations = decoded(path)
    assert durations == [50.0] * 6
    for frame, expected in zip(frames, walk(6, channels), strict=True):
        difference = np.abs(frame[:, :, :3].astype(int) - expected.permute(1, 2, 0).numpy())
        assert difference.mean() < (12 if suffix == ".webp" else 1)
    with Image.open(path) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_animation_keeps_alpha(tmp_path: Path, suffix: str) -> None:
    frames = [frame.clone() for frame in walk(3, 4)]
    for index, frame in enumerate(frames):
        frame[3] = 100 * index
    save_gif(tmp_path / f"a{suffix}", frames, 0.1, loop=False)
    assert [int(frame[0, 0, 3]) for frame in decoded(tmp_path / f"a{suffix}")[0]] == [0, 100, 200]
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.info["loop"] == 1


def test_gif_of_transparent_frames_lies_on_white(tmp_path: Path) -> None:
    save_gif(tmp_path / "a.gif", [torch.zeros(4, 5, 5, dtype=torch.uint8)], 1.0)
    assert decoded(tmp_path / "a.gif")[0][0].min() == 255


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_equal_neighbours_become_one_longer_frame(tmp_path: Path, suffix: str) -> None:
    still, moved = walk(2)
    save_gif(tmp_path / f"a{suffix}", [still, still, still, moved], 0.25)
    assert decoded(tmp_path / f"a{suffix}")[1] == [750.0, 250.0]
    save_gif(tmp_path / f"b{suffix}", [still] * 4, 30.0)
    assert sum(decoded(tmp_path / f"b{suffix}")[1]) == 120_000.0


def test_durations_add_up_without_drift(tmp_path: Path) -> None:
    save_video(tmp_path / "a.gif", walk(12), 30.0)
    durations = decoded(tmp_path / "a.gif")[1]
    assert set(durations) == {30.0, 40.0} and sum(durations) == 400.0
    save_video(tmp_path / "b.gif", walk(3), 200.0)
    assert decoded(tmp_path / "b.gif")[1] == [20.0] * 3


def test_frames_are_taken_one_at_a_time(tmp_path: Path) -> None:
    alive = 0

    class Watch(torch.Tensor):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    most = 0

    def frames() -> Iterator[Tensor]:
        nonlocal alive, most
        for frame in walk(12):
            alive += 1
            most = max(most, alive)
            yield frame.as_subclass(Watch)

    save_gif(tmp_path / "a.gif", frames(), 0.1)
    assert most <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.mp4"])
def test_bad_frames_leave_no_file(tmp_path: Path, name: str) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("av")
    with pytest.raises(ValueError, match="at least one frame"):
        save_video(tmp_path / name, iter(()), 10.0)
    with pytest.raises(ValueError, match="all frames need one size"):
        save_video(tmp_path / name, [*walk(2), *walk(1, height=22)], 10.0)
    assert not list(tmp_path.iterdir())


def test_animation_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.gif, \.webp, \.png"):
        save_gif(tmp_path / "a.bmp", walk(2), 0.1)
    with pytest.raises(ValueError, match="seconds_per_frame"):
        save_gif(tmp_path / "a.gif", walk(2), 0.0)
    with pytest.raises(ValueError, match="fps"):
        save_video(tmp_path / "a.gif", walk(2), float("nan"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_mp4_decodes_with_even_sizes_and_true_colours(tmp_path: Path, channels: int) -> None:
    av = pytest.importorskip("av")
    save_video(tmp_path / "a.mp4", walk(7, channels), 12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5 and stream.codec_context.colorspace == 1
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 7 and frames[0].shape == (22, 34, 3)
    if channels != 4:
        assert abs(int(frames[3][18, 20, 0]) - 30) < 4 and abs(int(frames[3][8, 10, 1]) - 220) < 4


def test_mp4_without_av_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'frugan\[video\]'"):
        save_video(tmp_path / "a.mp4", walk(2), 10.0)
    assert not list(tmp_path.iterdir())


def test_text_is_cut_with_an_ellipsis() -> None:
    font = write.ImageFont.load_default(12)
    assert write._cut("short", font, 100.0) == "short"
    cut = write._cut("a very long\ntitle that cannot fit", font, 60.0)
    assert cut.endswith("…") and font.getlength(cut) <= 60.0
    assert write._cut("wide", font, 1.0) == ""
