"""Runs one program shut off from this machine. A program of its own, of the standard library alone.

    python -I -S -B launcher.py CONFIG        CONFIG: one JSON object, written by isolation.py

Modes: `root` (namespaces made by root, then an unprivileged user), `user` (the same within a user namespace), `none`
(no namespaces: a session, limits and a deadline only). What happened goes to the descriptor `status` as JSON lines:
`{"failed": ...}` when a step of the isolation did not hold, `{"ready": true}` just before the program starts,
`{"refused": ...}` when it could not be started, `{"ended": ...}` when it is over.

    launcher ── unshare ── fork ── keeper (pid 1: mounts, chroot, deadline) ── fork ── program (no privileges)

The end of the keeper is the end of every process in its namespace, and the keeper dies with the launcher, which dies
with the process that started it. The keeper keeps its privileges, but runs no code other than this file's.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534  # user and group of the program
RELEASE = "/release"  # where the program finds the release

# <linux/sched.h>
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
# <linux/mount.h>
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 0x1, 0x2, 0x4, 0x8, 0x20, 0x1000
MS_REC, MS_PRIVATE, MNT_DETACH = 0x4000, 0x40000, 0x2
# <linux/prctl.h>, <linux/capability.h>
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
# <linux/seccomp.h>, <linux/bpf_common.h>, <linux/audit.h>, <asm/unistd.h>
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, END = 0x20, 0x15, 0x35, 0x06  # BPF: load a word; jump if equal; if not below; return
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
FOREIGN_CALLS = 0x40000000  # from here on the numbers of another calling convention (x32)
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: those that a network namespace covers
# machine -> audit architecture, socket, and: add_key, request_key, keyctl, perf_event_open, bpf, userfaultfd, io_uring
CALLS = {
    "x86_64": (0xC000003E, 41, (248, 249, 250, 298, 321, 323, 425, 426, 427)),
    "aarch64": (0xC00000B7, 198, (217, 218, 219, 241, 280, 282, 425, 426, 427)),
}

SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "nix/store", "gnu/store", "etc/ld.so.cache")
PROCESSORS = "/sys/devices/system/cpu"
DEVICES = ("null", "zero", "urandom", "random")
SCRATCH = "mode=1777,size=64m,nr_inodes=4096"
FRAME = "mode=0755,size=4m,nr_inodes=4096"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Name the step in the errors of what is done inside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{name}: {os.strerror(error.errno or 0)}") from error


def explain(error: OSError) -> str:
    """Return what went wrong and with which file."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)


def check(result: int, name: str) -> None:
    """Raise the error of a C function that returned -1."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def prctl(option: int, value: int, name: str) -> None:
    """Set one attribute of this process; see the manual page of the same name."""
    check(_libc.prctl(option, value, 0, 0, 0), name)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Make or change a mount; see the manual page of the same name."""
    words = [os.fsencode(word) for word in (source, target, kind, data)]
    check(_libc.mount(*words[:3], flags, words[3] or None), f"mount {target}")


def report(config: dict[str, Any], **line: Any) -> None:
    """Tell the parent; nobody may be there any more."""
    with contextlib.suppress(OSError):
        os.write(config["status"], json.dumps(line).encode() + b"\n")


def main(config: dict[str, Any]) -> int:
    """Run the program of `config` and return 0 once what happened is reported, else 1."""
    os.set_inheritable(config["status"], False)
    os.umask(0o022)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the parent")
    if os.getppid() != config["parent"]:
        return 1
    try:
        if config["mode"] == "none":
            prctl(PR_SET_CHILD_SUBREAPER, 1, "adopt orphans")
            end_descendants(supervise(config))
        else:
            enter(config)
    except OSError as error:
        report(config, failed=explain(error))
        return 1
    return 0


