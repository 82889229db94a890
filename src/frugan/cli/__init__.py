"""The command line: parse, call one function, print. Each command's file is read only when the command is used."""

import os
import sys

import cyclopts

from frugan import __version__

app = cyclopts.App(
    name="frugan",
    help="Frugal GANs: a folder of pictures becomes an image generator.",
    version=__version__,
    version_flags=["--version"],
)
app.command("frugan.cli.train:train", name="train", help="Turn a folder of pictures into a generator, or go on.")
app.command("frugan.cli.sample:sample", name="sample", help="Draw pictures, walks or a whole data set from a model.")
app.command("frugan.cli.translate:translate", name="translate", help="Translate a folder of pictures into another.")
app.command("frugan.cli.evaluate:evaluate", name="evaluate", help="Score a model, or pictures, against real ones.")
app.command("frugan.cli.ship:export", name="export", help="Write a model as a file that runs without torch.")
app.command("frugan.cli.ship:cost", name="cost", help="Multiply-adds, time and memory of a model or a part of it.")
app.command("frugan.cli.show:info", name="info", help="Tell what a run or a model is.")
app.command("frugan.cli.foreign:import_file", name="import", help="Turn a checkpoint of another project into a model.")
app.command("frugan.cli.demo:demo", name="demo", help="See the bundled model draw, then learn from 124 faces.")
data_app = cyclopts.App(name="data", help="Look at pictures, see augmentations, build known sets.")
data_app.command("frugan.cli.data:inspect", name="inspect", help="What is in a folder or zip, and what suits it.")
data_app.command("frugan.cli.data:augment_sheet", name="augment-sheet", help="Draw what an augmentation policy does.")
data_app.command("frugan.cli.data:sets", name="sets", help="List the bundled sets and those that can be built.")
data_app.command("frugan.cli.data:build", name="build", help="Build a known set from its packages.")
app.command(data_app)
recipes_app = cyclopts.App(name="recipes", help="List, show and compare recipes.")
recipes_app.command("frugan.cli.show:list_recipes", name="list", help="All recipes, a line each.")
recipes_app.command("frugan.cli.show:show_recipe", name="show", help="One recipe with every number.")
recipes_app.command("frugan.cli.show:diff_recipes", name="diff", help="In what two recipes differ.")
app.command(recipes_app)


def main() -> None:
    """Run the command line; a clear line and exit status 2 instead of a traceback for what a user can mend."""
    # OpenMP's threads wait for each other in a loop: for ever, they starve whatever shares the processor; not at all,
    # waking them costs half the speed of small networks (docs/LOG.md). A short while it is. Read when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and type(error).__name__ not in ("TrainingError", "BuildError"):
            raise
        print(f"frugan: {error}", file=sys.stderr)
        sys.exit(2)
