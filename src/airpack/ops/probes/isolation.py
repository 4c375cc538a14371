"""Starts one program in a throw-away process, shut off from this machine: the parent's side of `launcher.py`.

The program sees the release at `/release` and the interpreter's standard library, both read-only, an empty `/tmp`, no
network, no other process, and nothing else of this machine. It is nobody, without capabilities, within limits, and
neither it nor anything it started outlives its time. Works as root (namespaces, then an unprivileged user) and
otherwise in a user namespace; where neither can be made, that is an `IsolationError`, never a weaker isolation.
docs/design.md, "Activating".
"""

import contextlib
import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from airpack.errors import IsolationError, StorageError
from airpack.formats import canonical
from airpack.formats.fields import Fields
from airpack.types import Limits

Mode = Literal["root", "user", "none"]

_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_SEEN: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
_GRACE: Final = 10.0  # seconds for making and taking down the isolation, beside the program's own time
_TAIL: Final = 16 << 10  # bytes kept of the error output
_PIPE: Final = 64 << 10  # bytes read at once
_STATUS: Final = 64 << 10  # bytes of all status lines together
_PROCESSES: Final = 256  # processes and threads, beside four per processor
_SHARED_PROCESSES: Final = 4096  # where the limit counts the caller's own processes too
_FILE: Final = 64 << 20  # bytes of one file that the program writes
_FILES: Final = 1024  # open files


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run.

    Attributes:
        command: Given the folder of the release as the program sees it, returns the program's path and arguments.
        release: The release's files.
        memory: Bytes of private memory for each process (RLIMIT_DATA).
        timeout: Seconds.
        cpus: Processors that it may use.
        stdin: Descriptor of its standard input; -1 for none.
        in_release: Whether it starts in the folder of the release rather than in an empty one.
        env: Variables beside PATH, HOME, TMPDIR and LANG.
    """

    command: Callable[[str], Sequence[str]]
    release: Path
    memory: int
    timeout: float
    cpus: int = 1
    stdin: int = -1
    in_release: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        code: Exit status; negative for the number of the signal that ended it.
        timed_out: Whether its time was over.
        flooded: Whether it was stopped because it wrote more than `Limits.PROBE_OUTPUT` to standard output.
        refused: Why it could not be started; empty when it was.
        stdout: All of standard output.
        stderr: The end of standard error.
        peak_memory: Bytes resident at most; 0 when it was killed.
        seconds: From the first step of the isolation to the end of the last process.
    """

    code: int
    timed_out: bool
    flooded: bool
    refused: str
    stdout: bytes
    stderr: bytes
    peak_memory: int
    seconds: float


def interpreter() -> str:
    """Return this interpreter's executable outside any virtual environment, so that no site-packages come along."""
    base = getattr(sys, "_base_executable", "") or sys.executable  # what the standard library's venv uses
    return os.path.realpath(base)


def isolation_available() -> bool:
    """Say whether programs can be shut off from this machine. Found out by doing it, once per process."""
    return not isolation_problem()


def isolation_problem() -> str:
    """Return why programs cannot be shut off from this machine; empty when they can."""
    return _trial()[1]


def isolated_mode() -> Mode:
    """Return the way in which programs are shut off from this machine.

    Raises:
        IsolationError: There is none.
    """
    mode, problem = _trial()
    if problem:
        raise IsolationError(f"programs cannot be isolated on this machine: {problem}", reason=problem)
    return mode


@functools.cache
def _trial() -> tuple[Mode, str]:
    """Run the interpreter in isolation and return (the first mode in which that worked, or why none did)."""
    modes: tuple[Mode, ...] = ("root", "user") if os.geteuid() == 0 else ("user",)
    problems = []
    for mode in modes:
        with tempfile.TemporaryDirectory(prefix="airpack-") as folder:
            release = Path(folder, "release")
            release.mkdir()
            job = Job(
                command=lambda _: (interpreter(), "-I", "-S", "-B", "-c", "print('ran')"),
                release=release,
                memory=256 << 20,
                timeout=30,
            )
            try:
                outcome = run_job(job, mode=mode, scratch=Path(folder))
            except IsolationError as error:
                problems.append(f"{mode}: {error.context['reason']}")
                continue
        if outcome.stdout == b"ran\n":
            return mode, ""
        end = outcome.stderr.decode("ascii", "replace").strip()[-200:]
        problems.append(f"{mode}: the interpreter did not run, status {outcome.code} {outcome.refused}{end}")
    return "none", "; ".join(problems)


