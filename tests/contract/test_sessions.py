"""Named shells that keep their state."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rock_gym.errors import (
    CommandFailed,
    CommandTimeout,
    FileError,
    SandboxClosed,
    SessionClosed,
    SpecError,
)
from tests.contract.support import eventually, within


@pytest.fixture
def bash(sandbox: Any) -> Any:
    return sandbox.create_session("main")


def works(session: Any) -> bool:
    """Whether a session answers as it should."""
    session.run("probe=41")
    result = session.run('echo "$((probe+1))"; (exit 5)')
    return (result.output, result.exit_code) == ("42\n", 5)


# State


def test_it_starts_in_the_work_directory(sandbox: Any, bash: Any) -> None:
    assert bash.run("pwd").output.strip() == sandbox.workdir


def test_the_directory_is_kept(bash: Any) -> None:
    bash.run("mkdir -p a/b && cd a/b")
    assert bash.run("pwd").output.endswith("/a/b\n")


def test_variables_and_functions_are_kept(bash: Any) -> None:
    bash.run("x='one  two'; export Y=3; greet() { echo \"hi $1\"; return 4; }")
    assert bash.run("echo \"$x\"; sh -c 'echo $Y'").output == "one  two\n3\n"
    result = bash.run("greet you")
    assert (result.output, result.exit_code) == ("hi you\n", 4)


def test_options_aliases_and_arrays_are_kept(bash: Any) -> None:
    bash.run("shopt -s nullglob expand_aliases; alias say='echo said'; list=(a 'b c')")
    assert bash.run("say it; echo nothing-*; echo ${#list[@]}").output == "said it\n\n2\n"


def test_background_jobs_are_kept(bash: Any) -> None:
    """They live on, stay known to the shell, and say nothing by themselves."""
    started = bash.run("sleep 1000 & pid=$!")
    assert (started.output, started.exit_code) == ("", 0)
    assert bash.run("kill -0 $pid").exit_code == 0
    assert "sleep 1000" in bash.run("jobs").output
    assert bash.run("kill %1; wait $pid").exit_code == 143


def test_the_last_code_is_seen_by_the_next_command(bash: Any) -> None:
    """As in a terminal."""
    assert bash.run("(exit 9)").exit_code == 9
    assert bash.run("echo $?").output == "9\n"
    assert bash.run("echo $?").output == "0\n"


def test_output_and_error_come_in_order(bash: Any) -> None:
    assert bash.run("echo a; echo b >&2; echo c").output == "a\nb\nc\n"


def test_a_session_may_start_elsewhere(sandbox: Any) -> None:
    sandbox.execute("mkdir sub")
    session = sandbox.create_session("elsewhere", cwd="sub", env={"GREETING": "hello there"})
    assert session.run('pwd; echo "$GREETING"').output.endswith("/sub\nhello there\n")
    with pytest.raises(FileError) as caught:
        sandbox.create_session("nowhere", cwd="not/here")
    assert caught.value.reason == "ENOENT"


def test_check_raises(bash: Any) -> None:
    with pytest.raises(CommandFailed) as caught:
        bash.run("echo why; (exit 6)", check=True)
    assert (caught.value.exit_code, caught.value.output) == (6, "why\n")
    assert works(bash)


# The shape of commands


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("for i in 1 2\ndo\n  echo $i\ndone", "1\n2\n"),
        ("cat <<EOF\nhello $((1+1))\nEOF", "hello 2\n"),
        ("cat <<'EOF'\n$x `y`\nEOF\necho end", "$x `y`\nend\n"),
        ("cat <<A; cat <<-B\n1\nA\n\t2\n\tB", "1\n2\n"),
        ("echo a # not this", "a\n"),
        ("# nothing at all", ""),
        ("", ""),
        ("   \n\n  ", ""),
        ("echo a;", "a\n"),
        ("echo a \\\n  b", "a b\n"),
        ("echo 'it'\"'\"'s'", "it's\n"),
        ("echo '\n'", "\n\n"),
        ("printf 'no newline'", "no newline"),
        ("printf '\\n\\n'", "\n\n"),
        ("echo é 😀 \u2028", "é 😀 \u2028\n"),
        ("printf '\\r\\n'", "\r\n"),
        ("! true || echo negated", "negated\n"),
        ("{ echo a; } 2>&1", "a\n"),
        ("(cd /; pwd)", "/\n"),
        ("echo $'\\001\\002'", "\x01\x02\n"),
        ("echo -n; echo ''", "\n"),
    ],
)
def test_output_is_exact(bash: Any, command: str, output: str) -> None:
    """Nothing is added, nothing is stripped."""
    assert bash.run(command).output == output
    assert works(bash)


@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("cat", {0}),
        ("read line", {1}),
        ("sh", {0}),
        ("bash -i", range(256)),
        ("ssh nowhere || true", {0}),
        ("echo 'open", range(1, 256)),
        ('echo "open', range(1, 256)),
        ("echo `open", range(256)),
        ("echo $(open", range(1, 256)),
        ("cat <<EOF\nopen", {0}),
        ("if true; then", range(1, 256)),
        ("}", range(1, 256)),
        (")", range(1, 256)),
        ("'", range(1, 256)),
        ("\\", range(256)),
        (";;", range(1, 256)),
        ("f() {", range(1, 256)),
        ("case x in", range(1, 256)),
        ("&&", range(1, 256)),
        ("no-such-command-here", {127}),
        ("/etc", {126}),
        ("break", range(256)),
        ("return 3", range(256)),
        ("set -x", {0}),
        ("set -v", {0}),
        ("set -u", {0}),
        ("set -f; set -C; set -a; set -m", {0}),
        ("set -o posix", {0}),
        ("trap 'echo trapped' DEBUG", {0}),
        ("trap 'echo err' ERR", {0}),
        ("trap '' INT TERM HUP QUIT PIPE CHLD", {0}),
        ("PROMPT_COMMAND='echo prompt'; PS0=zero; PS1=one; PS4=four", {0}),
        ("IFS=0123456789", {0}),
        ("PATH=/nowhere", {0}),
        ("unset HOME PATH PWD IFS", {0}),
        ("LC_ALL=C; LANG=C", {0}),
        ("set -- a b c; shift 2", {0}),
        ("printf() { echo fake; }", {0}),
        ("echo() { command printf 'fake\\n'; }; unset -f echo", {0}),
        ("read() { :; }; test() { :; }; local() { :; }", {0}),
        ("shopt -s expand_aliases; alias printf='fake' command='fake' builtin='fake'", {0}),
        ("mkdir gone; cd gone; rmdir ../gone", {0}),
        ("stty raw 2>/dev/null || true", {0}),
        ("ulimit -f 100000", {0}),
        ("history; fc -l", range(256)),
        ("set; declare -p; trap -p; declare -f; alias; jobs; shopt", range(256)),
        ("exec 3>&1 4>&2 5</dev/null; exec 3>&- 4>&- 5<&-", {0}),
        ("cat /dev/fd/0", {0}),
        ("sudo -n true; true", {0}),
    ],
)
def test_no_command_harms_the_next(bash: Any, command: str, codes: Any) -> None:
    """Whatever it leaves open, redefines or sets, the session answers rightly afterwards."""
    with within(10):
        assert bash.run(command, timeout=5).exit_code in codes
        bash.run("trap - DEBUG ERR; set +xv", timeout=5)
        assert works(bash)
        assert bash.run("false", timeout=5).exit_code == 1


# After these no answer comes any more.
MUTE = (
    "set -n",
    "exec 9>&-",
    "exec 9>/dev/null",
    'for fd in 3 4 5 6 7 8 9 10 11 255; do eval "exec $fd>&-"; done',
    "command() { :; }",
    "builtin() { :; }; command() { :; }; eval() { :; }; exit() { :; }; trap() { :; }",
    "enable -n printf eval command",
    "kill -STOP $$",
    "ulimit -n 0",
    "trap 'false' DEBUG; shopt -s extdebug",
    "trap 'while :; do :; done' DEBUG",
)


@pytest.mark.parametrize(
    "command",
    [
        *MUTE,
        "set -e",
        "set -eu; set -o pipefail",
        "exec 1>&-",
        "exec 2>&-",
        "exec >/dev/null",
        "exec >/dev/full 2>&1",
        "exec >out.txt 2>&1",
        "exec 0<&-",
        "exec 0<&- 1>&- 2>&-",
        "eval() { :; }",
        "shopt -s expand_aliases; alias eval=: command=: printf=:",
        "set -o posix; eval() { :; }",
        "set -r",
        "kill -9 $$",
        "kill -TERM $$",
        "kill -INT $$",
        "sleep 0.2 & wait -n; exec < /dev/zero",
        "trap 'while :; do :; done' EXIT",
        "readonly BASHOPTS IFS=x",
    ],
)
def test_what_breaks_a_shell_never_breaks_the_answer(sandbox: Any, command: str) -> None:
    """The next command gives its true code, or says that the session ended or was restarted."""
    session = sandbox.create_session("victim")
    # Where an answer comes, a busy machine may take its time.
    timeout = 0.75 if command in MUTE else 3
    with within(30):
        try:
            session.run(command, timeout=timeout)
            # Not the output: that may truly be closed or elsewhere.
            assert session.run("(exit 5)", timeout=timeout).exit_code == 5
            assert session.run("true", timeout=timeout).exit_code == 0
            session.run("touch proof || : > proof", timeout=timeout)
            assert sandbox.read_file("proof") == ""
        except CommandTimeout as error:
            assert error.session_restarted
            assert works(session)
        except SessionClosed:
            assert not session.is_alive()
            assert works(sandbox.create_session("victim"))
        assert works(sandbox.create_session("neighbour"))


def test_errexit_ends_the_session_or_not_but_never_lies(bash: Any) -> None:
    """After set -e, the failing command still gives its own code."""
    assert bash.run("set -e").exit_code == 0
    assert bash.run("echo before; (exit 3); echo never").output == "before\n"
    if bash.is_alive():
        assert bash.run("(exit 4)").exit_code == 4
    else:
        with pytest.raises(SessionClosed):
            bash.run("true")


def test_a_trace_shows_the_command_and_nothing_of_ours(bash: Any) -> None:
    """Under set -x a session prints what the user wrote; the end marker stays out of sight."""
    bash.run("set -x")
    lines = bash.run("echo hi").output.splitlines()
    assert "hi" in lines
    assert [line for line in lines if "hi" not in line] == []
    bash.run("set +x")
    assert bash.run("echo clean").output == "clean\n"


def test_nothing_of_ours_is_in_the_shells_state(bash: Any) -> None:
    """A user's `set`, `jobs` and `declare -f` show the user's things alone."""
    bash.run("true")
    assert bash.run("jobs; alias; trap -p; fc -l 2>/dev/null").output == ""
    names = bash.run("compgen -A function; compgen -v | grep -i rock").output.split()
    assert [name for name in names if not name.startswith("__rg")] == []


# The end of a session


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 7", 7),
        ("exit", 0),
        ("false; exit", 1),
        ("exec true", 0),
        ("exec sh -c 'exit 3'", 3),
        ("exec bash", 0),
        ("kill -9 $$", 137),
        ("trap 'echo bye' EXIT; exit 3", 3),
        ("f() { exit 8; }; f", 8),
        ("eval 'exit 6'", 6),
    ],
)
def test_an_end_gives_its_code_and_closes(sandbox: Any, bash: Any, command: str, code: int) -> None:
    """An `exit 7` ends the session and reports 7; the name is free again."""
    with within(10):
        result = bash.run(f"echo said; {command}", timeout=5)
    assert result.exit_code == code
    assert result.output.startswith("said\n")
    assert not bash.is_alive()
    with pytest.raises(SessionClosed):
        bash.run("echo again")
    with pytest.raises(SessionClosed):
        sandbox.run_in_session("main", "echo again")
    assert works(sandbox.create_session("main"))


def test_an_exit_in_a_subshell_ends_nothing(bash: Any) -> None:
    assert bash.run("(exit 7)").exit_code == 7
    assert bash.run("sh -c 'exit 8'").exit_code == 8
    assert works(bash)


def test_closing(sandbox: Any, bash: Any) -> None:
    """Closed is closed; twice is fine; the name is free again."""
    bash.run("x=1; sleep 8881 &")
    assert bash.is_alive()
    bash.close()
    bash.close()
    assert not bash.is_alive()
    with pytest.raises(SessionClosed):
        bash.run("true")
    again = sandbox.create_session("main")
    assert again.run("echo [$x]").output == "[]\n"
    sandbox.close_session("main")
    assert not again.is_alive()
    listing = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    assert eventually(lambda: "sleep 8881" not in sandbox.execute(listing).stdout)


def test_a_close_ends_a_running_command(bash: Any) -> None:
    """Whoever waits for it hears of it at once."""
    with ThreadPoolExecutor(1) as thread, within(10):
        running = thread.submit(bash.run, "echo started > started; sleep 1000")
        assert eventually(lambda: running.running())
        time.sleep(0.1)
        bash.close()
        with pytest.raises(SessionClosed):
            running.result(timeout=5)


def test_names(sandbox: Any) -> None:
    """One session a name, and an unknown one is an error that says so."""
    sandbox.create_session("a")
    with pytest.raises(SpecError, match="a"):
        sandbox.create_session("a")
    for verb in (lambda: sandbox.run_in_session("b", "true"), lambda: sandbox.close_session("b")):
        with pytest.raises(SessionClosed, match="b"):
            verb()
    for name in ("", "a\0b"):
        with pytest.raises(SpecError):
            sandbox.create_session(name)
    assert sandbox.create_session().run("echo default").output == "default\n"
    assert sandbox.run_in_session("default", "echo same").output == "same\n"


@pytest.mark.parametrize(
    ("command", "timeout"),
    [("a\0b", 5), ("true", -1), ("true", float("nan")), ("true", "soon")],
)
def test_nonsense_is_refused(bash: Any, command: str, timeout: Any) -> None:
    with pytest.raises(SpecError):
        bash.run(command, timeout=timeout)
    assert works(bash)


def test_sessions_end_with_their_sandbox(sandbox: Any, bash: Any) -> None:
    sandbox.stop()
    with pytest.raises(SandboxClosed):
        bash.run("true")
    with pytest.raises(SandboxClosed):
        sandbox.create_session("late")
    assert not bash.is_alive()


# Timeouts


def test_a_timeout_leaves_the_session_as_it_was(bash: Any) -> None:
    """Directory, variables and earlier background jobs stay; the partial output is told."""
    bash.run("mkdir -p d; cd d; x=kept; sleep 1000 & job=$!")
    with within(5), pytest.raises(CommandTimeout) as caught:
        bash.run("echo partial; sleep 1000; echo never", timeout=0.3)
    assert caught.value.output == "partial\n"
    assert caught.value.session_restarted is False
    with within(2):
        result = bash.run("echo $x; basename $PWD; kill -0 $job && echo alive")
    assert result.output == "kept\nd\nalive\n"


@pytest.mark.parametrize(
    "command",
    [
        "trap '' INT TERM; sleep 1000",
        "sh -c \"trap '' INT TERM HUP; while :; do sleep 0.1; done\"",
        "while :; do :; done",
        "while sleep 0.05; do echo tick; done",
        "until false; do true; done",
        "sleep 1000 | cat | sort",
        "(sleep 1000; echo never) & wait",
        "read y < <(sleep 1000)",
        "yes",
        "exec sleep 1000",
        "f() { f | f; }; sleep 1000",
        "mkfifo fifo; cat fifo",
        "kill -STOP $$",
        "trap 'sleep 1000' EXIT; exit",
        "sleep 1000 & disown; fg 2>/dev/null; sleep 1000",
        "setsid sh -c 'trap \"\" TERM INT; sleep 1000' & wait",
        "{ sleep 1000; } 2>&1 1>/dev/null",
    ],
)
def test_after_a_timeout_the_session_is_usable(bash: Any, command: str) -> None:
    """At once, and what it says about its state is true."""
    bash.run("x=kept")
    with within(10), pytest.raises(CommandTimeout) as caught:
        bash.run(command, timeout=0.3)
    with within(5):
        kept = bash.run("echo [$x]")
        assert kept.output == ("[]\n" if caught.value.session_restarted else "[kept]\n")
        assert works(bash)


def test_late_output_is_never_shown(sandbox: Any, bash: Any) -> None:
    """What a timed-out command would have printed later belongs to nobody."""
    with pytest.raises(CommandTimeout):
        bash.run(
            "(trap '' INT TERM; for i in $(seq 300); do echo LATE; sleep 0.01; done) & "
            "while :; do echo LATE; done",
            timeout=0.3,
        )
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert bash.run("echo mine").output == "mine\n"
    listing = sandbox.execute("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert "LATE" not in listing


def test_killed_jobs_are_not_announced_later(bash: Any) -> None:
    """Shells like to tell of jobs that a signal ended; the next command is not the place."""
    for _ in range(10):
        with pytest.raises(CommandTimeout):
            bash.run(
                "sleep 100 & nohup sleep 100 & (trap '' TERM INT; sleep 100) & setsid sleep 100 & "
                "sleep 100",
                timeout=0.1,
            )
        for _ in range(5):
            assert bash.run("echo mine").output == "mine\n"


def test_everything_the_command_started_dies_with_it(sandbox: Any, bash: Any) -> None:
    """Own sessions and orphans too; what was there before lives on."""
    bash.run("sleep 9990 & (setsid sleep 9991 &)")
    with pytest.raises(CommandTimeout):
        bash.run(
            "setsid sleep 6661 & (setsid sh -c 'setsid sleep 6662 & sleep 6663' &);"
            " (trap '' TERM INT; sleep 6664) & nohup sleep 6665 & sleep 6666",
            timeout=0.5,
        )
    listing = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    assert eventually(lambda: "sleep 666" not in sandbox.execute(listing).stdout, 5)
    shown = sandbox.execute(listing).stdout
    assert "sleep 9990" in shown
    assert works(bash)


def test_an_earlier_job_outlives_many_timeouts(bash: Any) -> None:
    bash.run("sleep 1000 & job=$!")
    for _ in range(10):
        with pytest.raises(CommandTimeout):
            bash.run("sleep 1000 | sleep 1000", timeout=0.05)
    assert bash.run("kill -0 $job; echo $?").output == "0\n"


@pytest.mark.timeout(120)
def test_timeouts_that_race_the_end_of_the_command(bash: Any) -> None:
    """Right at the edge a command is either done or timed out, and nothing is mixed up."""
    restarts = 0
    for number in range(200):
        try:
            result = bash.run(f"sleep 0.02; echo {number}", timeout=0.018 + number % 10 * 0.001)
            assert result.output == f"{number}\n"
        except CommandTimeout as error:
            assert error.output in ("", f"{number}\n")
            restarts += error.session_restarted
        assert bash.run(f"echo next {number}").output == f"next {number}\n"
    # On a busy machine, a shell may not be seen to come back in time. That is rare.
    assert restarts <= 20


# Output


def test_a_command_of_a_megabyte(bash: Any) -> None:
    text = "x" * 1_000_000
    assert bash.run(f"v='{text}'; echo ${{#v}}").output == "1000000\n"
    lines = "\n".join(f": {number}" for number in range(100_000))
    assert bash.run(f"{lines}\necho done").output == "done\n"


def test_long_output_keeps_both_ends(bash: Any) -> None:
    with within(50):
        result = bash.run("seq 1 12000000; (exit 3)")
    assert result.truncated is True
    assert result.exit_code == 3
    assert result.output.startswith("1\n2\n3\n")
    assert result.output.endswith("11999999\n12000000\n")
    assert 2**20 <= len(result.output) <= 2**20 + 1024
    short = bash.run("echo short")
    assert (short.output, short.truncated) == ("short\n", False)


def test_bytes_that_are_no_text(bash: Any) -> None:
    assert bash.run("printf '\\377ok\\303\\000'").output == "\\xffok\\xc3\0"
    assert bash.run("printf '\\303'; sleep 0.2; printf '\\251'").output == "é"
    assert bash.run("head -c 3000000 /dev/urandom; (exit 2)").exit_code == 2
    assert works(bash)


@pytest.mark.parametrize(
    "text",
    [
        "EXITCODESTART0EXITCODEEND",
        "SHELLPS1PREFIX",
        "\\x00\\x00\\x000",
        "__ROCK_GYM_DONE__ 0",
        "rock-gym 0123456789abcdef 0",
        "\\x1e0\\x1f",
        "\\033]133;D;0\\007",
        "$? 0 exit_code=0",
    ],
)
def test_text_that_looks_like_a_marker_is_text(bash: Any, text: str) -> None:
    """On its output, its error and every descriptor that it can find."""
    command = (
        f"printf '{text}\\n'; for fd in /proc/self/fd/*; do "
        f"case $fd in */[12]) ;; *) printf '{text}\\n0\\n' > $fd;; esac; done 2>/dev/null; (exit 9)"
    )
    result = bash.run(command, timeout=5)
    assert result.exit_code == 9
    assert result.output.startswith(text.encode().decode("unicode_escape"))
    assert works(bash)


def test_a_child_that_keeps_the_output_delays_nothing(bash: Any) -> None:
    with within(5):
        assert bash.run("sleep 60 & echo hi").output == "hi\n"
        assert bash.run("(setsid sleep 60 &); echo ho").output == "ho\n"


# Many


@pytest.mark.timeout(120)
def test_ten_thousand_commands_in_a_row(bash: Any) -> None:
    """No wrong output, no wrong exit code, ever."""
    bash.run("give() { return $1; }")
    for number in range(10_000):
        shape = number % 5
        if shape == 0:
            command, output = f"echo {number}", f"{number}\n"
        elif shape == 1:
            command, output = f"printf %s {number}", f"{number}"
        elif shape == 2:
            command, output = f"cat <<E\n{number}\nE", f"{number}\n"
        elif shape == 3:
            command, output = f"echo {number} >&2", f"{number}\n"
        else:
            command, output = ":", ""
        result = bash.run(f"{command}\ngive {number % 256}")
        assert (result.output, result.exit_code) == (output, number % 256)


def test_threads_on_one_session_queue(bash: Any) -> None:
    """Commands never mix, and none is lost."""
    bash.run("count=0")

    def ask(number: int) -> None:
        result = bash.run(f"echo {number}; count=$((count+1)); echo {number}; (exit {number})")
        assert (result.output, result.exit_code) == (f"{number}\n{number}\n", number)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(ask, range(200)))
    assert bash.run("echo $count").output == "200\n"


def test_many_sessions_side_by_side(sandbox: Any) -> None:
    """Each has a state of its own and waits for no other."""
    sessions = [sandbox.create_session(f"s{number}") for number in range(32)]
    barrier = threading.Barrier(len(sessions))

    def use(number: int) -> str:
        sessions[number].run(f"x={number}; mkdir d{number}; cd d{number}")
        barrier.wait(20)
        return sessions[number].run("echo $x $(basename $PWD)").output

    with ThreadPoolExecutor(len(sessions)) as threads:
        answers = list(threads.map(use, range(len(sessions))))
    assert answers == [f"{number} d{number}\n" for number in range(len(sessions))]
    sessions[3].close()
    assert sessions[4].run("echo $x").output == "4\n"


def test_sessions_are_opened_at_once_from_many_threads(sandbox: Any) -> None:
    """One name goes to one caller; the others hear why."""

    def create(_: int) -> bool:
        try:
            sandbox.create_session("wanted")
        except SpecError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(create, range(8))) == 1
    assert works(sandbox.create_session("other"))


def test_a_timeout_names_the_limit_that_was_given(bash: Any) -> None:
    """Not what was left of it when the command began."""
    with pytest.raises(CommandTimeout, match=r"longer than 0\.25 s"):
        bash.run("sleep 100", timeout=0.25)
