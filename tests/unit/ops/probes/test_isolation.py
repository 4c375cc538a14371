"""What a program that is shut off can see, do and leave behind: nothing."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airpack.errors import IsolationError, PolicyError
from airpack.ops.probes import isolation
from airpack.ops.probes.isolation import Job, Outcome
from airpack.types import Limits

Run = Callable[..., Outcome]

MODES = ["root", "user"] if os.geteuid() == 0 else ["user"]
isolated = pytest.mark.parametrize("mode", MODES)
every = pytest.mark.parametrize("mode", [*MODES, "none"])


def _said(outcome: Outcome) -> Any:
    assert outcome.code == 0, outcome.stderr.decode()
    return json.loads(outcome.stdout)


@isolated
def test_it_is_nobody_without_capabilities(mode: str, run: Run) -> None:
    said = _said(
        run(
            mode,
            """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps([os.getuid(), os.geteuid(), os.getgid(),
                  [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")],
                  int(status["NoNewPrivs"]), os.getppid()]))
""",
        )
    )
    assert said == [65534, 65534, 65534, [0, 0, 0, 0], 1, 1]


@isolated
def test_it_cannot_gain_anything(mode: str, run: Run) -> None:
    said = _said(
        run(
            mode,
            """
import ctypes, json, os
libc = ctypes.CDLL(None)
got = [libc.unshare(flag) for flag in (0x10000000, 0x00020000, 0x40000000)]
got.append(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
for name, call in (("setuid", lambda: os.setuid(0)), ("chroot", lambda: os.chroot("/tmp")),
                   ("keeper", lambda: os.readlink("/proc/1/root"))):
    try:
        call()
        got.append(name)
    except OSError:
        got.append(-1)
print(json.dumps(got))
""",
        )
    )
    assert said == [-1] * 7


@isolated
def test_it_has_no_network(mode: str, run: Run) -> None:
    said = _said(
        run(
            mode,
            """
import errno, json, socket
names = [name for _, name in socket.if_nameindex()]
found = []
for address in ("127.0.0.1", "192.0.2.1"):
    with socket.socket() as one:
        found.append(errno.errorcode[one.connect_ex((address, 9))])
print(json.dumps([set(names) <= {"lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0"}, found]))
""",
        )
    )
    assert said == [True, ["ENETUNREACH", "ENETUNREACH"]]


@isolated
def test_it_reaches_no_keyring_no_kernel_program_and_no_socket_beyond_ip(mode: str, run: Run) -> None:
    """A namespace covers none of these: keyrings belong to the session, vsock to the machine."""
    said = _said(
        run(
            mode,
            """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (248, 249, 250, 298, 321, 323, 425), "aarch64": (217, 218, 219, 241, 280, 282, 425)}
found = set()
for number in numbers[os.uname().machine]:
    libc.syscall(number, 0, 0, 0, 0, 0)
    found.add(errno.errorcode[ctypes.get_errno()])
for family in (17, 38, 40):  # packet, algorithms of the kernel, vsock
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
        found.add(family)
    except OSError as error:
        found.add(errno.errorcode[error.errno])
socket.socketpair()[0].close()
print(json.dumps(sorted(found)))
""",
        )
    )
    assert said == ["EPERM"]


@isolated
def test_it_cannot_change_a_device_of_this_machine(mode: str, run: Run) -> None:
    said = _said(
        run(
            mode,
            """
import errno, json, os
try:
    os.chmod("/dev/null", os.stat("/dev/null").st_mode & 0o7777)
    found = "changed"
except OSError as error:
    found = errno.errorcode[error.errno]
with open("/dev/null", "wb") as stream:
    stream.write(b"data goes on")
print(json.dumps(found))
""",
        )
    )
    assert said in ("EROFS", "EPERM")


@isolated
def test_it_writes_nowhere_but_in_its_own_tmp(mode: str, run: Run, release: Path) -> None:
    said = _said(
        run(
            mode,
            """
import json, os, sys
def writes(path):
    try:
        open(path, "ab").close()
        return True
    except OSError:
        return False
places = ["/release/file", "/release/new", "/new", "/usr/new", "/dev/new", "/sys/devices/system/cpu/new",
          "/proc/sys/kernel/core_pattern", os.path.dirname(os.__file__) + "/new", sys.executable]
