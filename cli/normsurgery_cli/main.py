"""``normsurgery VERB INPUT [-o OUTPUT]``: entry point, options that all verbs share, errors."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from types import FrameType

# A verb is the module of that name in this package, with a click command called ``command``.
VERBS = {
    "inspect": "List the normalizations of a model, and what fold and convert do with each.",
    "fold": "Fold BatchNormalization into linear layers; the outputs stay the same.",
    "validate": "Prove that two models compute the same, on CPU and CUDA.",
    "convert": "Put group, instance or layer normalization in the place of BatchNormalization.",
    "unfold": "Put back the BatchNormalization that an exporter folded; the outputs stay the same.",
    "recalibrate": "Estimate the statistics of BatchNormalization anew, on other data.",
    "export": "Export a PyTorch module with its norms kept, and prove the file.",
    "finetune": "Train a model's weights on small batches, ONNX in and ONNX out.",
    "doctor": "Say what onnxruntime, CUDA and torch can do here, and what mends them.",
}


class LazyGroup(click.Group):
    """Imports a verb when it is called, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which they are used."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the verb's command."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"normsurgery_cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 parity failed, 2 usage, 3 not a valid model, 4 read or write "
    "failed, 5 unsafe input refused, 6 a package or provider is missing.",
)
@click.version_option(package_name="normsurgery", prog_name="normsurgery")
def cli() -> None:
    """Normalization surgery on ONNX models."""


def main() -> NoReturn:
    """Run the command line and exit with the documented status, never with a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    status = run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is written: tearing the interpreter down takes 25 to 50 ms


def run() -> int:
    """Run the command line and return the exit status; errors are one line on standard error."""
    from normsurgery.errors import NormSurgeryError

    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        where = f"{error.ctx.command_path} --help" if error.ctx else "normsurgery --help"
        return _fail("NS-E200", f"{error.format_message()} Try '{where}'.", 2)
    except click.ClickException as error:
        return _fail("NS-E200", error.format_message(), 2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return _fail("NS-E130", "interrupted; no output was left behind", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except NormSurgeryError as error:
        return _fail(error.code, str(error), error.exit_status)
    except OSError as error:  # a full disk under a temporary file, say
        return _fail("NS-E400", str(error), 4)
    except MemoryError:
        return _fail("NS-E400", "out of memory", 4)
    except Exception as error:
        if os.environ.get("NORMSURGERY_TRACEBACK"):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "a bug in normsurgery; NORMSURGERY_TRACEBACK=1 shows where, please report it"
        return _fail("NS-E999", f"{what} ({hint})", 70)
    return 0


def _fail(code: str, text: str, status: int) -> int:
    click.echo(f"error[{code}]: {text}", err=True)
    return status


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
