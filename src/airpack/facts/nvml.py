"""A program: asks NVIDIA's management library about its GPUs and prints one JSON document.

It runs in a process of its own, with a time limit (`facts.hostgpus`): the library talks to a driver that may hang or
crash, and a vendor's code has no business in the process that decides. Nothing of airpack is imported here.

NVML API Reference Guide (docs.nvidia.com/deploy/nvml-api). What the library cannot tell of a device is null.
"""

import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

LIBRARIES = (
    "libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",  # where some container platforms mount the driver
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
)
_TEXT = 256  # bytes of a name
_DEVICES = 1024


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _NvmlError(Exception):
    """A call was refused."""


class _Nvml:
    """The library, its calls checked."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def call(self, name: str, *args: Any) -> None:
        """Call one function; raises _NvmlError with its number for any answer but success."""
        function = getattr(self._library, name, None)
        if function is None:
            raise _NvmlError(f"{name} is not there")
        function.restype = ctypes.c_int
        status = function(*args)
        if status:
            raise _NvmlError(f"{name} answers {status}")

    def text(self, name: str, *args: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT)
        self.call(name, *args, buffer, ctypes.c_uint(_TEXT))
        return buffer.value.decode("utf-8", "replace")

    def integer(self, name: str, *args: Any) -> int:
        number = ctypes.c_int()
        self.call(name, *args, ctypes.byref(number))
        return number.value

    def capability(self, handle: Any) -> list[int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        return [major.value, minor.value]

    def memory(self, handle: Any) -> list[int]:
        memory = _Memory()
        self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return [memory.total, memory.free]

    def parts(self, handle: Any) -> bool:
        mode, pending = ctypes.c_uint(), ctypes.c_uint()
        self.call("nvmlDeviceGetMigMode", handle, ctypes.byref(mode), ctypes.byref(pending))
        return bool(mode.value)

    def name(self, handle: Any) -> str:
        return self.text("nvmlDeviceGetName", handle)

    def device(self, index: int) -> dict[str, Any]:
        """Return what is known of one GPU."""
        handle = ctypes.c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
        asked = {"name": self.name, "capability": self.capability, "memory": self.memory, "parts": self.parts}
        return {key: _told(question, handle) for key, question in asked.items()}


def _told(question: Callable[[Any], Any], handle: Any) -> Any:
    try:
        return question(handle)
    except _NvmlError:
        return None


def ask(libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """Return the document: `error` alone, or driver, CUDA's version and GPUs."""
    failures = []
    for path in libraries:
        try:
            nvml = _Nvml(ctypes.CDLL(path))
            break
        except OSError as error:
            failures.append(str(error))
    else:
        return {"error": failures[0]}
    try:
        nvml.call("nvmlInit_v2")
        count = nvml.integer("nvmlDeviceGetCount_v2")
        return {
            "driver": nvml.text("nvmlSystemGetDriverVersion"),
            "cuda": nvml.integer("nvmlSystemGetCudaDriverVersion_v2"),
            "gpus": [nvml.device(index) for index in range(min(count, _DEVICES))],
        }
    except _NvmlError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    json.dump(ask(), sys.stdout)