def run_job(job: Job, *, mode: Mode, scratch: Path) -> Outcome:
    """Run a program to its end and return how it ended.

    Args:
        job: The program.
        mode: How it is shut off, from `isolated_mode`; `none` gives limits, a deadline and a clean environment only.
        scratch: Existing folder for what lasts as long as the program.

    Raises:
        IsolationError: A step of the isolation did not hold; nothing was started.
        StorageError: The launcher could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="probe-", dir=scratch) as folder:
        reader, writer = os.pipe()
        began = time.monotonic()
        try:
            config = _config(job, mode, Path(folder), writer)
            process = _launch(config, job.stdin, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        with _ended(process):
            streams = _Streams(process, reader)
            streams.read(began + job.timeout + _GRACE)
        return _outcome(streams, time.monotonic() - began)


def _config(job: Job, mode: Mode, folder: Path, status: int) -> dict[str, Any]:
    """Return what the launcher is told."""
    release = os.path.realpath(job.release)
    root = os.path.realpath(folder)
    home = "/tmp" if mode != "none" else f"{root}/home"  # noqa: S108 - of the program's own root
    if mode == "none":
        Path(home).mkdir(mode=0o777)
        Path(home).chmod(0o777)  # the program may have become nobody; the folder above is private to the two
        folder.chmod(0o711)
    seen = release if mode == "none" else "/release"
    shown = _shown()
    for place in (*shown, *_SEEN):
        if mode != "none" and Path(release).is_relative_to(place):
            raise _unavailable(f"the release lies in {place}, which the program would see with all that is beside it")
    processes = _PROCESSES + 4 * job.cpus if mode == "root" else _SHARED_PROCESSES
    return {
        "mode": mode,
        "parent": os.getpid(),
        "status": status,
        "root": root,
        "release": release,
        "shown": shown,
        "argv": list(job.command(seen)),
        "cwd": seen if job.in_release else home,
        "env": {"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **job.env},
        "timeout": job.timeout,
        "limits": {
            "RLIMIT_DATA": job.memory,
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": _FILE,
            "RLIMIT_NOFILE": _FILES,
            "RLIMIT_NPROC": processes,
            "RLIMIT_CPU": int((job.timeout + 1) * job.cpus) + 1,
        },
    }


def _shown() -> list[str]:
    """Return the interpreter and its libraries: not its whole prefix, which may be a home folder."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    places = [interpreter(), os.path.dirname(os.__file__)]  # noqa: PTH120 - text is what the launcher is told
    places += [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    real = sorted({os.path.realpath(place) for place in places if Path(place).exists()})
    return [place for place in real if not any(Path(place).is_relative_to(other) for other in real if other != place)]


def _launch(config: dict[str, Any], stdin: int, status: int) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(
            [interpreter(), "-I", "-S", "-B", str(_LAUNCHER), json.dumps(config)],
            stdin=subprocess.PIPE if stdin < 0 else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(status,),
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise StorageError(f"cannot start {interpreter()}: {error.strerror}") from error
    if process.stdin is not None:  # nothing to read; a bare chroot may lack /dev/null
        process.stdin.close()
    return process


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave with the launcher ended, whatever happens: with it end all its processes."""
    try:
        yield
    finally:
        # SIGTERM lets it take its descendants along where no namespace does that; the second call is for a stuck one.
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class _Streams:
    """What comes from the launcher (status) and from the program (standard output and error), each bounded."""

    def __init__(self, process: subprocess.Popen[bytes], status: int) -> None:
        self.process = process
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.status = bytearray()
        self.flooded = False
        self.late = False
        assert process.stdout is not None
        assert process.stderr is not None
        self._status = status
        self._takers = {
            process.stdout.fileno(): self._take_stdout,
            process.stderr.fileno(): self._take_stderr,
            status: self._take_status,
        }

    def read(self, deadline: float) -> None:
        """Read until the launcher is done, or `deadline` (monotonic seconds) or a bound is passed; close everything."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with (
            self.process.stdout,
            self.process.stderr,
            os.fdopen(self._status, "rb"),
            selectors.DefaultSelector() as selector,
        ):
            for descriptor in self._takers:
                selector.register(descriptor, selectors.EVENT_READ)
            while selector.get_map() and not self.flooded:
                left = deadline - time.monotonic()
                if left <= 0:
                    self.late = True
                    return
                # Once the launcher is done nobody is waited for: where no namespace holds them, a process that was left
                # behind may keep the other two open.
                running = self._status in selector.get_map()
                ready = selector.select(left if running else 0)
                if not ready and not running:
                    return
                for key, _ in ready:
                    data = os.read(key.fd, _PIPE)
                    if not data:
                        selector.unregister(key.fd)
                    self._takers[key.fd](data)

    def _take_stdout(self, data: bytes) -> None:
        self.stdout += data
        if len(self.stdout) > Limits.PROBE_OUTPUT:
            self.flooded = True

    def _take_stderr(self, data: bytes) -> None:
        self.stderr += data
        del self.stderr[:-_TAIL]

    def _take_status(self, data: bytes) -> None:
        self.status += data
        assert len(self.status) <= _STATUS  # four lines of our own


def _outcome(streams: _Streams, seconds: float) -> Outcome:
    """Return how the program ended, from the launcher's status lines."""
    lines: dict[str, Any] = {}
    for line in bytes(streams.status).splitlines():
        lines |= canonical.parse(line, what="launcher status")
    if "failed" in lines:
        raise _unavailable(str(lines["failed"]))
    if "ready" not in lines:
        end = streams.stderr.decode("ascii", "replace").strip()[-200:]
        raise _unavailable(f"the launcher ended early, status {streams.process.returncode}: {end}")
    # Without an end on record the launcher was stopped from here: a flood, or everything hangs.
    ended = Fields(lines.get("ended", {"code": -int(signal.SIGKILL), "peak": 0, "timed_out": streams.late}), what="end")
    return Outcome(
        code=ended.integer("code", low=-128, high=255),
        timed_out=ended.flag("timed_out"),
        flooded=streams.flooded,
        refused=str(lines.get("refused", "")),
        stdout=bytes(streams.stdout[: Limits.PROBE_OUTPUT]),
        stderr=bytes(streams.stderr),
        peak_memory=ended.integer("peak"),
        seconds=seconds,
    )


def _unavailable(reason: str) -> IsolationError:
    return IsolationError(f"the program could not be isolated: {reason}", reason=reason)
