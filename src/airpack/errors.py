"""The error tree and its exit codes.

    AirpackError                1   internal_error (a bug when raised bare)
    ├─ InputError               2   input          usage, bad pack spec, bad option
    ├─ NotFoundError            3   not_found      no head, no such release
    ├─ IntegrityError          10   integrity      bytes are not what was signed
    ├─ TrustError              11   trust          signature, unknown key, wrong root
    │   ├─ ThresholdError           threshold      too few distinct keys
    │   └─ ExpiredError             expired        metadata past its date
    ├─ PolicyError             12   policy         refused by policy
    │   ├─ IncompatibleError        incompatible   model, runtime and host do not fit
    │   ├─ RevokedError             revoked        withdrawn by its channel
    │   ├─ ProbeError               probe          the smoke test did not pass
    │   └─ IsolationError           isolation      a program could not be shut off from the machine
    ├─ RollbackError           13   rollback       older than the floor, or contradicts what is held
    ├─ StorageError            20   storage        disk full, I/O error
    ├─ BusyError               21   busy           locked by another process
    ├─ PartialError            30   partial        more volumes are needed
    │   └─ DamagedError             damaged        volumes came damaged; the context says which bytes
    └─ CancelledError         130   cancelled

"Could not check" is never a kind of "checked and bad": a file that cannot be read is a `StorageError`,
not an `IntegrityError`.
"""

from typing import Any, ClassVar


class AirpackError(Exception):
    """Base of every error that airpack raises on purpose.

    Args:
        message: What happened, what was expected and what was found, in one sentence.
        hint: What the reader can do next, a command where there is one.
        context: Values for machines (`--json`): paths, offsets in bytes, digests.
    """

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context
        self.document: dict[str, Any] = {}  # keys of its own that a failed operation still reports


class InputError(AirpackError):
    """The user asked for something that cannot be: usage, a bad pack spec, a bad option."""

    code = "input"
    exit_code = 2


class NotFoundError(AirpackError):
    """Something that was named does not exist."""

    code = "not_found"
    exit_code = 3


class IntegrityError(AirpackError):
    """Bytes are not what was signed or recorded."""

    code = "integrity"
    exit_code = 10


class TrustError(AirpackError):
    """A signature, a key or a trust document does not hold."""

    code = "trust"
    exit_code = 11


class ThresholdError(TrustError):
    """Fewer distinct keys signed than the policy asks for."""

    code = "threshold"


class ExpiredError(TrustError):
    """Trust metadata is past its expiry."""

    code = "expired"


class PolicyError(AirpackError):
    """Policy refuses."""

    code = "policy"
    exit_code = 12


class IncompatibleError(PolicyError):
    """Model, runtime and host do not fit together, or it could not be decided that they do."""

    code = "incompatible"


class RevokedError(PolicyError):
    """The channel has withdrawn the release."""

    code = "revoked"


class ProbeError(PolicyError):
    """The smoke test at activation failed or is missing."""

    code = "probe"


class IsolationError(PolicyError):
    """A program could not be shut off from this machine; it was not started."""

    code = "isolation"


class RollbackError(AirpackError):
    """Older than the floor, or in contradiction to what is already held."""

    code = "rollback"
    exit_code = 13


class StorageError(AirpackError):
    """The disk or the medium failed: full, read-only, I/O error."""

    code = "storage"
    exit_code = 20


class BusyError(AirpackError):
    """Another process holds the lock."""

    code = "busy"
    exit_code = 21


class PartialError(AirpackError):
    """More volumes are needed before this can go on."""

    code = "partial"
    exit_code = 30


class DamagedError(PartialError):
    """Volumes came, but not as they were signed, or not readable: they must be brought again, or parity for them."""

    code = "damaged"


class CancelledError(AirpackError):
    """The user stopped it."""

    code = "cancelled"
    exit_code = 130