print(json.dumps([[place for place in places if writes(place)], writes(os.environ["HOME"] + "/new"), os.getcwd()]))
""",
        )
    )
    assert said == [[], True, "/tmp"]
    assert (release / "file").read_text() == "content"
    assert [path.name for path in release.iterdir()] == ["file"]


@isolated
def test_it_sees_nothing_of_this_machine(mode: str, run: Run, release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRPACK_SECRET", "secret")
    places = ["/etc/passwd", "/var", "/run", "/dev/shm", str(release), str(release.parent / "secret"), __file__]
    said = _said(
        run(
            mode,
            """
import json, os, sys
pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.exists("/proc/self") else [1]
open_files = sorted(map(int, os.listdir("/proc/self/fd")))
print(json.dumps([[place for place in sys.argv[1:] if os.path.lexists(place)], open("/release/file").read(),
                  sorted(os.environ), max(pids) < 10, os.listdir("/tmp"), open_files]))
""",
            *places,
        )
    )
    tmp = [os.path.relpath(isolation.interpreter(), "/tmp").split("/")[0]]
    assert said[:4] == [[], "content", ["HOME", "LANG", "PATH", "TMPDIR"], True]
    assert said[4] in ([], tmp)  # an interpreter below /tmp shows its own folder there
    assert said[5][:3] == [0, 1, 2]
    assert len(said[5]) == 4  # the fourth is the listing itself


@isolated
def test_the_home_folder_of_the_caller_is_not_there(mode: str, run: Run) -> None:
    home = Path.home()
    names = [str(path) for path in home.iterdir()] if home != Path("/") else []
    inside = {str(path) for path in (Path(isolation.interpreter()).parents)}
    said = _said(
        run(
            mode,
            "import json, os, sys; print(json.dumps([p for p in sys.argv[1:] if os.path.lexists(p)]))",
            *[name for name in names if name not in inside],
        )
    )
    assert said == []


@every
def test_a_hang_ends_with_all_its_children(mode: str, run: Run, gone: Callable[[str], bool]) -> None:
    marker = uuid.uuid4().hex
    outcome = run(
        mode,
        """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    os.fork()
time.sleep(1000)
""",
        marker,
        timeout=1.0,
    )
    assert (outcome.timed_out, outcome.code) == (True, -signal.SIGKILL)
    assert gone(marker)


@every
def test_nothing_outlives_the_program(mode: str, run: Run, gone: Callable[[str], bool]) -> None:
    marker = uuid.uuid4().hex
    outcome = run(
        mode,
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(1000)
    os._exit(0)
os.wait()
print("done")
""",
        marker,
    )
    assert (outcome.timed_out, outcome.code, outcome.stdout) == (False, 0, b"done\n")
    assert gone(marker)


def test_nothing_outlives_a_killed_caller(tmp_path: Path, gone: Callable[[str], bool]) -> None:
    if not isolation.isolation_available():
        pytest.skip(isolation.isolation_problem())
    marker = uuid.uuid4().hex
    (tmp_path / "release").mkdir()
    caller = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from airpack.ops.probes import isolation
        code = "import sys, time; print('up', file=sys.stderr, flush=True); time.sleep(1000)"
        words = (isolation.interpreter(), "-I", "-S", "-B", "-c", code, sys.argv[2])
        job = isolation.Job(command=lambda _: words, release=Path(sys.argv[1], "release"), memory=1 << 29, timeout=1000)
        mode = isolation.isolated_mode()
        print("starting", flush=True)
        isolation.run_job(job, mode=mode, scratch=Path(sys.argv[1]))
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", caller, str(tmp_path), "argument-" + marker], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"starting\n"
        # the program's own arguments, not the caller's that carries the same marker
        for _ in range(200):
            if any(
                b"time.sleep(1000)\0argument-" + marker.encode() in _read(path)
                for path in Path("/proc").glob("[0-9]*/cmdline")
            ):
                break
            time.sleep(0.05)
        else:
            process.kill()
            pytest.fail("the program never ran")
        process.kill()
        process.wait()
    assert gone(marker)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@every
