"""Where the plugin library is looked for, and what is said of one that is missing or does not fit."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from plugins import loader
from plugins.loader import OPERATORS_VERSION, PluginLibraryError, library_path, register
from tests.plugins import rtx
from tests.plugins.compiling import compile_plain


class Registry:
    """A plugin registry that takes a library at its word, or refuses it as TensorRT does: without an exception."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.loaded: list[str] = []
        self.all_creators: list[SimpleNamespace] = []

    def load_library(self, path: str) -> None:
        self.loaded.append(path)
        if not self.refuses:
            names = ("MaskRcnnNms", "PyramidRoiAlign")
            self.all_creators += [SimpleNamespace(name=name, plugin_namespace="maskrcnn") for name in names]


def tensorrt(registry: Registry, version: str = "11.1.0.106") -> ModuleType:
    module = ModuleType("tensorrt")
    module.__dict__.update(__version__=version, get_plugin_registry=lambda: registry)
    return module


def library(path: Path, *, operators: int = OPERATORS_VERSION, compiled_for: int = 110100) -> Path:
    """A shared library that only tells its versions."""
    return compile_plain(
        f'extern "C" int maskline_plugins_operators_version() {{ return {operators}; }}\n'
        f'extern "C" int maskline_plugins_tensorrt_version() {{ return {compiled_for}; }}\n',
        path,
    )


def use_library(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("MASKLINE_PLUGIN_LIBRARY", str(path))


def test_the_library_is_in_the_build_folder_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASKLINE_PLUGIN_LIBRARY", raising=False)
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "loader.py"))
    built = tmp_path / "build" / "libmaskline_plugins.so"
    built.parent.mkdir()
    built.touch()
    assert library_path() == built
    (tmp_path / "other.so").touch()
    use_library(monkeypatch, tmp_path / "other.so")
    assert library_path() == tmp_path / "other.so"


def test_a_missing_library_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MASKLINE_PLUGIN_LIBRARY", raising=False)
    monkeypatch.setattr(loader, "__file__", str(tmp_path / "loader.py"))
    with pytest.raises(PluginLibraryError, match=r"There is no .*build/libmaskline_plugins\.so\. .*make plugins$"):
        library_path()
    use_library(monkeypatch, tmp_path / "absent.so")
    with pytest.raises(PluginLibraryError, match=r"absent\.so \(MASKLINE_PLUGIN_LIBRARY\)\. Build it with: make"):
        register(tensorrt(Registry()))


def test_it_is_registered_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_library(monkeypatch, library(tmp_path / "fits.so"))
    registry = Registry()
    for _ in range(2):
        register(tensorrt(registry))
    assert registry.loaded == [str(tmp_path / "fits.so")]


def test_plugins_that_are_there_need_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_library(monkeypatch, tmp_path / "absent.so")
    registry = Registry()
    registry.load_library("by somebody else")
    register(tensorrt(registry))


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        ({"operators": OPERATORS_VERSION + 1}, r"has version 2 of Maskline's operators, and this is version 1\. Build"),
        ({"compiled_for": 101300}, r"was built for TensorRT 10, and TensorRT 11\.1\.0\.106 is installed\. Build it"),
    ],
    ids=["other operators", "other TensorRT"],
)
def test_a_library_of_another_version_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, versions: dict[str, int], sentence: str
) -> None:
    use_library(monkeypatch, library(tmp_path / "other.so", **versions))
    registry = Registry()
    with pytest.raises(PluginLibraryError, match=sentence) as error:
        register(tensorrt(registry))
    assert "make plugins" in str(error.value)
    assert registry.loaded == []


def test_another_minor_version_of_tensorrt_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_library(monkeypatch, library(tmp_path / "fits.so", compiled_for=101300))
    registry = Registry()
    register(tensorrt(registry, "10.7.0"))
    assert registry.loaded


def test_a_library_of_something_else_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_library(monkeypatch, compile_plain('extern "C" int answer() { return 42; }', tmp_path / "strange.so"))
    with pytest.raises(PluginLibraryError, match=r"strange\.so is not a library of Maskline's plugins.*make plugins"):
        register(tensorrt(Registry()))


def test_a_file_that_is_no_library_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    use_library(monkeypatch, tmp_path / "text.so")
    with pytest.raises(PluginLibraryError, match=r"text\.so cannot be loaded: .*make plugins"):
        register(tensorrt(Registry()))


def test_a_refusal_of_tensorrt_s_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_library(monkeypatch, library(tmp_path / "fits.so"))
    with pytest.raises(PluginLibraryError, match=r"did not load .*fits\.so; its log says why"):
        register(tensorrt(Registry(refuses=True)))


def test_the_built_library_goes_into_nvidia_s_registry(tmp_path: Path) -> None:
    rtx.require_rtx()
    rtx.require_library()
    code = (
        "import tensorrt\n"
        "from plugins.loader import register\n"
        "register(tensorrt); register(tensorrt)\n"
        "creators = tensorrt.get_plugin_registry().all_creators\n"
        "print(*sorted(c.name for c in creators if c.plugin_namespace == 'maskrcnn'))"
    )
    done = rtx.run_python(tmp_path, "-c", code)
    assert done.stdout.split() == ["MaskRcnnNms", "PyramidRoiAlign"], done.stderr
