"""What clients send to the sandbox API, in ROCK's names and types.

Keys that are not here are ignored, as ROCK does. Numbers may come as strings.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Id = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\S")]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Amount = int | float | str


class Resources(Struct, kw_only=True):
    """What a sandbox may use, as the API's guide writes it.

    Attributes:
        cpu: CPUs, such as 2 or "0.5".
        cpus: The same.
        memory: Memory, such as "8g".
    """

    cpu: Amount | None = None
    cpus: Amount | None = None
    memory: Amount | None = None


class StartRequest(Struct, kw_only=True):
    """A sandbox that is wanted.

    Attributes:
        image: An image of the backend, or an alias that the server was started with.
        resources: What it may use; or
        memory: memory, such as "8g", and
        cpus: CPUs, such as 2 or "0.5". They are ceilings: nothing is set aside.
        limit_cpus: If there is one, the ceiling instead of cpus.
        disk: What it may write, such as "10g".
        sandbox_id: An id of the client's own, instead of one that is drawn.
        image_os: Only "linux" is here.
        auto_clear_time_minutes: After how long without use it is stopped. Anything that is done
            with it is a use, and so is a command that runs.
        auto_archive_seconds: Nothing is archived here.
        auto_delete_seconds: How long its files are kept once it is stopped.
        startup_timeout: Seconds until it must be up.
        pull: "never" keeps the engine from fetching the image, where the server allows it.
        registry_username: Who fetches it, with
        registry_password: this password.
        use_kata_runtime: There is none here.
        num_gpus: There are none here.
        accelerator_type: There are none here.
    """

    image: Id
    resources: Resources | None = None
    memory: Amount | None = None
    cpus: Amount | None = None
    limit_cpus: Amount | None = None
    disk: Amount | None = None
    sandbox_id: str | None = None
    image_os: str = "linux"
    auto_clear_time_minutes: Annotated[float, Meta(ge=0, le=525600)] | None = None
    auto_archive_seconds: Count | None = None
    auto_delete_seconds: Annotated[float, Meta(ge=0, le=31536000)] | None = None
    startup_timeout: Annotated[float, Meta(gt=0, le=1800)] | None = None
    pull: Literal["never", "missing", "always"] | None = None
    registry_username: str | None = None
    registry_password: str | None = None
    use_kata_runtime: bool = False
    num_gpus: float | None = None
    accelerator_type: str | None = None


class SandboxRequest(Struct, kw_only=True):
    """Which sandbox."""

    sandbox_id: Id


class StatusQuery(SandboxRequest, kw_only=True):
    """Whose status. Every state is told, whether it is asked for or not."""

    include_all_states: bool = False


class BatchRequest(Struct, kw_only=True):
    """Which sandboxes."""

    sandbox_ids: Annotated[list[Id], Meta(max_length=2000)]


class ListQuery(Struct, kw_only=True):
    """Which part of the list.

    Attributes:
        page: The number of the page, from 1.
        page_size: How many there are on one.
        user_id: Only those of this user, as the header X-User-Id said at the start.
        experiment_id: Only those of this experiment (X-Experiment-Id).
        namespace: Only those of this namespace (X-Namespace).
        image: Only those of this image.
        state: Only those in this state.
    """

    page: Annotated[int, Meta(ge=1)] = 1
    page_size: Annotated[int, Meta(ge=1, le=2000)] = 500
    user_id: str | None = None
    experiment_id: str | None = None
    namespace: str | None = None
    image: str | None = None
    state: str | None = None


class CommitRequest(SandboxRequest, kw_only=True):
    """An image to be made of a sandbox.

    Attributes:
        image_tag: What it is called, in the place of another one of that name.
        username: Who pushes it to its registry; if empty, it is not pushed.
        password: That user's password.
    """

    image_tag: Id
    username: str = ""
    password: str = ""


class TokenQuery(Struct, kw_only=True):
    """Which account of an object store; there is none here."""

    account: str = "primary"


class ExecuteRequest(SandboxRequest, kw_only=True):
    """A command, in a process of its own.

    It runs on when the client goes away, up to its timeout.

    Attributes:
        command: A string goes through a shell, a list is a program and its arguments.
        timeout: Seconds after which it is killed with all that it started. The server has a limit
            of its own, which is meant by null.
        shell: Have a list's first item be a command of the shell, and the rest its arguments.
        check: Whether a code other than 0 is a failure.
        error_msg: Words for that failure.
        env: More environment variables.
        cwd: Where it starts, relative to the work directory.
    """

    command: str | Annotated[list[str], Meta(min_length=1)]
    timeout: Seconds | None = 1200
    shell: bool = False
    check: bool = False
    error_msg: str = ""
    env: dict[str, str] | None = None
    cwd: str | None = None


class CreateSessionRequest(SandboxRequest, kw_only=True):
    """A shell that keeps its state from command to command.

    Attributes:
        session: Its name.
        startup_source: Files that it begins with; what they print is in the answer.
        env_enable: Ignored: there is always the environment of the image.
        env: More environment variables.
        remote_user: Only the sandbox's own user is here.
        startup_timeout: Seconds for those files; never less than 30.
        max_read_size: Ignored.
    """

    session: Name = "default"
    session_type: Literal["bash"] = "bash"
    startup_source: list[str] = msgspec.field(default_factory=list)
    env_enable: bool = False
    env: dict[str, str] | None = None
    remote_user: str | None = None
    startup_timeout: Seconds = 1.0
    max_read_size: Count = 2000


class RunRequest(SandboxRequest, kw_only=True):
    """A command for a session. Several at once queue.

    Attributes:
        command: Any text that the shell takes, of one line or many.
        session: The session's name.
        timeout: As for execute.
        check: "raise" makes a code other than 0 a failure, "silent" tells it, "ignore" does not.
        error_msg: Words for that failure.
        is_interactive_command: There are no terminals here.
        is_interactive_quit: There are no terminals here.
        expect: Ignored.
    """

    command: str
    session: Name = "default"
    action_type: Literal["bash"] = "bash"
    timeout: Seconds | None = None
    check: Literal["raise", "silent", "ignore"] = "raise"
    error_msg: str = ""
    is_interactive_command: bool = False
    is_interactive_quit: bool = False
    expect: list[str] = msgspec.field(default_factory=list)


class CloseSessionRequest(SandboxRequest, kw_only=True):
    """A session that is over."""

    session: Name = "default"
    session_type: Literal["bash"] = "bash"


class ReadFileRequest(SandboxRequest, kw_only=True):
    """A file to be read as text; ``download`` is for others.

    Attributes:
        path: Absolute, or relative to the work directory.
        encoding: How to decode it; by default UTF-8.
        errors: What to do with what cannot be decoded; by default it is a failure.
    """

    path: Name
    encoding: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.: -]{1,40}$")] | None = None
    errors: Literal["strict", "ignore", "replace", "backslashreplace"] | None = None


class WriteFileRequest(SandboxRequest, kw_only=True):
    """A file and its text. Folders on the way are made; a file appears whole.

    Attributes:
        path: Absolute, or relative to the work directory.
        content: Its text, written as UTF-8.
    """

    path: Name
    content: str


class UploadForm(SandboxRequest, kw_only=True):
    """A form with a file.

    Attributes:
        target_path: Where it goes: a path, or a folder, where it keeps its name.
        file: The file.
    """

    target_path: Name
    file: bytes


class DownloadQuery(SandboxRequest, kw_only=True):
    """A file to be fetched as it is, or a folder as a tar archive.

    Attributes:
        path: Absolute, or relative to the work directory.
    """

    path: Name
