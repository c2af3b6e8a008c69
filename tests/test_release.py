"""The parts of a release agree with each other."""

import hashlib
import inspect
import re
import tomllib
from pathlib import Path

import yaml

import bilevel as bl

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_is_of_this_version_and_license():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["message"] and CITATION["authors"] and CITATION["title"] == PROJECT["name"]
    assert (CITATION["version"], CITATION["license"]) == (PROJECT["version"], PROJECT["license"])
    for paper in CITATION["references"]:
        assert paper["type"] in ("article", "conference-paper")
        assert all(author["given-names"] and author["family-names"] for author in paper["authors"])


def test_the_package_says_its_version():
    assert bl.__version__ == PROJECT["version"]
    assert not re.search(re.escape(PROJECT["version"]), (ROOT / "bilevel/__init__.py").read_text())


def test_the_license_is_the_published_text():
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # as its authors publish it
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == published


def test_every_solvers_paper_is_cited():
    cited = {name: [] for name in bl.SOLVERS}
    for paper in CITATION["references"]:
        for name in paper["notes"].removeprefix("Solvers: ").split(", "):
            cited[name].append(paper)
    for name, solver in bl.SOLVERS.items():
        reference = " ".join((inspect.getdoc(solver) or "").partition("Reference: ")[2].split())
        quoted = re.findall(r'"([^"]*)"', reference.partition("Differences")[0])
        titles = [paper["title"].lower() for paper in cited[name]]
        assert quoted and len(quoted) == len(titles), name
        for title in quoted:
            (paper,) = (paper for paper in cited[name] if paper["title"].lower().startswith(title.lower().rstrip(",")))
            authors = reference.partition(f'"{title}"')[0]
            assert all(author["family-names"] in authors for author in paper["authors"]), (name, authors)


def test_the_readmes_table_has_every_solver():
    rows = re.findall(r"^\| (`.*?) \| (`.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    names, classes = ([word for row in rows for word in re.findall(r"`([^`]+)`", row[i])] for i in (0, 1))
    assert dict(zip(names, classes, strict=True)) == {name: made.__name__ for name, made in bl.SOLVERS.items()}