def test_a_flood_is_cut_off(mode: str, run: Run, gone: Callable[[str], bool]) -> None:
    marker = uuid.uuid4().hex
    outcome = run(mode, "import os\nwhile True: os.write(1, b'x' * 65536)", marker)
    assert outcome.flooded
    assert outcome.code != 0
    assert len(outcome.stdout) == Limits.PROBE_OUTPUT
    assert gone(marker)


@every
def test_of_error_output_the_end_is_kept(mode: str, run: Run) -> None:
    outcome = run(mode, "import sys\nfor _ in range(1000): sys.stderr.write('x' * 5000)\nsys.stderr.write('the end')")
    assert outcome.code == 0
    assert outcome.stderr.endswith(b"the end")
    assert len(outcome.stderr) <= 1 << 16


@every
def test_memory_is_limited(mode: str, run: Run) -> None:
    outcome = run(mode, "bytearray(300 << 20)", memory=128 << 20)
    assert outcome.code == 1
    assert b"MemoryError" in outcome.stderr
    assert run(mode, "bytearray(30 << 20)", memory=128 << 20).peak_memory > 30 << 20


@every
def test_files_and_core_dumps_are_limited(mode: str, run: Run) -> None:
    code = """
import os, resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open(os.environ["HOME"] + "/big", "wb") as stream:
        stream.truncate(1 << 40)
    print("grown")
except OSError:
    print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= 1024)
"""
    assert run(mode, code).stdout == b"(0, 0) True\n"


def test_a_fork_storm_ends(run: Run, gone: Callable[[str], bool]) -> None:
    if not isolation.isolation_available():
        pytest.skip(isolation.isolation_problem())
    marker = uuid.uuid4().hex
    code = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(1000)
"""
    outcome = run(isolation.isolated_mode(), code, marker, timeout=2.0)
    assert outcome.timed_out
    assert gone(marker)


@every
def test_the_signal_is_reported(mode: str, run: Run) -> None:
    assert run(mode, "import os; os.kill(os.getpid(), 11)").code == -signal.SIGSEGV


@every
def test_the_status_is_reported(mode: str, run: Run) -> None:
    assert run(mode, "raise SystemExit(7)").code == 7


@every
def test_standard_input_is_empty_or_the_callers(mode: str, run: Run) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read())"
    assert run(mode, code).stdout == b""
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    try:
        # `run` tries the mode with an empty program first, which leaves the pipe alone
        assert run(mode, code, stdin=reader).stdout == b"hello"
    finally:
        os.close(reader)


def test_what_cannot_be_started_is_refused(release: Path, tmp_path: Path) -> None:
    job = Job(command=lambda seen: (f"{seen}/file",), release=release, memory=1 << 29, timeout=5)
    outcome = isolation.run_job(job, mode="none", scratch=tmp_path)
    assert outcome.refused == "Permission denied"
    assert outcome.code == 127


def test_a_release_that_is_not_there_is_never_run(tmp_path: Path) -> None:
    if not isolation.isolation_available():
        pytest.skip(isolation.isolation_problem())
    job = Job(command=lambda _: ("/bin/true",), release=tmp_path / "none", memory=1 << 29, timeout=5)
    with pytest.raises(IsolationError, match="No such file"):
        isolation.run_job(job, mode=isolation.isolated_mode(), scratch=tmp_path)


def test_a_release_beside_the_interpreter_is_never_run(tmp_path: Path) -> None:
    release = Path(os.__file__).parent
    job = Job(command=lambda _: ("/bin/true",), release=release, memory=1 << 29, timeout=5)
    with pytest.raises(IsolationError, match="would see"):
        isolation.run_job(job, mode="root", scratch=tmp_path)


def test_a_machine_that_cannot_isolate_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Outcome:
        raise IsolationError("no", reason="unshare: Operation not permitted")

    isolation._trial.cache_clear()
    monkeypatch.setattr(isolation, "run_job", refuse)
    try:
        assert not isolation.isolation_available()
        assert "user: unshare: Operation not permitted" in isolation.isolation_problem()
        with pytest.raises(PolicyError, match="Operation not permitted"):
            isolation.isolated_mode()
    finally:
        isolation._trial.cache_clear()
