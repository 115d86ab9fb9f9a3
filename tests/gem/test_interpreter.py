"""Which Python guests run on, and the cache that makes them quick to start."""

from __future__ import annotations

import importlib.util
import os
import site
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import EnvUnavailable
from rock_gym.gem import interpreter
from rock_gym.gem.interpreter import find_guest_python, guest_environment, install
from rock_gym.gem.places import with_guest
from rock_gym.gem.worker import EnvConfig, lease_worker
from rock_gym.pool import SandboxPool
from rock_gym.spec import SandboxSpec
from tests.gem.local import STUB, LocalPool

GAME = "game:GuessTheNumber-v0-easy"


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    interpreter._find.cache_clear()
    yield
    interpreter._find.cache_clear()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill caches with a few modules instead of GEM."""
    code = "import json, os, xml.dom\nopen(os.environ['MPLCONFIGDIR'] + '/fonts', 'w')"
    monkeypatch.setattr(interpreter, "FILL", code)


@pytest.fixture
def shows_the_host(kind: str) -> str:
    """A backend whose sandboxes have the host's interpreters."""
    if kind == "docker":
        pytest.skip("an image brings its own interpreter")
    return kind


def compiled(cache: str | None) -> list[Path]:
    assert cache is not None
    return list(Path(cache, "bytecode").rglob("*.pyc"))


