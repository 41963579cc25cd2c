"""The tree as a whole: who imports whom, what imports TensorFlow, and what the wheel holds."""

import ast
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tfgan_mnist

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfgan_mnist"

# Imports go down: to a lower level, or to the same room. The configuration and the models share
# `models.rules`.
LEVELS = (
    "errors",
    "files",
    "models.rules",
    "cli config flags runs",
    "data",
    "models",
    "evaluation",
    "exports",
    "training serving",
    "notebook",
    "__init__ __main__",
    "train generate evaluate export serve train_classifier",
)
COMMANDS, SHARED = LEVELS[-1].split(), LEVELS[3].split()
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names.split()}

# tensorflow_datasets/url_checksums/mnist.txt
ARCHIVES = {
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
}


def module_name(path):
    """tfgan_mnist/models/gan.py -> models.gan; a package's __init__.py -> the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def place_of(module):
    """The module's own name, or that of its room, as LEVELS has it."""
    return module if module in LEVEL_OF else module.partition(".")[0]


def imports_of(module):
    """Our modules that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for source, name in names:
            if source.split(".")[0] != "tfgan_mnist":
                continue
            source = source.removeprefix("tfgan_mnist").removeprefix(".")
            member = f"{source}.{name}".strip(".")
            if member in MODULES:
                yield member
            elif member != "__version__":  # which is there before anything is imported
                yield source or "__init__"


def everything_imported_by(module):
    found, left = set(), [module]
    while left:
        for imported in imports_of(left.pop()):
            if imported not in found:
                found.add(imported)
                left.append(imported)
    return found


def run_python(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def loaded_by(script, *arguments):
    """Which of the slow libraries are loaded when `script` has run."""
    report = (
        "import atexit, sys\n"
        "slow = ('tensorflow', 'keras', 'tensorflow_datasets', 'matplotlib')\n"
        "atexit.register(lambda: print('loaded:', *(m for m in slow if m in sys.modules)))\n"
    )
    done = run_python("-c", report + script, *arguments)
    assert done.returncode == 0, done.stderr
    *output, loaded = done.stdout.splitlines()
    assert loaded.startswith("loaded:")
    return loaded.split()[1:], "\n".join(output)


# The direction of imports


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    place = place_of(module)
    assert place in LEVEL_OF, "add it to LEVELS above"
    others = [name for name in imports_of(module) if place_of(name) != place]
    if place in SHARED:  # what every command shares
        others = [name for name in others if name not in SHARED]
    if place in COMMANDS:
        others = [name for name in others if name not in COMMANDS]
    wrong = [name for name in others if LEVEL_OF[place_of(name)] >= LEVEL_OF[place]]
    assert wrong == [], f"{module} may import only its own room and what is below it in LEVELS"


def test_models_and_data_do_not_depend_on_the_command_line():
    for module in MODULES:
        if place_of(module) in ("data", "models"):
            assert not {"config", "cli", "runs"} & set(imports_of(module)), module


def test_serve_imports_no_model_code():
    # An export is self-sufficient.
    loaded = everything_imported_by("serve")
    assert [name for name in loaded if place_of(name) in ("models", "training")] == []


# What stays quick


@pytest.mark.parametrize("module", ["tfgan_mnist", "tfgan_mnist.config", "tfgan_mnist.runs"])
def test_import_without_tensorflow(module):
    assert loaded_by(f"import {module}\n") == ([], "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_without_tensorflow(command):
    script = f"import runpy\nrunpy.run_module('tfgan_mnist.{command}', run_name='__main__')\n"
    loaded, output = loaded_by(script, "--help")
    assert loaded == []
    assert f"python -m tfgan_mnist.{command}" in output


def test_the_models_are_imported_at_first_use():
    from tfgan_mnist.models.dcgan import DCGAN

    assert tfgan_mnist.DCGAN is DCGAN
    assert set(tfgan_mnist.__all__) <= set(dir(tfgan_mnist))
    with pytest.raises(AttributeError, match="no attribute 'WGAN'"):
        _ = tfgan_mnist.WGAN


# What ships


def test_the_archives_are_the_original_ones():
    folder = PACKAGE / "assets" / "mnist"
    for name, checksum in ARCHIVES.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum, name


def test_the_wheel_holds_the_package_and_works_elsewhere(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "tfgan_mnist", ignore=shutil.ignore_patterns("__pycache__"))
    # Without isolation, as the tests must not need a package index; TensorFlow brings setuptools.
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    done = run_python("-m", "pip", "wheel", "--quiet", *options, source)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"tfgan_mnist-{tfgan_mnist.__version__}-py3-none-any.whl"

    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    packed = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    expected = {
        path.relative_to(ROOT)
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.name.startswith(".")
    }
    metadata = Path(f"tfgan_mnist-{tfgan_mnist.__version__}.dist-info")
    assert {path for path in packed if path.parts[0] != metadata.name} == expected
    assert {"LICENSE", "NOTICE"} <= {path.name for path in packed - expected}

    empty = tmp_path / "empty"
    empty.mkdir()
    script = "import tfgan_mnist.config; print(tfgan_mnist.__file__)"
    done = run_python("-c", script, cwd=empty, PYTHONPATH=str(site))
    assert Path(done.stdout.strip()) == site / "tfgan_mnist" / "__init__.py", done.stderr
