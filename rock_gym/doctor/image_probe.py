"""A program of its own: imports an image that holds nothing, and changes it in a sandbox.

Its store is the one that ``ROCK_GYM_DATA`` names.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile

from rock_gym.errors import RockGymError
from rock_gym.images.archive import import_image
from rock_gym.sandbox import Sandbox

_NAME = "doctor"


def main() -> int:
    """Return 0 if the root of the sandbox could be written; else say why not."""
    try:
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                folder = tarfile.TarInfo("etc")
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(folder)
                archive.addfile(tarfile.TarInfo("etc/empty"), io.BytesIO())
            file.flush()
            import_image(file.name, _NAME)
        with Sandbox.start(_NAME, backend="bubblewrap") as sandbox:
            sandbox.write_file("/etc/written", "x")
            return 0 if sandbox.read_file("/etc/written") == "x" else 1
    except (RockGymError, OSError) as error:
        print(str(error).replace(os.linesep, " "), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
