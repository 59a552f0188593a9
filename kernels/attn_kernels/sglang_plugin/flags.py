"""The flags on SGLang's command line, and what they need of its other settings."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attn_core.addresses import check_connect_address
from attn_core.errors import SettingsError
from attn_core.wire import DEFAULT_ADDRESS
from attn_kernels.sglang_plugin.settings import PUBLISH_OFF, CaptureSettings

logger = logging.getLogger(__name__)

MIN_SPOOL_BYTES = 1 << 20
"""A spool drops an eighth of itself at a time; smaller ones would not hold a large batch at all."""
_MOST_SAMPLE = 1 << 30


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the capture's flags, in a group of their own, to SGLang's parser."""
    group = parser.add_argument_group("attention capture (attention-explorer)")
    group.add_argument(
        "--return-attention-tokens",
        action="store_true",
        help="Capture, for every output token, how far and how sharply the model looked back: a 20-number attention "
        "fingerprint and the exact top-k attended positions. A request that sends return_attention_tokens=true gets "
        "them with its answer; every request is published to the sidecar. Without this flag this is stock SGLang.",
    )
    group.add_argument(
        "--attention-tokens-top-k",
        type=_positive_int,
        default=CaptureSettings.top_k,
        metavar="N",
        help="How many of the most attended positions to return for each token, with their true probabilities; what "
        "they leave out is residual_mass. Default: %(default)s.",
    )
    group.add_argument(
        "--attention-tokens-publish",
        type=_publish_address,
        default=DEFAULT_ADDRESS,
        metavar="ADDR",
        help=f"ZMQ address of the sidecar that stores the fingerprints, or '{PUBLISH_OFF}' to publish nothing. The "
        "server never waits for it: a sidecar that is away is caught up with when it returns. Default: %(default)s.",
    )
    group.add_argument(
        "--attention-tokens-capture",
        choices=["all", "requested"],
        default=CaptureSettings.capture,
        help="Which requests to fingerprint and publish: 'all' of them, or only those 'requested' with "
        "return_attention_tokens=true. Default: %(default)s.",
    )
    group.add_argument(
        "--attention-tokens-privacy",
        action="store_true",
        help="Publish fingerprints only: token ids, texts, prompts and positions are not sent to the sidecar.",
    )
    group.add_argument(
        "--attention-tokens-cuda-graphs",
        action="store_true",
        help="Keep CUDA graphs for decoding, with the capture recorded in them. Not yet proven on a device, hence off: "
        "without it the server decodes without graphs.",
    )
    group.add_argument(
        "--attention-capture-budget",
        type=_percent,
        metavar="PCT",
        help="What the capture may cost, in percent of the rest of a step, measured while it runs. Beyond it steps are "
        "left out, those of requests that asked last; tokens then say sampled. Default: no bound, every step.",
    )
    group.add_argument(
        "--attention-tokens-spool-dir",
        metavar="DIR",
        help="Where fingerprints wait on disk while the sidecar is away, in files that only this user can read. "
        "Default: attention-explorer/spool/PORT under $XDG_STATE_HOME or ~/.local/state.",
    )
    group.add_argument(
        "--attention-tokens-spool-bytes",
        type=_byte_count,
        default=CaptureSettings.spool_bytes,
        metavar="N",
        help="Bound of what waits on disk, beyond which the oldest is dropped and counted: 1 MiB or more, or 0 for no "
        "spool. Default: %(default)s.",
    )
    group.add_argument(
        "--attention-head-sample",
        type=_sample,
        default=CaptureSettings.head_sample,
        metavar="N",
        help="Publish the raw figures of every captured head for one token in N, at most one a step: what a head "
        "projection is learned from, the matrix that then gives every token its 16-number head sketch. With a matrix "
        "it is one in 256, or in N where that is more. 0: never. Default: %(default)s.",
    )
    group.add_argument(
        "--attention-head-projection-dir",
        metavar="DIR",
        help="Where this server keeps its current head projection, which the sidecar offers when discovery has learned "
        "a new one; it is used from the next step on, without a restart. Default: "
        "attention-explorer/head_projections/PORT under $XDG_STATE_HOME or ~/.local/state.",
    )
    group.add_argument(
        "--attention-tokens-curve-server-key",
        type=_public_key_file,
        metavar="FILE",
        help="Encrypt what is published with CURVE: a ZMQ certificate file with the sidecar's public key.",
    )
    group.add_argument(
        "--attention-tokens-curve-client-key",
        type=_secret_key_file,
        metavar="FILE",
        help="With the flag above: a ZMQ certificate file with this server's secret key, where the sidecar asks who "
        "publishes. Without it a key pair is made at each start.",
    )


def _positive_int(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= value <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of positions: give an integer from 1 to 4096")
    return value


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of the step: give a percentage above 0, up to 100")
    return value


def _byte_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes: give an integer, or 0 for no spool")
    value = int(text)
    if 0 < value < MIN_SPOOL_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text} bytes are less than one batch may take: give {MIN_SPOOL_BYTES} or more, or 0 for no spool"
        )
    return value


def _sample(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > _MOST_SAMPLE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of tokens: give an integer up to {_MOST_SAMPLE}, or 0 for no raw figures"
        )
    return int(text)


def _writable_dir(text: str, *, flag: str, instead: str) -> str:
    """The directory's absolute path, once it is known that files can be written there; it is made where it is not.

    Ends the process in one line, which names the flag and what to do instead, where they cannot.
    """
    path = Path(text).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{flag}: nothing can be written in {str(path)!r} ({getattr(error, 'strerror', None) or error}): "
            f"give a directory of this user's, or {instead}"
        ) from error
    return str(path)


