"""One-shot commands."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import CommandFailed, CommandTimeout, FileError, SandboxLost, SpecError
from tests.contract.support import eventually, run_owner, within

KEPT_BYTES = 2 * 512 * 1024


def test_output_and_error_come_apart(sandbox: Any) -> None:
    """Each stream has its own text."""
    result = sandbox.execute("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert result.truncated is False


def test_a_string_goes_through_a_shell(sandbox: Any) -> None:
    """Pipes, variables and redirections work."""
    result = sandbox.execute("x=3; for i in 1 2; do echo $((x*i)); done | tac")
    assert result.stdout == "6\n3\n"


def test_a_list_goes_through_no_shell(sandbox: Any) -> None:
    """Arguments arrive as they are."""
    arguments = ["a b", "$HOME", "*", "", "';exit 1;'", "é\n"]
    result = sandbox.execute(["printf", "%s|", *arguments])
    assert result.stdout == "".join(f"{argument}|" for argument in arguments)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("false", 1),
        ("exit 7", 7),
        ("exit 255", 255),
        ("exec sh -c 'exit 9'", 9),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("sh -c 'kill -9 $$'; true", 0),
        ("no-such-command-here", 127),
        ("/etc", 126),
        ("exec >&- 2>&-; exit 7", 7),
        ("if true; then", 2),
        ("", 0),
        ("# only a comment", 0),
    ],
)
def test_exit_codes_are_true(sandbox: Any, command: str, code: int) -> None:
    """The code is the command's own, 128 + n after signal n."""
    assert sandbox.execute(command).exit_code == code


def test_a_program_that_is_not_there(sandbox: Any) -> None:
    """Without a shell there is nobody to say 127."""
    with pytest.raises(FileError) as caught:
        sandbox.execute(["no-such-program-here"])
    assert caught.value.reason == "ENOENT"


def test_check_raises_with_what_was_printed(sandbox: Any) -> None:
    """check=True turns a code other than 0 into an error that tells."""
    with pytest.raises(CommandFailed) as caught:
        sandbox.execute("echo why >&2; exit 3", check=True)
    assert caught.value.exit_code == 3
    assert "why" in (caught.value.output or "")
    assert caught.value.sandbox_id == sandbox.id
    assert sandbox.execute("true", check=True).exit_code == 0


def test_the_directory_it_runs_in(sandbox: Any) -> None:
    """The work directory, or cwd=, relative to it."""
    sandbox.execute("mkdir -p sub/deep", check=True)
    assert sandbox.execute("pwd").stdout.strip() == sandbox.workdir
    assert sandbox.execute("pwd", cwd="sub/deep").stdout.strip() == f"{sandbox.workdir}/sub/deep"
    assert sandbox.execute(["pwd"], cwd="/usr").stdout.strip() == "/usr"


@pytest.mark.parametrize(("cwd", "reason"), [("nowhere", "ENOENT"), ("/etc/passwd", "ENOTDIR")])
def test_a_directory_that_is_not_there(sandbox: Any, cwd: str, reason: str) -> None:
    """It is named, and its cause."""
    with pytest.raises(FileError) as caught:
        sandbox.execute("pwd", cwd=cwd)
    assert (caught.value.path, caught.value.reason) == (cwd, reason)


def test_variables_are_added(sandbox: Any) -> None:
    """env= adds to what is there, for this command alone."""
    result = sandbox.execute('echo "$A|$B"; command -v ls', env={"A": "x y", "B": "é\n$HOME"})
    assert result.stdout.startswith("x y|é\n$HOME\n")
    assert result.stdout.endswith("ls\n")
    assert sandbox.execute('echo "$A"').stdout == "\n"


@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "echo a\0b"},
        {"command": ["echo", "a\0b"]},
        {"command": []},
        {"command": "true", "timeout": -1},
        {"command": "true", "timeout": math.nan},
        {"command": "true", "timeout": "soon"},
        {"command": "true", "cwd": "a\0b"},
        {"command": "true", "env": {"A=B": "c"}},
        {"command": "true", "env": {"A": "b\0"}},
    ],
)
def test_nonsense_is_refused(sandbox: Any, arguments: dict[str, Any]) -> None:
    """Before anything runs, as a SpecError."""
    with pytest.raises(SpecError):
        sandbox.execute(**arguments)
    assert sandbox.execute("echo fine").stdout == "fine\n"


def test_standard_input_is_at_its_end(sandbox: Any) -> None:
    """A command that reads gets nothing, at once."""
    with within(5):
        assert sandbox.execute("cat; read x; echo $?").stdout == "1\n"
        assert sandbox.execute(["cat"]).stdout == ""


