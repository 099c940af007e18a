"""Rules that no linter has: size of modules, number of parameters, names.

`python tests/house.py` lists what breaks them, `python tests/house.py --count` how much of it each package has.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from surroundings import REPOSITORY

ROOTS = ("geopipe", "tests", "bench")
PARTICIPLES = frozenset(("told", "found", "made", "asked", "wanted", "said", "given"))
MOST_LINES = 400
MOST_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(*roots: str) -> dict[Path, ast.Module]:
    """The parsed modules below some folders of the repository, by their path in it."""
    paths = sorted(path for root in roots for path in (REPOSITORY / root).rglob("*.py"))
    return {path.relative_to(REPOSITORY): parsed(path) for path in paths}


def long_modules() -> Iterator[str]:
    """Modules of geopipe with more lines than a reader keeps in mind."""
    for path in modules("geopipe"):
        lines = len((REPOSITORY / path).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{path}: {lines} lines"


def is_compiled(function: Function) -> bool:
    """Whether numba compiles the function: its parameters are arrays and scalars, which no value can carry."""
    return any(re.search(r"jit|compiled", ast.unparse(decorator)) for decorator in function.decorator_list)


def is_command(function: Function) -> bool:
    """Whether click calls the function: its parameters are the options that a user sees."""
    return any(".command" in ast.unparse(decorator) for decorator in function.decorator_list)


def long_signatures() -> Iterator[str]:
    """Functions of geopipe with more parameters than a call can show; a frozen value carries what belongs together."""
    for path, tree in modules("geopipe").items():
        for node in ast.walk(tree):
            if not isinstance(node, Function) or is_compiled(node) or is_command(node):
                continue
            parameters = names_of_parameters(node)
            count = len(parameters) - (parameters[:1] in (["self"], ["cls"]))
            if count > MOST_PARAMETERS:
                yield f"{path}:{node.lineno}: {node.name} has {count} parameters"


def names_of_parameters(node: Function | ast.Lambda) -> list[str]:
    """All parameters in the order of the signature."""
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [one.arg for one in (*named, arguments.vararg, arguments.kwarg) if one]


def names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The variables, parameters, fields and attributes that a module binds, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, Function | ast.Lambda):
            yield from ((node.lineno, name) for name in names_of_parameters(node))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield 0, node.asname


def participles() -> Iterator[str]:
    """Names that say what was done to a value, not what it is."""
    for path, tree in modules(*ROOTS).items():
        for line, name in names(tree):
            if name in PARTICIPLES:
                yield f"{path}:{line}: {name}"


def full_tables_of_contents() -> Iterator[str]:
    """Packages whose `__init__` holds more than a docstring. The one of geopipe itself is the face in Python."""
    for path, tree in modules("geopipe").items():
        if path.name == "__init__.py" and path.parts != ("geopipe", "__init__.py"):
            extra = [node for node in tree.body if not is_docstring(node)]
            if extra or not tree.body:
                yield f"{path}: {'more than' if extra else 'no'} docstring"


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a text alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def twin_classes() -> Iterator[str]:
    """Public classes that share their name with another."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules("geopipe").items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    for name, where in places.items():
        if len(where) > 1:
            yield f"{where[0]}: {name} is also in {', '.join(where[1:])}"


def private_parts_of_ray() -> Iterator[str]:
    """Imports of what Ray may change with any release, outside of the module that does without them."""
    for path, tree in modules("geopipe").items():
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if re.match(r"ray\..*\b_", f"{name}.") and path.name != "internals.py":
                    yield f"{path}:{node.lineno}: {name}"


RULES = {
    "modules over 400 lines": long_modules,
    "functions with more than six parameters": long_signatures,
    "participles as names": participles,
    "packages with more than a docstring": full_tables_of_contents,
    "classes of one name": twin_classes,
    "private parts of Ray": private_parts_of_ray,
}


def room(offender: str) -> str:
    """The folder of an offender, or its module where it is no package's."""
    parts = Path(offender.split(":")[0]).parts
    return "/".join(parts[:2]) if len(parts) > 2 else "/".join(parts)


def main() -> None:
    """Print the offenders, or with --count how many there are in each room."""
    for rule, offenders in RULES.items():
        lines = list(offenders())
        print(f"{rule}: {len(lines)}")
        if "--count" in sys.argv:
            lines = [", ".join(f"{place} {count}" for place, count in sorted(Counter(map(room, lines)).items()))]
        print(*(f"  {line}" for line in lines if line), sep="\n")


if __name__ == "__main__":
    main()