def enter(config: dict[str, Any]) -> None:
    """Make the namespaces and run the keeper in them."""
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    user, group = os.geteuid(), os.getegid()
    if config["mode"] == "user":
        flags |= CLONE_NEWUSER
    check(_libc.unshare(flags), "unshare")
    if config["mode"] == "user":
        # user_namespaces(7): without privileges, one line each, and only once setgroups is denied
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {user} 1"),
            ("gid_map", f"{NOBODY} {group} 1"),
        ):
            write(f"/proc/self/{name}", line)
    alive, held = os.pipe()
    keeper = os.fork()
    if keeper:
        # Told to stop, take the namespace down and see it down: waitpid returns once the last process in it is gone.
        signal.signal(signal.SIGTERM, lambda *_: os.kill(keeper, signal.SIGKILL))
        os.waitpid(keeper, 0)
        os.close(held)
        return
    os.close(held)
    keep(config, alive)


def keep(config: dict[str, Any], alive: int) -> NoReturn:
    """Be pid 1 of the namespace: build the root, run the program, end."""
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the launcher")
        if select.select([alive], [], [], 0)[0]:  # the launcher was gone before that took hold
            os._exit(1)
        root = build(config)
        with step(f"enter {root}"):
            os.chroot(root)
            os.chdir("/")
        prctl(PR_SET_DUMPABLE, 0, "hide the keeper")
        supervise(config)
        os._exit(0)
    except OSError as error:
        report(config, failed=explain(error))
        os._exit(1)


