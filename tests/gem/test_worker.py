"""One environment in a process of its own: what it says, and every way in which it can fail."""

from __future__ import annotations

import json
import math
import select
import time
from pathlib import Path
from typing import Any

import pytest

from rock_gym.errors import (
    EnvError,
    EnvUnavailable,
    ResetTimeout,
    SpecError,
    StepTimeout,
    WireError,
)
from rock_gym.gem import wire
from rock_gym.gem.worker import EnvWorker
from tests.contract.support import eventually, within
from tests.gem.conftest import Lease
from tests.gem.local import kill, pid_of

GAME = "game:GuessTheNumber-v0-easy"
PROBE = "probe:Probe"

# The question that this seed draws never comes.
ENDLESS, ENDLESS_SEED = "rg:number_sequence", 3


def spinning(pid: int) -> bool:
    """Whether a process is there and running."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.fixture
def probe(lease: Lease) -> EnvWorker:
    """An environment that does what the action says, reset."""
    worker = lease(PROBE)
    worker.reset(1)
    return worker


class TestEpisodes:
    def test_what_comes_back(self, lease: Lease) -> None:
        worker = lease(GAME)
        observation, info = worker.reset(42)
        assert "number" in observation.lower()
        assert info == {"suffix": "Enter your next guess."}
        reply = worker.step("\\boxed{1}")
        assert (reply.terminated, reply.truncated) == (False, False)
        assert type(reply.reward) is float
        assert type(reply.terminated) is bool

    def test_a_seed_decides(self, lease: Lease) -> None:
        """In one process again and again, and in another."""
        one, other = lease("game:Mastermind-v0-hard"), lease("game:Mastermind-v0-hard")
        moves = ["\\boxed{1 2 3 4}", "\\boxed{5 6 7 8}"]

        def play(worker: EnvWorker, seed: int) -> list[Any]:
            return [worker.reset(seed), *(worker.step(move) for move in moves)]

        first = play(one, 7)
        play(one, 8)
        assert play(one, 7) == play(other, 7) == first
        assert any(play(one, seed) != first for seed in range(5))

    def test_the_five_hundredth_reset_asks_the_same(self, lease: Lease) -> None:
        """GEM takes other questions then."""
        worker = lease("rg:gcd")
        first = worker.reset(42)
        for seed in range(501):
            worker.reset(seed)
        assert worker.reset(42) == first

    @pytest.mark.parametrize("seed", [0, 2**32 - 1])
    def test_seeds_at_the_ends(self, probe: EnvWorker, seed: int) -> None:
        assert probe.reset(seed).observation.endswith(f"with {seed}")

    @pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, "1"])
    def test_what_is_no_seed(self, probe: EnvWorker, seed: Any) -> None:
        with pytest.raises(SpecError, match="seed"):
            probe.reset(seed)
        assert probe.step("echo still there").observation == "still there"

    def test_kwargs_get_there(self, lease: Lease) -> None:
        worker = lease(PROBE, kwargs={"size": (1, 2), "name": "ä"})
        assert worker.reset(1).info["kwargs"] == {"size": [1, 2], "name": "ä"}

    def test_step_before_reset(self, lease: Lease) -> None:
        worker = lease(GAME)
        with pytest.raises(EnvError, match="reset"):
            worker.step("\\boxed{1}")
        assert worker.reset(1)

    @pytest.mark.parametrize("action", ["", "ä€\U0001f600", "a\x00b", "x" * 3_000_000])
    def test_any_text_gets_there_and_back(self, probe: EnvWorker, action: str) -> None:
        assert probe.step(f"echo {action}").observation == action

    def test_lone_surrogates_do_no_harm(self, probe: EnvWorker) -> None:
        assert probe.step("echo a\ud800b").observation == "a\ufffdb"
        assert probe.step("surrogate").observation == "a\ufffdb\U0001f600"

    def test_an_action_that_is_too_large(self, probe: EnvWorker) -> None:
        with pytest.raises(SpecError, match="action"):
            probe.step("x" * (wire.MAX_FRAME_BYTES + 1))
        assert probe.step("echo a").observation == "a"

    def test_the_halves_of_calls(self, lease: Lease) -> None:
        """Ask many, then take answers as they come."""
        workers = [lease(GAME) for _ in range(8)]
        for worker in workers:
            worker.send_reset(5)
        waiting, first = set(workers), None
        poll = select.poll()
        for worker in workers:
            poll.register(worker.fileno(), select.POLLIN)
        by_fd = {worker.fileno(): worker for worker in workers}
        while waiting:
            ready = poll.poll(20_000)
            assert ready
            for fd, _ in ready:
                worker = by_fd[fd]
                reply = worker.try_receive() if worker in waiting else None
                if reply is not None:
                    waiting.remove(worker)
                    first = first or reply
                    assert reply == first

    def test_asking_twice(self, probe: EnvWorker) -> None:
        probe.send_step("echo 1")
        with pytest.raises(EnvError, match="reset first"):
            probe.send_step("echo 2")
        probe.receive(5)
        with pytest.raises(EnvError, match="nothing was asked"):
            probe.receive(5)

    def test_a_reset_that_is_asked_for_in_the_middle_of_a_step(self, probe: EnvWorker) -> None:
        """Its late answer is never taken for another."""
        probe.send_step("hang")
        assert probe.reset(4).observation == "reset 1 with 4"


class TestInfo:
    def test_anything_in_an_info_gets_through_as_plain(self, probe: EnvWorker) -> None:
        reply = probe.step("info")
        assert (reply.reward, reply.terminated, reply.truncated) == (1.5, True, False)
        json.dumps(reply.info)
        assert reply.info["array"] == [0, 1, 2]
        assert reply.info["flag"] is True
        assert math.isnan(reply.info["nan"])
        assert reply.info["big"] == str(2**100)
        assert reply.info["strange"] == "<Strange>"

    def test_an_info_that_is_none(self, probe: EnvWorker) -> None:
        assert probe.step("noinfo") == ("None", 1.0, True, True, {})

    def test_an_info_that_is_a_list(self, probe: EnvWorker) -> None:
        reply = probe.step("listinfo")
        assert reply.info == {"info": [1, 2]}
        assert math.isnan(reply.reward)

    @pytest.mark.parametrize(
        "action",
        [f"biginfo {wire.MAX_INFO_BYTES}", f"text {wire.MAX_FRAME_BYTES}", "badreward"],
    )
    def test_what_cannot_be_sent_is_an_error(self, probe: EnvWorker, action: str) -> None:
        with pytest.raises(EnvError):
            probe.step(action)
        assert probe.step("echo a").observation == "a"


class TestErrors:
    @pytest.mark.parametrize("action", ["raise oh no", "exit", "no_such_verb"])
    def test_what_a_step_raises(self, probe: EnvWorker, action: str) -> None:
        """It is typed, has the traceback, and does not end the process."""
        pid = pid_of(probe)
        with pytest.raises(EnvError) as caught:
            probe.step(action)
        assert "probe_envs.py" in (caught.value.output or "")
        assert caught.value.sandbox_id == probe.sandbox.id
        assert probe.reset(2).observation == "reset 2 with 2"
        assert pid_of(probe) == pid

    def test_what_a_reset_raises(self, probe: EnvWorker) -> None:
        with pytest.raises(EnvError, match="unlucky"):
            probe.reset(13)
        with pytest.raises(EnvError, match="reset"):
            probe.step("echo a")
        assert probe.reset(2).observation == "reset 3 with 2"

    def test_what_making_it_raises(self, lease: Lease) -> None:
        """It comes out at each reset."""
        worker = lease("probe:Fails")
        for _ in range(2):
            with pytest.raises(EnvError, match="not made"):
                worker.reset(1)

    def test_gems_own_errors(self, lease: Lease) -> None:
        """Some graders cannot take some answers."""
        worker = lease("rg:boxnet")
        worker.reset(1)
        with pytest.raises(EnvError, match="TypeError"):
            worker.step("\\boxed{3}")
        worker.reset(1)

    def test_a_process_that_dies(self, probe: EnvWorker, lease: Lease) -> None:
        neighbour = lease(GAME)
        neighbour.reset(1)
        with pytest.raises(EnvError, match="gone"):
            probe.step("die")
        assert neighbour.step("\\boxed{1}")
        assert probe.reset(3).observation == "reset 1 with 3"

    def test_a_process_that_is_killed_while_it_waits(self, probe: EnvWorker) -> None:
        """The next reset does not even notice; a step does."""
        kill(pid_of(probe))
        assert probe.reset(3).observation == "reset 1 with 3"
        kill(pid_of(probe))
        with pytest.raises(EnvError, match="gone"):
            probe.step("echo a")
        assert probe.reset(3)

    def test_one_that_dies_while_it_is_made(self, lease: Lease) -> None:
        worker = lease("probe:Dies")
        for _ in range(2):
            with pytest.raises(EnvError, match="gone"):
                worker.reset(1)

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff\xff\xff\xff",
            b"\x00\x00\x00\x01\xc1",
            bytes(wire.encode(wire.Hello())),
            bytes(wire.encode(wire.Observed("a reset", wire.tidy_info({})))),
        ],
    )
    def test_an_answer_that_is_none(self, probe: EnvWorker, data: bytes) -> None:
        """What an environment's code says in its process's name is not believed."""
        pid = pid_of(probe)
        with pytest.raises(WireError):
            probe.step(f"forge {data.hex()}")
        assert pid is not None
        assert eventually(lambda: not spinning(pid))
        assert probe.reset(3).observation == "reset 1 with 3"

    def test_the_names_of_errors_are_not_looked_up(self, probe: EnvWorker) -> None:
        """An error that is none of ours is no valid message."""
        body = b"\x83\xa4type\xa6Failed\xa4kind\xa9os.system\xa7message\xa2id"
        with pytest.raises(WireError):
            probe.step(f"forge {(len(body).to_bytes(4, 'big') + body).hex()}")


class TestDeadlines:
    def test_a_reset_that_never_ends(self, lease: Lease) -> None:
        """It is killed at its deadline, while a neighbour in the same sandbox keeps stepping."""
        stuck, neighbour = lease(ENDLESS), lease("game:Game2048-v0-easy")
        assert stuck.sandbox is neighbour.sandbox
        stuck.reset(0)
        neighbour.reset(0)
        stuck.send_reset(ENDLESS_SEED)
        pid, steps, deadline = pid_of(stuck), 0, time.monotonic() + 1.5
        assert pid is not None
        while time.monotonic() < deadline:
            assert stuck.try_receive() is None
            if neighbour.step(f"\\boxed{{{('up', 'left', 'down', 'right')[steps % 4]}}}", 5)[2]:
                neighbour.reset(0)
            steps += 1
        assert spinning(pid)
        with pytest.raises(ResetTimeout, match="killed"):
            stuck.expire(1.5)
        assert eventually(lambda: not spinning(pid))
        assert steps > 20
        with within(5):
            assert stuck.reset(0)
        assert neighbour.reset(1)

    def test_a_step_that_never_ends(self, probe: EnvWorker) -> None:
        pid = pid_of(probe)
        with within(5), pytest.raises(StepTimeout):
            probe.step("hang", 0.2)
        assert pid is not None
        assert eventually(lambda: not spinning(pid))
        with pytest.raises(EnvError, match="reset"):
            probe.step("echo a")
        assert probe.reset(3).observation == "reset 1 with 3"

    def test_one_that_never_gets_made(self, lease: Lease) -> None:
        worker = lease("probe:Hangs")
        for _ in range(2):
            with within(5), pytest.raises(ResetTimeout):
                worker.reset(1, 0.5)

    def test_a_deadline_of_nothing(self, probe: EnvWorker) -> None:
        with pytest.raises(StepTimeout):
            probe.step("hang", 0)
        assert probe.reset(3)

    def test_no_deadline(self, probe: EnvWorker) -> None:
        assert probe.step("echo a", None).observation == "a"
        assert probe.reset(3, None)


class TestUnavailable:
    @pytest.mark.parametrize(
        ("gem_id", "words"),
        [
            ("math:GSM8K", ["'axon-rl/GSM-8k'", "dataset=", "'problem' and 'answer'"]),
            ("code:Taco8k", ["'problem' and 'tests'"]),
            ("qa:HotpotQA", ["dataset="]),
            ("logic:RuleTaker-d0", ["'question' and 'answer'"]),
            ("eval:MATH500", ["math-eval"]),
            ("game:FifteenPuzzle-v0-random", ["broken in GEM", "num_rows="]),
            ("game:Crosswords-v0-random", ["broken in GEM", "hardcore="]),
            ("rg:composite", ["broken in GEM"]),
            ("probe:Lacks", ["no_such_module_anywhere"]),
        ],
    )
    def test_it_says_what_is_missing_and_at_once(
        self, lease: Lease, gem_id: str, words: list[str]
    ) -> None:
        """It does not try the network, which would take half a minute."""
        worker = lease(gem_id)
        with within(8), pytest.raises(EnvUnavailable) as caught:
            worker.reset(1)
        assert all(word in caught.value.message for word in words), caught.value.message

    def test_what_is_broken_works_with_arguments(self, lease: Lease) -> None:
        worker = lease("game:FifteenPuzzle-v0-random", kwargs={"num_rows": 3, "max_turns": 5})
        assert worker.reset(1)

    def test_an_unknown_id(self, lease: Lease) -> None:
        with pytest.raises(SpecError, match="imports="):
            lease("mine:Env").reset(1)

    def test_a_module_that_is_not_there(self, lease: Lease) -> None:
        with pytest.raises(EnvUnavailable, match=r"nowhere_to_be_found.*python_path="):
            lease("mine:Env", imports=["nowhere_to_be_found"]).reset(1)

    def test_kwargs_that_are_no_json(self, lease: Lease) -> None:
        with pytest.raises(SpecError, match="JSON"):
            lease(PROBE, kwargs={"value": object()})

    @pytest.mark.parametrize("count", [0, -1, 1.5, True])
    def test_a_number_of_environments_that_is_none(self, lease: Lease, count: Any) -> None:
        with pytest.raises(SpecError, match="envs_per_sandbox"):
            lease(GAME, count)


QA_ROWS = [{"problem": f"Who is {i}?", "answer": ["ann"]} for i in range(5)]


class TestDataSets:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("datasets")

    def check(self, worker: EnvWorker) -> None:
        assert "Who is" in worker.reset(1).observation
        assert worker.step("<answer>Ann</answer>").reward == 1.0
        worker.reset(2)
        assert worker.step("<answer>Bob</answer>").reward == 0.0

    def test_rows(self, lease: Lease) -> None:
        self.check(lease("qa:HotpotQA", dataset=QA_ROWS))

    @pytest.mark.parametrize("one_a_line", [True, False])
    def test_a_json_file(self, lease: Lease, tmp_path: Path, one_a_line: bool) -> None:
        path = tmp_path / "rows"
        lines = "\n".join(map(json.dumps, QA_ROWS))
        path.write_text(lines + "\n\n" if one_a_line else json.dumps(QA_ROWS))
        self.check(lease("qa:HotpotQA", dataset=str(path)))

    def test_a_parquet_file(self, lease: Lease, tmp_path: Path) -> None:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(QA_ROWS).to_parquet(tmp_path / "rows")
        self.check(lease("qa:HotpotQA", dataset=tmp_path / "rows"))

    def test_a_file_inside(self, lease: Lease) -> None:
        path = f"{lease(GAME).sandbox.run_dir}/rows.json"
        lease(GAME).sandbox.write_file(path, json.dumps(QA_ROWS))
        self.check(lease("qa:HotpotQA", dataset=path))

    def test_math(self, lease: Lease) -> None:
        pytest.importorskip("pylatexenc")
        rows = [{"problem": "1 + 1?", "answer": "2"}]
        worker = lease("math:GSM8K", dataset=rows)
        for answer, reward in (("2", 1.0), ("\\frac{4}{2}", 1.0), ("3", 0.0)):
            assert worker.reset(1).observation == "1 + 1?"
            assert worker.step(f"\\boxed{{{answer}}}").reward == reward

    def test_math_grades_as_with_a_process_pool(self, lease: Lease) -> None:
        """We grade in the environment's own process, limited by a signal."""
        pytest.importorskip("pylatexenc")
        rows = [{"problem": "?", "answer": "\\frac{1}{2}"}]
        ours = lease("math:GSM8K", dataset=rows)
        gems = lease("math:GSM8K", dataset=rows, kwargs={"use_mp": True})
        for answer in (
            "0.5",
            "\\frac12",
            "1/2",
            "\\frac{2}{4}",
            "2",
            "x",
            "",
            "\\sqrt{",
            "9**9**9",
        ):
            ours.reset(1)
            gems.reset(1)
            action = f"\\boxed{{{answer}}}"
            assert ours.step(action) == gems.step(action)

    def test_code_runs_in_the_sandbox(self, lease: Lease) -> None:
        """Exit codes of what it starts are true."""
        tests = {"inputs": ["2", "3"], "outputs": ["4", "6"]}
        worker = lease("code:Taco8k", dataset=[{"problem": "Double", "tests": tests}])
        for code, reward in (
            ("print(2 * int(input()))", 1.0),
            ("print(2 * int(input())); raise SystemExit(1)", 0.0),
            ("print(1)", 0.0),
        ):
            worker.reset(1)
            assert worker.step(f"```python\n{code}\n```").reward == reward

    @pytest.mark.parametrize(
        ("rows", "words"),
        [
            ([], "no rows"),
            ([{"question": "?"}], r"lacks the columns \['problem', 'answer'\]"),
            ([1, 2], "not rows"),
            ("/no/such/file.json", "no such file"),
        ],
    )
    def test_what_is_no_data_set(self, lease: Lease, rows: Any, words: str) -> None:
        with pytest.raises(EnvUnavailable, match=words):
            lease("qa:HotpotQA", dataset=rows).reset(1)

    def test_a_file_that_is_no_json(self, lease: Lease, tmp_path: Path) -> None:
        (tmp_path / "rows").write_text('{"problem": ')
        with pytest.raises(EnvUnavailable, match="not rows"):
            lease("qa:HotpotQA", dataset=tmp_path / "rows").reset(1)

    def test_rows_that_are_no_json(self, lease: Lease) -> None:
        with pytest.raises(SpecError, match="rows"):
            lease("qa:HotpotQA", dataset=[{"problem": object()}])
