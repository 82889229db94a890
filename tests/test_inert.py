"""Reading pickled weights as data: what torch wrote comes back, and nothing hostile runs, hangs or swells."""

import argparse
import contextlib
import io
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from frugan.inert import Global, InertError, InertPickle, Limits, Record, Storage, read_legacy, read_torch

PLAIN = InertPickle({})


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """A hostile file must be refused at once."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 20


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def checkpoint() -> dict[str, Any]:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimiser.step()
    base = torch.arange(24.0)
    return {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "views": [base[2:8].view(2, 3).t(), base[::5], base.expand(2, 24)[:, :3].contiguous()],
        "types": tuple(torch.ones(3).to(kind) for kind in (torch.float64, torch.bfloat16, torch.half, torch.long)),
        "bits": torch.tensor([True, False, True]),
        "small": (torch.tensor(3), torch.zeros(0), torch.zeros(2, 0, 3), torch.tensor(7, dtype=torch.uint8)),
        "text": "a word",
        "numbers": [1, -5, 2**40, 0.5, None, True],
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_wrote_comes_back(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    value = checkpoint()
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert equal(read_torch(tmp_path / "x.pt"), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    value = {"a": torch.randn(3), "b": {"c": [1, 2, 3]}}
    torch.save(value, tmp_path / "x.pt", pickle_protocol=protocol)
    assert equal(read_torch(tmp_path / "x.pt"), value)


@pytest.mark.parametrize("zipped", [True, False])
def test_parameters_namespaces_devices_and_types(tmp_path: Path, zipped: bool) -> None:
    value = {
        "parameter": nn.Parameter(torch.ones(2)),
        "args": argparse.Namespace(lr=0.1, name="x"),
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    got = read_torch(tmp_path / "x.pt")
    assert got["args"] == {"lr": 0.1, "name": "x"} and got["device"] == "cpu" and got["size"] == (1, 2)
    assert got["dtype"] is torch.float16 and torch.equal(got["parameter"], torch.ones(2))
    assert not got["parameter"].requires_grad


def test_shared_memory_stays_shared(tmp_path: Path) -> None:
    base = torch.zeros(6)
    torch.save({"a": base[:3], "b": base}, tmp_path / "x.pt")
    got = read_torch(tmp_path / "x.pt")
    got["a"].fill_(1)
    assert got["b"].tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_bare_storage_of_the_older_format() -> None:
    file = io.BytesIO()
    torch.save(torch.arange(3.0).storage(), file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    got = read_legacy(io.BytesIO(data), len(data))
    assert isinstance(got, Storage) and got.values.tolist() == [0.0, 1.0, 2.0]


# ---- hostile files ----


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("x/data.pkl", pickled)
        for key, data in (storages or {}).items():
            file.writestr(f"x/data/{key}", data)
    return path


def legacy(path: Path, pickled: bytes, tail: bytes = b"") -> Path:
    head = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    path.write_bytes(b"".join([*head, pickled, pickle.dumps([], 2), tail]))
    return path


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_nothing_is_called(tmp_path: Path, write: Any, protocol: int) -> None:
    flag = tmp_path / "flag"
    calls: list[Any] = [
        Call(os.system, f"touch {flag}"),
        Call(eval, f"open({str(flag)!r}, 'w')"),
        Call(exec, f"open({str(flag)!r}, 'w')"),
        Call(open, str(flag), "w"),
        {"state": [Call(os.mkdir, str(flag))]},
    ]
    for call in calls:
        with pytest.raises(InertError):
            read_torch(write(tmp_path / "x.pt", pickle.dumps(call, protocol)))
        assert not flag.exists()


def test_a_hostile_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(InertError, match=r"posix\.system.*nothing of it was run"):
        read_torch(archive(tmp_path / "x.pt", pickle.dumps(Call(os.system, "true"), 2)))


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(InertError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_torch(tmp_path / "x.pt")


def test_names_that_are_allowed_cannot_be_bent() -> None:
    """No state is set on functions, nothing but a listed name is called, and odd arguments are refused."""
    table = {"collections.OrderedDict": dict}
    for program in (
        b"ccollections\nOrderedDict\n}(X\x01\x00\x00\x00aK\x01ub.",  # BUILD on the function itself
        b"X\x01\x00\x00\x00a)R.",  # REDUCE of text
        b"ccollections\nOrderedDict\nK\x05\x85R.",  # a number where pairs belong
        b"ccollections\nOrderedDict\n]R.",  # arguments that are no tuple
        b"]}(X\x01\x00\x00\x00aK\x01ub.",  # the state of a list
        b"(ccollections\nOrderedDict\no.",  # OBJ
        b"(icollections\nOrderedDict\n.",  # INST
        b"\x82\x01.",  # EXT1
        b"K\x01Q.",  # a persistent identifier without a handler
    ):
        with pytest.raises(InertError):
            InertPickle(table).load(io.BytesIO(program))


@pytest.mark.parametrize(
    "program",
    [
        b".",
        b"",
        b"0.",
        b"t.",
        b"(.",
        b"(K\x01.",
        b"K\x01K\x02.",
        b"a.",
        b"K\x01a.",
        b"]K\x01",
        b"h\x05.",
        b"]K\x01K\x02s.",
        b"}]K\x01s.",  # a list as a key
        b"}(K\x01u.",  # a key without a value
        b"X\xff\xff\xff\x7fab.",  # text longer than the file
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",
        b"\x80\x09K\x01.",
        b"\xff",
        b"I12x\n.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"\x8a\xff" + b"\x7f" * 255 + b".",  # a number of 2040 bits
        b"X\x02\x00\x00\x00\xff\xfe.",  # not UTF-8
        b"K\x01" + b"\x8f" * 3,
        b"\x93.",
        b"K\x01K\x02\x93.",
    ],
)
def test_broken_pickles_are_refused(program: bytes) -> None:
    with pytest.raises(InertError):
        PLAIN.load(io.BytesIO(program))


def test_a_bomb_of_shared_lists_is_refused() -> None:
    """Two references each time, sixty times: 2^60 values when walked."""
    program = b"]q\x00" + b"".join(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60))
    with pytest.raises(InertError, match="values"):
        PLAIN.load(io.BytesIO(program + b"."))


def test_a_bomb_of_hashed_tuples_is_refused() -> None:
    program = b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(60))
    with pytest.raises(InertError):
        PLAIN.load(io.BytesIO(b"}" + program + b"K\x01s."))


def test_keys_that_share_one_hash_are_refused() -> None:
    """Tables take quadratic time where all hashes agree, as those of multiples of 2^61 - 1 do."""
    keys = (index * (2**61 - 1) for index in range(20_000))
    program = b"".join(b"\x8a\x0a" + key.to_bytes(10, "little") + b"N" for key in keys)
    with pytest.raises(InertError, match="bits"):
        PLAIN.load(io.BytesIO(b"}(" + program + b"u."))


def test_deep_nesting_and_endless_loops_are_refused() -> None:
    for program in (b"K\x01" + b"\x85" * 5_000 + b".", b"(" * 100_000 + b"l" * 100_000 + b".", b"]q\x00h\x00a."):
        with pytest.raises(InertError, match="nest"):
            PLAIN.load(io.BytesIO(program))


def test_too_many_instructions_are_refused() -> None:
    machine = InertPickle({}, limits=Limits(operations=1000))
    with pytest.raises(InertError, match="1000 instructions"):
        machine.load(io.BytesIO(b"K\x010" * 1000 + b"K\x01."))


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
)


def tensor_program(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return TENSOR + number(numel) + b"tQ" + number(offset) + numbers(size) + numbers(stride) + b"\x89}tR."


def test_the_hand_made_tensor_is_right(tmp_path: Path) -> None:
    data = struct.pack("<4f", 0, 1, 2, 3)
    got = read_torch(archive(tmp_path / "x.pt", tensor_program(4, 1, (3,), (1,)), {"0": data}))
    assert got.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("numel", "offset", "size", "stride"),
    [
        (2**60, 0, (2,), (1,)),
        (4, 0, (2**40,), (0,)),  # a view that would take a terabyte when copied
        (4, 2**62, (1,), (1,)),
        (4, -1, (2,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (-2,), (1,)),
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (1,) * 17, (1,) * 17),
        (5, 0, (2,), (1,)),
        (-1, 0, (0,), (1,)),
    ],
)
def test_storages_and_views_that_lie_are_refused(
    tmp_path: Path, numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    program = tensor_program(numel, offset, size, stride)
    for path in (archive(tmp_path / "x.pt", program, {"0": bytes(16)}), legacy(tmp_path / "y.pt", program, bytes(64))):
        with pytest.raises(InertError):
            read_torch(path)


def test_a_tensor_named_many_times_is_refused(tmp_path: Path) -> None:
    program = tensor_program(250_000, 0, (250_000,), (1,))[:-1]
    program = b"(" + program + b"q\x00" + b"h\x00" * 1000 + b"l."
    with pytest.raises(InertError, match="claim"):
        read_torch(archive(tmp_path / "x.pt", program, {"0": bytes(1_000_000)}))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    program = tensor_program(2**24, 0, (2**24,), (1,))
    path = archive(tmp_path / "x.pt", program, {"0": bytes(2**26)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InertError, match="compressed"):
        read_torch(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_of_a_torchscript_program_come_its_tensors(tmp_path: Path) -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names, self.sizes = {"a": 1}, [1, 2]
            self.linear = nn.Linear(3, 2)
            self.register_buffer("steps", torch.arange(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + self.sizes[0]

    program = torch.jit.script(nn.Sequential(Inner(), nn.ReLU(), Inner()))
    torch.jit.save(program, tmp_path / "program.pt")
    read, wanted = read_torch(tmp_path / "program.pt"), program.state_dict()
    assert read.keys() == wanted.keys() and len(read) == 6
    assert all(torch.equal(read[name], tensor) for name, tensor in wanted.items())


def test_archives_that_are_no_checkpoint_say_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("picture.png", b"x" * 100)
    with pytest.raises(InertError, match=r"a\.zip: this zip file is not a checkpoint"):
        read_torch(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("x/data.pkl", b"N.")
        file.writestr("x/constants.pkl", b"N.")
    with pytest.raises(InertError, match="TorchScript program is no module"):
        read_torch(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as file:
        file.writestr("x/data.pkl", b"N.")
        file.writestr("x/byteorder", b"big")
    with pytest.raises(InertError, match="big-endian"):
        read_torch(tmp_path / "c.pt")


def test_other_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"abc")
    (tmp_path / "text").write_text("just some words, and more of them")
    (tmp_path / "number").write_bytes(pickle.dumps(5, 2) + bytes(20))
    for name in ("short", "text", "number"):
        with pytest.raises(InertError, match=name):
            read_torch(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_torch(tmp_path / "absent")


def small_files() -> list[bytes]:
    files = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(OrderedDict(a=torch.arange(5.0), b=[1, "x"]), file, _use_new_zipfile_serialization=zipped)
        files.append(file.getvalue())
    return files


FILES = small_files()


@given(st.sampled_from(FILES), st.floats(0, 1), st.binary(min_size=0, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_files_read_or_are_refused(tmp_path: Path, data: bytes, place: float, change: bytes, cut: bool) -> None:
    at = int(place * len(data))
    damaged = data[:at] if cut else data[:at] + change + data[at + len(change) :]
    (tmp_path / "x.pt").write_bytes(damaged)
    with contextlib.suppress(InertError):
        read_torch(tmp_path / "x.pt")


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_an_escape_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(InertError, match="not a whole pickle: invalid escape"):
        InertPickle({}).load(io.BytesIO(b"S'\\o'\n."))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_programs_read_or_are_refused(program: bytes) -> None:
    machine = InertPickle({"a.b": lambda *args: list(args)}, records=True, persistent=lambda key: None)
    with contextlib.suppress(InertError):
        machine.load(io.BytesIO(program + b"."))


# ---- the machine, for other readers ----


class Thing:
    """Pickled by state."""

    def __init__(self) -> None:
        self.size = 3
        self.parts = [OrderedDict(a=1)]


def test_unknown_objects_become_records() -> None:
    for protocol in (2, 3, 4, 5):
        machine = InertPickle({"collections.OrderedDict": dict}, records=True)
        got = machine.load(io.BytesIO(pickle.dumps({"thing": Thing(), "kind": Thing}, protocol)))
        record = got["thing"]
        assert isinstance(record, Record) and record.path.endswith("test_inert.Thing")
        assert record.state == {"size": 3, "parts": [{"a": 1}]} and got["kind"] == Global(record.path)


def test_records_take_items_and_entries() -> None:
    class_names = (b"cx.y\nList\n)\x81(K\x01K\x02e.", b"cx.y\nDict\n)\x81(K\x01K\x02u.")
    items, entries = (InertPickle({}, records=True).load(io.BytesIO(program)) for program in class_names)
    assert items.items == [1, 2] and entries.entries == {1: 2} and items.path == "x.y.List"


def test_a_constructor_is_called_with_inert_data() -> None:
    machine = InertPickle({"x.add": lambda a, b: a + b})
    assert machine.load(io.BytesIO(b"cx\nadd\nK\x02K\x03\x86R.")) == 5
    with pytest.raises(InertError, match=r"x\.add does not fit"):
        machine.load(io.BytesIO(b"cx\nadd\nK\x02\x85R."))


def test_several_pickles_follow_each_other() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps({2, 3}, 4) + b"rest")
    assert PLAIN.load(stream) == [1] and PLAIN.load(stream) == {2, 3} and stream.read() == b"rest"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**200), 2**200)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(-(2**61), 2**61), inner)
        ),
    ),
    st.sampled_from([3, 4, 5]),
)
@settings(max_examples=40, deadline=None)
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert PLAIN.load(io.BytesIO(pickle.dumps(value, protocol))) == value
