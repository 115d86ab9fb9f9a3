"""What the sandbox API answers, in ROCK's names and types."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from msgspec import Struct


class Started(Struct, kw_only=True):
    """A sandbox that was started, or is on its way."""

    sandbox_id: str
    host_name: str
    host_ip: str
    cpus: float | None
    memory: str | None
    disk: str | None
    disk_limit_rootfs: str | None
    code: int | None = None
    exit_code: int | None = None
    failure_reason: str | None = None


class StateChange(TypedDict):
    """A change of a sandbox's state, and why."""

    from_state: str
    to_state: str
    event: str
    timestamp: str
    reason: str


class StatusResult(TypedDict):
    """What a sandbox or an environment is. ``status`` has the phases of its start."""

    sandbox_id: str
    status: dict[str, Any]
    state: Literal["pending", "running", "stopped", "archiving", "archived", "deleted"]
    port_mapping: dict[str, int | None]
    host_name: str
    host_ip: str
    is_alive: bool
    image: str | None
    gateway_version: str
    swe_rex_version: str | None
    user_id: str
    experiment_id: str
    namespace: str
    cpus: float | None
    memory: str
    num_gpus: float | None
    accelerator_type: str | None
    disk: str | None
    disk_limit_rootfs: str | None
    start_time: str | None
    stop_time: str | None
    create_time: str | None
    archive_time: str | None
    delete_time: str | None
    auto_stop_time: str | None
    auto_archive_time: str | None
    auto_delete_time: str | None
    state_history: list[StateChange]


class ListResult(TypedDict):
    """A part of the list."""

    items: list[StatusResult]
    total: int
    has_more: bool


class BatchResult(TypedDict):
    """The status of each that is there."""

    statuses: list[StatusResult]


class Deleted(TypedDict):
    """A sandbox that was deleted."""

    sandbox_id: str
    code: int | None
    exit_code: int | None


class CommitResult(TypedDict):
    """How far an image is: a phase for newer clients, and an exit code for older ones."""

    sandbox_id: str
    image_tag: str
    phase: Literal["RUNNING", "SUCCEEDED", "FAILED"]
    started_at: str
    completed_at: str | None
    exit_code: int | None
    failed_stage: str | None
    error_code: str | None
    error_message: str | None
    stdout: str
    stderr: str


class Alive(Struct):
    """Whether a sandbox can be used."""

    is_alive: bool
    message: str


class StatisticsResult(Struct, kw_only=True):
    """What a sandbox uses, in per cent of what it may, and its bytes over the network.

    ``cpu`` is since the last call. ``raw`` has the numbers themselves; null is not known.
    """

    cpu: float
    mem: float
    disk: float
    disk_log_percent: float = 0.0
    disk_dind_percent: float = 0.0
    net: int
    raw: dict[str, Any]


class CommandResult(Struct, kw_only=True):
    """How a command went."""

    stdout: str
    stderr: str
    exit_code: int
    truncated: bool
    cause: str | None


class SessionCreated(Struct, kw_only=True):
    """A session, and what its startup files printed."""

    output: str
    session_type: str = "bash"


class SessionClosed(Struct, kw_only=True):
    """A session that has ended."""

    session_type: str = "bash"


class Observation(Struct, kw_only=True):
    """How a command in a session went."""

    output: str
    exit_code: int | None
    failure_reason: str = ""
    expect_string: str = ""
    session_type: str = "bash"
    truncated: bool = False
    cause: str | None = None


class FileContent(Struct):
    """A file's text."""

    content: str


class Written(Struct, kw_only=True):
    """A file that was written."""

    success: bool
    message: str


class Uploaded(Struct, kw_only=True):
    """A file that was uploaded, and its name inside."""

    success: bool
    message: str
    file_name: str