def _publish_address(text: str) -> str:
    if text == PUBLISH_OFF:
        return text
    try:
        check_connect_address(text, example=DEFAULT_ADDRESS)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(f"{error}; or {PUBLISH_OFF}") from error
    return text


def _public_key_file(text: str) -> str:
    return _key_file(text, secret=False)


def _secret_key_file(text: str) -> str:
    return _key_file(text, secret=True)


def _key_file(text: str, *, secret: bool) -> str:
    """The file's absolute path, once it is known to hold such a key."""
    from attn_kernels.curve import check_certificate

    try:
        check_certificate(Path(text), secret=secret)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return str(Path(text).absolute())


def settings_from_args(args: argparse.Namespace) -> CaptureSettings | None:
    """The settings that the command line asks for, or None without ``--return-attention-tokens``."""
    if not args.return_attention_tokens:
        return None
    if args.attention_tokens_curve_client_key and not args.attention_tokens_curve_server_key:
        raise SystemExit("--attention-tokens-curve-client-key needs --attention-tokens-curve-server-key beside it.")
    if args.attention_tokens_curve_server_key and args.attention_tokens_publish == PUBLISH_OFF:
        raise SystemExit(
            f"--attention-tokens-curve-server-key does not work with --attention-tokens-publish {PUBLISH_OFF}: there "
            f"is nothing to encrypt. Give an address, such as {DEFAULT_ADDRESS}, or leave the key out."
        )
    publishes = args.attention_tokens_publish != PUBLISH_OFF
    spool_dir = args.attention_tokens_spool_dir
    if spool_dir and args.attention_tokens_spool_bytes and publishes:
        spool_dir = _writable_dir(
            spool_dir, flag="--attention-tokens-spool-dir", instead="--attention-tokens-spool-bytes 0 for no spool"
        )
    head_dir = args.attention_head_projection_dir
    if head_dir and publishes:
        head_dir = _writable_dir(
            head_dir, flag="--attention-head-projection-dir", instead="leave the flag out for the default one"
        )
    return CaptureSettings(
        top_k=args.attention_tokens_top_k,
        publish_address=args.attention_tokens_publish,
        capture=args.attention_tokens_capture,
        privacy=args.attention_tokens_privacy,
        cuda_graphs=args.attention_tokens_cuda_graphs,
        budget_percent=args.attention_capture_budget,
        spool_dir=spool_dir,
        spool_bytes=args.attention_tokens_spool_bytes,
        head_sample=args.attention_head_sample,
        head_projection_dir=head_dir,
        curve_server_key=args.attention_tokens_curve_server_key,
        curve_client_key=args.attention_tokens_curve_client_key,
    )


def why_refused(server_args: Any, capture_settings: CaptureSettings) -> str | None:
    """What in SGLang's own arguments the capture cannot serve, in one line, or None.

    Only what makes capture impossible whatever the model; kinds of layers and backends that cannot be read are found
    out once the model is loaded, and the server then serves on without them (`kinds.py`).
    """
    wanted: list[tuple[str, Callable[[Any], bool]]] = [
        ("--speculative-algorithm", lambda a: a.speculative_algorithm is None),
        ("--pp-size above 1", lambda a: a.pp_size == 1),
        ("--enable-dp-attention", lambda a: not a.enable_dp_attention),
        ("--dcp-size above 1", lambda a: getattr(a, "dcp_size", 1) == 1),
        ("--dllm-algorithm", lambda a: a.dllm_algorithm is None),
        ("--disaggregation-mode", lambda a: a.disaggregation_mode == "null"),
        ("--tokenizer-worker-num above 1", lambda a: a.tokenizer_worker_num == 1),
        ("--skip-tokenizer-init", lambda a: not a.skip_tokenizer_init),
    ]
    for name, holds in wanted:
        if not holds(server_args):
            return f"--return-attention-tokens does not work with {name} yet: leave one of the two out."
    if capture_settings.budget_percent is not None and capture_settings.cuda_graphs:
        return (
            "--attention-capture-budget does not work with --attention-tokens-cuda-graphs: inside a graph the "
            "capture's cost cannot be told from the rest. Leave one of the two out."
        )
    if capture_settings.cuda_graphs and server_args.disable_cuda_graph:
        return (
            "--attention-tokens-cuda-graphs does not work with --disable-cuda-graph: there are no graphs to record "
            "the capture in. Leave one of the two out."
        )
    if capture_settings.budget_percent is not None and server_args.tp_size > 1:
        return (
            "--attention-capture-budget does not work with --tp-size above 1: ranks that measure for themselves would "
            "leave out different steps. Leave one of the two out."
        )
    return None


def prepare(server_args: Any, capture_settings: CaptureSettings, *, has_gpu: bool) -> None:
    """Choose, where the user did not, what the capture needs on a GPU."""
    if not has_gpu:
        return
    if server_args.attention_backend is None:
        server_args.attention_backend = "triton"
        logger.info("--return-attention-tokens: attention backend 'triton' chosen, since it is what can be captured.")
    if capture_settings.cuda_graphs:
        # A prefill's last position is read beside its attention, by a hook that a graph would not call.
        server_args.disable_prefill_cuda_graph = True
    elif not server_args.disable_cuda_graph:
        server_args.disable_cuda_graph = True
        logger.warning(
            "--return-attention-tokens: CUDA graphs are off. --attention-tokens-cuda-graphs records the capture in "
            "them, which is tested without a GPU only."
        )
