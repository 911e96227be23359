"""The registry and what fills it: built-in tools, entry points, modules of TERTULIA_PLUGINS; and their mistakes."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from domain.models import Model
from domain.tools import ToolSource
from providers.chat import Provider
from tertulia import Registry, Settings, SettingsError, load_settings, tool
from tertulia.catalogue import configured_providers, with_default
from tertulia.plugins import load_registry

GREETER = '''
from tertulia import Registry, tool

@tool
async def greet(name: str) -> str:
    """Greet somebody."""
    return f"Good morning, {name}."

def setup(registry: Registry) -> None:
    registry.add_tool(greet)
'''
BUILT_IN = ["complete_task", "create_task", "list_tasks"]
MODEL = Model(name="tiny", provider="acme", context_tokens=1_000)


@pytest.fixture(autouse=True)
def no_modules_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from its own folder is gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def plugin(name: str, text: str) -> Settings:
    """Settings with a plugin, which is a module in the folder where the server is started."""
    Path(f"{name}.py").write_text(text)
    return load_settings(plugins=(name,))


def mistake(settings: Settings) -> str:
    with pytest.raises(SettingsError) as caught:
        load_registry(settings)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


class Vectors:
    name, dimensions = "tiny-vectors", 2

    async def embed(self, texts: Any) -> list[list[float]]:
        return [[0.0, 1.0] for _ in texts]


def test_without_plugins_there_are_the_built_in_tools() -> None:
    tools = load_registry(load_settings()).tools
    assert sorted(tools) == BUILT_IN
    assert {made.source for made in tools.values()} == {ToolSource.BUILT_IN}


def test_a_module_in_the_working_folder_adds_its_tools_by_setup() -> None:
    tools = load_registry(plugin("greeter", GREETER)).tools
    assert sorted(tools) == sorted([*BUILT_IN, "greet"])
    assert tools["greet"].source is ToolSource.PLUGIN


def test_another_function_than_setup_is_named_behind_a_colon() -> None:
    Path("greeter_two.py").write_text(GREETER.replace("def setup", "def fill"))
    assert "greet" in load_registry(load_settings(plugins=("greeter_two:fill",))).tools


def test_an_installed_package_adds_its_tools_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "greeter_three", "greeter_three:setup")
    (tmp_path / "greeter_three.py").write_text(GREETER)
    monkeypatch.syspath_prepend(tmp_path)
    assert "greet" in load_registry(load_settings()).tools


def installed(folder: Path, package: str, target: str) -> None:
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tertulia.plugins]\n{package} = {target}\n")


# ── mistakes ──


def test_a_module_that_is_not_there_is_named_with_the_setting() -> None:
    sentence = mistake(load_settings(plugins=("nowhere.tools",)))
    assert sentence == "Importing the plugin 'nowhere.tools' of TERTULIA_PLUGINS failed: No module named 'nowhere'."


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import nowhere", "failed: No module named 'nowhere'."),
        ("1 / 0", "failed: ZeroDivisionError: division by zero."),
        ("def setup(:", "failed: SyntaxError: invalid syntax"),
        ("raise SystemExit('bye')", "failed: SystemExit: bye."),
        ("def setup(registry): raise ValueError('no luck\\nat all')", "failed: ValueError: no luck."),
        ("def setup(): ...", "failed: setup() takes 0 positional arguments but 1 was given."),
        ("def setup(registry): registry.add_tool(len)", "failed: what was added is no tool; decorate a function"),
        ("def setup(registry): registry.add_tool(3)", "failed: what was added is no tool; decorate a function"),
        (GREETER.replace('"""Greet somebody."""', ""), "failed: The tool greet has no docstring"),
        (GREETER.replace("def setup", "def fill"), "write `def setup(registry): registry.add_tool(...)` there"),
        ("setup = 3", "names is no function; write `def setup(registry)"),
    ],
)
def test_a_plugin_that_cannot_be_used_gives_one_sentence_with_the_cause(
    text: str, cause: str, request: pytest.FixtureRequest
) -> None:
    sentence = mistake(plugin(f"broken_{abs(hash(request.node.nodeid))}", text))
    assert "TERTULIA_PLUGINS" in sentence
    assert cause in sentence


def test_an_entry_point_that_cannot_be_used_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "greeter_four", "greeter_four:setup")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = mistake(load_settings())
    assert sentence.startswith("Importing the entry point 'greeter_four' of the package greeter_four failed: No module")


def test_two_tools_of_one_name_are_refused_with_both_origins() -> None:
    sentence = mistake(plugin("second", GREETER.replace("greet", "create_task")))
    assert sentence == (
        "The tool 'create_task' is added twice: by Tertulia itself and by the plugin 'second' of TERTULIA_PLUGINS; "
        "rename one of them."
    )


# ── what else a registry takes ──


def test_an_undecorated_function_becomes_a_tool() -> None:
    def greet(name: str) -> str:
        """Greet somebody."""
        return name

    registry = Registry()
    registry.add_tool(greet)
    assert registry.tools["greet"].description == "Greet somebody."


def test_any_object_that_is_a_tool_is_taken_as_it_is() -> None:
    made = tool(name="other")(_nothing)

    class Wrapped:
        def __getattr__(self, name: str) -> Any:
            return getattr(made, name)

    wrapped: Any = Wrapped()
    registry = Registry()
    registry.add_tool(wrapped)
    assert registry.tools["other"] is wrapped


def _nothing() -> None:
    """Does nothing."""


def test_a_plugins_providers_come_after_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    registry = Registry()
    registry.add_provider(Provider("acme", "http://127.0.0.1:1/v1", "", (MODEL,)))
    providers = with_default(configured_providers(load_settings(), registry.providers), None)
    assert [(p.name, [m.is_default for m in p.models]) for p in providers] == [("openai", [True]), ("acme", [False])]


def test_a_plugins_embedding_model_is_kept_under_its_name() -> None:
    registry, vectors = Registry(), Vectors()
    registry.add_embedding_model("tiny-vectors", vectors)
    assert registry.embedding_models == {"tiny-vectors": vectors}


@pytest.mark.parametrize(
    "add",
    [
        lambda registry: registry.add_tool(_nothing),
        lambda registry: registry.add_provider(Provider("acme", "http://127.0.0.1:1/v1", "", (MODEL,))),
        lambda registry: registry.add_embedding_model("tiny-vectors", Vectors()),
    ],
    ids=["tool", "provider", "embedding model"],
)
def test_a_name_is_taken_once(add: Callable[[Registry], None]) -> None:
    registry = Registry()
    with registry.filled_by("a", ToolSource.PLUGIN):
        add(registry)
    with registry.filled_by("b", ToolSource.PLUGIN), pytest.raises(SettingsError, match="twice: by a and by b"):
        add(registry)
