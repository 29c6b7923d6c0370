"""Runs commands of resnet_jax without what Windows lacks: python tests/like_windows.py WORD … then WORD …

A simulation on this system, and no more: for what is imported after JAX the modules, functions and signals are gone,
folders cannot be opened, and only what is open for writing can be brought to the disk. Paths, text files, processes and
the libraries are still this system's.
"""

import errno
import fcntl
import importlib
import os
import pkgutil
import signal
import sys
import types

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGQUIT", "SIGTSTP", "SIGWINCH")
FUNCTIONS = (
    "fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "mkfifo", "nice", "pread", "pwrite",
    "sched_getaffinity", "sched_setaffinity", "setsid", "sync", "sysconf", "uname", "O_DIRECTORY", "O_NOFOLLOW",
    "O_NONBLOCK", "getloadavg", "chown", "fchmod", "posix_fallocate",
)  # fmt: skip


def main():
    """Takes all of it away, imports every module, runs the commands one after the other and prints their exit codes."""
    import asyncio  # noqa: F401  # what belongs to a system in Python and JAX is this one's: only we do without
    import multiprocessing.util  # noqa: F401
    import tempfile  # noqa: F401

    import jax  # noqa: F401

    lockf, open_flags = fcntl.lockf, fcntl.fcntl
    for name in MODULES:
        sys.modules[name] = None
    for name in FUNCTIONS:
        delattr(os, name)
    for name in SIGNALS:
        delattr(signal, name)

    def locking(descriptor, mode, num_bytes):
        start = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            lockf(descriptor, {0: fcntl.LOCK_UN, 2: fcntl.LOCK_EX | fcntl.LOCK_NB}[mode], num_bytes, start)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    def open_file(path, flags, *rest, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, flags, *rest, **options)

    def fsync(descriptor):
        if open_flags(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real_fsync(descriptor)

    sys.modules["msvcrt"] = types.SimpleNamespace(LK_UNLCK=0, LK_NBLCK=2, locking=locking)
    real_open, real_fsync = os.open, os.fsync
    os.open, os.fsync = open_file, fsync

    import resnet_jax
    from resnet_jax.cli.main import main as run

    for module in pkgutil.walk_packages(resnet_jax.__path__, "resnet_jax."):
        if module.name not in ("resnet_jax.__main__", "resnet_jax.benchmark.torch_side"):  # it needs torch
            importlib.import_module(module.name)
    words = " ".join(sys.argv[1:]).split(" then ")
    print("exit codes:", *(run(command.split()) for command in words))


if __name__ == "__main__":
    main()