def test_a_timeout_tells_what_was_printed(sandbox: Any) -> None:
    """The error holds the partial output, and the sandbox goes on."""
    with within(5), pytest.raises(CommandTimeout) as caught:
        sandbox.execute("echo before; sleep 1000", timeout=0.3)
    assert caught.value.output == "before\n"
    assert caught.value.sandbox_id == sandbox.id
    assert sandbox.execute("echo after").stdout == "after\n"


def test_no_limit_must_be_written(sandbox: Any) -> None:
    """timeout=None means none."""
    assert sandbox.execute("sleep 0.05; echo done", timeout=None).stdout == "done\n"


@pytest.mark.parametrize(
    "command",
    [
        "trap '' TERM INT HUP; while :; do sleep 1; done",
        "while :; do :; done",
        "kill -STOP $$",
        "exec 1>&- 2>&-; sleep 1000",
        "yes",
        "yes >&2",
    ],
)
def test_nothing_outlives_its_limit(sandbox: Any, command: str) -> None:
    """Neither deaf commands, nor stopped, silent or shouting ones."""
    with within(10), pytest.raises(CommandTimeout):
        sandbox.execute(command, timeout=0.5)
    assert sandbox.execute("echo after").stdout == "after\n"


def test_a_timeout_kills_all_that_the_command_started(sandbox: Any) -> None:
    """Also children with a session of their own, and orphans of orphans."""
    with pytest.raises(CommandTimeout):
        sandbox.execute(
            "setsid sleep 7771 & (setsid sh -c 'setsid sleep 7772 & sleep 7773' &) ;"
            " (trap '' TERM; sleep 7774) & nohup sleep 7775 & sleep 7776",
            timeout=0.5,
        )
    listing = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    assert eventually(lambda: "sleep 777" not in sandbox.execute(listing).stdout, 5), (
        sandbox.execute(listing).stdout
    )


def test_what_stops_all_others_holds_up_no_command(sandbox: Any) -> None:
    """Also what waits in there to become the next command is stopped, and then replaced."""
    command = "sleep 0.1; kill -STOP -1"
    for number in range(5):
        with within(10), contextlib.suppress(CommandTimeout):
            sandbox.execute(command, timeout=1)
        with within(10):
            assert sandbox.execute(f"echo {number}", timeout=5).stdout == f"{number}\n"


def test_what_stops_itself_at_once_is_a_command_like_others(sandbox: Any) -> None:
    """However soon after its start, it is not taken for one that never began."""
    for _ in range(20):
        with within(10), pytest.raises(CommandTimeout):
            sandbox.execute("kill -STOP $$", timeout=0.05)
    assert sandbox.execute("echo after").stdout == "after\n"


# Has Python run with all descriptors taken that select(2) can tell of, as by hundreds of sandboxes.
CROWDED = """\
#!{python}
import os, sys
while os.dup(0) < 1023:
    pass
for fd in range(3, 1024):
    os.set_inheritable(fd, True)
os.execv({python!r}, sys.argv)
"""
STOPPING = """
import json, resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sys.executable = {crowded!r}
from rock_gym import Sandbox
from rock_gym.errors import CommandTimeout
stopped = 0
with Sandbox.start(backend="bubblewrap") as sandbox:
    for _ in range(20):
        try:
            sandbox.execute("kill -STOP $$", timeout=0.05)
        except CommandTimeout:
            stopped += 1
    print(json.dumps([stopped, sandbox.execute("echo after").stdout]), flush=True)
"""


@pytest.mark.parametrize("backend", ["bubblewrap"], indirect=True)
def test_what_stops_itself_at_once_where_there_are_many(backend: str, tmp_path: Path) -> None:
    """What looks after all sandboxes of an owner lives on, however many there are."""
    crowded = tmp_path / "python"
    crowded.write_text(CROWDED.format(python=sys.executable))
    crowded.chmod(0o755)
    assert run_owner(STOPPING.format(crowded=str(crowded))) == [20, "after\n"]


def test_a_child_that_keeps_the_pipe_open_delays_nothing(sandbox: Any) -> None:
    """The result is there when the command itself has ended."""
    with within(5):
        assert sandbox.execute("sleep 60 & echo hi").stdout == "hi\n"
        assert sandbox.execute("(setsid sleep 60 &) ; echo ho; exit 4").exit_code == 4


def test_all_that_was_written_before_the_end_arrives(sandbox: Any) -> None:
    """Nothing is lost between the last byte and the exit code."""
    for size in (1, 4095, 65536, 65537, 300_000):
        for _ in range(5):
            result = sandbox.execute(f"sleep 60 & head -c {size} /dev/zero | tr '\\0' x")
            assert len(result.stdout) == size


def test_a_command_of_a_megabyte(sandbox: Any) -> None:
    """Longer than any argument may be."""
    text = "x" * 1_000_000
    result = sandbox.execute(f"printf %s '{text}' | wc -c; echo $?")
    assert result.stdout.split() == ["1000000", "0"]


