"""Uses sandboxes by ROCK's own client. Run by the interpreter that has it; prints JSON.

All is done at once, as the client looks after commands in the background every five seconds only.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from rock.actions import (
    CloseBashSessionRequest,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)
from rock.sdk.sandbox.client import Sandbox, SandboxGroup
from rock.sdk.sandbox.config import SandboxConfig, SandboxGroupConfig

FOUND: dict[str, object] = {}
CONFIG = SandboxConfig(image="python:3.11", cpus=1, memory="1g")


async def why(call) -> str:
    try:
        result = await call
    except Exception as error:
        return str(error)
    return f"it worked: {result!r}"


async def commands(sandbox: Sandbox) -> None:
    done = await sandbox.execute(Command(command=["sh", "-c", "echo out; echo err >&2; exit 3"]))
    FOUND["execute"] = [done.stdout, done.stderr, done.exit_code]
    await sandbox.create_session(CreateBashSessionRequest(session="main"))
    await sandbox.arun("cd /tmp; name=value", session="main")
    kept = await sandbox.arun('echo "$PWD $name"', session="main")
    FOUND["session"] = [kept.output, kept.exit_code]
    FOUND["alone"] = (await sandbox.arun("echo hello")).output
    FOUND["failed"] = await why(
        sandbox.arun("exit_with() { return 7; }; exit_with", session="main")
    )
    FOUND["duplicate"] = await why(sandbox.create_session(CreateBashSessionRequest(session="main")))
    await sandbox.close_session(CloseBashSessionRequest(session="main"))
    FOUND["closed"] = await why(sandbox.arun("true", session="main"))


async def background(sandbox: Sandbox) -> None:
    done = await sandbox.arun("sh -c 'echo behind'", mode="nohup", wait_interval=5)
    FOUND["nohup"] = [done.output.strip(), done.exit_code]


async def script(sandbox: Sandbox) -> None:
    done = await sandbox.process.execute_script("#!/bin/bash\necho scripted\n", wait_interval=5)
    FOUND["script"] = [done.output.strip(), done.exit_code]


async def files(sandbox: Sandbox, here: Path) -> None:
    await sandbox.write_file(WriteFileRequest(content="text é\n", path="/tmp/deep/a.txt"))
    read = await sandbox.read_file(ReadFileRequest(path="/tmp/deep/a.txt"))
    FOUND["file"] = read.content
    FOUND["missing"] = await why(sandbox.read_file(ReadFileRequest(path="/tmp/none")))
    (here / "b.bin").write_bytes(bytes(range(256)) * 5000)  # more than a MiB
    sent = await sandbox.upload(
        UploadRequest(source_path=str(here / "b.bin"), target_path="/tmp/b.bin")
    )
    size = await sandbox.execute(Command(command=["stat", "-c", "%s", "/tmp/b.bin"]))
    FOUND["upload"] = [sent.success, size.stdout.strip()]


async def folder(sandbox: Sandbox, here: Path) -> None:
    (here / "folder" / "inner").mkdir(parents=True)
    (here / "folder" / "inner" / "c.txt").write_text("c")
    sent = await sandbox.fs.upload_dir(str(here / "folder"), "/tmp/folder")
    found = await sandbox.execute(Command(command=["cat", "/tmp/folder/inner/c.txt"]))
    FOUND["folder"] = [sent.exit_code, found.stdout]


async def one(here: Path) -> None:
    sandbox = Sandbox(CONFIG)
    await sandbox.start()
    FOUND["alive"] = (await sandbox.is_alive()).is_alive
    await asyncio.gather(
        commands(sandbox),
        background(sandbox),
        script(sandbox),
        files(sandbox, here),
        folder(sandbox, here),
    )
    await sandbox.stop()
    FOUND["stopped"] = (await sandbox.get_status(include_all_states=True)).state


async def committed(tag: str) -> None:
    sandbox = Sandbox(CONFIG)
    await sandbox.start()
    await sandbox.execute(Command(command="echo kept > /tmp/kept; sync"))
    status = await sandbox.commit(tag, "", "")
    FOUND["commit"] = [status.phase.value, status.error_message]
    await sandbox.stop()
    if status.phase.value == "SUCCEEDED":
        other = Sandbox(SandboxConfig(image=tag, cpus=1, memory="1g"))
        await other.start()
        FOUND["committed"] = (await other.execute(Command(command=["cat", "/tmp/kept"]))).stdout
        await other.stop()


async def restarted() -> None:
    sandbox = Sandbox(CONFIG)
    await sandbox.start()
    await sandbox.execute(Command(command=["sh", "-c", "echo kept > /tmp/kept"]))
    await sandbox.stop()
    await sandbox.restart()
    FOUND["restart"] = (await sandbox.execute(Command(command=["cat", "/tmp/kept"]))).stdout
    await sandbox.stop()


async def group() -> None:
    sandboxes = SandboxGroup(SandboxGroupConfig(**CONFIG.model_dump(), size=8, start_concurrency=8))
    await sandboxes.start()
    told = await asyncio.gather(
        *(
            sandbox.execute(Command(command=["echo", str(number)]))
            for number, sandbox in enumerate(sandboxes.sandbox_list)
        )
    )
    FOUND["group"] = [each.stdout.strip() for each in told]
    await sandboxes.stop()


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        await asyncio.gather(one(Path(directory)), committed(sys.argv[1]), restarted(), group())
    print(json.dumps(FOUND))


asyncio.run(main())
