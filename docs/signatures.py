"""The signatures of Equinox modules on the pages: their fields, with the defaults as they stand in the source."""

import ast
import importlib
import inspect
import textwrap

import equinox as eqx
import griffe


def fields(cls: type) -> dict[str, tuple[str, str | None]] | None:
    """Name ↦ the annotation and the default, or None, of each argument; None for a class with an `__init__` of its own.

    Example: for `bl.F2SA`, {"upper_step": ("Step", None), …, "inner_steps": ("int", "1")}.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("bilevel"):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return None
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[node.target.id] = ast.unparse(node.annotation), _default(node.value)
    return {name: found[name] for name in inspect.signature(cls).parameters}


def _default(value: ast.expr | None) -> str | None:
    """Of `int = 3` or of `int = count(default=3)`."""
    if isinstance(value, ast.Call):
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), None)
    return None if value is None else ast.unparse(value)


class Signatures(griffe.Extension):
    def on_class_members(self, *, cls: griffe.Class, **_: object) -> None:
        found = getattr(importlib.import_module(cls.module.path), cls.name, None)
        if not (isinstance(found, type) and issubclass(found, eqx.Module)) or inspect.isabstract(found):
            return
        arguments = fields(found)
        if arguments is None:
            return
        kind = griffe.ParameterKind.positional_or_keyword
        parameters = [griffe.Parameter("self", kind=kind)]
        for name, (annotation, default) in arguments.items():
            parameters.append(griffe.Parameter(name, annotation=annotation, kind=kind, default=default))
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*parameters)))
