"""docs/backprop.md and the code name each other rightly."""

import importlib
import inspect
import re
from functools import reduce
from pathlib import Path

import pytest

DOC = (Path(__file__).parents[2] / "docs" / "backprop.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`pipeline/nn/(\w+)\.py: ([\w.]+)`", DOC)))
PATHS = sorted(set(re.findall(r"`((?:pipeline|tests|conf)/[\w/]+\.\w+)", DOC)))


@pytest.mark.parametrize(("module", "name"), NAMED, ids=".".join)
def test_function_named_in_the_doc_exists(module, name):
    assert callable(reduce(getattr, name.split("."), importlib.import_module(f"pipeline.nn.{module}")))


@pytest.mark.parametrize("path", [path for path in PATHS if "/nn/" in path])
def test_file_named_in_the_doc_exists(path):
    assert (Path(__file__).parents[2] / path).is_file()


def test_doc_names_every_function_of_the_mathematics():
    functions = importlib.import_module("pipeline.nn.functions")
    public = {name for name, value in inspect.getmembers(functions, inspect.isfunction)}
    assert public <= {name for module, name in NAMED if module == "functions"}


def test_doc_has_no_unbalanced_display_equation():
    assert DOC.count("$$") % 2 == 0
    assert DOC.count("$$") > 20
