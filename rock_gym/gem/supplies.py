"""What GEM's environments need beyond GEM itself: data sets, packages, words.

Data sets come from files inside the sandbox. For what is missing there is a message that names it
and says how to supply it. The guest has a copy of this file, so it leans on the standard library
alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["Unavailable", "check_data_set", "explain", "read_data_set"]

_EXTRAS = {
    "datasets": "data",
    "pyarrow": "data",
    "pylatexenc": "data",
    "english_words": "words",
    "pandas": "words",
}

_COLUMNS = ("question_key", "answer_key", "test_key")

_BROKEN = {
    "game:FifteenPuzzle-v0-random": (
        "it is registered without a size, which its constructor cannot do without; make it with "
        "num_rows= and max_turns=, or use game:FifteenPuzzle-v0-easy or -hard"
    ),
    "game:Crosswords-v0-random": (
        "it is registered with hardcore=None, and no word of its list is that; make it with "
        "hardcore=, or use game:Crosswords-v0-easy or -hard"
    ),
    "rg:composite": (
        "reasoning_gym's composite is made of other data sets, and GEM passes it no list of them; "
        "use the other rg: environments one by one"
    ),
}


class Unavailable(Exception):
    """Raised when an environment lacks something; the message says what and how to supply it."""


# Data sets


def check_data_set(gem_id: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse an environment whose data set would have to be downloaded.

    Args:
        gem_id: The environment.
        kwargs: What it is about to be made with.

    Raises:
        Unavailable: If its data set is neither given nor in Hugging Face's cache.
    """
    if "dataset_name" not in kwargs or kwargs.get("dataset") is not None:
        return
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    if not os.path.isdir(os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")):
        raise Unavailable(_no_data_set(gem_id, kwargs))


def _no_data_set(gem_id: str, kwargs: Mapping[str, Any]) -> str:
    columns = " and ".join(repr(kwargs[key]) for key in _COLUMNS if key in kwargs)
    return (
        f"{gem_id} asks from the data set {kwargs['dataset_name']!r}, which is not here and cannot "
        "be downloaded from inside a sandbox: pass dataset= with rows, or with the path of a JSON "
        f"or Parquet file, that have the columns {columns}"
    )


def read_data_set(path: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the rows of a file as a ``datasets.Dataset``.

    Args:
        path: A Parquet file, or one of JSON: a list of objects, or an object a line.
        kwargs: What the environment is made with: it names the columns that are needed.

    Raises:
        Unavailable: If there is no such file, or it is not such rows.
    """
    if not os.path.isfile(path):
        raise Unavailable(f"dataset={path!r}: there is no such file, here or in the sandbox")
    datasets: Any = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    try:
        if _is_parquet(path):
            table = importlib.import_module("pyarrow.parquet").read_table(path)
            rows = datasets.Dataset(datasets.table.InMemoryTable(table))
        else:
            rows = datasets.Dataset.from_list(_read_json(path))
    except (ValueError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"dataset=: these are not rows of a data set: {error}; needed are a list of JSON "
            "objects, a JSON object a line, or a Parquet file"
        ) from error
    missing = [
        kwargs[key] for key in _COLUMNS if key in kwargs and kwargs[key] not in rows.column_names
    ]
    if not len(rows):
        raise Unavailable("dataset= has no rows")
    if missing:
        raise Unavailable(
            f"dataset= lacks the columns {missing}; it has the columns {rows.column_names}"
        )
    return rows


def _is_parquet(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def _read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


# Explanations


def explain(gem_id: str, kwargs: Mapping[str, Any], error: BaseException) -> str | None:
    """Say what an environment lacks, and how to supply it, if that is why it failed.

    Args:
        gem_id: The environment.
        kwargs: What it was made with, GEM's registered arguments included.
        error: What was raised.
    """
    if isinstance(error, Unavailable):
        return str(error)
    if gem_id in _BROKEN and isinstance(error, (TypeError, ValueError, AssertionError)):
        return f"{gem_id} is broken in GEM itself: {_BROKEN[gem_id]}"
    module = _missing_module(error)
    if module is not None:
        return _no_module(gem_id, module)
    if isinstance(error, (LookupError, OSError)) and "corpora" in str(error):
        return (
            f"{gem_id} needs a dictionary of English words: install the package english-words for "
            f"{sys.executable} (pip install 'rock-gym[words]'), or have NLTK_DATA name a directory "
            "with NLTK's words corpus"
        )
    if "dataset_name" in kwargs and kwargs.get("dataset") is None and _is_from_hub(error):
        return _no_data_set(gem_id, kwargs)
    return None


def _no_module(gem_id: str, module: str) -> str:
    extra = _EXTRAS.get(module)
    supply = f"pip install 'rock-gym[{extra}]'" if extra else "pip install it"
    return f"{gem_id} needs the module {module}, which {sys.executable} has not: {supply}"


def _missing_module(error: BaseException | None) -> str | None:
    """Return the module that was not found. GEM raises an ImportError anew, as one of another."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def _is_from_hub(error: BaseException) -> bool:
    home = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, ValueError)) or home in ("datasets", "huggingface_hub")
