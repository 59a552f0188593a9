"""The model server: there, with the plugin, publishing to this sidecar. Asks it for one token."""

from __future__ import annotations

import time
import uuid
from urllib.parse import quote

from attn_sidecar.doctor.asking import Answer, NoAnswer, ask
from attn_sidecar.doctor.findings import Finding, failed, ok, warning
from attn_sidecar.doctor.ports import Running

SKEW_S = 5.0
PUBLISHED_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.2
_START = "python -m sglang.launch_server ... --return-attention-tokens"


def check_model_server(
    url: str, *, running: Running | None, token: str | None, published_within_s: float = PUBLISHED_WITHIN_S
) -> tuple[list[Finding], str | None]:
    """Findings, and the name of the model that it serves where it says so."""
    url = url.rstrip("/")
    try:
        listed = ask(f"{url}/v1/models")
    except NoAnswer as error:
        to_do = f"start it ({_START}), or give its address with --model-server http://HOST:PORT"
        return [failed("model_server.answers", f"nobody answers at {url}: {error}", to_do)], None
    model = _model_of(listed)
    if listed.status != 200 or model is None:
        to_do = "is that an SGLang server? Its log says what is wrong where it is"
        return [failed("model_server.answers", f"{url}/v1/models answers {listed.status}", to_do)], None
    findings = [ok("model_server.answers", f"{url} serves {model}"), *_clock(listed)]
    request_id = f"doctor-{uuid.uuid4().hex}"
    body = {
        "text": "Hello",
        "rid": request_id,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_attention_tokens": True,
    }
    try:
        answer = ask(f"{url}/generate", method="POST", body=body, timeout_s=60.0)
    except NoAnswer as error:
        return [*findings, failed("model_server.plugin", f"no token came: {error}", "look at its log")], model
    meta = answer.body.get("meta_info") if isinstance(answer.body, dict) else None
    if answer.status != 200 or not isinstance(meta, dict) or not meta.get("attention_tokens"):
        to_do = f"install this package in its environment and start it with the flag: {_START}"
        return [*findings, failed("model_server.plugin", "it answers without attention_tokens", to_do)], model
    findings.append(ok("model_server.plugin", "a token came with its fingerprint"))
    if running is None:
        to_do = "start the sidecar and run the doctor again"
        return [*findings, warning("model_server.publishes", "not known: no sidecar runs here", to_do)], model
    return [*findings, _publishes(request_id, running=running, token=token, within_s=published_within_s)], model


def _model_of(answer: Answer) -> str | None:
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    first = data[0] if isinstance(data, list) and data else None
    return str(first["id"]) if isinstance(first, dict) and "id" in first else None


def _clock(answer: Answer) -> list[Finding]:
    if answer.at_s is None:
        return []
    # Half a second more or less is the header's own rounding.
    skew_s = answer.at_s + 0.5 - time.time()
    found = f"the model server's clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}"
    if abs(skew_s) > SKEW_S:
        return [warning("clock.agrees", found, "set both clocks by NTP: hours are cut by the model server's")]
    return [ok("clock.agrees", "the model server's clock agrees with this one")]


def _publishes(request_id: str, *, running: Running, token: str | None, within_s: float) -> Finding:
    give_up_s = time.monotonic() + within_s
    while True:
        try:
            answer = ask(f"{running.url}/requests/{quote(request_id)}", token=token)
        except NoAnswer as error:
            return failed("model_server.publishes", f"the sidecar does not answer: {error}", "look at its log")
        if answer.status == 200:
            return ok("model_server.publishes", "that token is in this sidecar's store")
        if time.monotonic() > give_up_s or answer.status != 404:
            break
        time.sleep(_LOOK_EVERY_S)
    return failed(
        "model_server.publishes",
        f"its token has not come here within {within_s:.0f} s (the sidecar answers {answer.status})",
        "does --attention-tokens-publish name this sidecar's --zmq-bind, and is its port open? With CURVE: does each "
        "side know the other's key? Its /metrics and log say what the publisher holds back",
    )
