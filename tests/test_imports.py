"""The rooms' import rules (docs/decisions.md), held on the source and in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Room -> top-level packages that none of its modules may import, at any depth of the module.
FORBIDDEN = {
    "analysis": {"quokka_ray", "ray", "torch"},
    "quokka_ray/study": {"ray", "torch"},
    "quokka_ray/corpus": {"ray"},
    "quokka_ray/diffusion": {"ray"},
    "quokka_ray/model": {"ray"},
    "quokka_ray/training": {"ray"},
    "quokka_ray/campaign": {"ray", "torch"},
    "quokka_ray/reporting": {"ray"},
    "quokka_ray/cli": {"ray"},
}

# Rooms that only the rooms named may import.
IMPORTED_BY = {
    "quokka_ray.cli": {"quokka_ray/cli", "quokka_ray/__main__.py"},
    "quokka_ray.cluster": {"quokka_ray/cli", "quokka_ray/cluster"},
}


def imported_names(path: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules(room: str) -> list[Path]:
    """Return the Python files of a room."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"{room} is empty"
    return files


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_nothing_that_is_forbidden_to_it(room: str) -> None:
    for path in modules(room):
        roots = {name.split(".")[0] for name in imported_names(path)}
        assert not roots & FORBIDDEN[room], f"{path.relative_to(ROOT)} imports what it must not"


@pytest.mark.parametrize("package", IMPORTED_BY)
def test_a_room_is_imported_only_from_where_it_may_be(package: str) -> None:
    for path in [*modules("quokka_ray"), *modules("analysis")]:
        place = path.relative_to(ROOT).as_posix()
        if any(place.startswith(allowed) for allowed in IMPORTED_BY[package]):
            continue
        guilty = {name for name in imported_names(path) if f"{name}.".startswith(f"{package}.")}
        assert not guilty, f"{place} imports {guilty}"


def loaded_after(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


def test_the_laws_load_neither_torch_nor_ray_nor_the_search() -> None:
    loaded = loaded_after("import analysis.cli, analysis.figures, analysis.design")
    assert not loaded & {"torch", "ray", "quokka_ray", "optuna", "tensorboard"}


def test_a_campaign_loads_neither_torch_nor_ray() -> None:
    loaded = loaded_after("import quokka_ray.campaign.campaign, quokka_ray.campaign.sampler")
    assert not loaded & {"torch", "ray"}


def test_a_trial_starts_without_what_it_does_not_need() -> None:
    loaded = loaded_after("import quokka_ray.training.run")
    assert not loaded & {"ray", "optuna", "pandas", "scipy", "matplotlib", "tensorboard"}


def test_the_command_line_answers_without_loading_torch_or_ray() -> None:
    loaded = loaded_after("from quokka_ray.cli.main import build_parser; build_parser()")
    assert not loaded & {"torch", "ray"}


def test_every_package_imports_on_its_own() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in [*modules("quokka_ray"), *modules("analysis")]
        if path.name != "__main__.py"
    ]
    loaded_after("\n".join(f"import {name}" for name in names))
