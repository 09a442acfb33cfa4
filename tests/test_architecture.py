"""The floors of ARCHITECTURE.md: a module imports only from lower floors, or from its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import facever

PACKAGE = Path(facever.__file__).parent

FLOORS = [
    {
        "errors", "config", "plainyaml", "settings", "storage", "competition", "detect", "metrics",
        "resample", "ranking", "breakdown", "tracking",
    },
    {
        "transforms", "batch_augment", "data", "backbones", "encoder", "losses", "optim", "device",
        "distributed", "align",
    },
    {"step", "state", "shards", "engine", "checkpoint", "exported", "saver", "deadline", "runs"},
    {
        "embed", "score", "fusion", "submit", "naming", "threshold", "identify", "export",
        "kaggle", "report",
    },
    {
        "pipeline", "training", "ask", "prepare", "data_setup", "loss_setup", "validate",
        "environment", "fsck", "rules", "handin", "illustrate",
        "demo", "compare", "bench", "scoring", "measure", "evaluated", "tricks", "soup", "contest",
        "people",
    },
    {"cli", "__main__"},
]  # fmt: skip
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

# Rooms that may import a library; nobody else does.
HOMES = {
    "wandb": {"tracking"},
    "timm": {"encoder"},
    "albumentations": {"transforms"},
    "typer": {"cli"},
    "kagglesdk": {"kaggle"},
    "requests": {"kaggle"},
    "onnxruntime": {"export"},
    "safetensors": {"export", "exported"},
}


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE).with_suffix("")
        if inside.as_posix() != "__init__":
            yield path, inside.parts[0]


def imports(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    own = (parts for parts in names if parts[0] == "facever" and len(parts) > 1)
    return {parts[1] for parts in own if parts[1] in FLOOR_OF}


def test_every_file_has_a_floor():
    assert {room for _, room in modules()} == set(FLOOR_OF)


def test_no_arrow_points_upwards():
    upward = [
        f"{path.relative_to(PACKAGE)} -> {target}"
        for path, room in modules()
        for target in rooms_imported(path)
        if FLOOR_OF[target] > FLOOR_OF[room]
    ]
    assert not upward


def test_rooms_do_not_import_each_other_in_a_circle():
    arrows = {room: set() for room in FLOOR_OF}
    for path, room in modules():
        arrows[room] |= rooms_imported(path) - {room}
    while arrows:
        free = {room for room, targets in arrows.items() if not targets & arrows.keys()}
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {room: targets for room, targets in arrows.items() if room not in free}


@pytest.mark.parametrize("room", ["embed", "score", "submit", "metrics", "identify", "export"])
def test_inference_never_imports_what_only_training_needs(room):
    """Dropping the classifier is not an operation but this rule."""
    seen, waiting = set(), [room]
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for path, owner in modules():
            if owner == current:
                waiting += rooms_imported(path) - seen
    assert not seen & {"losses", "step", "engine", "optim", "pipeline", "prepare"}


def test_only_the_top_floors_know_the_configuration():
    knowing = {
        room
        for path, room in modules()
        if room != "config"
        and any(
            name.startswith("facever.config.") and name.endswith(".Config")
            for name in imports(path)
        )
    }
    assert knowing <= {
        "ask", "pipeline", "training", "prepare", "validate", "fsck", "bench", "environment",
        "settings", "compare", "illustrate", "scoring", "soup",
    }  # fmt: skip


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_home_alone(library):
    users = {
        room for path, room in modules() for name in imports(path) if name.split(".")[0] == library
    }
    assert users <= HOMES[library]


def test_metrics_are_numpy_only():
    allowed = {"numpy", "facever", "collections", "dataclasses", "typing", "math", "bisect"}
    for path, room in modules():
        if room in ("metrics", "resample"):
            assert {name.split(".")[0] for name in imports(path)} <= allowed


def test_the_lowest_floor_and_the_command_line_start_without_heavy_libraries():
    rooms = sorted(FLOORS[0] | {"cli"})
    code = "import sys\n" + "".join(f"import facever.{room}\n" for room in rooms)
    code += "print([m for m in ('torch', 'timm', 'albumentations', 'pandas', 'sklearn', "
    code += "'matplotlib', 'wandb', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_nothing_prints_but_the_command_line_and_tracking():
    printing = [
        path.relative_to(PACKAGE).as_posix()
        for path, room in modules()
        if room not in ("cli", "tracking")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert not printing
