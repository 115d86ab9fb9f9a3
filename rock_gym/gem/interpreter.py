"""The Python that GEM runs on in sandboxes: found, installed, and made quick to start.

The host never imports GEM. It looks up whether the running interpreter could, else takes an
environment of its own in the user's cache, which ``install`` builds once.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs

from rock_gym.errors import EnvUnavailable
from rock_gym.gem.catalog import GEM_VERSION

__all__ = ["GuestPython", "find_guest_python", "guest_environment", "install"]

_log = logging.getLogger("rock_gym")

INSTALL_COMMAND = "rock-gym guest install"

REQUIREMENTS = (
    f"gem-llm=={GEM_VERSION}",
    "datasets>=3",
    "english-words>=2",
    "pandas>=2",
    "pylatexenc>=2.10",
)
# Minor versions of Python 3 that GEM's metadata allow, best first. Of 3.12 they allow only 3.12.0.
_MINORS = (11, 10)
_BUILT = ".complete"
_QUERY_S, _FILL_S = 60, 300

# What is said of an interpreter, by itself.
_QUERY = """
import importlib.util, json, os, site, sys
def home(name):
    spec = importlib.util.find_spec(name)
    return os.path.dirname(os.path.dirname(spec.origin)) if spec and spec.origin else None
print(json.dumps({
    "prefixes": [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix],
    "site_dirs": site.getsitepackages(), "gem": home("gem"), "msgspec": home("msgspec"),
    "tag": sys.implementation.cache_tag,
}))
"""

# Imports all that environments import, and more of it than any one of them needs.
FILL = """
import importlib, json, pkgutil, site, sys
for path in json.loads(sys.argv[1]):
    site.addsitedir(path)
import gem, gem.envs
names = [module.name for module in pkgutil.walk_packages(gem.envs.__path__, "gem.envs.")]
for name in [*names, "nltk.corpus", "english_words", "pandas", "datasets"]:
    try:
        importlib.import_module(name)
    except Exception:
        pass  # of what is not installed, there is nothing to compile
"""

# Packages whose bytecode tells whether the installer compiled the rest too.
_SAMPLE = ("gem", "reasoning_gym", "sympy", "matplotlib", "numpy", "msgspec")


@dataclass(frozen=True, slots=True)
class GuestPython:
    """An interpreter that can import GEM.

    Attributes:
        executable: Its path, the same inside.
        site_dirs: Where its packages are.
        read_only: Host directories that must be visible inside, at the same paths, beyond what an
            embedded sandbox shows in any case.
        cache: A directory of ours, among those, with bytecode and the like; None if there is none.
        nltk_data: Directories, among those, with a words corpus of the user's own.
        finds_packages: Whether it is left to find its packages by itself.
        remedy: What to do where a sandbox does not have it, if not to show what is ``read_only``.
    """

    executable: str
    site_dirs: tuple[str, ...]
    read_only: tuple[str, ...]
    cache: str | None
    nltk_data: tuple[str, ...] = ()
    finds_packages: bool = False
    remedy: str = ""


def find_guest_python(executable: str | None = None) -> GuestPython:
    """Return the interpreter for guests: the one named, the running one, or the one of our own.

    The first call for an interpreter may take some seconds: a cache of bytecode and fonts is made
    for it, which spares that time in each sandbox.

    Args:
        executable: An interpreter's path; None to choose.

    Raises:
        EnvUnavailable: If there is none that finds GEM; says how to install one.
    """
    found = _find(executable)
    corpora = tuple(
        path
        for path in os.environ.get("NLTK_DATA", "").split(os.pathsep)
        if os.path.isabs(path) and os.path.exists(os.path.join(path, "corpora", "words"))
    )
    if corpora:
        found = replace(found, nltk_data=corpora, read_only=(*found.read_only, *corpora))
    return found


@functools.cache
def _find(executable: str | None) -> GuestPython:
    if executable is not None:
        return _other(executable)
    running = _running()
    if running is not None:
        return running
    own = guest_environment() / "bin" / "python"
    if (guest_environment() / _BUILT).exists():
        return _other(str(own))
    raise EnvUnavailable(
        f"GEM is not installed for {sys.executable}: run `{INSTALL_COMMAND}` once, or name an "
        f"interpreter that has gem-llm {GEM_VERSION} by guest_python="
    )


def _running() -> GuestPython | None:
    gem, msgspec = _home_of("gem"), _home_of("msgspec")
    if gem is None or msgspec is None:
        return None
    site_dirs = [*site.getsitepackages(), gem, msgspec]
    if site.ENABLE_USER_SITE and site.USER_SITE:
        site_dirs.insert(0, site.USER_SITE)
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    found = _existing(site_dirs)
    outside = [path for path in found if not _is_below(path, prefixes)]
    tag = sys.implementation.cache_tag or "none"
    return _with_cache(sys.executable, found, outside, tag)


def _home_of(name: str) -> str | None:
    """Return the directory that a package would be imported from. Does not import it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    # A directory of that name that is no package, in the current directory say, has no origin.
    if spec is None or spec.origin is None:
        return None
    home = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
    is_gem = name != "gem" or os.path.exists(os.path.join(home, "gem", "envs", "registration.py"))
    return home if is_gem else None


def _other(executable: str) -> GuestPython:
    try:
        done = subprocess.run(
            [executable, "-I", "-c", _QUERY],
            capture_output=True,
            text=True,
            check=True,
            timeout=_QUERY_S,
        )
        facts: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EnvUnavailable(
            f"guest_python={executable!r} is no working Python: {error}"
        ) from error
    if facts["gem"] is None or facts["msgspec"] is None:
        raise EnvUnavailable(
            f"guest_python={executable!r} finds no GEM: run "
            f"`{executable} -m pip install gem-llm=={GEM_VERSION}`"
        )
    found = _existing([*facts["site_dirs"], facts["gem"], facts["msgspec"]])
    shown = _existing(facts["prefixes"])
    shown += [path for path in found if not _is_below(path, shown)]
    return _with_cache(os.path.abspath(executable), found, shown, facts["tag"])


