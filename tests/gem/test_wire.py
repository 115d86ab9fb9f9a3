"""Frames and messages, the well-meant and the hostile."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rock_gym.gem import wire
from rock_gym.gem.channel import HostChannel
from rock_gym.gem.plain import MAX_DEPTH, plain

TEXTS = st.text(st.characters(), max_size=200)  # lone surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS | st.binary(max_size=20) | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(SCALARS | st.tuples(SCALARS), inner, max_size=5)
        | st.frozensets(SCALARS, max_size=5)
    ),
    max_leaves=30,
)
CLEAN_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)
CLEAN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | CLEAN_TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(CLEAN_TEXTS, inner, max_size=5),
    max_leaves=30,
)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def over_wire(message: wire.EnvReply) -> Any:
    """Send a message as the guest does, and take it as the host does."""
    return wire.Frames(wire.ENV_REPLIES).take(wire.encode(message))


def info_over_wire(info: object) -> dict[str, Any]:
    return wire.unpack_info(over_wire(wire.Observed("", wire.tidy_info(info))).info)


class TestMessages:
    @given(CLEAN_TEXTS, st.floats(allow_nan=False), st.booleans(), st.booleans(), CLEAN_VALUES)
    def test_a_step_comes_back_as_it_was(
        self, text: str, reward: float, terminated: bool, truncated: bool, value: Any
    ) -> None:
        sent = wire.Stepped(text, reward, terminated, truncated, wire.tidy_info({"value": value}))
        got = over_wire(sent)
        assert (got.observation, got.reward) == (text, reward)
        assert (got.terminated, got.truncated) == (terminated, truncated)
        assert wire.unpack_info(got.info) == {"value": value}

    @given(CLEAN_TEXTS)
    def test_so_does_an_action(self, text: str) -> None:
        frames = wire.Frames(wire.ENV_REQUESTS)
        assert frames.take(wire.encode(wire.Step(text))) == wire.Step(text)

    @given(TEXTS)
    @example("a\ud800b")
    def test_lone_surrogates_are_replaced(self, text: str) -> None:
        expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        sent = wire.Failed("env_error", text, text)
        got = over_wire(sent)
        assert got.message == expected
        assert over_wire(wire.Answers([sent])).items == [got]
        assert info_over_wire({text: text}) == {expected: expected}
        batch = wire.Frames(wire.ENV_REQUESTS).take(wire.encode(wire.Batch([(3, wire.Step(text))])))
        assert batch == wire.Batch([(3, wire.Step(expected))])

    @given(st.lists(CLEAN_TEXTS, max_size=5), st.integers(1, 50))
    def test_it_is_no_matter_how_bytes_are_cut(self, texts: list[str], size: int) -> None:
        data = b"".join(wire.encode(wire.Step(text)) for text in texts)
        frames, got = wire.Frames(wire.ENV_REQUESTS), []
        for start in range(0, len(data), size):
            message = frames.take(data[start : start + size])
            while message is not None:
                got.append(message)
                message = frames.take()
        assert got == [wire.Step(text) for text in texts]
        assert not frames.rest

    def test_what_is_too_large_is_not_sent(self) -> None:
        with pytest.raises(wire.WireError, match="above the limit"):
            wire.encode(wire.Step("x" * (wire.MAX_FRAME_BYTES + 1)))
        with pytest.raises(wire.WireError, match="info"):
            wire.encode(wire.Observed("", wire.tidy_info({"x": "y" * wire.MAX_INFO_BYTES})))
        wire.encode(wire.Observed("x" * (wire.MAX_INFO_BYTES + 1), wire.tidy_info({})))

    def test_what_cannot_be_sent_says_so(self) -> None:
        with pytest.raises(wire.WireError, match="Make"):
            wire.encode(wire.Make("x", {"value": object()}))


class TestHostileFrames:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xc1",
            packed(None),
            packed([]),
            packed("Stepped"),
            packed({"type": "os.system", "message": "id"}),
            packed({"type": "Make", "gem_id": "x", "kwargs": {}}),
            packed({"type": "Stepped"}),
            packed(
                {
                    "type": "Stepped",
                    "observation": 1,
                    "reward": 0.0,
                    "terminated": True,
                    "truncated": True,
                    "info": {},
                }
            ),
            packed(
                {
                    "type": "Stepped",
                    "observation": "",
                    "reward": "1",
                    "terminated": True,
                    "truncated": True,
                    "info": {},
                }
            ),
            packed(
                {
                    "type": "Stepped",
                    "observation": "",
                    "reward": 0.0,
                    "terminated": 1,
                    "truncated": True,
                    "info": {},
                }
            ),
            packed({"type": "Failed", "kind": "SystemExit", "message": ""}),
            packed({"type": "Hello"})[:-1],
            packed({"type": "Hello"}) + b"\x00",
            b"\x81\xa4type\xa2\xff\xff",  # not UTF-8
            b"\xdf\xff\xff\xff\xff",  # a map of 2**32 - 1 entries
            b"\xdd\xff\xff\xff\xff",
            b"\xdb\xff\xff\xff\xff",
            b"\x91" * 100_000,
        ],
    )
    def test_what_is_no_message_is_refused(self, body: bytes) -> None:
        with pytest.raises(wire.WireError):
            wire.Frames(wire.ENV_REPLIES).take(frame(body))

    @given(st.binary(max_size=200))
    @settings(max_examples=500)
    def test_garbage_is_refused_or_waited_on(self, data: bytes) -> None:
        frames = wire.Frames(wire.ENV_REPLIES)
        with contextlib.suppress(wire.WireError):
            assert frames.take(data) is None

    @given(st.binary(max_size=100))
    def test_a_frame_of_garbage_is_refused(self, body: bytes) -> None:
        with pytest.raises(wire.WireError):
            wire.Frames(wire.ENV_REPLIES).take(frame(body))

    @pytest.mark.parametrize("size", [wire.MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
    def test_a_huge_length_is_refused_before_it_is_read(self, size: int) -> None:
        with pytest.raises(wire.WireError, match="announced"):
            wire.Frames(wire.ENV_REPLIES).take(size.to_bytes(4, "big"))

    @pytest.mark.parametrize(
        "info",
        [
            packed([1]),
            packed({1: 2}),
            packed({"a": {1: 2}}),
            packed({"a": [b"bytes"]}),
            packed({"a": msgspec.msgpack.Ext(5, b"x")}),
            packed({"a": msgspec.msgpack.Ext(-1, bytes(4))}),  # a time
            b"\x81\xa1a" + b"\x91" * 100 + b"\x01",
            b"\x81\xa1a" + b"\x91" * 1_000_000 + b"\x01",
            b"\x81\xa1a\xa2\xff\xff",
            b"\x82\xa1a\x01\xa1",
            b"\x81" + b"\x81\xa1a\x01" + b"\x01",  # a map for a key
            packed({"a": "x" * wire.MAX_INFO_BYTES}),
        ],
    )
    def test_an_info_of_anything_but_json_is_refused(self, info: bytes) -> None:
        with pytest.raises(wire.WireError):
            wire.unpack_info(msgspec.Raw(info))


class TestInfo:
    @given(VALUES)
    @settings(max_examples=300)
    def test_any_value_gets_through_as_plain(self, value: Any) -> None:
        got = info_over_wire({"value": value})
        json.dumps(got)

    @given(st.dictionaries(SCALARS, VALUES, max_size=5))
    def test_any_dict_does(self, info: dict[Any, Any]) -> None:
        json.dumps(info_over_wire(info))

    @pytest.mark.parametrize("info", [None, {}])
    def test_nothing_is_an_empty_info(self, info: object) -> None:
        assert info_over_wire(info) == {}

    def test_what_is_no_dict_is_wrapped(self) -> None:
        assert info_over_wire([1, 2]) == {"info": [1, 2]}

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (np.float32(0.5), 0.5),
            (np.float64(0.5), 0.5),
            (np.longdouble(0.5), 0.5),
            (np.int64(-3), -3),
            (np.bool_(True), True),
            (np.str_("text"), "text"),
            (np.arange(3), [0, 1, 2]),
            (np.ones((2, 1)), [[1.0], [1.0]]),
            (np.array(["a", None], dtype=object), ["a", None]),
            ((1, (2,)), [1, [2]]),
            ({3, 1, 2}, [1, 2, 3]),
            (2**63, 2**63),
            (2**64, "18446744073709551616"),
            (-(2**63) - 1, "-9223372036854775809"),
            (1 << 20_000, "<int of 20001 bits>"),
            (b"a\xff", "a\\xff"),
            ({1: 2, None: 3, ("a",): 4}, {"1": 2, "None": 3, "('a',)": 4}),
            (math.inf, math.inf),
            (1j, "1j"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_becomes_of_what(self, value: Any, expected: Any) -> None:
        got = info_over_wire({"value": value})["value"]
        assert got == expected
        assert type(got) is type(expected)

    def test_nan_stays_nan(self) -> None:
        assert math.isnan(info_over_wire({"x": math.nan})["x"])

    def test_a_structure_without_end_is_cut(self) -> None:
        own: list[Any] = []
        own.extend([own] * 10)
        assert len(packed(plain(own))) < wire.MAX_INFO_BYTES
        deep: Any = 0
        for _ in range(10_000):
            deep = [deep]
        got, depth = plain(deep), 0
        while isinstance(got, list):
            got, depth = got[0], depth + 1
        assert depth == MAX_DEPTH
        assert isinstance(got, str)

    def test_an_object_that_resists_is_described(self) -> None:
        class Resists(dict[str, int]):
            def items(self) -> Any:
                raise RuntimeError

            def __repr__(self) -> str:
                raise RuntimeError

        assert info_over_wire({"x": Resists()}) == {"x": "<Resists>"}

    def test_an_enormous_array_is_described(self) -> None:
        assert isinstance(info_over_wire({"x": np.zeros(1_000_000)})["x"], str)


class TestHostChannel:
    @pytest.fixture
    def ends(self) -> Any:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = HostChannel(ours, wire.ENV_REPLIES)
            yield channel, theirs
            channel.close()

    def test_a_deadline_in_the_middle_of_a_frame(self, ends: Any) -> None:
        """What has come is kept."""
        channel, theirs = ends
        data = wire.encode(wire.Failed("env_error", "x" * 1000))
        for part in (data[:2], data[2:500]):
            theirs.sendall(part)
            with pytest.raises(TimeoutError):
                channel.receive(0.01)
        theirs.sendall(data[500:])
        assert channel.receive(1).message == "x" * 1000

    def test_dripping_bytes_do_not_move_the_deadline(self, ends: Any) -> None:
        channel, theirs = ends
        frames = iter(wire.encode(wire.Failed("env_error", "x" * 10_000)))
        receive = channel._recv

        def drip() -> bytes:
            theirs.sendall(bytes([next(frames)]))
            return receive()  # type: ignore[no-any-return]

        channel._recv = drip
        theirs.sendall(bytes([next(frames)]))
        with pytest.raises(TimeoutError):
            channel.receive(0.05)

    def test_two_frames_in_one_read(self, ends: Any) -> None:
        channel, theirs = ends
        theirs.sendall(wire.encode(wire.Hello()) + wire.encode(wire.Failed("env_error", "x")))
        assert channel.receive(1) == wire.Hello()
        assert channel.receive(0).message == "x"

    def test_a_large_message_that_nobody_reads(self, ends: Any) -> None:
        channel, _ = ends
        with pytest.raises(TimeoutError):
            channel.send(wire.Step("x" * 10_000_000), 0.05)

    def test_a_socket_that_nobody_takes(self, ends: Any) -> None:
        channel, theirs = ends

        def send_on() -> None:
            while True:
                channel.send_socket(wire.Fork("", False), theirs, 0.01)

        with pytest.raises(TimeoutError):
            send_on()

    @pytest.mark.parametrize("timeout", [float("inf"), 1e300, None])
    def test_deadlines_without_end(self, ends: Any, timeout: float | None) -> None:
        channel, theirs = ends
        theirs.sendall(wire.encode(wire.Hello()))
        assert channel.receive(timeout) == wire.Hello()

    def test_the_end_of_the_other_end(self, ends: Any) -> None:
        channel, theirs = ends
        theirs.sendall(wire.encode(wire.Hello())[:3])
        theirs.close()
        with pytest.raises(EOFError):
            channel.receive(1)
        with pytest.raises(OSError, match="pipe"):
            channel.send(wire.Step("x"), 1)


def test_the_guests_end_blocks_and_sends_whole() -> None:
    ours, theirs = socket.socketpair()
    guest = wire.Channel(theirs, wire.ENV_REQUESTS)
    text = "x" * 3_000_000
    pid = os.fork()
    if pid == 0:
        try:
            guest.send(wire.Failed("env_error", text))
        finally:
            os._exit(0)
    host = HostChannel(ours, wire.ENV_REPLIES)
    reply = host.receive(20)
    assert isinstance(reply, wire.Failed)
    assert reply.message == text
    os.waitpid(pid, 0)
    host.close()
    with pytest.raises(EOFError):
        guest.receive()
    guest.close()


@pytest.mark.parametrize("at_once", [wire.CHUNK_BYTES, 13, 3])
def test_the_guests_end_meets_one_kind_however_it_comes(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "CHUNK_BYTES", at_once)
    ours, theirs = socket.socketpair()
    guest = wire.Channel(theirs, wire.ENV_REQUESTS)
    asked: list[str] = []

    def answer(step: wire.Step) -> wire.Failed:
        asked.append(step.action)
        text = "x" * (wire.MAX_FRAME_BYTES if step.action == "fail" else 1)
        return wire.Failed("env_error", text)

    actions = ["a", "b", "l" * 20_000, "fail", "c"]
    with theirs, ThreadPoolExecutor(1) as threads:
        met = threads.submit(guest.meet, wire.Step, answer)
        ours.sendall(b"".join(wire.encode(wire.Step(action)) for action in actions))
        ours.sendall(wire.encode(wire.Reset(7)))
        host = HostChannel(ours, wire.ENV_REPLIES)
        kinds = [reply.kind for _ in actions if isinstance(reply := host.receive(30), wire.Failed)]
        assert met.result(30) == wire.Reset(7)
        assert asked == actions
        assert kinds == ["env_error", "env_error", "env_error", "too_large", "env_error"]
        met = threads.submit(guest.meet, wire.Step, answer)
        host.close()
        with pytest.raises(EOFError):
            met.result(30)
