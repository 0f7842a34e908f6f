"""What a process gives up before it looks at anything hostile. Nothing here can be taken back by it."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sysconfig
from typing import Final

OUTPUT_BYTES: Final = 1 << 20
"""The longest answer that is read."""

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWNET: Final = 0x40000000
LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_ADD_RULE: Final = 445
LANDLOCK_RESTRICT_SELF: Final = 446
LANDLOCK_PATH_BENEATH: Final = 1
LANDLOCK_FILES: Final = (1 << 13) - 1
"""Every right of landlock's first version: execute, read, write, list, remove, make."""
LANDLOCK_READ: Final = 1 << 2 | 1 << 3
"""To read files and list directories."""
SIGKILL: Final = 9


def limit(memory_bytes: int, cpu_s: int, file_bytes: int = OUTPUT_BYTES) -> None:
    """Bounds memory, time, files and their size; no core dump, no new privileges, no life after the parent."""
    for what, wanted in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(what)
        value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(what, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")


def isolate() -> None:
    """Takes away the network, and every file but those of Python's libraries, as far as this kernel lets us.

    Libraries stay readable because some import parts of themselves when they are first used. Where the kernel knows
    none of this, the limits above still hold.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)
    rules = struct.pack("=Q", LANDLOCK_FILES)
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, rules, len(rules), 0)
    if ruleset < 0:
        return
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY)
        rule = struct.pack("=Qi", LANDLOCK_READ, directory)
        libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_PATH_BENEATH, rule, 0)
        os.close(directory)
    libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