def build(config: dict[str, Any]) -> str:
    """Build the new root in this mount namespace and return its path.

    Everything in it is read-only but /tmp. A part that has to be there and cannot be is an error, never left out.
    """
    root: str = anchor(config["root"])
    mount("airpack", root, "tmpfs", MS_NOSUID | MS_NODEV, FRAME)
    for name in ("tmp", "dev", "proc", "release"):
        Path(root, name).mkdir()
    mount("airpack", str(Path(root, "tmp")), "tmpfs", MS_NOSUID | MS_NODEV, SCRATCH)
    with contextlib.suppress(OSError):  # a container may refuse it; nothing is shown then
        mount("proc", f"{root}/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in SYSTEM:
        show(root, f"/{name}")
    for path in config["shown"]:
        show(root, path)
    for name in DEVICES:
        show(root, f"/dev/{name}", flags=MS_RDONLY | MS_NOSUID | MS_NOEXEC)  # its data stays writable, its mode not
    try:
        show(root, PROCESSORS)
    except OSError:  # runtimes manage without; a mount half made must not stay
        _libc.umount2(os.fsencode(root + PROCESSORS), MNT_DETACH)
    bind(root, config["release"], root + RELEASE)
    mount("airpack", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    return root


def anchor(folder: str) -> str:
    """Return a folder on which mounts stay in this namespace.

    Within a chroot the root is no mount point and cannot be made private. Mounting on top of something that can be
    never reaches the machine's own namespace either.
    """
    for place, flags in (("/", MS_REC), ("/proc", 0), ("/sys", 0), ("/dev", 0)):
        with contextlib.suppress(OSError):
            mount("none", place, "", MS_PRIVATE | flags)
            return folder if place == "/" else place
    raise OSError(0, "no mount point here can be made private")


def show(root: str, path: str, flags: int = MS_RDONLY | MS_NOSUID | MS_NODEV) -> None:
    """Show `path` of this machine at the same place below `root`; what is not there is left out."""
    source, target = Path(path), Path(root + path)
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.is_dir():
        target.mkdir()
    else:
        target.touch(mode=0o444)
    bind(root, path, str(target), flags)


def bind(root: str, source: str, target: str, flags: int = MS_RDONLY | MS_NOSUID | MS_NODEV) -> None:
    """Mount `source` on `target` with `flags`, and every mount that lies below it too."""
    mount(source, target, "", MS_BIND | MS_REC)
    mount("none", target, "", MS_PRIVATE | MS_REC)
    below = [point for point in mount_points(root) if point == target or point.startswith(target + "/")]
    if target not in below:
        raise OSError(0, f"mount {target}: it is not in mountinfo")
    for point in below:
        kept = os.statvfs(point).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_RDONLY)
        mount("none", point, "", MS_REMOUNT | MS_BIND | flags | kept)  # the four have the same values in both headers


def mount_points(root: str) -> list[str]:
    """Return every mount point of this namespace; proc_pid_mountinfo(5)."""
    new = Path(root, "proc/self/mountinfo")
    table = (new if new.exists() else Path("/proc/self/mountinfo")).read_bytes()
    points = [line.split(b" ")[4] for line in table.splitlines()]
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        points = [point.replace(code, bytes([int(code[1:], 8)])) for point in points]
    return [os.fsdecode(point) for point in points]


def write(path: str, text: str) -> None:
    """Write a kernel file in one call."""
    with step(f"write {path}"):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def supervise(config: dict[str, Any]) -> int:
    """Run the program until it ends, its time is over, or this process is told to stop; report which.

    Returns:
        The program's process id; it may still run.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    program = os.fork()
    if not program:
        start(config)
    deadline = time.monotonic() + config["timeout"]
    while True:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            report(config, ended={"code": code, "peak": usage.ru_maxrss << 10, "timed_out": False})
            return program
        if pid:  # an orphan that came to pid 1
            continue
        caught = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], max(0.0, deadline - time.monotonic()))
        if caught is None or caught.si_signo == signal.SIGTERM:
            report(config, ended={"code": -signal.SIGKILL, "peak": 0, "timed_out": caught is None})
            return program


def start(config: dict[str, Any]) -> NoReturn:
    """Give up every privilege and become the program."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and a program would inherit that
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        limit(config["limits"])
        drop(config)
        with step(f"enter {config['cwd']}"):
            os.chdir(config["cwd"])
        report(config, ready=True)
    except OSError as error:
        report(config, failed=explain(error))
        os._exit(127)
    try:
        os.execve(config["argv"][0], config["argv"], config["env"])  # noqa: S606 - that there is no shell is the point
    except OSError as error:
        report(config, refused=error.strerror)
        os._exit(127)


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, each no higher than it already is; getrlimit(2)."""
    for name, value in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))


def drop(config: dict[str, Any]) -> None:
    """Become nobody without capabilities, for ever; capabilities(7)."""
    if os.geteuid() == 0 and (config["mode"] == "root" or reachable(config)):
        become_nobody()
    prctl(PR_SET_NO_NEW_PRIVS, 1, "give up new privileges")
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "drop capabilities")
    if config["mode"] == "none":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the launcher")
    else:
        filter_calls()


def filter_calls() -> None:
    """Refuse the system calls that no namespace covers: keyrings, kernel programs, sockets beyond IP; seccomp(2).

    Raises:
        OSError: This processor's numbers are not known here, or the kernel takes no filter: no isolation then.
    """
    machine = os.uname().machine
    if machine not in CALLS:
        raise OSError(errno.ENOSYS, f"no system call filter for {machine}")
    architecture, socket, numbers = CALLS[machine]
    # Each line: load a word of seccomp_data (number at 0, architecture at 4, first argument at 16), compare, or end.
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (END, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
    lines += [(AT_LEAST, 0, 1, FOREIGN_CALLS), (END, 0, 0, REFUSE)]
    for number in numbers:
        lines += [(EQUAL, 0, 1, number), (END, 0, 0, REFUSE)]
    lines += [(EQUAL, 1, 0, socket), (END, 0, 0, ALLOW), (LOAD, 0, 0, 16)]
    for family in FAMILIES:
        lines += [(EQUAL, 0, 1, family), (END, 0, 0, ALLOW)]
    lines.append((END, 0, 0, REFUSE))
    program = b"".join(struct.pack("=HBBI", *line) for line in lines)
    code = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(lines), ctypes.addressof(code)))
    check(_libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(head), 0, 0), "filter system calls")


def become_nobody() -> None:
    """Change user and groups for good."""
    with step("change the user"):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def reachable(config: dict[str, Any]) -> bool:
    """Say whether the user nobody could run the program where it lies, which may be a private folder."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(OSError):
            become_nobody()
            places = [config["release"], config["cwd"], *config["shown"], config["argv"][0], config["env"]["HOME"]]
            code = 0 if all(os.access(place, os.R_OK | os.X_OK) for place in places) else 1
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def end_descendants(program: int) -> None:
    """Kill the program and what it left behind. Orphans come to this process, so none escapes by forking away.

    Without a /proc to list them by, those that left the program's session stay: one of the weaknesses of mode `none`.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(10_000):
        try:
            children = [int(word) for word in task.read_bytes().split()]
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
