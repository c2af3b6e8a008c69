"""Solvers and settings written as text: `soba[upper_step=0.1,1]`, `adjoint=ConjugateGradient(steps=5)`."""

import ast
import re
from collections.abc import Callable, Iterable
from typing import Any

import optax

from bilevel import hypergradients
from bilevel.hypergradients.adjoint import AbstractAdjoint
from bilevel.hypergradients.lower import AbstractLower
from bilevel.solvers.epoch_sgd import EpochSGD
from bilevel.steps import Rule, inverse_power

# what a value may call: schedules, step rules, and the methods that are parts of solvers
_CALLED: dict[str, Callable[..., Any]] = {"EpochSGD": EpochSGD, "Rule": Rule, "inverse_power": inverse_power} | {
    name: value
    for name, value in vars(hypergradients).items()
    if isinstance(value, type) and issubclass(value, AbstractAdjoint | AbstractLower)
}
_WORDS: dict[str, Any] = {**_CALLED, "optax": optax}


class _IsTextError(Exception):
    """The text is no value."""


def value(text: str) -> Any:
    """The value that a text stands for: a Python literal, a call of a method or schedule of `bilevel`, or the text.

    Example:

        >>> from bilevel.solvers._text import value
        >>> value("1e-2"), value("fashion-mnist"), value("ConjugateGradient(steps=5)").steps
        (0.01, 'fashion-mnist', 5)
    """
    text = text.strip()
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, _IsTextError):
        return text


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # it is no literal
        pass
    if isinstance(node, ast.Call):
        called = _word(node.func)
        if any(keyword.arg is None for keyword in node.keywords):
            raise _IsTextError
        keywords = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        try:
            return called(*map(_value, node.args), **keywords)
        except TypeError as error:
            raise TypeError(f"{ast.unparse(node)}: {error}") from error
    if isinstance(node, ast.Attribute):  # a name alone is text
        return _word(node)
    raise _IsTextError


def _word(node: ast.expr) -> Any:
    """A name of `_WORDS`, or an attribute of one: `inverse_power`, `bl.Rule`, `optax.adam`, `EpochSGD.plain`."""
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        if isinstance(node.value, ast.Name) and node.value.id in ("bl", "bilevel"):
            return _word(ast.Name(node.attr))
        found = getattr(_word(node.value), node.attr, None)
        if callable(found):
            return found
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    raise _IsTextError


def pieces(text: str) -> list[str]:
    """The parts between the commas that stand in no brackets.

    Example:

        >>> from bilevel.solvers._text import pieces
        >>> pieces("soba[upper_step=0.1,1],aid")
        ['soba[upper_step=0.1,1]', 'aid']
    """
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1][-1:].isalnum():  # no apostrophe
            quote = letter
        if not quote:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def divided(argument: str, text: str) -> tuple[str, dict[str, list[str]]]:
    """`NAME[SETTING=VALUE,VALUE,…,SETTING=…]` as the name and the values of each setting, as texts.

    Example:

        >>> from bilevel.solvers._text import divided
        >>> divided("solver", "soba[upper_step=0.1,1,lower_step=0.5]")
        ('soba', {'upper_step': ['0.1', '1'], 'lower_step': ['0.5']})
    """
    found = re.fullmatch(r"(.*?\.py:\w+|[^\[\]]*)(?:\[(.*)\])?", text.strip(), re.DOTALL)
    wanted = ValueError(f"{argument}: got {text!r}; write it as NAME[SETTING=VALUE,SETTING=VALUE], or without brackets")
    if found is None:
        raise wanted
    values: dict[str, list[str]] = {}
    for piece in [] if found[2] is None else pieces(found[2]):
        name, given = re.findall(r"^(?:(\w+)\s*=(?!=))?\s*(.*)", piece, re.DOTALL)[0]
        if name in values:
            raise ValueError(f"{argument}: got {text!r}, which names {name} twice; write its values one after another")
        if not given or not (name or values):
            raise wanted
        values.setdefault(name or [*values][-1], []).append(given)
    return found[1], values


def assignments(argument: str, texts: Iterable[str]) -> dict[str, Any]:
    """`key=value` texts as a dictionary.

    Example:

        >>> from bilevel.solvers._text import assignments
        >>> assignments("set", ["inner_steps=5", "dataset=mnist"])
        {'inner_steps': 5, 'dataset': 'mnist'}
    """
    parsed = {}
    for text in texts:
        name, separator, given = text.partition("=")
        if not separator or not name.strip():
            raise ValueError(f"{argument}: got {text!r}; write it as key=value")
        parsed[name.strip()] = value(given)
    return parsed
