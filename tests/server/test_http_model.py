"""The server against a model of it: whatever is asked in whatever order, the answer is right.

Sandboxes, their files and sessions, and environments; ids that were never given out, that are used
again, that were deleted, and that are no ids at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.server.conftest import IMAGE, Reply, Server
from tests.server.gem_client import GEM

GEM_ID = "game:GuessTheNumber-v0-easy"
NAMES = ("own.1", "own-2", "own_3")
NO_IDS = (
    *("../own.1", "..", "a/b", "/etc/passwd", "-x", ".x", "ü", "a\nb", "a\0b", "x" * 201, ""),
    *(5, None),
)
NO_ID_KINDS = {"invalid_request", "invalid_parameter", "unknown_sandbox"}
PICK = st.integers(0, 1000)
FILES = st.sampled_from(["a", "/tmp/b c", "d/e/../f", "../g", "-h"])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
SESSIONS = st.sampled_from(["one", "two words"])


@dataclass
class Box:
    """What a sandbox is to be."""

    running: bool = True
    files: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)


@dataclass
class Env:
    """What an environment is to be."""

    playing: bool = False


class ServerMachine(RuleBasedStateMachine):
    """The model: what lives, in which state, and what was there once."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.boxes: dict[str, Box] = {}
        self.envs: dict[str, Env] = {}
        self.gone: set[str] = set()
        self.before = server.get("sandboxes").result["total"]

    # Asking

    def post(self, verb: str, **body: Any) -> Reply:
        reply = self.server.post(verb, **body)
        ours = verb.startswith("/")  # GEM's API has statuses of its own
        assert reply.status == 200 or (ours and reply.body["kind"] != "internal_error"), reply.raw
        return reply

    def box(self, pick: int, only: Callable[[Box], bool] = lambda box: True) -> tuple[str, Box]:
        found = [(name, box) for name, box in self.boxes.items() if only(box)]
        return found[pick % len(found)]

    def ask(self, pick: int, verb: str, **body: Any) -> tuple[Box, Any]:
        """Ask something of any sandbox; the result is None where it had to be refused."""
        name, box = self.box(pick)
        reply = self.post(verb, sandbox_id=name, **body)
        if not box.running:
            assert reply.kind == "sandbox_closed"
            return box, None
        return box, reply

    # Sandboxes

    @initialize()
    def begin(self) -> None:
        self.start(None)

    @precondition(lambda self: len(self.boxes) < 3)
    @rule(name=st.sampled_from([None, *NAMES]))
    def start(self, name: str | None) -> None:
        reply = self.post("start", image=IMAGE, **({} if name is None else {"sandbox_id": name}))
        if name in self.boxes:
            assert reply.kind == "duplicate_id"
            return
        given = reply.result["sandbox_id"]
        assert given == name if name is not None else given not in self.boxes | self.envs
        assert name is not None or given not in self.gone
        self.boxes[given] = Box()
        self.gone.discard(given)

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK)
    def stop(self, pick: int) -> None:
        name, box = self.box(pick)
        assert self.post("stop", sandbox_id=name).result == f"{name} stopped"
        box.running = False
        box.sessions.clear()

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK)
    def restart(self, pick: int) -> None:
        name, box = self.box(pick)
        assert self.post("restart", sandbox_id=name).result["sandbox_id"] == name
        box.running = True
        box.sessions.clear()

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK)
    def delete(self, pick: int) -> None:
        name, _ = self.box(pick)
        assert self.post("delete", sandbox_id=name).result["sandbox_id"] == name
        del self.boxes[name]
        self.gone.add(name)

    @precondition(lambda self: self.gone)
    @rule(pick=PICK, verb=st.sampled_from(["execute", "delete", "restart", "read_file"]))
    def use_of_what_is_gone(self, pick: int, verb: str) -> None:
        name = sorted(self.gone)[pick % len(self.gone)]
        more = {"execute": {"command": "true"}, "read_file": {"path": "a"}}.get(verb, {})
        assert self.post(verb, sandbox_id=name, **more).kind == "sandbox_closed"
        assert self.post("stop", sandbox_id=name).result == f"{name} stopped"

    @rule(
        name=st.sampled_from(NO_IDS),
        verb=st.sampled_from(["start", "execute", "delete", "restart", "read_file", "close"]),
    )
    def use_of_no_id(self, name: Any, verb: str) -> None:
        if (name, verb) == (None, "start"):
            return
        if verb == "close":
            reply = self.post(f"{GEM}/close", sandbox_id=name)
        else:
            more = {"start": {"image": IMAGE}, "execute": {"command": "true"}}
            more["read_file"] = {"path": "/etc/hostname"}
            reply = self.post(verb, sandbox_id=name, **more.get(verb, {}))
        assert reply.kind in NO_ID_KINDS, reply.raw

    # What is in them

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, code=st.integers(0, 255), text=TEXTS)
    def execute(self, pick: int, code: int, text: str) -> None:
        words = ["/bin/sh", "-c", 'printf %s "$1"; exit $2', "sh", text, str(code)]
        _, reply = self.ask(pick, "execute", command=words)
        if reply is not None:
            assert reply.result["stdout"] == text
            assert reply.result["exit_code"] == code

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, path=FILES, text=TEXTS)
    def write(self, pick: int, path: str, text: str) -> None:
        box, reply = self.ask(pick, "write_file", path=path, content=text)
        if reply is not None and path != "../g":
            assert reply.result["success"]
            box.files[path] = text
        elif reply is not None:  # beside the work directory, where not everybody may write
            assert reply.body["status"] == "Success" or reply.kind == "file_error"
            if reply.body["status"] == "Success":
                box.files[path] = text

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, path=FILES)
    def read(self, pick: int, path: str) -> None:
        box, reply = self.ask(pick, "read_file", path=path)
        if reply is not None and path in box.files:
            assert reply.result["content"] == box.files[path]
        elif reply is not None:
            assert reply.kind == "file_error"

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, session=SESSIONS)
    def create_session(self, pick: int, session: str) -> None:
        box, reply = self.ask(pick, "create_session", session=session)
        if reply is not None and session in box.sessions:
            assert reply.kind == "invalid_request"
        elif reply is not None:
            assert reply.result["session_type"] == "bash"
            box.sessions[session] = 0

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, session=SESSIONS)
    def run_in_session(self, pick: int, session: str) -> None:
        count = "n=$((n+1)); echo $n"
        box, reply = self.ask(pick, "run_in_session", session=session, command=count)
        if reply is not None and session in box.sessions:
            box.sessions[session] += 1
            assert reply.result["output"] == str(box.sessions[session])
        elif reply is not None:
            assert reply.kind == "session_closed"

    @precondition(lambda self: self.boxes)
    @rule(pick=PICK, session=SESSIONS)
    def close_session(self, pick: int, session: str) -> None:
        box, reply = self.ask(pick, "close_session", session=session)
        if reply is not None and session in box.sessions:
            assert reply.body["status"] == "Success"
            del box.sessions[session]
        elif reply is not None:
            assert reply.kind == "session_closed"

    # Environments

    @precondition(lambda self: len(self.envs) < 2)
    @rule()
    def make(self) -> None:
        name = self.post(f"{GEM}/make", env_id=GEM_ID).body["sandbox_id"]
        assert name not in self.boxes | self.envs
        self.envs[name] = Env()

    def env(self, pick: int) -> tuple[str, Env]:
        return list(self.envs.items())[pick % len(self.envs)]

    @precondition(lambda self: self.envs)
    @rule(pick=PICK, seed=st.integers(0, 3))
    def reset(self, pick: int, seed: int) -> None:
        name, env = self.env(pick)
        observation = self.post(f"{GEM}/reset", sandbox_id=name, seed=seed).body["observation"]
        assert "Guess The Number" in observation
        env.playing = True

    @precondition(lambda self: self.envs)
    @rule(pick=PICK, guess=st.integers(1, 10))
    def step(self, pick: int, guess: int) -> None:
        name, env = self.env(pick)
        reply = self.post(f"{GEM}/step", sandbox_id=name, action=f"\\boxed{{{guess}}}")
        if not env.playing:
            assert reply.kind == "reset_needed"
            return
        told = reply.body
        assert told["reward"] in (0.0, 1.0)
        assert not told["reward"] or told["terminated"]
        env.playing = not (told["terminated"] or told["truncated"])

    @precondition(lambda self: self.envs)
    @rule(pick=PICK, verb=st.sampled_from(["execute", "read_file", "create_session"]))
    def sandbox_verb_of_an_environment(self, pick: int, verb: str) -> None:
        name, _ = self.env(pick)
        more = {"execute": {"command": "true"}, "read_file": {"path": "a"}}.get(verb, {})
        assert self.post(verb, sandbox_id=name, **more).kind == "wrong_kind"

    @precondition(lambda self: self.envs)
    @rule(pick=PICK, verb=st.sampled_from(["close", "stop", "delete"]))
    def end_environment(self, pick: int, verb: str) -> None:
        name, _ = self.env(pick)
        reply = self.post(f"{GEM}/close" if verb == "close" else verb, sandbox_id=name)
        assert reply.body.get("status", "Success") == "Success", reply.raw
        del self.envs[name]
        for call, more in (("step", {"action": "x"}), ("reset", {}), ("close", {})):
            assert self.post(f"{GEM}/{call}", sandbox_id=name, **more).kind == "sandbox_closed"

    # What always holds

    @invariant()
    def lists_tell_what_lives(self) -> None:
        for name, box in self.boxes.items():
            status = self.server.get(f"get_status?sandbox_id={name}").result
            assert status["is_alive"] == box.running
            assert status["state"] == ("running" if box.running else "stopped")

    def teardown(self) -> None:
        for name in self.boxes:
            assert self.post("delete", sandbox_id=name).body["status"] == "Success"
        for name in self.envs:
            self.post(f"{GEM}/close", sandbox_id=name)
        assert self.server.get("sandboxes").result["total"] == self.before


def test_the_answer_is_the_right_one(server: Server, backend: str) -> None:
    run_state_machine_as_test(
        lambda: ServerMachine(server),
        settings=settings(
            max_examples=8 if backend == "bubblewrap" else 2,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # making a story shorter takes longer than reading it
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