def test_long_output_keeps_both_ends(sandbox: Any) -> None:
    """The first and the last 512 KiB stay, and the flag says that the rest went."""
    with within(50):
        result = sandbox.execute("seq 1 12000000")
    assert result.truncated is True
    assert result.exit_code == 0
    assert result.stdout.startswith("1\n2\n3\n")
    assert result.stdout.endswith("11999999\n12000000\n")
    assert KEPT_BYTES <= len(result.stdout) <= KEPT_BYTES + 1024


def test_output_just_below_the_limit_is_whole(sandbox: Any) -> None:
    """Nothing is dropped that need not be."""
    result = sandbox.execute(f"head -c {KEPT_BYTES} /dev/zero | tr '\\0' x")
    assert result.truncated is False
    assert result.stdout == "x" * KEPT_BYTES


def test_long_output_takes_no_memory(backend: str) -> None:
    """100 MB on each stream cost the caller a few."""
    grown_kib = run_owner(
        f"""
import resource, rock_gym
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    sandbox.execute("seq 1 300000; seq 1 300000 >&2")
    before = peak()
    sandbox.execute("head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2")
    bash = sandbox.create_session()
    bash.run("head -c 100000000 /dev/zero")
    print(peak() - before, flush=True)
"""
    )
    assert grown_kib < 32 * 1024


def test_bytes_that_are_no_text_are_spelt_out(sandbox: Any) -> None:
    """Decoding never fails and loses nothing."""
    result = sandbox.execute("printf '\\377\\376ok\\303\\000'")
    assert result.stdout == "\\xff\\xfeok\\xc3\0"


def test_a_character_in_two_pieces_is_one(sandbox: Any) -> None:
    """A write boundary inside a character does not show."""
    result = sandbox.execute(
        "printf '\\303'; sleep 0.2; printf '\\251\\360\\237'; sleep 0.2; printf '\\230\\200'"
    )
    assert result.stdout == "é😀"
    many = sandbox.execute('x=é; while [ ${#x} -lt 200000 ]; do x=$x$x; done; printf %s "a$x"')
    assert set(many.stdout) == {"a", "é"}
    assert many.truncated is False


def test_sixteen_threads_at_once(sandbox: Any) -> None:
    """Each caller gets its own output and code."""

    def ask(number: int) -> None:
        result = sandbox.execute(f"echo {number}; echo e{number} >&2; exit {number % 256}")
        assert (result.stdout, result.stderr) == (f"{number}\n", f"e{number}\n")
        assert result.exit_code == number % 256

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, range(320)))


def test_one_slow_command_holds_up_no_other(sandbox: Any) -> None:
    """Commands run side by side."""
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(sandbox.execute, "while [ ! -e stop ]; do sleep 0.01; done; echo end")
        with within(5):
            for _ in range(10):
                assert sandbox.execute("echo fast").stdout == "fast\n"
            sandbox.write_file("stop", "")
        assert slow.result(timeout=10).stdout == "end\n"


def test_killing_everything_from_inside_leaves_the_sandbox(sandbox: Any) -> None:
    """A `kill -9 -1` is the command's own end, not the sandbox's."""
    sandbox.execute("kill -9 -1")
    with within(10):
        assert sandbox.execute("echo alive").stdout == "alive\n"


def test_a_thousand_commands_in_a_row(sandbox: Any) -> None:
    """No output and no code is ever another's."""
    start = time.monotonic()
    for number in range(1000):
        result = sandbox.execute(["sh", "-c", f"echo {number}; exit {number % 200}"])
        assert (result.stdout, result.exit_code) == (f"{number}\n", number % 200)
    assert time.monotonic() - start < 50


def test_a_sandbox_that_kills_all_that_joins_it_harms_itself_alone(start: Any) -> None:
    """Its commands run or are typed errors, at once; its neighbours do not notice."""
    hostile, neighbour = start(), start()
    # A loop of one process, whose own builtin spares it alone.
    hostile.create_session().run("(while :; do kill -9 -1; done) & disown", timeout=None)
    with within(30):
        for _ in range(5):
            with contextlib.suppress(SandboxLost, CommandTimeout, FileError):
                hostile.execute("true", timeout=3)
            assert neighbour.execute("echo fine").stdout == "fine\n"
        hostile.stop()


def test_signals_act_as_usual_whatever_the_owner_ignores(backend: str) -> None:
    """An owner under nohup, or with blocked signals, hands none of that on."""
    told = run_owner(
        f"""
import json, signal
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGUSR2])
import rock_gym
with rock_gym.Sandbox.start(backend={backend!r}) as sandbox:
    print(json.dumps(sandbox.execute("grep -E '^Sig(Blk|Ign)' /proc/self/status").stdout.split()))
"""
    )
    # 32 and 33 are the C library's own; it lets nobody set them.
    assert [int(mask, 16) & ~(3 << 31) for mask in told[1::2]] == [0, 0]
