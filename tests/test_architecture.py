"""The house keeps its floors: a module imports from lower floors only, what is light stays light, tests mirror it."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import selmix_hf

PACKAGE = Path(selmix_hf.__file__).parent

# A wing is a folder or a module of selmix_hf; its floor is higher than that of every wing it imports. The package's
# own __init__ only re-exports and stands outside.
FLOORS = {
    "method": 1,
    "data": 2,
    "head_fitting": 2,
    "reports": 2,
    "models": 3,
    "features": 4,
    "mixing": 4,
    "options": 4,
    "trainer_options": 4,
    "config_checks": 5,
    "config": 6,
    "hub": 7,
    "training": 8,
    "wide_resnet": 9,
    "studies": 10,
}

# The tests mirror the package: data/keys.py is tested by data/test_keys.py. Modules without a file of their own, and
# where they are tested.
TESTED_IN = {
    "config_checks.py": "test_config.py",  # they speak when a config is made
    "studies/benchmark.py": "test_recipes.py",  # recipes from end to end
    "studies/compare/base.py": "studies/compare/test_methods.py",  # abstract
    "studies/one_start.py": "studies/compare/test_comparison.py",
    "studies/published_lists.py": "test_benchmarks.py",
    "studies/push.py": "test_benchmarks.py",
    "mixing/registry.py": "mixing/test_mixer.py",
    "options.py": "test_config.py",  # of which they are the fields
    "studies/run.py": "test_recipes.py",
    "studies/stage1.py": "test_benchmarks.py",
    "training/signals.py": "faults/test_signals.py",
    "training/stopping.py": "faults/test_signals.py",
    "wide_resnet.py": "models/test_wide_resnet.py",  # an older name of it
}
# Files in wings that test whole runs and no module more than others.
OF_WHOLE_RUNS = {
    "data/test_datasets_in_training.py",
    "models/test_adapters_in_training.py",
    "studies/test_other_samples.py",
    "training/test_distributed.py",
    "training/test_models.py",
    "training/test_single_samples.py",
}

ECOSYSTEM = {"transformers", "datasets", "accelerate", "timm", "evaluate", "huggingface_hub"}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


TESTS = Path(__file__).parent
TEST_FILES = sorted(TESTS.rglob("test_*.py"))


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(source: str, path: Path) -> set[str]:
    """Absolute dotted names of everything `source` imports, at any depth, inside functions and TYPE_CHECKING too.

    `from base import name` gives "base.name": the part that names a room is in it either way.
    """
    package = ["selmix_hf", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, *([node.module] if node.module else [])]
            names.update(".".join([*base, alias.name]) for alias in node.names)
    return names


def floor_violations(source: str, path: Path) -> list[str]:
    """One sentence for each import in `source` that breaks the rule; `path` says where in the package it stands."""
    here = wing_of(path)
    sentences = set()
    for name in imported_names(source, path):
        top, _, rest = name.partition(".")
        there = rest.partition(".")[0]
        if top != "selmix_hf" or there in (here, "__version__"):
            continue
        if there not in FLOORS:
            sentences.add(f"{here} imports {name}: import from the module that defines the name, not from selmix_hf")
        elif FLOORS[there] >= FLOORS[here]:
            sentences.add(
                f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]}); "
                "a module may import from lower floors only"
            )
    return sorted(sentences)


def mirror_faults(modules: set[str], test_files: set[str], tested_in: dict[str, str], whole: set[str]) -> list[str]:
    """One sentence for each module without a test file, each test file in a wing without a module, each stale entry.

    All are relative paths such as "data/keys.py" and "data/test_keys.py".
    """

    def mirror_of(module: str) -> str:
        return str(Path(module).with_name(f"test_{Path(module).name}"))

    sentences = []
    for module in modules | tested_in.keys():
        mirror, other = mirror_of(module), tested_in.get(module)
        if module not in modules:
            sentences.append(f"{module} is in TESTED_IN, but there is no such module")
        elif other is None and mirror not in test_files:
            sentences.append(f"{module} has no tests/{mirror}: write it, or say in TESTED_IN where it is tested")
        elif other is not None and mirror in test_files:
            sentences.append(f"{module} has tests/{mirror}: take it out of TESTED_IN")
        elif other is not None and other not in test_files:
            sentences.append(f"{module} is said to be tested in tests/{other}, which is not there")
    mirrors = {mirror_of(module) for module in modules} | set(tested_in.values())
    for name in test_files | whole:
        if name not in test_files:
            sentences.append(f"tests/{name} is in OF_WHOLE_RUNS, but there is no such file")
        elif name in mirrors and name in whole:
            sentences.append(f"tests/{name} tests a module: take it out of OF_WHOLE_RUNS")
        elif "/" in name and name not in mirrors | whole and not name.startswith("faults/"):
            sentences.append(f"tests/{name} tests no module of that name: move its tests, or add it to OF_WHOLE_RUNS")
    return sorted(sentences)


def modules_loaded_by(statement: str) -> set[str]:
    """The top-level names in sys.modules after a fresh interpreter ran `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_every_module_has_a_floor():
    missing = sorted({wing_of(path) for path in SOURCES} - FLOORS.keys())
    assert not missing, f"no floor for {', '.join(missing)}: add it to FLOORS in {Path(__file__).name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_lower_floors_only(path):
    if wing_of(path) not in FLOORS:
        pytest.fail(f"{wing_of(path)} has no floor: add it to FLOORS in {Path(__file__).name}")
    violations = floor_violations(path.read_text(encoding="utf-8"), path)
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from selmix_hf.config import SelMixConfig", "method (floor 1) imports config (floor 6)"),
        ("from ..config import SelMixConfig", "method (floor 1) imports config (floor 6)"),
        ("def f():\n    import selmix_hf.config", "method (floor 1) imports config (floor 6)"),
        ("from selmix_hf import config", "method (floor 1) imports config (floor 6)"),
        ("from .. import config", "method (floor 1) imports config (floor 6)"),
        ("from selmix_hf import SelMixTrainer", "method imports selmix_hf.SelMixTrainer: import from the module"),
        ("import selmix_hf", "method imports selmix_hf: import from the module"),
    ],
)
def test_the_rule_catches_an_import_that_climbs(source, expected):
    (sentence,) = floor_violations(source, PACKAGE / "method" / "gain.py")
    assert sentence.startswith(expected)


def test_the_rule_lets_lower_floors_pass():
    source = (
        "import torch\nfrom selmix_hf.method.confusion import confusion_matrix\nfrom .. import __version__, method"
    )
    assert floor_violations(source, PACKAGE / "method" / "gain.py") == []


METHOD = sorted((PACKAGE / "method").glob("*.py"))


@pytest.mark.parametrize("path", METHOD, ids=lambda path: path.stem)
def test_the_method_knows_only_torch(path):
    imported = {name.split(".")[0] for name in imported_names(path.read_text(encoding="utf-8"), path)}
    assert not imported & ECOSYSTEM, (
        f"{path.stem} imports {sorted(imported & ECOSYSTEM)}; it may know torch, not these"
    )


def test_one_module_alone_knows_peft():
    knowing = {p.stem for p in SOURCES if "peft" in {n.split(".")[0] for n in imported_names(p.read_text(), p)}}
    assert knowing == {"peft_models"}


def test_loading_the_method_loads_nothing_of_the_ecosystem():
    loaded = modules_loaded_by("\n".join(f"import selmix_hf.method.{path.stem}" for path in METHOD))
    assert not loaded & ECOSYSTEM, f"importing selmix_hf.method loads {sorted(loaded & ECOSYSTEM)}"


def test_importing_the_package_is_light():
    loaded = modules_loaded_by("import selmix_hf")
    heavy = sorted(loaded & (ECOSYSTEM | {"torch", "matplotlib"}))
    assert not heavy, f"`import selmix_hf` loads {heavy}; let selmix_hf.__getattr__ import them on first use"


def test_every_public_name_can_be_fetched():
    assert selmix_hf.__all__, "selmix_hf.__all__ names nothing"
    missing = [name for name in selmix_hf.__all__ if getattr(selmix_hf, name, None) is None]
    assert not missing, f"selmix_hf.__all__ names what cannot be fetched: {missing}"
    modules = [name for name in selmix_hf.__all__ if isinstance(getattr(selmix_hf, name), ModuleType)]
    assert not modules, f"a module of the same name hides the public name: {modules}"


def test_type_checkers_see_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.asname: statement.module for statement in block.body for name in statement.names}
    assert seen == {name: f"selmix_hf.{home}" for name, home in selmix_hf._HOME.items()}


def test_nothing_imports_studies():
    importing = [str(path.relative_to(PACKAGE)) for path in SOURCES if wing_of(path) != "studies"]
    for name in [*importing, "__init__.py"]:
        path = PACKAGE / name
        named = imported_names(path.read_text(encoding="utf-8"), path)
        assert not [n for n in named if n.startswith("selmix_hf.studies")], f"{name} imports studies"


def test_files_stay_short():
    long = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long = {name: lines for name, lines in long.items() if lines >= 400}
    assert not long, f"files stay under 400 lines: move a part to a room of its own; found {long}"


def test_tests_mirror_the_package():
    modules = {str(path.relative_to(PACKAGE)) for path in SOURCES if path.name != "__init__.py"}
    test_files = {str(path.relative_to(TESTS)) for path in TEST_FILES}
    faults = mirror_faults(modules, test_files, TESTED_IN, OF_WHOLE_RUNS)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"modules": {"data/keys.py", "b.py", "data/new.py"}}, "data/new.py has no tests/data/test_new.py"),
        ({"tested_in": {}}, "b.py has no tests/test_b.py"),
        ({"tested_in": {"b.py": "data/test_c.py"}}, "b.py is said to be tested in tests/data/test_c.py"),
        ({"tested_in": {"b.py": "test_a.py", "gone.py": "test_a.py"}}, "gone.py is in TESTED_IN, but there is no"),
        (
            {"tested_in": {"b.py": "test_a.py", "data/keys.py": "test_a.py"}},
            "data/keys.py has tests/data/test_keys.py",
        ),
        ({"whole": set()}, "tests/data/test_runs.py tests no module of that name"),
        ({"whole": {"data/test_runs.py", "data/test_keys.py"}}, "tests/data/test_keys.py tests a module: take it out"),
        ({"whole": {"data/test_runs.py", "test_d.py"}}, "tests/test_d.py is in OF_WHOLE_RUNS, but there is no such"),
    ],
)
def test_the_mirror_shows_what_is_missing_and_what_is_stale(changes, expected):
    house = {
        "modules": {"data/keys.py", "b.py"},
        "test_files": {"data/test_keys.py", "data/test_runs.py", "test_a.py"},
        "tested_in": {"b.py": "test_a.py"},
        "whole": {"data/test_runs.py"},
    }
    faults = mirror_faults(**{**house, **changes})
    assert faults == [] if expected is None else len(faults) == 1 and faults[0].startswith(expected)


def test_no_test_file_imports_another():
    names, found = {path.stem for path in TEST_FILES}, {}
    for path in TEST_FILES:
        imported = imported_names(path.read_text(encoding="utf-8"), PACKAGE / path.name)
        found[path.stem] = {name for name in imported if name.split(".")[0] in names}
    found = {name: others for name, others in found.items() if others}
    assert not found, f"what several test files need belongs in a module of tests/: {found}"
