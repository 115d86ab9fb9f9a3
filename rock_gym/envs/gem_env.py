"""One GEM environment as a gymnasium environment, run by a process inside a sandbox.

The constructor starts nothing: vectorizers and checkers build environments that they never use.
The first ``reset`` leases a process from a pool, and ``close`` gives it back.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium as gym
from gymnasium.utils import EzPickle

from rock_gym.default_pools import default_pool
from rock_gym.envs.arguments import (
    check_choice,
    check_count,
    check_directories,
    check_gem_kwargs,
    check_imports,
    check_timeout,
)
from rock_gym.envs.misuse import EnvClosed, ResetNeeded
from rock_gym.envs.spaces import ActionText, Unicode
from rock_gym.envs.texts import compose
from rock_gym.errors import (
    EnvError,
    ResetTimeout,
    RockGymError,
    SandboxClosed,
    SandboxLost,
    SpecError,
)
from rock_gym.gem.packs import PackedWorker
from rock_gym.gem.places import choose_backend
from rock_gym.gem.worker import EnvConfig, EnvWorker, ResetReply, StepReply, lease_worker
from rock_gym.pool import SandboxPool
from rock_gym.spec import SandboxSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rock_gym.sandbox import Sandbox

__all__ = ["GemEnv"]

_SEEDS = 2**32
_GONE = (SandboxLost, SandboxClosed)

# Workers that a forked child finds in its memory belong to its parent. They are kept here, because
# what they do when they are collected would be done to the parent's sandbox.
_INHERITED: list[EnvWorker | PackedWorker] = []

T = TypeVar("T")


class GemEnv(gym.Env[str, str], EzPickle):
    r"""A GEM environment inside a sandbox.

    Observations are what an agent should read: GEM's text between the prefix and suffix of its
    info, which hold the board of most games. They stay in ``info`` as GEM gave them. An episode
    that GEM ends as both terminated and truncated is terminated.

    ``reset(seed=s)`` gives GEM the seed ``s``, and ``reset()`` one that is drawn from
    ``np_random``, so that a seeded sequence of episodes repeats. Options are ignored.

    A fault of the sandbox, the process or a limit is an exception, never a reward: ``StepTimeout``,
    ``ResetTimeout``, ``SandboxLost``, ``EnvError``, ``WireError``. The next ``reset`` works.

    Args:
        gem_id: An id registered with GEM, such as ``"game:Sokoban-v0-easy"``.
        backend: ``"auto"``, ``"bubblewrap"``, ``"docker"``, ...: what the sandbox is.
        image: What the sandbox starts from. None means the backend's own.
        cpus: The sandbox's ceiling on CPUs.
        memory: Its ceiling on memory, such as ``"2g"``.
        disk: Its ceiling on what it writes.
        network: ``"none"``, or what else the backend offers.
        pool: A live pool to lease from, instead of one that is made from the five above and
            shared by the process.
        observation: ``"text"``, or ``"raw"`` for GEM's observation without prefix and suffix.
        gem_info: Whether to put GEM's own observation, flags and seed into ``info["gem"]``.
        render_mode: ``"ansi"`` for the text, ``"rgb_array"`` for a picture of it, or None.
        step_timeout: The limit on one step in seconds. None means no limit.
        reset_timeout: The limit on one reset, a start of the sandbox included.
        envs_per_sandbox: How many environments may share a sandbox. None means 1 for families
            that run what an action says, and many for the others.
        imports: Modules to import in the sandbox that register environments with GEM.
        python_path: Directories that those modules are found in; visible inside, read-only.
        dataset: Rows, or the path of a JSON or Parquet file, for environments built on data.
        guest_python: The interpreter that runs GEM. None means this one if it has GEM, else the
            one that ``rock-gym guest install`` made.
        max_length: The most characters an observation or an action may have.
        **kwargs: What goes on to ``gem.make``; JSON values.

    Raises:
        SpecError: If an argument makes no sense.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 2}  # noqa: RUF012

    def __init__(
        self,
        gem_id: str,
        *,
        backend: str = "auto",
        image: str | None = None,
        cpus: int | float | str | None = None,
        memory: int | float | str | None = None,
        disk: int | float | str | None = None,
        network: str = "none",
        pool: SandboxPool | None = None,
        observation: str = "text",
        gem_info: bool = False,
        render_mode: str | None = None,
        step_timeout: float | None = 30.0,
        reset_timeout: float | None = 60.0,
        envs_per_sandbox: int | None = None,
        imports: Sequence[str] = (),
        python_path: Sequence[str | os.PathLike[str]] = (),
        dataset: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
        guest_python: str | None = None,
        max_length: int = 1 << 20,
        **kwargs: Any,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        EzPickle.__init__(self, **given, **kwargs)
        if not isinstance(gem_id, str) or not gem_id:
            raise SpecError(f"gem_id must be an id registered with GEM, not {gem_id!r}")
        check_choice("observation", observation, ("text", "raw"))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        directories = check_directories("python_path", python_path)
        sandbox = SandboxSpec.of(
            image, cpus=cpus, memory=memory, disk=disk, network=network, read_only=directories
        )
        if pool is not None and (backend, sandbox) != ("auto", SandboxSpec(read_only=directories)):
            raise SpecError("pool= decides backend, image, limits and network: do not give both")
        self._config = EnvConfig(
            gem_id,
            check_gem_kwargs(kwargs, given),
            imports=check_imports(imports),
            python_path=directories,
            dataset=dataset,
            guest_python=guest_python,
        )
        self._sandbox_spec, self._backend, self._pool = sandbox, backend, pool
        self._envs_per_sandbox = (
            None if envs_per_sandbox is None else check_count("envs_per_sandbox", envs_per_sandbox)
        )
        self._step_timeout = check_timeout("step_timeout", step_timeout)
        self._reset_timeout = check_timeout("reset_timeout", reset_timeout)
        self._raw, self._gem_info = observation == "raw", gem_info
        self.render_mode = render_mode
        self.observation_space = Unicode(check_count("max_length", max_length))
        self.action_space = ActionText(gem_id, max_length)
        self._worker: EnvWorker | PackedWorker | None = None
        self._pid = os.getpid()
        self._in_episode = self._closed = False
        self._rules = self._text = ""

    @property
    def gem_id(self) -> str:
        """The GEM id it was made with."""
        return self._config.gem_id

    @property
    def sandbox(self) -> Sandbox | None:
        """The sandbox it runs in, or None while it holds none: before the first reset, say."""
        worker = self._own_worker()
        return None if worker is None else worker.sandbox

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: GEM's seed for this episode, and the one that later unseeded resets follow from.
            options: Ignored.

        Raises:
            ResetTimeout: If it took longer than ``reset_timeout``.
            EnvUnavailable: If the environment lacks something; says what and how to supply it.
            EnvError: If GEM raised.
            SandboxLost: If the sandbox died.
            PoolExhausted: If no sandbox became free in time.
            BackendUnavailable: If no sandbox can run here.
            StartFailed: If one did not start.
        """
        gem_seed = self.draw_seed(seed)
        return self.began(self._begin(gem_seed), gem_seed)

    # The halves of reset and step, for those who send to many before they receive: a vector
    # environment drives the worker itself.

    @property
    def worker(self) -> EnvWorker | PackedWorker | None:
        """The process that plays, if there is one."""
        return self._own_worker()

    @property
    def playing(self) -> bool:
        """Whether an episode is under way."""
        return self._in_episode

    def draw_seed(self, seed: int | None) -> int:
        """Return the seed that GEM gets for a reset with ``seed``; the episode is over."""
        self._check_open()
        super().reset(seed=seed)
        self._in_episode = False
        if seed is not None and seed < _SEEDS:
            return int(seed)
        # GEM takes 32 bits. Larger seeds decide what np_random draws, and so what GEM gets.
        return int(self.np_random.integers(_SEEDS))

    def next_seed(self) -> int:
        """Return what ``draw_seed(None)`` would, without drawing."""
        return int(copy.deepcopy(self.np_random).integers(_SEEDS))

    def lease(self, timeout_s: float | None, many: bool = False) -> EnvWorker:
        """Lease a worker, one of many or not, which is not this environment's until ``adopt``.

        From any thread.
        """
        config = replace(self._config, many=many)
        return lease_worker(config, self._find_pool(), self._envs_per_sandbox, timeout_s)

    @property
    def config(self) -> EnvConfig:
        """What it is made with."""
        return self._config

    def lease_with(self, lease: Callable[[EnvConfig, SandboxPool], T]) -> T:
        """Return what ``lease`` makes of its configuration and its pool. From any thread."""
        return lease(self.config, self._find_pool())

    def adopt(self, worker: EnvWorker | PackedWorker | None) -> None:
        """Play by this worker from now on. The old one is the caller's."""
        self._worker, self._pid = worker, os.getpid()

    def began(self, reply: ResetReply, gem_seed: int) -> tuple[str, dict[str, Any]]:
        """Return what reset returns, made of the worker's reply."""
        text = self._check_length(compose(reply.observation, reply.info))
        self._rules = self._text = text
        self._in_episode = True
        info = dict(reply.info)
        if self._gem_info:
            info["gem"] = {"observation": reply.observation, "seed": gem_seed}
        return (reply.observation if self._raw else text), info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take a turn.

        Raises:
            ResetNeeded: If no episode is under way.
            SpecError: If the action is not a string.
            StepTimeout: If it took longer than ``step_timeout``.
            EnvError: If GEM raised.
            SandboxLost: If the sandbox died.
        """
        worker = self._playing("step")
        if not isinstance(action, str):
            raise SpecError(
                f"an action must be a string, not {type(action).__name__}: give the model's whole "
                "answer, or env.action_space.sample()"
            )
        self._in_episode = False
        try:
            reply = worker.step(str(action), self._step_timeout)
        except BaseException as error:
            self._after(error)
            raise
        return self.stepped(reply)

    def stepped(self, reply: StepReply) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Return what step returns, made of the worker's reply."""
        self._text = self._check_length(compose(reply.observation, reply.info))
        terminated, truncated = bool(reply.terminated), bool(reply.truncated)
        self._in_episode = not (terminated or truncated)
        info = reply.info
        if self._gem_info:
            info["gem"] = {
                "observation": reply.observation,
                "terminated": terminated,
                "truncated": truncated,
            }
        observation = reply.observation if self._raw else self._text
        return observation, float(reply.reward), terminated, truncated and not terminated, info

    def render(self) -> Any:
        """Return the last observation's text, or a picture of it, as ``render_mode`` says.

        Raises:
            ResetNeeded: If there has been no episode yet.
        """
        self._check_open()
        if self.render_mode is None:
            gym.logger.warn(
                "render() returns nothing without a render_mode: make the environment with "
                "render_mode='ansi' or 'rgb_array'"
            )
            return None
        if not self._rules:
            raise ResetNeeded("there is nothing to render yet: call reset() first")
        return self._text if self.render_mode == "ansi" else self._frame()

    def sample_random_action(self) -> str:
        """Draw a legal-looking move for the board as it is, by ``action_space``'s generator."""
        from rock_gym.envs.actions import sample_action

        text = f"{self._rules}\n{self._text}" if self._rules else None
        return sample_action(self.gem_id, text, self.action_space.np_random)

    def close(self) -> None:
        """Give up the sandbox. Twice is fine."""
        self._closed, self._in_episode = True, False
        self._drop_worker()

    def __del__(self, _warn: Any = warnings.warn) -> None:
        try:
            if self.__dict__.get("_worker") is not None and self._own_worker() is not None:
                _warn(f"unclosed {self!r}: call close()", ResourceWarning, source=self)
        finally:
            self._drop_worker()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._config.gem_id!r})"

    def _check_open(self) -> None:
        if self._closed:
            raise EnvClosed(f"{self!r} is closed: make a new one")

    def _playing(self, what: str) -> EnvWorker:
        self._check_open()
        worker = self._own_worker()
        if worker is None or not self._in_episode:
            raise ResetNeeded(f"{what}() without an episode under way: call reset() first")
        return self._whole(worker)

    def _frame(self) -> NDArray[np.uint8]:
        from rock_gym.envs.render import draw_text

        return draw_text(self._text)

    def _check_length(self, text: str) -> str:
        limit = self.observation_space.max_length  # type: ignore[attr-defined]
        if len(text) > limit:
            raise EnvError(
                f"an observation of {len(text)} characters is above max_length={limit}: "
                "make the environment with a larger max_length="
            )
        return text

    def _begin(self, gem_seed: int) -> ResetReply:
        """Have GEM reset, in a new sandbox if the old one has died since it was last used."""
        deadline = None if self._reset_timeout is None else time.monotonic() + self._reset_timeout
        while True:
            fresh = self._own_worker() is None
            try:
                return self._lease(deadline).reset(gem_seed, _left(deadline))
            except _GONE as error:
                self._after(error)
                if fresh:
                    raise
            except BaseException as error:
                self._after(error)
                raise

    def _lease(self, deadline: float | None) -> EnvWorker:
        worker = self._own_worker()
        if worker is None:
            worker = self.lease(_left(deadline))
            self.adopt(worker)
        return self._whole(worker)

    def _whole(self, worker: EnvWorker | PackedWorker) -> EnvWorker:
        if isinstance(worker, PackedWorker):
            raise SpecError(f"{self!r} is one of a vector that shares processes: step the vector")
        return worker

    def _find_pool(self) -> SandboxPool:
        if self._pool is not None:
            return self._pool
        backend, spec = choose_backend(self._sandbox_spec, self._config.guest_python, self._backend)
        return default_pool(backend, spec)

    def _own_worker(self) -> EnvWorker | PackedWorker | None:
        """Return the worker, unless it is that of the process this one was forked from."""
        if self._worker is not None and self._pid != os.getpid():
            _INHERITED.append(self._worker)
            self._worker, self._in_episode = None, False
        return self._worker

    def _after(self, error: BaseException) -> None:
        """Let go of a worker that is of no more use.

        After most faults it is made new by its next reset. Not if its sandbox is gone, nor if
        something else broke in, such as Ctrl-C: an answer may still be on its way then, which a
        later step would take for its own.
        """
        if isinstance(error, _GONE) or not isinstance(error, RockGymError):
            self._drop_worker()

    def _drop_worker(self) -> None:
        worker = self._own_worker() if "_worker" in self.__dict__ else None
        self._worker = None
        if worker is not None:
            worker.close()


def _left(deadline: float | None) -> float | None:
    """Return the seconds that are left.

    Raises:
        ResetTimeout: If there are none.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise ResetTimeout("the time for this reset had run out before GEM was asked to reset")
    return left
