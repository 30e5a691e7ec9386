"""Run as a script by `sandbox.py`: closes this process off for good, then runs the code on stdin.

Standard library alone. Landlock (files) and seccomp (an allow list of system calls, so that one
that nobody thought of is denied) are used by their system calls: of the packages for them on PyPI,
one is a development release and the other five years old.
"""

from __future__ import annotations

import ctypes
import linecache
import os
import platform
import resource
import signal
import struct
import sys
import traceback

MEMORY_EXIT = 101
_NAME = "<code>"
_EPERM, _ALLOW = 0x00050001, 0x7FFF0000
_ARCH_X86_64 = 0xC000003E
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
# Numbers of x86-64. None makes a process, a thread, a program, a socket, a pipe, memory outside the
# address space, a folder, or a link; none removes a file, changes a limit, or sends a signal.
_CALLS = (
    # read write close stat fstat lstat poll lseek mmap mprotect munmap brk
    0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    # rt_sigaction rt_sigprocmask rt_sigreturn pread64 pwrite64 readv writev access select
    13, 14, 15, 17, 18, 19, 20, 21, 23,
    # sched_yield mremap madvise dup dup2 nanosleep getitimer alarm setitimer getpid exit uname
    24, 25, 28, 32, 33, 35, 36, 37, 38, 39, 60, 63,
    # ftruncate getdents getcwd readlink gettimeofday getrusage sysinfo times
    77, 78, 79, 89, 96, 98, 99, 100,
    # getuid getgid geteuid getegid getppid sigaltstack gettid futex sched_getaffinity getdents64
    102, 104, 107, 108, 110, 131, 186, 202, 204, 217,
    # set_tid_address clock_gettime clock_getres clock_nanosleep exit_group newfstatat readlinkat
    218, 228, 229, 230, 231, 262, 267,
    # faccessat pselect6 ppoll set_robust_list dup3 getrandom statx rseq faccessat2
    269, 270, 271, 273, 292, 318, 332, 334, 439,
)  # fmt: skip
# (call, argument, its values): ioctl TCGETS FIOCLEX FIONCLEX; fcntl but for signals and pipe sizes.
_CALLS_WITH = ((16, 1, (0x5401, 0x5451, 0x5450)), (72, 1, (0, 1, 2, 3, 1030)))
_OPENS, _O_TMPFILE = ((2, 1), (257, 2)), 0x400000  # a file without a name would not be counted

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_OWN_FOLDER = _READ_FILE | _READ_DIR | 1 << 1 | 1 << 8 | 1 << 14  # write, make a file, truncate

_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 or less without any."""
    return int(_libc.syscall(444, None, 0, 1))


def missing() -> str:
    """What this machine lacks to close a process off; "" where nothing is."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "its seccomp filter is for Linux on x86-64"
    if landlock_abi() < 3:
        return "the kernel has no Landlock of version 3 or newer (Linux 6.2, `lsm=landlock`)"
    if _libc.prctl(21, 0, 0, 0, 0) < 0:  # PR_GET_SECCOMP
        return "the kernel has no seccomp"
    return ""


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _landlock(folder: str, readable: list[str]) -> None:
    abi = landlock_abi()
    rights = (1 << (16 if abi >= 5 else 15)) - 1
    attributes = struct.pack("QQQ", rights, 3, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = _checked(_libc.syscall(444, attributes, len(attributes), 0))
    for path in [folder, *readable]:
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = _OWN_FOLDER if path == folder else _READ_FILE
        if path != folder and os.path.isdir(path):
            allowed |= _READ_DIR
        _checked(_libc.syscall(445, rules, 1, struct.pack("=Qi", allowed, at), 0))
        os.close(at)
    _checked(_libc.syscall(446, rules, 0))
    os.close(rules)


def _seccomp() -> None:
    program: list[tuple[int, int, int, int]] = []

    def load(at: int) -> None:
        program.append((_LOAD, 0, 0, at))

    def when(test: int, value: int, result: int) -> None:
        program.extend([(test, 0, 1, value), (_RETURN, 0, 0, result)])

    load(4)
    program.extend([(_EQUAL, 1, 0, _ARCH_X86_64), (_RETURN, 0, 0, _EPERM)])
    load(0)
    for call in _CALLS:
        when(_EQUAL, call, _ALLOW)
    for call, argument, values in _CALLS_WITH:
        program.append((_EQUAL, 0, 2 + 2 * len(values), call))
        load(16 + 8 * argument)
        for value in values:
            when(_EQUAL, value, _ALLOW)
        program.append((_RETURN, 0, 0, _EPERM))
    for call, argument in _OPENS:
        program.append((_EQUAL, 0, 4, call))
        load(16 + 8 * argument)
        when(_ANY_BIT, _O_TMPFILE, _EPERM)
        program.append((_RETURN, 0, 0, _ALLOW))
    program.append((_RETURN, 0, 0, _EPERM))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _checked(_libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0))


def _limit(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def main() -> None:
    """Close off, say so by a zero byte, run."""
    parent, confined, cpu_s, memory, file_bytes, folder, *paths = sys.argv[1:]
    _libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # die with the thread that started this
    if os.getppid() != int(parent):
        os._exit(1)
    packages, readable = paths[: paths.index("--")], paths[paths.index("--") + 1 :]
    sys.path.extend(packages)
    _limit(resource.RLIMIT_CPU, int(cpu_s))
    _limit(resource.RLIMIT_AS, int(memory))
    _limit(resource.RLIMIT_FSIZE, int(file_bytes))
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    os.nice(10)
    if confined == "1":
        _checked(_libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        _landlock(folder, readable)
        _seccomp()
    os.write(1, b"\0")
    source = sys.stdin.buffer.read()
    # The code's own file, which could be written to and is counted nowhere.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [_NAME]
    text = source.decode(errors="replace")
    linecache.cache[_NAME] = (len(text), None, text.splitlines(True), _NAME)
    status = 0
    try:
        exec(compile(text, _NAME, "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except MemoryError:
        status = MEMORY_EXIT
    except BaseException as error:
        here = error.__traceback__
        error.__traceback__ = here.tb_next if here else None
        traceback.print_exception(error)
        status = 1
    try:
        sys.stdout.flush()
    finally:
        os._exit(status & 255)


if __name__ == "__main__":
    main()
