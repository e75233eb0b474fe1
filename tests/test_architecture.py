"""The house keeps its floors: a module imports from lower floors only, and what is light stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import selmix_hf

PACKAGE = Path(selmix_hf.__file__).parent

# A room is a module or a subpackage of selmix_hf; its floor is higher than that of every room it imports. The
# package's own __init__ only re-exports and stands outside. Planned rooms may be listed before they exist.
FLOORS = {
    "confusion": 1,
    "mixing": 1,
    "puzzlemix": 1,
    "input_mixing": 4,
    "heads": 1,
    "labels": 1,
    "lora": 2,
    "held_out": 3,
    "minimum": 1,
    "intervals": 2,
    "list_files": 2,
    "long_tail": 2,
    "losses": 1,
    "objectives": 2,
    "selection": 3,
    "features": 2,
    "fingerprint": 1,
    "card_parts": 1,
    "pushing": 1,
    "head_card": 2,
    "saved_head": 3,
    "model_card": 6,
    "record_card": 7,
    "training_pushes": 2,
    "resuming": 1,
    "synchronized_trainer": 5,
    "pushing_trainer": 6,
    "hub": 7,
    "feature_cache": 4,
    "checkpoint": 4,
    "gain": 3,
    "gain_fidelity": 4,
    "soft_gain": 4,
    "head_start": 6,
    "pair_distribution": 3,
    "sampling": 3,
    "weighted_sampling": 3,
    "metrics": 4,
    "config_checks": 4,
    "config": 5,
    "adapters": 4,
    "collator": 5,
    "arguments": 4,
    "comparison": 5,
    "modality": 6,
    "loading": 7,
    "checks": 6,
    "health": 5,
    "plots": 5,
    "callbacks": 5,
    "stage1": 7,
    "parameter_average": 1,
    "wide_resnet": 1,
    "architectures": 2,
    "pseudo_labels": 5,
    "semi_supervised": 8,
    "confusion_trainer": 8,
    "pseudo_label_trainer": 9,
    "drawing_trainer": 10,
    "trainer": 11,
    "timing": 1,
    "hardware": 1,
    "augment": 1,
    "benchmark_data": 7,
    "own_data": 8,
    "benchmark_start": 9,
    "benchmark_results": 7,
    "benchmark": 12,
    "baselines": 4,
    "rivals": 5,
    "gain_set": 6,
    "workbench": 12,
    "same_start": 13,
    "fits": 1,
    "same_start_report": 6,
    "analysis": 13,
    "analysis_report": 6,
}

# Somebody with their own training loop can use these: they know torch and nothing of transformers.
TORCH_ONLY = ("confusion", "minimum", "objectives", "gain", "soft_gain", "gain_fidelity", "pair_distribution")
ECOSYSTEM = {"transformers", "datasets", "accelerate", "timm", "evaluate", "huggingface_hub"}

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
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
    here = room_of(path)
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


def modules_loaded_by(statement: str) -> set[str]:
    """The top-level names in sys.modules after a fresh interpreter ran `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(name.split('.')[0] for name in sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_every_module_has_a_floor():
    missing = sorted({room_of(path) for path in SOURCES} - FLOORS.keys())
    assert not missing, f"no floor for {', '.join(missing)}: add it to FLOORS in {Path(__file__).name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_lower_floors_only(path):
    if room_of(path) not in FLOORS:
        pytest.fail(f"{room_of(path)} has no floor: add it to FLOORS in {Path(__file__).name}")
    violations = floor_violations(path.read_text(encoding="utf-8"), path)
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from selmix_hf.trainer import SelMixTrainer", "gain (floor 3) imports trainer (floor 11)"),
        ("from .trainer import SelMixTrainer", "gain (floor 3) imports trainer (floor 11)"),
        ("def f():\n    import selmix_hf.sampling", "gain (floor 3) imports sampling (floor 3)"),
        ("from selmix_hf import plots", "gain (floor 3) imports plots (floor 5)"),
        ("from . import plots", "gain (floor 3) imports plots (floor 5)"),
        ("from selmix_hf import SelMixTrainer", "gain imports selmix_hf.SelMixTrainer: import from the module"),
        ("import selmix_hf", "gain imports selmix_hf: import from the module"),
    ],
)
def test_the_rule_catches_an_import_that_climbs(source, expected):
    (sentence,) = floor_violations(source, PACKAGE / "gain.py")
    assert sentence.startswith(expected)


def test_the_rule_lets_lower_floors_pass():
    source = "import torch\nfrom selmix_hf.confusion import confusion_matrix\nfrom . import __version__, objectives"
    assert floor_violations(source, PACKAGE / "gain.py") == []


@pytest.mark.parametrize("room", TORCH_ONLY)
def test_the_mathematics_knows_only_torch(room):
    path = PACKAGE / f"{room}.py"
    imported = {name.split(".")[0] for name in imported_names(path.read_text(encoding="utf-8"), path)}
    assert not imported & ECOSYSTEM, f"{room} imports {sorted(imported & ECOSYSTEM)}; it may know torch, not these"


def test_one_module_alone_knows_peft():
    knowing = {room_of(p) for p in SOURCES if "peft" in {n.split(".")[0] for n in imported_names(p.read_text(), p)}}
    assert knowing == {"lora"}


def test_loading_the_mathematics_loads_nothing_of_the_ecosystem():
    loaded = modules_loaded_by("\n".join(f"import selmix_hf.{room}" for room in TORCH_ONLY))
    assert not loaded & ECOSYSTEM, f"importing {', '.join(TORCH_ONLY)} loads {sorted(loaded & ECOSYSTEM)}"


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


def test_the_trainer_stays_thin():
    lines = len((PACKAGE / "trainer.py").read_text(encoding="utf-8").splitlines())
    assert lines < 400, f"trainer.py has {lines} lines; it stays under 400: move a part to a room of its own"
