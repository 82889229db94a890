"""Files made to harm: nothing in them runs, nothing hangs or fills the memory, each is refused in one clear line."""

import builtins
import io
import os
import pickle
import resource
import struct
import time
import zipfile

import pytest
import torch

from frugan import interop
from frugan.interop.imported import ImportProblem
from tests.interop import emit

MARKER = "EXECUTED"
COMMAND = f"touch {MARKER}"
PYTHON = f"open({MARKER!r}, 'w').close()"


class Calls:
    """Pickled as a call of anything."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


CALLS = {
    "os.system": Calls(os.system, COMMAND),
    "eval": Calls(eval, PYTHON),
    "exec": Calls(exec, PYTHON),
    "getattr": Calls(builtins.getattr, Calls(__import__, "os"), "system"),
    "import": Calls(__import__, "antigravity"),
    "open": Calls(open, MARKER, "w"),
    "torch.load": Calls(torch.load, MARKER),
}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Imports these bytes: they must be refused in one line, quickly, in little memory, and run nothing."""
    monkeypatch.chdir(tmp_path)

    def refusing(data, name="hostile.pkl"):
        path = tmp_path / name
        path.write_bytes(data)
        return refuse(path)

    def refuse(path):
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(ImportProblem) as caught:
            interop.read(path)
        assert time.process_time() - started < 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
        assert not (tmp_path / MARKER).exists()
        message = str(caught.value)
        assert str(path) in message and "\n" not in message and len(message) < 500 + len(str(path))
        return message

    refusing.path = refuse
    return refusing


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_not_made(refused, name):
    for protocol in (0, 2, 4):
        refused(pickle.dumps(CALLS[name], protocol=protocol))
    refused(pickle.dumps({"G_ema": CALLS[name]}))
    buffer = io.BytesIO()
    torch.save({"g_ema": {"style.1.weight": torch.ones(2)}, "args": CALLS[name]}, buffer)
    assert "nothing of it was run" in refused(buffer.getvalue(), "a.pt")
    buffer = io.BytesIO()
    torch.save({"g_ema": CALLS[name]}, buffer, _use_new_zipfile_serialization=False)
    assert "nothing of it was run" in refused(buffer.getvalue(), "b.pt")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_inside_a_good_pickle_is_not_made(tmp_path, monkeypatch, name):
    """In the settings, or in an attribute that nobody reads."""
    monkeypatch.chdir(tmp_path)
    tensors = {"synthesis.b4.const": torch.ones(1)}
    record = emit.module(tensors, "Generator", {"z_dim": CALLS[name]})
    (tmp_path / "a.pkl").write_bytes(emit.dump({"G_ema": record}, monkeypatch))
    with pytest.raises(ImportProblem):
        interop.read(tmp_path / "a.pkl")
    record = emit.module(tensors, "Generator", {"z_dim": 8}).meta["state"] | {"hook": CALLS[name]}
    (tmp_path / "b.pkl").write_bytes(emit.dump({"G_ema": emit.Persistent("G", record)}, monkeypatch))
    with pytest.raises(ImportProblem):
        interop.read(tmp_path / "b.pkl")
    assert not (tmp_path / MARKER).exists()


def test_what_a_call_gave_is_not_called(refused):
    """getattr(__import__("os"), "system")("touch ..."), an instruction after the other."""
    module = b"cbuiltins\n__import__\n(U\x02ostR"
    command = COMMAND.encode()
    program = b"cbuiltins\ngetattr\n(" + module + b"U\x06systemtR(U" + bytes([len(command)]) + command + b"tR"
    assert "by a name" in refused(b"\x80\x02" + program + b".")
    refused(b"\x80\x02}(U\x05G_ema" + program + b"u.")


def storage(blob):
    """A tensor whose storage is this pickle, as NVIDIA's files have them inside."""
    load = b"ctorch.storage\n_load_from_bytes\n"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + load + b"B" + struct.pack("<I", len(blob)) + blob + b"\x85R"


def test_a_call_inside_a_storage_is_not_made(refused):
    for value in CALLS.values():
        blob = pickle.dumps(value, protocol=2)
        refused(b"\x80\x04" + storage(blob) + b".")
    bare = io.BytesIO()
    torch.save(Calls(os.system, COMMAND), bare, _use_new_zipfile_serialization=False)
    assert "nothing of it was run" in refused(b"\x80\x04" + storage(bare.getvalue()) + b".")


