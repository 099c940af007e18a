"""What the documentation names exists: links, anchors, files, tests, settings, commands, options, make targets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import click
import pytest
from pages import NAMES, PAGES, anchors, blocks, inline_code, links, prose
from pydantic import BaseModel
from surroundings import REPOSITORY

from geopipe.cli import main
from geopipe.settings.model import Settings
from geopipe.settings.reference import markdown_reference

FOLDERS = ("geopipe", "tests", "bench", "cluster", "docs", "k8s", ".ci")
GUIDES = [name for name in NAMES if name != "CHANGELOG.md"]


def test_the_readme_has_less_than_150_lines() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) < 150


def test_the_table_of_architecture_names_every_package() -> None:
    first_cells = re.findall(r"^\| (.+?) \|", prose("ARCHITECTURE.md"), re.M)
    ground = re.search(r"^\| ground \| (.+) \|$", prose("ARCHITECTURE.md"), re.M)
    assert ground
    named = set(re.findall(r"`(\w+)", " ".join([*first_cells, ground[1]])))
    top = [path for path in (REPOSITORY / "geopipe").iterdir() if not path.stem.startswith("__")]
    assert named == {path.stem for path in top if path.suffix == ".py" or (path / "__init__.py").is_file()}


def test_the_index_names_every_page() -> None:
    targets = {target.partition("#")[0] for target in links("docs/README.md")}
    assert {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"} <= targets
    decisions = {path.name for path in (REPOSITORY / "docs/decisions").glob("*.md")} - {"README.md"}
    assert decisions <= set(links("docs/decisions/README.md"))


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    for link in links(page):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("page", GUIDES)
def test_files_and_tests_that_a_page_names_exist(page: str) -> None:
    for code in inline_code(page):
        path, _, function = code.partition("::")
        if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]*", path):
            assert (REPOSITORY / path).exists(), code
            assert f"def {function}" in (REPOSITORY / path).read_text() if function else True, code


def keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted keys of the settings; those of a list of tables without an index."""
    result = set()
    for name, info in model.model_fields.items():
        inner = [t for t in (info.annotation, *get_args(info.annotation)) if isinstance(t, type)]
        tables = [t for t in inner if issubclass(t, BaseModel)]
        result |= {prefix + name} | {key for table in tables for key in keys(table, f"{prefix}{name}.")}
    return result


KEYS = keys(Settings)
SECTIONS = "|".join(sorted({key.partition(".")[0] for key in KEYS if "." in key}))


@pytest.mark.parametrize("page", GUIDES)
def test_settings_that_a_page_names_exist(page: str) -> None:
    assert "merge.how" in KEYS
    assert "layers.path" in KEYS
    for code in inline_code(page):
        named = re.match(rf"(?P<key>({SECTIONS})\.\w+)(?: = .*)?$", code)
        assert not named or named["key"] in KEYS, code
    for block in blocks(page):
        for key in re.findall(rf"--set ((?:{SECTIONS})\.\w+)=", block.code):
            assert key in KEYS, f"{page}:{block.line}: {key}"


def commands(page: str) -> list[list[str]]:
    """The words behind `geopipe` wherever a page shows a command."""
    shell = "\n".join(block.code for block in blocks(page) if block.language in {"sh", "console"})
    lines = [line.partition(" #")[0].strip() for line in shell.splitlines()] + list(inline_code(page))
    matches = [re.match(r"(?:\$ )?geopipe ([a-z-].*?)(?:\||>|$)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


@pytest.mark.parametrize("page", GUIDES)
def test_commands_and_options_that_a_page_names_exist(page: str) -> None:
    for words in commands(page):
        command: click.Command = main.cli
        options = {o for p in command.params for o in p.opts} | {"--help"}
        rest = list(words)
        while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command = command.commands[rest.pop(0)]
            options |= {o for p in command.params for o in p.opts}
        assert {w.partition("=")[0] for w in rest if re.match(r"--?[a-z]", w)} <= options, words


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    names = []
    for name, command in group.commands.items():
        names += all_commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return names


@pytest.mark.parametrize("path", all_commands(main.cli), ids=" ".join)
def test_every_command_stands_in_a_page(path: tuple[str, ...]) -> None:
    assert any(words[: len(path)] == list(path) for page in GUIDES for words in commands(page))


def test_make_targets_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for page in GUIDES:
        text = Path(REPOSITORY / page).read_text()
        assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.M)) <= targets, page


def test_variables_of_the_environment_that_pages_name_are_read_somewhere() -> None:
    files = (
        p for f in ("geopipe", "tests", "cluster") for p in (REPOSITORY / f).rglob("*") if p.suffix in (".py", ".yaml")
    )
    sources = " ".join(path.read_text() for path in files)
    for path in PAGES:
        for name in set(re.findall(r"GEOPIPE_[A-Z_]+[A-Z]", path.read_text())) - {"GEOPIPE_SECTION__KEY"}:
            section, _, key = name.removeprefix("GEOPIPE_").lower().partition("__")
            assert f"{section}.{key}" in KEYS if key else name in sources, f"{path.name}: {name}"


def test_the_settings_page_ends_with_the_reference_of_the_models() -> None:
    page = (REPOSITORY / "docs/settings.md").read_text()
    assert page.rstrip().endswith(markdown_reference().rstrip()), "paste `geopipe config reference --format markdown`"
