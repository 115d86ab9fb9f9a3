"""The process that runs GEM inside a sandbox, and the processes it forks, one per environment.

GEM is imported once, here. Each environment gets a process of its own, because GEM draws from
Python's global random numbers: sharing a process, environments would change each other's games.
The host sends one end of a new socket for each; from then on it talks to that process alone, and
kills it when it takes too long.

The host copies this file and those it imports into the sandbox, and starts ``main``. It leans on
the standard library, msgspec and gem alone.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import inspect
import logging
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from . import wire
from .several import Several
from .supplies import Unavailable, check_data_set, explain, read_data_set
from .words import supply_words

_CHANNEL_FD = 3
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_MAX_FDS = 8
_MAX_TRACEBACK = 16_000

# What libraries read when they are imported. A user's own settings are left alone.
_ENVIRONMENT = {
    # An environment is one of many, and threads do not survive a fork.
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A sandbox has no network, and without these it takes half a minute to find out.
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "Agg",
}

_prctl = ctypes.CDLL(None).prctl


def main(settings: Mapping[str, Any]) -> NoReturn:
    """Import GEM, say so, and fork until the host hangs up.

    Args:
        settings: ``run_dir``, a directory to write to, and ``cache``, one of the host's to read
            bytecode and the like from, or None.
    """
    control = _Control(socket.socket(fileno=_CHANNEL_FD))
    run_dir = settings["run_dir"]
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 1)
    try:
        _prctl(_PR_SET_DUMPABLE, 0)
        _prepare(run_dir, settings.get("cache"))
        _import_gem()
    except BaseException as error:  # a boundary: the host is told, and this process ends
        reason = explain("GEM", {}, error) or f"{type(error).__name__}: {error}"
        control.send(wire.Refused(reason, _traceback()))
        os._exit(1)
    # Nobody reads these, so that what environments print would fill them and then block.
    os.dup2(null, 2)
    # The kernel reaps the children, as nobody asks for their ends.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send(wire.Ready(sys.version.partition(" ")[0]))
    _serve_forks(control, run_dir)
    os._exit(0)


# Before the first fork


def _prepare(run_dir: str, cache: str | None) -> None:
    if sys.flags.hash_randomization:
        raise RuntimeError("PYTHONHASHSEED must be 0: texts of some environments depend on it")
    # The copies of our own modules are imported by now, and must not hide anybody's.
    sys.path[:] = [path for path in sys.path if path not in ("", run_dir)]
    sys.argv[1:] = []
    sys.dont_write_bytecode = True
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # GEM's code environments run whatever `python` is found first.
    directory, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{directory}{os.pathsep}{path}"
    matplotlib = os.environ["MPLCONFIGDIR"] = os.path.join(run_dir, "matplotlib")
    if cache is not None and os.path.isdir(cache):
        bytecode = os.path.join(cache, "bytecode")
        if os.path.isdir(bytecode):
            sys.pycache_prefix = bytecode
        # Only the list of fonts is in there, which takes long to make.
        shutil.copytree(os.path.join(cache, "matplotlib"), matplotlib, dirs_exist_ok=True)


def _import_gem() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    importlib.import_module("gem")
    # GEM configures the root logger when it is imported.
    root.handlers[:] = handlers
    root.setLevel(level)


# Forking


class _Control(wire.Channel[wire.ControlRequest]):
    """The control socket, over which sockets of environments come too."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, wire.CONTROL_REQUESTS)
        self.received: list[socket.socket] = []
        self._read = self._read_with_sockets

    def _read_with_sockets(self) -> bytes:
        room = socket.CMSG_LEN(_MAX_FDS * array.array("i").itemsize)
        data, ancillary, _, _ = self._sock.recvmsg(wire.CHUNK_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for _, _, part in ancillary:
            fds.frombytes(part)
        self.received += [socket.socket(fileno=fd) for fd in fds]
        return data


def _serve_forks(control: _Control, run_dir: str) -> None:
    while True:
        try:
            request = control.receive()
            if isinstance(request, wire.Ping):
                control.send(wire.Pong())
                continue
        except (EOFError, OSError):
            return
        with control.received.pop(0) as sock:
            if request.preload:
                _preload(request.gem_id, run_dir)
            _sweep(run_dir)
            # Shared pages stay shared: the collector no longer writes to what is here already.
            gc.freeze()
            guest = os.getpid()
            try:
                pid = os.fork()
            except OSError:
                continue  # the host sees the socket closed before anybody said hello
            if pid == 0:
                _run_environment(sock, control, guest, run_dir)


def _preload(gem_id: str, run_dir: str) -> None:
    """Import an environment's module, so that its forks need not do it one by one."""
    spec = _registry().get(gem_id)
    if spec is not None and isinstance(spec.entry_point, str):
        # What is wrong with it comes out again, and is reported, in the fork.
        with contextlib.suppress(Exception):
            importlib.import_module(spec.entry_point.partition(":")[0])
    supply_words(os.path.join(run_dir, "nltk_data"))


def _registry() -> dict[str, Any]:
    registry: dict[str, Any] = importlib.import_module("gem.envs.registration").ENV_REGISTRY
    return registry


def _sweep(run_dir: str) -> None:
    """Remove the directories of environments that have ended, most of which were killed."""
    directory = os.path.join(run_dir, "envs")
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(directory):
        if not os.path.exists(f"/proc/{name.partition('-')[0]}"):
            shutil.rmtree(os.path.join(directory, name), ignore_errors=True)


def _run_environment(sock: socket.socket, control: _Control, guest: int, run_dir: str) -> NoReturn:
    """Be an environment's process, until the host hangs up."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _prctl(_PR_SET_DUMPABLE, 0)
        if os.getppid() != guest:
            os._exit(1)
        # Left ignored, it would make every subprocess look as if it had ended well.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        channel = wire.Channel(sock, wire.ENV_REQUESTS)
        channel.send(wire.Hello())
        _serve(channel, run_dir)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


# One environment


class _Refusal(Exception):
    """A request that makes no sense now."""


def _serve(channel: wire.Channel[wire.EnvRequest], run_dir: str) -> None:
    environment = _Environment(run_dir)
    several: Several | None = None
    while True:
        request = channel.meet(wire.Step, environment.step)
        if isinstance(request, wire.Batch):
            if several is None:
                several = Several(lambda: _Environment(run_dir).meet, channel.send)
            several.meet(request)
            continue
        if isinstance(request, wire.Close):
            return
        reply = environment.meet(request)
        if reply is not None:
            channel.send_answer(reply)


class _Environment:
    """A GEM environment, and what it takes to make the same episode of the same seed."""

    def __init__(self, run_dir: str) -> None:
        self.env: Any = None
        self._run_dir = run_dir
        self._gem_id = ""
        self._kwargs: dict[str, Any] = {}
        self._rewind = False
        self._playing = False

    def step(self, request: wire.Step) -> wire.Answer:
        """Take a turn."""
        try:
            if not self._playing:
                raise _Refusal("no episode is under way; reset first")
            observation, reward, terminated, truncated, info = self.env.step(request.action)
            return wire.Stepped(
                observation if type(observation) is str else _text(observation),
                float(reward),
                bool(terminated),
                bool(truncated),
                wire.tidy_info(info),
            )
        except BaseException as error:
            # Whatever users' code raises, exits too, is an answer: the process goes on.
            return self.failure(error)

    def meet(self, request: wire.Make | wire.Reset | wire.Step) -> wire.Answer | None:
        """Do what is asked, and return what there is to say of it."""
        if type(request) is wire.Step:
            return self.step(request)
        try:
            if type(request) is wire.Reset:
                return self.reset(request.seed)
            assert isinstance(request, wire.Make)
            self.make(request)
        except BaseException as error:  # as above
            return self.failure(error)
        return None

    def make(self, request: wire.Make) -> None:
        self._gem_id = request.gem_id
        if request.many:
            # Woken up, it waits for its turn, and does not interrupt who is about to wake others.
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        sys.path[:0] = request.python_path
        for name in request.imports:
            _import_users(name)
        spec = _registry().get(request.gem_id)
        if spec is None:
            raise LookupError(
                f"GEM has no environment {request.gem_id!r}: name the module that registers it by "
                "imports="
            )
        self._kwargs = {**spec.kwargs, **request.kwargs}
        if request.dataset is not None:
            self._kwargs["dataset"] = read_data_set(request.dataset, self._kwargs)
        check_data_set(request.gem_id, self._kwargs)
        entry_point = _load(spec.entry_point)
        supply_words(os.path.join(self._run_dir, "nltk_data"))
        if "use_mp" in inspect.signature(entry_point).parameters:
            # A process pool per environment, to limit the grader's time. This process has its
            # main thread free, so a signal does that too.
            self._kwargs.setdefault("use_mp", False)
        if str(spec.entry_point).startswith("gem.envs."):
            self._move_to_own_directory()
        self._rewind = spec.entry_point == "gem.envs.reasoning_gym:ReasoningGymEnv"
        self.env = importlib.import_module("gem").make(request.gem_id, **self._kwargs)

    def _move_to_own_directory(self) -> None:
        """Files that one environment's code leaves behind must not be found by another's."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        directory = os.path.join(self._run_dir, "envs", name)
        os.makedirs(directory)
        os.chdir(directory)

    def reset(self, seed: int) -> wire.Observed:
        self._playing = False
        if self.env is None:
            raise _Refusal("there is no environment to reset")
        if self._rewind:
            # It counts its resets, and takes other questions after each 500th.
            self.env.idx = 0
        observation, info = self.env.reset(seed=seed)
        reply = wire.Observed(_text(observation), wire.tidy_info(info))
        self._playing = True
        return reply

    def failure(self, error: BaseException) -> wire.Failed:
        kind: wire.FaultKind = "env_error"
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, (_Refusal, wire.WireError)):
            kind, message = (
                "bad_request" if isinstance(error, _Refusal) else "too_large",
                str(error),
            )
        elif self.env is None:
            missing = explain(self._gem_id, self._kwargs, error)
            if missing is not None:
                kind, message = "unavailable", missing
            elif self._gem_id not in _registry():
                kind, message = "unknown_id", str(error)
        # An Unavailable is ours, and says all there is to say.
        trace = "" if isinstance(error, Unavailable) else _traceback()
        return wire.Failed(kind, message, trace, self.env is None)


def _import_users(name: str) -> None:
    try:
        importlib.import_module(name)
    except Exception as error:
        raise Unavailable(
            f"the module {name} of imports= cannot be imported in the sandbox: {error!r}; is its "
            "directory in python_path=, and what it imports installed?"
        ) from error


def _load(entry_point: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(entry_point, str):
        return entry_point
    module, _, name = entry_point.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded


def _text(observation: Any) -> str:
    return observation if isinstance(observation, str) else str(observation)


def _traceback() -> str:
    return traceback.format_exc()[-_MAX_TRACEBACK:]
