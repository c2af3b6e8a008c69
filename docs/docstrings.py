"""For the API pages: docstrings as Markdown, their examples as fenced code."""

import re

import griffe

STAR = re.compile(r"(?<=\w)\*(?!\*)")  # of y*(x), which is no emphasis


class Examples(griffe.Extension):
    """Griffe's Google style wants a section "Examples"; ours are indented doctests below `Example:` or a sentence."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text):
    """The text with each indented doctest between fences, apart from the line before it, and its stars escaped."""
    lines, inside = [], False
    for line in text.split("\n"):
        if not inside and line.startswith("    >>> "):
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.startswith("    "):
            lines += ["```"] + ([""] if line.strip() else [])
            inside = False
        if inside:
            lines.append(line.removeprefix("    "))
        else:
            lines.append(line if line.startswith("    ") else without_emphasis(line))
    return "\n".join(lines + (["```"] if inside else []))


def without_emphasis(line):
    """The line with the stars after letters escaped, but in code."""
    parts = line.split("`")
    return "`".join(part if i % 2 else STAR.sub(r"\\*", part) for i, part in enumerate(parts))