def _existing(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path for path in paths if os.path.isdir(path)))


def _is_below(path: str, places: Sequence[str]) -> bool:
    return any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in (*places, "/usr"))


# The cache


def _with_cache(executable: str, site_dirs: list[str], shown: list[str], tag: str) -> GuestPython:
    cache = _cache(executable, site_dirs, tag)
    read_only = [path for path in shown if not _is_below(path, ())]
    if cache is not None:
        read_only.append(cache)
    return GuestPython(executable, tuple(site_dirs), tuple(read_only), cache)


def _cache(executable: str, site_dirs: list[str], tag: str) -> str | None:
    """Return a directory with bytecode and fonts, made if it is not there yet."""
    home = platformdirs.user_cache_path("rock-gym") / "guests"
    place = home / _key(executable, site_dirs, tag)
    if not place.exists():
        try:
            home.mkdir(parents=True, exist_ok=True)
            with _locked(home / f"{place.name}.lock"):
                if not place.exists():
                    _fill(place, executable, site_dirs, tag)
        except (OSError, subprocess.SubprocessError):
            # Guests are slower to start without, and that is all. What is wrong with this
            # interpreter, they will tell.
            return None
    return str(place)


def _key(executable: str, site_dirs: list[str], tag: str) -> str:
    """Name the state of an interpreter and its packages."""
    digest = hashlib.sha256(f"{os.path.realpath(executable)} {tag}".encode())
    for path in site_dirs:
        digest.update(path.encode())
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.name.endswith((".dist-info", ".egg-info", ".pth")):
                digest.update(f"{entry.name} {entry.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _fill(place: Path, executable: str, site_dirs: list[str], tag: str) -> None:
    made = Path(tempfile.mkdtemp(dir=place.parent))
    try:
        _log.info("preparing %s for guests, once; this takes a moment", executable)
        (made / "matplotlib").mkdir()
        for path in (made, made / "matplotlib"):
            # Sandboxes of root run as another user, who must be able to read it.
            path.chmod(0o755)
        options = ["-S", "-s"]
        if not all(_is_compiled(name, site_dirs, tag) for name in _SAMPLE):
            options += ["-X", f"pycache_prefix={made / 'bytecode'}"]
        # Of our own environment nothing: it may forbid to write bytecode.
        environ = {"PATH": os.defpath, "HOME": str(made), "MPLCONFIGDIR": str(made / "matplotlib")}
        subprocess.run(
            [executable, *options, "-c", FILL, json.dumps(site_dirs)],
            check=True,
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_FILL_S,
            umask=0o022,
        )
        made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _is_compiled(name: str, site_dirs: list[str], tag: str) -> bool:
    """Whether a package has bytecode beside it that is as new as its source."""
    for path in site_dirs:
        source = Path(path, name, "__init__.py")
        if source.exists():
            try:
                with (
                    source.with_name("__pycache__").joinpath(f"__init__.{tag}.pyc").open("rb") as f
                ):
                    header = f.read(16)
            except OSError:
                return False
            if header[4:8] != bytes(4):  # it is checked by its hash, or not at all
                return True
            facts = source.stat()
            stamp = int(facts.st_mtime) & 0xFFFFFFFF, facts.st_size & 0xFFFFFFFF
            return header[8:] == b"".join(part.to_bytes(4, "little") for part in stamp)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of this user see."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# An environment of our own


def guest_environment() -> Path:
    """Return where ``install`` puts its environment."""
    return platformdirs.user_cache_path("rock-gym") / f"guest-{GEM_VERSION}"


def install(python: str | None = None, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Build a virtual environment with GEM and all that its environments need, if there is none.

    Args:
        python: The interpreter to build it with; None to choose one that GEM supports.
        progress: Is told each line that the installer prints.

    Returns:
        The environment's interpreter.

    Raises:
        EnvUnavailable: If it cannot be built; carries the last output.
    """
    place = guest_environment()
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_suffix(".lock")):
        if not (place / _BUILT).exists():
            _run([python or _choose_python(), "-m", "venv", "--clear", str(place)], progress)
            built = str(place / "bin" / "python")
            pip = [built, "-m", "pip", "install", "--disable-pip-version-check"]
            _run([*pip, *_pip_options(built), *REQUIREMENTS], progress)
            (place / _BUILT).touch()
    _find.cache_clear()
    return place / "bin" / "python"


def _choose_python() -> str:
    """Return an interpreter that GEM supports, or the running one."""
    if sys.version_info[1] in _MINORS:
        return sys.executable
    found = (shutil.which(f"python3.{minor}") for minor in _MINORS)
    return next((path for path in found if path is not None), sys.executable)


def _pip_options(python: str) -> list[str]:
    code = f"import sys; sys.exit(sys.version_info[1] not in {_MINORS})"
    supported = subprocess.run([python, "-c", code], check=False).returncode == 0
    # GEM's metadata end at 3.12.0, its code does not.
    return [] if supported else ["--ignore-requires-python"]


def _run(command: list[str], progress: Callable[[str], None]) -> None:
    seen: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, umask=0o022
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            seen = [*seen[-50:], line]
            progress(line.rstrip())
    if process.returncode:
        raise EnvUnavailable(
            f"`{' '.join(command)}` failed with code {process.returncode}", output="".join(seen)
        )
