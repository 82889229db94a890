"""The shape of the house: imports go down, nothing is executed from files, public names are frozen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "frugan"
FILES = sorted(SOURCE.rglob("*.py"))
NAMES = Path(__file__).parent / "public_names.txt"
FORBIDDEN_MODULES = {"pickle", "torchvision", "scipy", "lightning", "pytorch_lightning", "cPickle", "dill"}
FORBIDDEN_CALLS = {"exec", "eval", "hasattr", "__import__"}


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def tree(request: pytest.FixtureRequest) -> ast.Module:
    return ast.parse(request.param.read_text(encoding="utf-8"))


def test_nothing_forbidden_is_imported_or_called(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert name not in ("torch.load", "torch.save"), f"line {node.lineno}"
            assert name != "np.load" or keywords.get("allow_pickle", "False") == "False", f"line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            caught = ast.unparse(node.type)
            reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert caught not in ("Exception", "BaseException") or reraises, f"line {node.lineno}"


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "misc", "common", "helpers"}


def test_imports_go_down_only() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_import_is_light() -> None:
    code = "import sys, frugan; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_frozen(pytestconfig: pytest.Config) -> None:
    """What others import must not vanish unnoticed: run with --update-golden to accept a change."""
    lines = []
    for path in FILES:
        module = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        names = []
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                names.append(node.name)
        if names and not module.startswith("frugan.cli"):
            lines.append(f"{module}: {' '.join(sorted(names))}")
    text = "\n".join(lines) + "\n"
    if pytestconfig.getoption("--update-golden"):
        NAMES.write_text(text)
    assert text == NAMES.read_text()
