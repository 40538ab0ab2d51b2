"""The flow law and the vendor law, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "graft"
FLOW = (
    "errors",
    "config",
    "plan",
    "data",
    "model",
    "train",
    "reuse",
    "track",
    "compare",
    "deliver",
    "run",
    "sweep",
    "cli",
)
ON_TOP = {
    "pretrain": "sweep",
    "extract": "run",
    "rank": "run",
    "inputs": "run",
    "sharing": "run",
    "meter": "run",
    "together": "run",
    "conclude": "run",
    "completion": "errors",
    "progress": "errors",
    "compose": "cli",
    "verbs": "cli",
    "calls": "cli",
    "answer": "cli",
    "publish": "cli",
    "status": "cli",
    "cache": "cli",
    "__main__": "cli",
}

#: The places where a big dependency may be imported.
HOMES = {
    "hydra": ("config/", "sweep/", "cli.py", "compose.py"),
    "omegaconf": ("config/", "sweep/", "cli.py", "compose.py"),
    "pytorch_lightning": ("data/datamodule.py", "train/", "reuse/"),
    "mlflow": ("track/",),
}
WITHOUT_TORCH = ("config/", "plan/", "compare/", "cli.py", "errors.py")


def modules():
    return sorted(SOURCE.rglob("*.py"))


def imports(path):
    """Yield the dotted name of every import, and whether it is seen by type checkers only."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import from graft by its full name"
            yield node.module, id(node) in for_types


def room(dotted):
    """Return the place in the flow of ``graft.<room>...``."""
    parts = dotted.split(".")
    name = parts[1] if len(parts) > 1 else "errors"
    return FLOW.index(ON_TOP.get(name, name))


def relative(path):
    return path.relative_to(SOURCE).as_posix()


def dotted_name(path):
    return "graft." + relative(path).removesuffix(".py").replace("/", ".")


def test_modules_are_found():
    assert len(modules()) > 20


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_imports_point_left(path):
    if path.name in ("__init__.py",) and path.parent == SOURCE:
        return
    mine = room(dotted_name(path))
    for name, _ in imports(path):
        if name == "graft" or not name.startswith("graft."):
            continue
        assert room(name) <= mine, f"{relative(path)} imports {name}, which stands to its right"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_big_dependencies_stay_at_home(path):
    place = relative(path)
    for name, only_types in imports(path):
        package = name.split(".")[0]
        if package in HOMES:
            assert place.startswith(HOMES[package]), f"{place} imports {name}"
        if package in ("torch", "torchvision") and not only_types:
            assert not place.startswith(WITHOUT_TORCH), f"{place} imports {name}"


def test_there_is_no_cycle_between_modules():
    known = {dotted_name(path).removesuffix(".__init__") for path in modules()}
    graph = {
        dotted_name(path).removesuffix(".__init__"): {
            name for name, only_types in imports(path) if name in known and not only_types
        }
        for path in modules()
    }
    done = set()

    def visit(name, trail):
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("forbidden", ["utils", "common", "helpers", "extras", "misc"])
def test_no_room_is_a_drawer_for_leftovers(forbidden):
    assert not [path for path in SOURCE.rglob("*") if path.stem == forbidden]
