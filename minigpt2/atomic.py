"""Files written in one move: whoever looks, at any time, finds the old file or the whole new one."""

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path):
    """Give a temporary path beside `path`; it becomes `path` if all goes well and is removed if not.

    Makes the folder of `path` where there is none. An older file's permissions are kept, and where `path` is a link, the
    file that it points to is replaced. Raises OSError, in one sentence, where no file can be made.
    """
    target = Path(os.path.realpath(path))
    temporary = temporary_name(target)
    try:  # from before the file exists: a signal may come at any moment
        try:
            mode = old_mode(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(0o666 if mode is None else mode, exist_ok=False)
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from None
        yield temporary
        if mode is not None:
            temporary.chmod(mode)
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def temporary_name(target):
    return target.with_name(f".{target.stem[:40]}-{os.getpid()}-{secrets.token_hex(4)}{target.suffix}")


def old_mode(target):
    """The permissions of the file that is to be replaced; None where there is none, OSError for what is not a file."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; give the name of a file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return stat.S_IMODE(mode)


def check_writable(path):
    """Raise OSError, in one sentence, if no file could be written to `path` later. Leaves nothing behind."""
    target = Path(os.path.realpath(path))
    try:
        old_mode(target)
        folder = next(parent for parent in target.parents if parent.exists())
        check_names(folder, target)
        attempt = temporary_name(folder / target.name)
        try:
            attempt.touch(exist_ok=False)
        finally:
            with suppress(OSError):
                attempt.unlink()
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from None


def check_names(folder, target):
    """Raise OSError if a name that is yet to be made in `folder`, the temporary one included, is too long for its disk."""
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in (*target.relative_to(folder).parts, temporary_name(target).name):
        if len(os.fsencode(name)) > longest:
            raise OSError(errno.ENAMETOOLONG, f"a name of {len(os.fsencode(name))} bytes, and {longest} are allowed")
