"""`attn-sidecar keys NEW_DIR`: a token and CURVE keys for both sides, and the flags to use them with."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq.auth

_TOKEN_BYTES = 32
_DESCRIPTION = """\
Makes what a sidecar needs to serve a network: a bearer token for HTTP, a pair of CURVE keys for the sidecar and one for
a model server. Files that hold a secret are readable by you alone (0600, directories 0700)."""
_FOR_BOTH = """\
made in {folder}:
  http.token                       the bearer token (secret: whoever reads prompts needs it)
  sidecar.key_secret               the sidecar's CURVE keys (secret, stays beside the sidecar)
  sidecar.key                      its public key, for the model servers
  model-server.key_secret          the model server's CURVE keys (secret, goes to the model server)
  clients/model-server.key         its public key, stays beside the sidecar: a file here is a sender let in

the sidecar:
  attn-sidecar --host 0.0.0.0 --token-file {folder}/http.token \\
      --zmq-bind 'tcp://*:9001' --zmq-curve-secret-key {folder}/sidecar.key_secret --zmq-curve-clients {folder}/clients

the model server (copy sidecar.key and model-server.key_secret there; SIDECAR is the sidecar's machine):
  python -m sglang.launch_server ... --return-attention-tokens --attention-tokens-publish tcp://SIDECAR:9001 \\
      --attention-tokens-curve-server-key sidecar.key --attention-tokens-curve-client-key model-server.key_secret

a client:
  curl -H "Authorization: Bearer $(cat {folder}/http.token)" http://SIDECAR:9000/stats"""


def make_keys(folder: Path) -> None:
    """Make the files of `_FOR_BOTH` in `folder`, which must not exist; raises `FileExistsError` and other `OSError`."""
    folder.mkdir(mode=0o700, parents=True)
    clients = folder / "clients"
    clients.mkdir(mode=0o700)
    before = os.umask(0o077)
    try:
        for name in ("sidecar", "model-server"):
            zmq.auth.create_certificates(folder, name)
        (folder / "model-server.key").rename(clients / "model-server.key")
        (folder / "http.token").write_text(secrets.token_urlsafe(_TOKEN_BYTES) + "\n", encoding="ascii")
    finally:
        os.umask(before)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status: 0 made, 1 could not, 2 wrong use."""
    made = argparse.ArgumentParser(prog="attn-sidecar keys", description=_DESCRIPTION, allow_abbrev=False)
    made.add_argument("folder", type=Path, metavar="NEW_DIR", help="directory to make; it must not exist")
    folder: Path = made.parse_args(arguments).folder
    try:
        make_keys(folder)
    except OSError as error:
        reason = "is there already: nothing was changed" if isinstance(error, FileExistsError) else error.strerror
        print(f"attn-sidecar keys: {folder} {reason}; name a new directory", file=sys.stderr)
        return 1
    print(_FOR_BOTH.format(folder=folder))
    return 0
