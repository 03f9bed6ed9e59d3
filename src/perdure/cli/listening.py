"""The options by which `serve` listens, and the token of commands that ask nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from perdure.client.remote.address import read_token
from perdure.errors import UsageError
from perdure.node import Door
from perdure.transport.tls import Tls

TOKEN_FILE = "PERDURE_TOKEN_FILE"  # noqa: S105 - the name of a variable
"""The environment variable that names the file of the cluster's token."""

Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Answer clients and other nodes there. Port 0: any.",
        show_default="off",
    ),
]
Advertise = Annotated[
    str | None,
    typer.Option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="The address by which they reach it, if it is another one.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        envvar=TOKEN_FILE,
        help="The token that all nodes and clients have.",
        show_default=False,
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", help="Its certificate.", show_default=False),
]
Key = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", help="The key of that.", show_default=False),
]
Authority = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca", metavar="FILE", help="The authority of all certificates.", show_default=False
    ),
]
ServerName = Annotated[
    str | None,
    typer.Option(
        "--tls-name",
        metavar="NAME",
        help="The name in the certificates of the others, if it is not their host.",
        show_default=False,
    ),
]


def door_from(
    listen: str | None,
    advertise: str | None,
    token_file: Path | None,
    tls: tuple[Path | None, Path | None, Path | None, str | None],
) -> Door | None:
    """How a node listens, as the options say. None: it does not.

    Raises:
        UsageError: they do not fit together, or a file cannot be used.
    """
    files = _tls(*tls)
    if listen is None:
        if advertise is not None or files is not None:
            msg = "--advertise and --tls-... are for a node that listens; give --listen HOST:PORT"
            raise UsageError(msg)
        return None  # the token may come from the environment, and is for the commands then
    token = None
    if token_file is not None:
        token = read_token(token_file)
    return Door(listen, advertise, token, files)


def _tls(cert: Path | None, key: Path | None, ca: Path | None, name: str | None) -> Tls | None:
    if cert is None and key is None and ca is None and name is None:
        return None
    if cert is None or key is None or ca is None:
        msg = "TLS needs three files; give --tls-cert, --tls-key and --tls-ca"
        raise UsageError(msg)
    return Tls(cert=cert, key=key, ca=ca, server_name=name)


def token_for(url: str) -> bytes | None:
    """The token of the environment, for nodes whose URL names none."""
    # The URL says more than the environment, which may be that of another cluster.
    path = os.environ.get(TOKEN_FILE)
    if not path or "token_file=" in url:
        return None
    return read_token(path)
