"""What the repository promises about itself: one list of dependencies, a complete model, small files."""

import ast
import pkgutil
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml

import p2p_helpers as p2p
from p2p_helpers import pipelines
from p2p_helpers.paths import data_folder

ROOT = Path(__file__).parent.parent


def test_environment_yml_and_pyproject_agree():
    text = (ROOT / "environment.yml").read_text()
    conda = dict(
        re.match(r"([a-z0-9_-]+)(?:>=(.+))?", d).groups()
        for d in yaml.safe_load(text)["dependencies"]
    )
    for name in ("python", "pip"):
        conda.pop(name)
    conda["torch"] = conda.pop("pytorch")
    wanted = {}
    for line in requires("p2p-helpers"):
        name, bound, extra = re.match(
            r'([A-Za-z0-9_-]+)(?:\[\w+\])?(?:>=([\d.]+))?(?:; extra == ["\'](\w+)["\'])?', line
        ).groups()
        if extra in (None, "notebooks", "photos"):
            wanted[name] = bound
    assert conda == wanted
    for line in text.split("dependencies:")[1].strip().splitlines():
        assert re.search(r"#\s+\w+", line), f"environment.yml gives no reason for: {line}"


def test_shipped_files_are_small():
    folder = data_folder("toyland")
    total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert total <= 55e6  # two models


def copy_of_model(folder: Path) -> Path:
    return Path(shutil.copytree(data_folder("toyland"), folder / "toyland"))


def test_damaged_and_missing_weights_are_named(tmp_path, monkeypatch):
    folder = copy_of_model(tmp_path)
    monkeypatch.setattr(pipelines, "data_folder", lambda name: folder)
    weights = folder / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(p2p.ModelError, match="damaged.*git checkout"):
        p2p.load_pipeline("toyland")
    weights.unlink()
    with pytest.raises(p2p.ModelError, match="missing.*git checkout"):
        p2p.load_pipeline("toyland")


def test_unknown_model_names_say_what_there_is():
    with pytest.raises(p2p.ModelError, match='"toyland".*owner/name'):
        p2p.load_pipeline("toylnd")


def test_an_unreachable_hub_names_the_offline_choices(monkeypatch):
    def unknown_host(*args, **kwargs):
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unknown_host)
    with pytest.raises(p2p.ModelError, match='use "toyland"'):
        p2p.load_pipeline("nobody/nothing-of-this-name")


def test_a_users_type_checker_reads_the_annotations():
    """`make test` runs mypy over the package and tests/public.py."""
    assert (Path(p2p.__file__).parent / "py.typed").exists()


def test_the_changelog_has_this_version():
    assert f"\n## {p2p.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_public_name_is_hidden_by_a_module_of_that_name():
    assert not {module.name for module in pkgutil.iter_modules(p2p.__path__)} & set(p2p.__all__)


def test_importing_the_package_loads_nothing_heavy_and_editing_nothing_that_draws():
    code = """if True:
        import sys, p2p_helpers as p2p
        print([m for m in ("torch", "numpy", "PIL") if m in sys.modules])
        p2p.edit, p2p.invert, p2p.record
        print([m for m in ("matplotlib", "ipywidgets", "ray", "pyarrow") if m in sys.modules])
        p2p.show, p2p.Page"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split("\n")[:2] == ["[]", "[]"]
    assert set(p2p.__all__) <= set(dir(p2p))


def _opens(path: Path):
    """The calls in a file that read or write text, as (line, names of their arguments)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "read_text",
            "write_text",
        ):
            yield node.lineno, {keyword.arg for keyword in node.keywords}


def test_texts_are_utf_8_on_every_system():
    """Windows would take another character set. Training is not run there, nor are Linux's tables read."""
    package = Path(p2p.__file__).parent
    files = [path for path in package.rglob("*.py") if "training" not in path.parts]
    files = [path for path in files if path.name not in ("check.py", "memory.py")]
    calls = {(path.name, line): named for path in files for line, named in _opens(path)}
    assert len(calls) > 10
    assert [where for where, named in calls.items() if "encoding" not in named] == []
