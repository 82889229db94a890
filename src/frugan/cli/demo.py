"""`frugan demo`: the main job on bundled pictures, in about five minutes on two CPU cores."""

import shlex
from pathlib import Path

from frugan.cli import train
from frugan.cli.tell import Teller

IMAGES = "8k"
SHOWN = 16


def demo(*, out: Path = Path("runs/demo"), images: str = IMAGES, device: str = "auto") -> None:
    """See the bundled model draw, then watch it learn a new style from 124 faces. Run it again to go on after a stop.

    Parameters
    ----------
    out
        The run folder.
    images
        How many pictures it sees while learning; +8k extends a finished run.
    device
        auto, cpu, cuda.
    """
    teller = Teller()
    teller.say("1. What the bundled model draws (3D emoji of every kind, 64 px)")
    _draw_bundled(out.parent / f"{out.name}-before", teller)
    teller.say("\n2. It learns from 124 faces only, as few as you may have. Ctrl-C stops, the same command goes on")
    wishes = train.Wishes(parent="demo", images=images, recipe="few-shot")
    train.run(out, "demo:faces", wishes, teller, device=device)
    teller.say("\n3. Before and after, the same seeds")
    teller.say(f"   {_before_and_after(out)}")
    place = shlex.quote(str(out))
    teller.say(
        "\nOpen the report first. Then, for example:\n"
        f"   frugan sample {place} --seeds 0-63 --psi 0.7 --out samples\n"
        f"   frugan sample {place} --to gif --out walk.gif\n"
        f"   frugan train demo:faces --from demo --out {place} --images +20k     more of the same\n"
        "   frugan data inspect PHOTOS                                          look at your own pictures\n"
        "   frugan train PHOTOS --from demo --budget 30min                      and learn from them\n"
        "   frugan train demo:emoji --budget 2h                                 from scratch: watch it learn"
    )


def _draw_bundled(folder: Path, teller: Teller) -> None:
    from frugan.data import write
    from frugan.model import load

    model = load("demo")
    folder.mkdir(parents=True, exist_ok=True)
    write.save_sheet(folder / "grid.png", write.grid(model.sample(range(32), psi=0.7), columns=8))
    teller.say(f"   {folder / 'grid.png'}")
    frames = (frame for part in model.walk([3, 7, 11, 19], frames_between=10, psi=0.7) for frame in part)
    write.save_video(folder / "walk.gif", (write.grid(frame[None], scale=3) for frame in frames), fps=12)
    teller.say(f"   {folder / 'walk.gif'}")


def _before_and_after(run: Path) -> Path:
    from frugan.data import write
    from frugan.model import load
    from frugan.training.report import write_report

    seeds = range(SHOWN // 2)
    rows = [
        ("before", load("demo").sample(seeds, psi=0.7)),
        ("after", load(run).sample(seeds, psi=0.7)),
    ]
    path = run / "before_after.png"
    write.save_sheet(path, write.labelled_grid(rows, scale=2))
    write_report(run)
    return path
