"""Every error that normsurgery raises on purpose.

::

    NormSurgeryError            exit
    ├── ParityError                1   NS-E100  the result does not compute what the source computed
    ├── DivergedError              1   NS-E101  training ran into numbers that are not finite
    ├── UsageError                 2   NS-E200  the call itself makes no sense
    ├── InvalidModelError          3   NS-E300  not an ONNX model
    │   ├── TruncatedModelError    3   NS-E301  the file ends in the middle of a field
    │   ├── GraphError             3   NS-E302  the graph breaks a rule of the ONNX spec
    │   ├── ModuleError            3   NS-E303  a PyTorch module has no exact counterpart
    │   ├── CrashError             3   NS-E304  onnxruntime crashed, hung or exploded on the model
    │   └── UnsupportedModelError  3   NS-E306  it holds an operator that the verb has no rule for
    ├── ModelIOError               4   NS-E400  reading or writing failed
    │   ├── MissingDataError       4   NS-E401  a file with external data is not there
    │   └── OutputExistsError      4   NS-E402  the output exists and --force was not given
    ├── UnsafeModelError           5   NS-E500  the model asks for something a model must not
    └── MissingPackageError        6   NS-E600  a package or provider that the call needs is absent

An error is one line: what is wrong, with which tensor, node or file, and what to do next.
The code is stable: scripts may match it. The exit status is what the command line ends with; it
also knows NS-E130 (interrupted, 130) and NS-E999 (a bug in normsurgery itself, 70).
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that could steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class NormSurgeryError(Exception):
    """The root: ``except NormSurgeryError`` catches everything raised on purpose."""

    code = "NS-E000"
    exit_status = 3

    def __str__(self) -> str:
        """One line, whatever names the model brought along."""
        return printable(" ".join(super().__str__().split()))


class ParityError(NormSurgeryError):
    """The result does not compute what the source computed."""

    code = "NS-E100"
    exit_status = 1


class DivergedError(NormSurgeryError, ArithmeticError):
    """Training ran into numbers that are not finite; the weights are of no use."""

    code = "NS-E101"
    exit_status = 1


class UsageError(NormSurgeryError, ValueError):
    """The call itself makes no sense, whatever the model."""

    code = "NS-E200"
    exit_status = 2


class InvalidModelError(NormSurgeryError, ValueError):
    """The bytes are not an ONNX model."""

    code = "NS-E300"
    exit_status = 3


class TruncatedModelError(InvalidModelError):
    """The file ends in the middle of a field."""

    code = "NS-E301"


class GraphError(InvalidModelError):
    """The graph breaks a rule of the ONNX spec: a cycle, a wrong shape, a missing value."""

    code = "NS-E302"


class ModuleError(InvalidModelError):
    """A PyTorch module holds something that has no exact counterpart; the message names it."""

    code = "NS-E303"


class CrashError(InvalidModelError):
    """A child process that ran the model crashed, took too long or too much memory.

    step: what it was doing (``normsurgery.isolation.Step``), None if it had not begun.
    """

    code = "NS-E304"

    def __init__(self, text: str, step: object = None) -> None:
        super().__init__(text)
        self.step = step


class UnsupportedModelError(InvalidModelError):
    """The model may be right, and holds an operator or a type that the verb has no rule for."""

    code = "NS-E306"


class ModelIOError(NormSurgeryError, OSError):
    """Reading or writing failed."""

    code = "NS-E400"
    exit_status = 4


class MissingDataError(ModelIOError):
    """A file with external data is not there, or is shorter than the model says."""

    code = "NS-E401"


class OutputExistsError(ModelIOError):
    """The output exists, and nobody said that it may be replaced."""

    code = "NS-E402"


class UnsafeModelError(NormSurgeryError):
    """The model asks for something that a model must not: a path outside its folder, a giant."""

    code = "NS-E500"
    exit_status = 5


class MissingPackageError(NormSurgeryError, ImportError):
    """A package or an execution provider that the call needs is not there."""

    code = "NS-E600"
    exit_status = 6
