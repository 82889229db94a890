"""Packages that picture sets are made from: fetched by npm or apt or taken from a folder, checked, and unpacked.

Nothing in a package is run. An npm archive is compared with the registry's checksum before it is opened; of a Debian
package the files are compared after unpacking, because its archive is packed anew for every release of Debian.
"""

import base64
import functools
import gzip
import hashlib
import io
import lzma
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from frugan.data.digests import Progress

_UNPACKED_LIMIT = 2 * 1024**3
_PIECE = 1 << 20
_TIMEOUT_SECONDS = 3600
_INSTALLED_ROOT = Path("/")
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class BuildError(RuntimeError):
    """A set cannot be built; says what is missing or wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """One version of a package in the npm registry.

    `integrity`: "sha512-" and the checksum in base 64, as the registry states it. `wanted`: beginnings of the names
    (inside the archive's folder "package") that are unpacked; licence files always are.
    """

    name: str
    version: str
    integrity: str
    wanted: tuple[str, ...]
    size_mb: int

    @property
    def archive(self) -> str:
        """File name of the archive, as npm writes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def checksum(self) -> str:
        """What the archive is checked against."""
        return self.integrity


@dataclass(frozen=True, kw_only=True)
class DebianPackage:
    """A package of Debian, known by the content of some of its files.

    `folder`: where its files lie when it is installed, below "/"; `patterns`: which of them are needed. `digests`: for
    each known version the `content_digest` of those files.
    """

    name: str
    folder: str
    patterns: tuple[str, ...]
    digests: tuple[tuple[str, str], ...]
    size_mb: int

    @property
    def version(self) -> str:
        """The versions that are known."""
        return ", ".join(version for version, _ in self.digests)

    @property
    def checksum(self) -> str:
        """What the files are checked against."""
        return ", ".join(f"sha256-{digest}" for _, digest in self.digests)

    @property
    def copyright(self) -> str:
        """Where the package states its authors and licences when it is installed, below "/"."""
        return f"usr/share/doc/{self.name}/copyright"


Package = NpmPackage | DebianPackage


@dataclass(frozen=True, kw_only=True)
class Unpacked:
    """A checked package: the folder with its files, and the files that state its licence and authors."""

    folder: Path
    notes: tuple[Path, ...]


def open_package(package: Package, given: Path | None, work: Path, tell: Progress) -> Unpacked:
    """The package, checked and unpacked below `work` (a folder of the caller's, removed by the caller).

    `given`: a folder that holds the archive (for Debian: or the package's files); then nothing is fetched. None:
    fetched by npm or apt-get; files of an installed Debian package are used where they lie. Raises BuildError.
    """
    if given is not None and not given.is_dir():
        raise BuildError(f"packages must be a folder, got {str(given)!r}")
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(package, NpmPackage):
        return _open_npm(package, given, work, tell)
    return _open_debian(package, given, work, tell)


# ---- npm ------------------------------------------------------------------------------------------------------------


def _open_npm(package: NpmPackage, given: Path | None, work: Path, tell: Progress) -> Unpacked:
    if given is None:
        tell(0, 1, f"getting {package.name} {package.version} by npm, {package.size_mb} MB")
        wanted = f"{package.name}@{package.version}"
        _run(["npm", "pack", "--ignore-scripts", wanted], work, f"{package.name} {package.version}", package.archive)
        archive = work / package.archive
        advice = "fetch it again"
    else:
        archive = given / package.archive
        advice = f"get it by `npm pack {package.name}@{package.version}`"
    if not archive.is_file():
        raise BuildError(f"{package.archive} is not in {str(archive.parent)!r}: {advice} and put it there")
    found = _integrity(archive)
    if found != package.integrity:
        raise BuildError(
            f"{str(archive)!r} is not {package.name} {package.version}: its checksum must be {package.integrity}, "
            f"got {found}; {advice}"
        )
    tell(0, 1, f"unpacking {package.archive}")
    folder = work / "npm"

    def place(name: PurePosixPath) -> PurePosixPath | None:
        inner = PurePosixPath(*name.parts[1:])
        is_note = len(inner.parts) == 1 and inner.name.upper().startswith(("LICENSE", "LICENCE"))
        return inner if is_note or str(inner).startswith(package.wanted) else None

    with archive.open("rb") as stream:
        _unpack(stream, "gz", archive.name, folder, place)
    notes = sorted(path for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
    return Unpacked(folder=folder, notes=tuple(notes))


def _integrity(path: Path) -> str:
    with path.open("rb") as file:
        return "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


# ---- Debian ---------------------------------------------------------------------------------------------------------


def _open_debian(package: DebianPackage, given: Path | None, work: Path, tell: Progress) -> Unpacked:
    if given is None:
        found = _installed_files(package)
    elif any(given.glob(f"{package.name}_*.deb")):
        found = None
    else:
        found = _loose_files(package, given)
    if found is None:
        found = _unpack_deb(package, _find_deb(package, given, work, tell), work, tell)
    if not found.notes:
        raise BuildError(
            f"the file 'copyright' of {package.name} is not beside its files in {str(found.folder)!r}; the set cannot "
            f"be built without its credits (they are in /{package.copyright} of the package)"
        )
    tell(0, 1, f"checking {package.name}")
    digest = content_digest(found.folder, package.patterns)
    if digest not in dict(package.digests).values():
        raise BuildError(
            f"the files of {package.name} in {str(found.folder)!r} are not those of a known version "
            f"({package.version}): their checksum must be {package.checksum}, got sha256-{digest}; "
            "they are damaged, or of another version"
        )
    return found


def _installed_files(package: DebianPackage) -> Unpacked | None:
    folder = _INSTALLED_ROOT / package.folder
    if not _is_payload(folder, package):
        return None
    note = _INSTALLED_ROOT / package.copyright
    return Unpacked(folder=folder, notes=(note,) if note.is_file() else ())


def _is_payload(folder: Path, package: DebianPackage) -> bool:
    return all(any(folder.glob(pattern)) for pattern in package.patterns)


def _loose_files(package: DebianPackage, given: Path) -> Unpacked | None:
    for folder in (given / package.name, given):
        if _is_payload(folder, package):
            note = folder / "copyright"
            return Unpacked(folder=folder, notes=(note,) if note.is_file() else ())
    return None


def _find_deb(package: DebianPackage, given: Path | None, work: Path, tell: Progress) -> Path:
    if given is None:
        tell(0, 1, f"getting {package.name} by apt, {package.size_mb} MB")
        _run(["apt-get", "download", package.name], work, package.name, f"{package.name}_VERSION.deb")
    place = work if given is None else given
    archives = sorted(place.glob(f"{package.name}_*.deb"))
    if not archives:
        raise BuildError(
            f"neither {package.name}_*.deb nor a folder {package.name!r} with {' '.join(package.patterns)} is in "
            f"{str(place)!r}: get it by `apt-get download {package.name}` and put it there"
        )
    return archives[-1]


def _unpack_deb(package: DebianPackage, archive: Path, work: Path, tell: Progress) -> Unpacked:
    tell(0, 1, f"unpacking {archive.name}")
    out = work / "deb"

    def place(name: PurePosixPath) -> PurePosixPath | None:
        is_wanted = str(name.parent) == package.folder and any(map(name.match, package.patterns))
        return name if is_wanted or str(name) == package.copyright else None

    with archive.open("rb") as stream:
        compression = _seek_data(stream, archive)
        _unpack(stream, compression, archive.name, out, place)
    note = out / package.copyright
    return Unpacked(folder=out / package.folder, notes=(note,) if note.is_file() else ())


def _seek_data(stream: BinaryIO, archive: Path) -> str:
    """The compression of a .deb's data ("xz", "gz", "bz2" or ""), the stream being left at its first byte."""
    if stream.read(8) != b"!<arch>\n":
        raise BuildError(f"{str(archive)!r} is not a Debian package")
    while len(header := stream.read(60)) == 60 and header[48:58].strip().isdigit():
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if name.startswith("data.tar"):
            compression = name.removeprefix("data.tar").removeprefix(".")
            if compression not in ("xz", "gz", "bz2", ""):
                raise BuildError(
                    f"{str(archive)!r} is packed by {compression}, which cannot be read here: unpack it by "
                    "`dpkg-deb -x` and give the folder of its files"
                )
            return compression
        size = int(header[48:58])
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise BuildError(f"{str(archive)!r} is broken: it holds no data.tar")


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(found, key=lambda path: path.name)


def content_digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """SHA-256 in hexadecimal of names and contents of the files that match; ".gz" files count by what is in them."""
    whole = hashlib.sha256()
    for path in _matching(folder, patterns):
        content = hashlib.sha256()
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for piece in iter(functools.partial(file.read, _PIECE), b""):
                    content.update(piece)
        except _BROKEN as error:
            raise BuildError(f"{str(path)!r} cannot be read: {error}") from None
        whole.update(f"{path.name} {content.hexdigest()}\n".encode())
    return whole.hexdigest()


# ---- both -----------------------------------------------------------------------------------------------------------


def _run(command: list[str], folder: Path, what: str, archive: str) -> None:
    instead = f"or get {archive} elsewhere and give the folder it lies in (packages=)"
    program = shutil.which(command[0])
    if program is None:
        raise BuildError(f"{command[0]!r} is needed to get {what} and is not installed: install it, {instead}")
    try:
        done = subprocess.run(
            [program, *command[1:]], cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"getting {what} took more than {_TIMEOUT_SECONDS // 60} minutes; try again, {instead}"
        ) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise BuildError(f"`{' '.join(command)}` failed: {said}; is the network up? Try again, {instead}")


def _unpack(
    stream: BinaryIO,
    compression: str,
    name: str,
    out: Path,
    place: Callable[[PurePosixPath], PurePosixPath | None],
) -> None:
    """Writes the files of a tar stream that `place` gives a path below `out`; what points outside is refused."""
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    try:
        for member, content in _members(stream, compression):
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise BuildError(f"{name} holds {member.name!r}, which points outside; it is not unpacked")
            target = place(path)
            if target is None or member.isdir():
                continue
            if content is None:
                raise BuildError(f"{name} holds {member.name!r}, which is a link or a device; it is not unpacked")
            total += member.size
            if total > _UNPACKED_LIMIT:
                raise BuildError(f"{name} unpacks to more than {_UNPACKED_LIMIT:,} bytes; it is not unpacked")
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            with (out / target).open("wb") as file:
                shutil.copyfileobj(content, file, _PIECE)
    except _BROKEN as error:
        raise BuildError(f"{name} cannot be unpacked: {error}") from None


def _members(stream: BinaryIO, compression: str) -> Iterator[tuple[tarfile.TarInfo, BinaryIO | None]]:
    """Each member with its content, None for what is not a plain file."""
    mode = {"xz": "r|xz", "gz": "r|gz", "bz2": "r|bz2"}.get(compression, "r|")
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            yield member, content