BOMBS = {
    "deep lists": b"\x80\x04" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "deep tuples": b"\x80\x04)" + b"\x85" * 20_000 + b".",
    "deep marks": b"\x80\x04" + b"(" * 50_000 + b"t" * 50_000 + b".",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "billion laughs": b"\x80\x04]" + b"2\x86" * 200 + b".",
    "billion laughs, memo": b"\x80\x04]\x940"
    + b"".join(b"]\x94(" + (b"h" + bytes([i])) * 9 + b"e0" for i in range(60))
    + b"h\x3c.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**63 - 1) + b"abc.",
    "huge bytes, 32 bits": b"\x80\x04B" + struct.pack("<I", 2**32 - 1) + b"abc.",
    "huge number": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "negative length": b"\x80\x04\x8b" + struct.pack("<i", -5) + b"abc.",
    "a long number": b"\x80\x04\x8b" + struct.pack("<i", 2_000_000) + b"\x7f" * 2_000_000 + b".",
    "a long decimal": b"\x80\x04L" + b"9" * 3_000_000 + b"L\n.",
    "a frame that lies": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "frames in frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 3)) * 50_000 + b"}.",
    "colliding keys": b"\x80\x04}("
    + b"".join(b"\x8a\x0b" + ((2**61 - 1) * i).to_bytes(11, "little") + b"N" for i in range(60_000))
    + b"u.",
    "a memo far away": b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b"j" + struct.pack("<I", 7) + b".",
    "an empty stack": b"\x80\x04R.",
    "no value": b"\x80\x04.",
    "protocol 200": b"\x80\xc8}.",
    "a build on a name": b"\x80\x04cos\nsystem\n}b.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent name": b"\x80\x04X\x01\x00\x00\x00aQ.",
    "garbage": b"\x80\x04" + bytes(range(256)) * 50,
    "a number as function": b"\x80\x04K\x01)R.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(refused, name):
    refused(BOMBS[name])
    legacy = io.BytesIO()
    torch.save({}, legacy, _use_new_zipfile_serialization=False)
    head = legacy.getvalue()[: legacy.getvalue().index(b"}q")]
    refused(head + BOMBS[name], "legacy.pt")
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", BOMBS[name])
        archive.writestr("a/version", "3")
    refused(zipped.getvalue(), "zip.pt")


def test_tensors_that_claim_more_than_there_is(refused):
    whole = io.BytesIO()
    torch.save(torch.ones(4)._typed_storage(), whole, _use_new_zipfile_serialization=False)
    blob = whole.getvalue()
    for size, stride in ((2**40, 0), (5, 1), (2, 4), (2**62, 2**62)):
        shape = b"(\x8a\x09" + size.to_bytes(9, "little") + b"t" + b"(\x8a\x09" + stride.to_bytes(9, "little") + b"t"
        refused(b"\x80\x04" + storage(blob) + b"K\x00" + shape + b"\x89)tR.")
    many = b"\x80\x04]B" + struct.pack("<I", len(blob)) + blob + b"\x94("
    many += (b"ctorch.storage\n_load_from_bytes\nh\x00\x85R") * 5000 + b"t."
    assert "more than its size" in refused(many)


def test_archives(refused, tmp_path):
    def packed(entries, kind=zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    bomb = bytes(300_000_000)
    refused(packed({"a/data.pkl": bomb}))
    good = io.BytesIO()
    torch.save({"g_ema": {"style.1.weight": torch.ones(4, 4)}}, good)
    with zipfile.ZipFile(io.BytesIO(good.getvalue())) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    key = next(name for name in entries if name.endswith("data/0"))
    refused(packed({**entries, key: bomb}))
    refused(packed({name: data for name, data in entries.items() if name != key}))
    refused(packed({"photos/1.png": b"x"}))
    refused(packed({}))
    for end in (10, 100, len(good.getvalue()) // 2, len(good.getvalue()) - 30):
        refused(good.getvalue()[:end])


def test_a_truncated_pickle(refused, monkeypatch):
    data = emit.tiny_nvidia(monkeypatch)
    for end in (1, 2, 10, 500, len(data) // 2, len(data) - 1):
        refused(data[:end])


def test_other_files(refused, tmp_path):
    assert "empty" in refused(b"")
    assert "none of the checkpoints" in refused(b"hello, this is a text\n" * 100)
    assert "none of the checkpoints" in refused(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(struct.pack("<Q", 2**60) + b'{"a":1}')
    refused(struct.pack("<Q", 8) + b'{"a": 1}' + bytes(10))
    refused(b"\x80")
    (tmp_path / "folder").mkdir()
    assert "folder" in refused.path(tmp_path / "folder")
    assert "no such file" in refused.path(tmp_path / "nowhere.pkl")
