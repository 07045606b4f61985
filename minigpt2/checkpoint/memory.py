"""How much memory this process can still get, so that a model too large for it is refused before the system kills it."""

import os
from pathlib import Path

from ..errors import CheckpointError


def check_room(need, what):
    """Raise CheckpointError if `need` bytes for `what` are more than there is."""
    room, limit = min(limits(), default=(need, ""))
    if need > room:
        raise CheckpointError(
            f"{what} takes {need / 2**20:,.0f} MiB of memory, and {limit} leaves {max(room, 0) / 2**20:,.0f} MiB: "
            "free some memory, raise the limit, or load a smaller model"
        )


def limits(root="/"):
    """Yield (bytes left, what limits them) for each limit that the system states; `root` is for tests."""
    root = Path(root)
    memory = fields(root / "proc/meminfo", 1024)
    swap = memory.get("SwapFree", 0)
    if "MemAvailable" in memory:
        yield memory["MemAvailable"] + swap, "this machine"
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS: what is free is not told
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"
    for room in control_groups(root, swap):
        yield room, "the limit of this container or control group"
    yield from resource_limits(root)


def control_groups(root, swap):
    """Yield what each control group above this process leaves, in version 2 and version 1 of cgroups.

    Files in the page cache count as used there, but are given up before anything is killed.
    """
    for line in text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
        else:
            continue
        most, used, *cached = names
        group = mount / path.lstrip("/")
        for folder in [group, *group.parents][: len(group.parts) - len(mount.parts) + 1]:
            limit, current = number_in(folder / most), number_in(folder / used)
            if limit is not None and current is not None:  # "max" is not a number
                kept = fields(folder / "memory.stat")
                swap_limit = number_in(folder / "memory.swap.max")
                more = swap if swap_limit is None else min(swap, swap_limit)
                yield limit - current + sum(kept.get(name, 0) for name in cached) + more


def resource_limits(root):
    """Yield what ulimit -v and ulimit -d leave."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = fields(root / "proc/self/status", 1024)
    for kind, name, flag in ((resource.RLIMIT_AS, "VmSize", "-v"), (resource.RLIMIT_DATA, "VmData", "-d")):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY and name in used:
            yield limit - used[name], f"the limit of this process (ulimit {flag})"


def fields(path, unit=1):
    """The numbers in a file of lines such as "MemAvailable:  23184384 kB", by name."""
    words = [line.split() for line in text(path).splitlines()]
    return {word[0].rstrip(":"): unit * int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}


def number_in(path):
    number = text(path).strip()
    return int(number) if number.isdecimal() else None


def text(path):
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
