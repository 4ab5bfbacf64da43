# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: `python -m blender_omnix extract | adapters | conformance ...`.

Exit codes: 0 done (warnings are in the report), 1 refused or failed with one sentence on
stderr, 2 usage (conformance: nothing could be compared), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__, maps
from .errors import Cancelled, OmnixError, sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from .adapters.report import Measured

DONE, REFUSED, INTERRUPTED = 0, 1, 130
_UNWRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Heavy imports happen inside the command."""
    # A path that the terminal's encoding lacks is told all the same, as stderr does.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    asked_to_stop = _asked_to_stop()
    try:
        args = _parser().parse_args(arguments)
        if asked_to_stop():
            raise Cancelled
        if args.run is _extract:
            args.cancelled = asked_to_stop
        else:
            _stop_when_asked()
        code = int(args.run(args))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except (KeyboardInterrupt, Cancelled):
        with contextlib.suppress(OSError):  # whoever read it was interrupted too
            print("Interrupted; nothing was written.", file=sys.stderr, flush=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough, or was interrupted too.
        _drop_output()
        return INTERRUPTED if asked_to_stop() else REFUSED
    except Exception as error:
        told = sentence(error)
        if told is None and isinstance(error, OSError) and error.errno in _UNWRITTEN:
            _drop_output()
            told = f"What is to be printed cannot be written ({error.strerror}); send it elsewhere."
        if told is None:
            raise
        print(told, file=sys.stderr)
        return REFUSED


def _drop_output() -> None:
    """Let what is left of the output go nowhere: Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    from .adapters import command as adapters
    from .engines.flux import conformance

    parser = argparse.ArgumentParser(
        prog="python -m blender_omnix", description="Turn a panorama into PBR maps."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_extract(commands)
    adapters.add_parsers(commands, measure=_measure_compact)
    conformance.add_parser(commands)
    return parser


def _add_extract(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("extract", help="extract a map set from a panorama file")
    parser.add_argument("file", type=Path, help="an equirectangular image, twice as wide as high")
    parser.add_argument("--out", type=_folder, required=True, metavar="DIR", help="the map set")
    parser.add_argument(
        "--maps",
        type=_names,
        default=maps.DEFAULT_MAPS,
        metavar="A,B,...",
        help=f"from {','.join(maps.REQUESTABLE)} (default: {','.join(maps.DEFAULT_MAPS)})",
    )
    parser.add_argument("--engine", default="compact", choices=("compact", "flux"))
    parser.add_argument("--size", type=int, default=0, metavar="N", help="width of the maps")
    parser.add_argument("--exposure", type=float, default=0.0, metavar="EV", help="offset in stops")
    parser.add_argument(
        "--camera-height", type=float, default=1.6, metavar="M", help="metres above the floor"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    flux = parser.add_argument_group("options of the flux engine")
    own = [
        flux.add_argument("--weights", metavar="DIR", help="FLUX.1-dev's folder"),
        flux.add_argument("--adapters", metavar="DIR", help="root of the OmniX adapters"),
        flux.add_argument("--device", help="a device of torch (default: the best there is)"),
        flux.add_argument(
            "--network-height", type=int, dest="height", metavar="ROWS", help="at most"
        ),
        flux.add_argument("--steps", type=int, metavar="N", help="sampling steps of each task"),
        flux.add_argument("--camera-rays", action="store_true", default=None, help="for normals"),
        flux.add_argument("--fp8", action="store_true", default=None, help="8-bit weights"),
    ]
    parser.set_defaults(
        run=_extract, flux={option.dest: option.option_strings[0] for option in own}
    )


def _measure_compact(folder: Path) -> dict[str, Measured]:
    """The adapters of compact weights, injected and measured as the engine does it."""
    from . import engines
    from .adapters.report import Measured

    engine = engines.create("compact", {"weights": folder})
    engine.load(lambda stage, fraction: None)
    keys = {field.name for field in dataclasses.fields(Measured)}
    return {
        entry["name"]: Measured(**{key: entry[key] for key in keys & entry.keys()})
        for entry in engine.adapters()
    }


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("no folder is named")
    return Path(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _extract(args: argparse.Namespace) -> int:
    from .extract import Settings, extract

    given = {name: getattr(args, name) for name in args.flux}
    options = {name: value for name, value in given.items() if value is not None}
    if options and args.engine != "flux":
        spelt = args.flux[next(iter(options))]
        raise OmnixError(f"{spelt} belongs to the flux engine; add --engine flux.")
    settings = Settings(
        engine=args.engine,
        maps=args.maps,
        size=args.size,
        exposure=args.exposure,
        camera_height=args.camera_height,
        seed=args.seed,
        options=options,
    )
    silent = args.quiet or sys.stderr is None  # as where a shell has closed it
    report = extract(
        args.file,
        args.out,
        settings,
        progress=None if silent else print_progress,
        cancelled=args.cancelled,
    )
    for warning in report["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    total = sum(report["seconds"].values())
    print(f"{args.out}: {' x '.join(map(str, report['size']))} in {total:.1f} s")
    return DONE


def _asked_to_stop() -> Callable[[], bool]:
    """Whether Ctrl-C or SIGTERM came. A second one stops at once.

    An exception thrown into a library that is being imported would come out as another one.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if came:
            signal.default_int_handler(number, frame)
        came.append(number)
        # print() may be what was interrupted, and the reader of stderr interrupted too.
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping; once more stops at once.\n")

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return lambda: bool(came)


def _stop_when_asked() -> None:
    """Let Ctrl-C and SIGTERM both interrupt what runs: a terminated command cleans up too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def print_progress(stage: str, fraction: float) -> None:
    """One line on stderr, rewritten in place on a terminal."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{fraction:4.0%}  {stage:<24}", end=end, file=sys.stderr, flush=True)
