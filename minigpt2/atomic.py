"""Files written in one move: whoever looks, at any time, finds the old file or the whole new one."""

import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`; it becomes `path` if all goes well and is removed if not.

    Makes the folder of `path` where there is none. Raises OSError, in one sentence, where no file can be made.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:40]}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:  # from before the file exists: a signal may come at any moment
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from None
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path):
    """Raise OSError, in one sentence, if no file could be written to `path` later. Leaves nothing behind."""
    path = Path(path)
    folder = next(parent for parent in (*path.parents, Path()) if parent.exists())
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder; give the name of a file")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None
