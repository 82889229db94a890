"""`frugan import`: checkpoints of other projects become models of ours."""

from pathlib import Path


def import_file(file: Path, /, *, out: Path | None = None, overwrite: bool = False) -> None:
    """Turn a checkpoint of another project into a model folder. The file is read as data; nothing in it is run.

    Read are StyleGAN2 pickles of NVIDIA's StyleGAN2-ADA-PyTorch and StyleGAN3 repositories, ProGAN pickles of its
    authors, and checkpoints of rosinality/stylegan2-pytorch, AnyCost GAN and Sketch Your Own GAN; and networks of
    CycleGAN, pix2pix, GAN Compression and GauGAN, one file or the folder with those of one training.

    Parameters
    ----------
    file
        A .pkl, .pt, .pth or .safetensors file, or a folder of them.
    out
        The folder to make; by default models/NAME.
    overwrite
        Replace the checkpoint that is there.
    """
    from frugan.cli.tell import Teller
    from frugan.interop import describe, import_checkpoint

    folder = out or Path("models") / file.stem
    teller = Teller()
    imported = import_checkpoint(file, folder, teller.progress, overwrite=overwrite)
    teller.say(f"{imported.family}: {describe(imported.model)}")
    for line in imported.check:
        teller.say(f"  checked: {line}")
    for note in imported.notes:
        teller.say(f"  note: {note}")
    teller.say(f"licence of the weights: {imported.licence}")
    is_translator = imported.model.is_translator
    use = f"translate with it: frugan translate {folder}" if is_translator else f"draw from it: frugan sample {folder}"
    teller.say(f"written: {folder}; {use} {'PICTURES OUT' if is_translator else '--seeds 0-15'}")