class TestFinding:
    def test_the_running_one_is_looked_up_and_not_imported(self) -> None:
        code = (
            "import sys; from rock_gym.gem.interpreter import find_guest_python\n"
            "print(find_guest_python().executable == sys.executable, 'gem' in sys.modules)"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == "True False\n"

    def test_it_is_visible_as_it_is_but_for_the_cache(self) -> None:
        """An embedded sandbox shows the running interpreter in any case."""
        python = find_guest_python()
        assert python.cache is not None
        assert python.cache in python.read_only
        spec = with_guest(SandboxSpec(read_only=("/opt",)))
        assert set(spec.read_only) == {"/opt", *python.read_only}

    def test_a_directory_called_gem_is_no_gem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
    ) -> None:
        (tmp_path / "gem").mkdir()
        (tmp_path / "gem" / "__init__.py").touch()
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(EnvUnavailable):
            find_guest_python()

    def test_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
        """It names the command that makes one."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(EnvUnavailable, match="rock-gym guest install"):
            find_guest_python()

    def test_the_one_of_our_own_is_next(
        self, monkeypatch: pytest.MonkeyPatch, own_cache: Path, quick_fill: None
    ) -> None:
        """Once it is complete."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        place = guest_environment()
        assert place.is_relative_to(own_cache)
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").symlink_to(sys.executable)
        with pytest.raises(EnvUnavailable, match="rock-gym guest install"):
            find_guest_python()
        (place / ".complete").touch()
        (place / "pyvenv.cfg").write_text(Path(sys.prefix, "pyvenv.cfg").read_text())
        (place / "lib").symlink_to(Path(sys.prefix, "lib"))
        assert find_guest_python().executable == str(place / "bin" / "python")

    @pytest.mark.parametrize("name", ["/no/such/python", "/bin/false", "/bin/echo"])
    def test_what_is_no_python(self, name: str) -> None:
        with pytest.raises(EnvUnavailable, match="no working Python"):
            find_guest_python(name)

    def test_a_python_without_gem(self, tmp_path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
        with pytest.raises(EnvUnavailable, match="pip install gem-llm"):
            find_guest_python(str(tmp_path / "v" / "bin" / "python"))

    def test_another_one_is_shown_and_used(self, tmp_path: Path, shows_the_host: str) -> None:
        """Even if its prefix lies where sandboxes show nothing."""
        place = tmp_path / "other"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
        site_dir = next(place.glob("lib/python3*/site-packages"))
        real = [path for path in find_guest_python().site_dirs if Path(path, "gem").exists()]
        (site_dir / "gem.pth").write_text("\n".join(real))
        executable = str(place / "bin" / "python")
        python = find_guest_python(executable)
        assert str(place) in python.read_only
        with SandboxPool.from_spec(
            with_guest(SandboxSpec(), executable), backend=shows_the_host
        ) as pool:
            worker = lease_worker(EnvConfig(GAME, guest_python=executable), pool)
            assert worker.reset(1)
            assert os.readlink(f"/proc/{worker.pid}/exe") == os.path.realpath(sys.executable)
            worker.close()

    def test_one_that_the_pool_does_not_show(
        self, tmp_path: Path, shows_the_host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error says what to make the pool with."""
        executable = str(tmp_path / "python")
        python = interpreter.GuestPython(executable, (), (str(tmp_path),), None)
        monkeypatch.setattr("rock_gym.gem.places.find_guest_python", lambda name: python)
        with (
            SandboxPool(backend=shows_the_host) as pool,
            pytest.raises(EnvUnavailable, match="read_only="),
        ):
            lease_worker(EnvConfig(GAME), pool)

    def test_a_corpus_of_the_users_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shows_the_host: str
    ) -> None:
        """NLTK_DATA names it, and its words are those of the games."""
        corpus = tmp_path / "nltk_data" / "corpora" / "words"
        corpus.mkdir(parents=True)
        (corpus / "en-basic").write_text("xyz\n")
        (corpus / "en").write_text("xyzzy\n")
        monkeypatch.setenv("NLTK_DATA", f"{tmp_path / 'nothing'}:{tmp_path / 'nltk_data'}")
        python = find_guest_python()
        assert python.nltk_data == (str(tmp_path / "nltk_data"),)
        with SandboxPool.from_spec(with_guest(SandboxSpec()), backend=shows_the_host) as pool:
            worker = lease_worker(EnvConfig("game:Wordle-v0-easy"), pool)
            worker.reset(1)
            assert "Congratulations" in worker.step("\\boxed{xyz}").observation
            worker.close()


@pytest.mark.usefixtures("own_cache", "quick_fill")
class TestCache:
    def test_it_is_made_once(self) -> None:
        cache = find_guest_python().cache
        assert cache is not None
        made = os.stat(cache).st_ino
        interpreter._find.cache_clear()
        assert find_guest_python().cache == cache
        assert os.stat(cache).st_ino == made

    def test_any_user_may_read_it(self) -> None:
        """Sandboxes of root run as another user."""
        before = os.umask(0o077)
        try:
            cache = find_guest_python().cache
        finally:
            os.umask(before)
        assert cache is not None
        for path in (Path(cache), *Path(cache).rglob("*")):
            assert path.stat().st_mode & (0o555 if path.is_dir() else 0o444) in (0o555, 0o444)

    def test_bytecode_is_kept_where_the_packages_have_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(interpreter, "_is_compiled", lambda *args: False)
        # What the user's environment says of bytecode is not for this one.
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        names = {path.name.partition(".")[0] for path in compiled(find_guest_python().cache)}
        assert "minidom" in names or "__init__" in names

    def test_no_bytecode_is_kept_where_they_have(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(interpreter, "_is_compiled", lambda *args: True)
        assert compiled(find_guest_python().cache) == []

    def test_many_at_once_make_one(self, own_cache: Path) -> None:
        code = "from rock_gym.gem import interpreter; print(interpreter.find_guest_python().cache)"
        patch = f"import rock_gym.gem.interpreter as i; i._FILL = {interpreter.FILL!r}; {code}"
        command = [sys.executable, "-c", patch]

        def find(_: int) -> str:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        with ThreadPoolExecutor(4) as threads:
            found = set(threads.map(find, range(8)))
        assert len(found) == 1
        places = [path for path in (own_cache / "rock-gym" / "guests").iterdir() if path.is_dir()]
        assert [f"{path}\n" for path in places] == list(found)

    def test_other_packages_are_another_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = Path(interpreter.platformdirs.user_cache_dir("x"), "site")
        (directory / "one-1.0.dist-info").mkdir(parents=True)
        first = interpreter._key(sys.executable, [str(directory)], "tag")
        (directory / "two-1.0.dist-info").mkdir()
        assert interpreter._key(sys.executable, [str(directory)], "tag") != first

    def test_a_fill_that_fails_is_no_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Guests are slower to start, and that is all. The next time it is tried again."""
        good = interpreter.FILL
        monkeypatch.setattr(interpreter, "FILL", "raise SystemExit(1)")
        assert find_guest_python().cache is None
        interpreter._find.cache_clear()
        monkeypatch.setattr(interpreter, "FILL", good)
        assert find_guest_python().cache is not None

    def test_a_cache_that_cannot_be_written_is_no_harm(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert find_guest_python().cache is None


class TestCompiled:
    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        source = tmp_path / "thing" / "__init__.py"
        source.parent.mkdir()
        source.write_text("x = 1\n")
        return source

    def is_compiled(self, package: Path) -> bool:
        tag = sys.implementation.cache_tag
        return interpreter._is_compiled("thing", [str(package.parents[1])], str(tag))

    @pytest.mark.parametrize("mode", ["timestamp", "checked-hash", "unchecked-hash"])
    def test_fresh(self, package: Path, mode: str) -> None:
        assert not self.is_compiled(package)
        command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", mode]
        subprocess.run([*command, str(package)], check=True)
        assert self.is_compiled(package)

    def test_stale(self, package: Path) -> None:
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
        package.write_text("x = 12\n")
        assert not self.is_compiled(package)
        os.utime(package, (1, 1))
        assert not self.is_compiled(package)

    def test_what_is_not_there_is_no_reason_to_compile(self, tmp_path: Path) -> None:
        assert interpreter._is_compiled("thing", [str(tmp_path)], "tag")


def test_bytecode_is_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests read it from the cache."""
    monkeypatch.setattr(interpreter, "_is_compiled", lambda *args: False)
    less = (
        "import json, site, sys\nfor path in json.loads(sys.argv[1]):\n    site.addsitedir(path)\n"
    )
    monkeypatch.setattr(interpreter, "FILL", f"{less}import gem")
    site_dirs = [STUB, *filter(os.path.isdir, site.getsitepackages())]
    tag = str(sys.implementation.cache_tag)
    python = interpreter._with_cache(sys.executable, site_dirs, [], tag)
    monkeypatch.setattr("rock_gym.gem.places.find_guest_python", lambda name: python)
    with LocalPool() as pool:
        worker = lease_worker(EnvConfig(GAME), pool)
        worker.reset(1)
        assert Path(worker.step("bytecode").observation) in compiled(python.cache)
        worker.close()


class TestInstall:
    @pytest.fixture
    def pip(self, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> list[list[str]]:
        """What would be run."""
        commands: list[list[str]] = []

        def run(command: list[str], progress: Any) -> None:
            commands.append(command)
            if "venv" in command:
                Path(command[-1], "bin").mkdir(parents=True)
                Path(command[-1], "bin", "python").symlink_to(sys.executable)

        monkeypatch.setattr(interpreter, "_run", run)
        return commands

    def test_it_is_built_once(self, pip: list[list[str]]) -> None:
        assert install() == guest_environment() / "bin" / "python"
        assert any("gem-llm==0.1.0" in command for command in pip)
        count = len(pip)
        install()
        assert len(pip) == count

    def test_one_that_was_left_incomplete_is_built_anew(self, pip: list[list[str]]) -> None:
        guest_environment().mkdir(parents=True)
        install()
        assert pip[0][2:4] == ["venv", "--clear"]

    @pytest.mark.parametrize(("minor", "insists"), [(10, False), (11, False), (12, True)])
    def test_a_python_that_gems_metadata_refuse(
        self, pip: list[list[str]], monkeypatch: pytest.MonkeyPatch, minor: int, insists: bool
    ) -> None:
        """They end at 3.12.0, where GEM's code does not."""
        monkeypatch.setattr(interpreter, "_MINORS", (sys.version_info[1],) if not insists else ())
        install(sys.executable)
        assert ("--ignore-requires-python" in pip[-1]) is insists

    def test_what_goes_wrong_is_said(self, own_cache: Path) -> None:
        with pytest.raises(EnvUnavailable, match="venv") as caught:
            install("/bin/false")
        assert caught.value.output is not None
        assert not (guest_environment() / ".complete").exists()

    def test_progress_is_told(self, own_cache: Path) -> None:
        lines: list[str] = []
        interpreter._run([sys.executable, "-c", "print('one'); print('two')"], lines.append)
        assert lines == ["one", "two"]
