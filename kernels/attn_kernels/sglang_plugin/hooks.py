"""Every place where the plugin reaches into SGLang: one table, checked against the installed version and installed.

SGLang only logs a hook that fails to install, and would then serve without it; `install` raises instead.
"""

from __future__ import annotations

import inspect
import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from attn_kernels.sglang_plugin import versions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hook:
    """One place in SGLang and what is put there."""

    target: str
    """Under ``sglang.srt``."""
    kind: HookType
    function: Callable[..., Any]
    why: str
    breaks: str
    """What goes wrong where the target moves or changes its meaning."""
    optional: bool = False
    """Whether the server starts without it, with a warning; else it refuses."""
    relies_on: tuple[str, ...] = ()
    """Parameter names of the target that the hook reads; another SGLang may have renamed them."""


def command_line_hooks() -> list[Hook]:
    """What is installed always: the flags exist, and say by their presence whether anything else is."""
    from attn_kernels.sglang_plugin import launch

    return [
        Hook(
            target="server_args.ServerArgs.add_cli_args",
            kind=HookType.AFTER,
            function=launch.after_add_cli_args,
            why="the flags",
            breaks="the flags are unknown to the command line",
            relies_on=("parser",),
        ),
        Hook(
            target="server_args.ServerArgs.from_cli_args",
            kind=HookType.AROUND,
            function=launch.around_from_cli_args,
            why="reads the flags, checks what they need, installs the rest",
            breaks="the flags are taken and nothing is captured",
            relies_on=("cls", "args"),
        ),
    ]


def all_hooks() -> list[Hook]:
    """The whole table; importing what it hooks takes SGLang some seconds."""
    return [*command_line_hooks(), *server_hooks(), *scheduler_hooks()]


def warn_of_unknown_version() -> None:
    """Name the hooks whose targets have changed since the last release that was tried, where this is none of those."""
    installed = versions.installed()
    if installed in versions.KNOWN_VERSIONS:
        return
    changed = [
        hook
        for hook in all_hooks()
        if problem_of(hook) is None and versions.has_changed(hook.target, original_of(hook))
    ]
    logger.warning(
        "Attention capture: sglang %s has not been tried (%s have). %s",
        installed,
        ", ".join(versions.KNOWN_VERSIONS),
        "No place that the plugin hooks has changed since."
        if not changed
        else "Changed since, and at risk: " + "; ".join(f"sglang.srt.{h.target} (else {h.breaks})" for h in changed),
    )


def server_hooks() -> list[Hook]:
    """The HTTP process: the request field in, the attention out."""
    from attn_kernels.sglang_plugin import answers, request_fields

    return [
        *(
            Hook(
                target=target,
                kind=HookType.REPLACE,
                function=subclass,
                why="the fields of the capture, which would be dropped",
                breaks="requests cannot ask for their attention",
            )
            for target, subclass in request_fields.replacements().items()
        ),
        Hook(
            target="entrypoints.openai.serving_chat.OpenAIServingChat._render_and_encode_chat_template",
            kind=HookType.AROUND,
            function=answers.around_render_chat_template,
            why="where each message lies in the prompt",
            breaks="the sidecar is not told where each message lies in the prompt",
            relies_on=("messages", "tools", "template_kwargs"),
        ),
        Hook(
            target="entrypoints.openai.serving_chat.OpenAIServingChat._convert_to_internal_request",
            kind=HookType.AROUND,
            function=answers.around_convert_chat_request,
            why="carries the field and the messages' places to the scheduler in custom_params",
            breaks="chat requests cannot ask for their attention",
            relies_on=("request", "raw_request"),
        ),
        Hook(
            target="entrypoints.openai.serving_completions.OpenAIServingCompletion._convert_to_internal_request",
            kind=HookType.AROUND,
            function=answers.around_convert_completion_request,
            why="carries the field to the scheduler in custom_params",
            breaks="completion requests cannot ask for their attention",
            relies_on=("request", "raw_request"),
        ),
        Hook(
            target="managers.tokenizer_manager.TokenizerManager.generate_request",
            kind=HookType.AROUND,
            function=answers.around_generate_request,
            why="the server's own warm-up is nobody's request and is not published",
            breaks="the server's own warm-up is published as if a user had sent it",
            relies_on=("obj", "request"),
        ),
        Hook(
            target="managers.tokenizer_manager.TokenizerManager.update_request_meta_info",
            kind=HookType.AROUND,
            function=answers.around_update_request_meta_info,
            why="takes what the scheduler sent out of SGLang's cumulative bookkeeping, which is quadratic in bytes",
            breaks="answers carry packed bytes, and streams again and again",
            relies_on=("meta_info", "state", "customized_info", "index", "finish_reason"),
        ),
        Hook(
            target="managers.tokenizer_manager.TokenizerManager._stream_one_response",
            kind=HookType.AROUND,
            function=answers.around_stream_one_response,
            why="puts the new tokens' attention into meta_info as an output leaves",
            breaks="answers carry no attention",
            relies_on=("obj", "state", "request"),
        ),
        Hook(
            target="entrypoints.openai.serving_chat.OpenAIServingChat._generate_stream_content",
            kind=HookType.AROUND,
            function=answers.around_generate_stream_content,
            why="attention_tokens in each streamed delta",
            breaks="streamed chats carry no attention",
            relies_on=("content", "index", "request", "created", "stream_offsets", "finish_reason_type"),
        ),
        Hook(
            target="entrypoints.openai.serving_chat.OpenAIServingChat._build_chat_response",
            kind=HookType.AROUND,
            function=answers.around_build_chat_response,
            why="choices[i].message.attention_tokens",
            breaks="whole chats carry no attention",
            relies_on=("request", "ret", "created"),
        ),
        Hook(
            target="entrypoints.openai.serving_completions.OpenAIServingCompletion._generate_completion_stream",
            kind=HookType.AROUND,
            function=answers.around_generate_completion_stream,
            why="choices[i].attention_tokens in each streamed chunk",
            breaks="streamed completions carry no attention",
            relies_on=("adapted_request", "request", "raw_request"),
        ),
        Hook(
            target="entrypoints.openai.serving_completions.OpenAIServingCompletion._build_completion_response",
            kind=HookType.AROUND,
            function=answers.around_build_completion_response,
            why="choices[i].attention_tokens",
            breaks="whole completions carry no attention",
            relies_on=("request", "ret", "created"),
        ),
    ]


def scheduler_hooks() -> list[Hook]:
    """The scheduler process: the capture itself, and the publisher."""
    from attn_kernels.sglang_plugin import building, capture, prompt_tokens, scheduler

    backends = (
        "layers.attention.torch_native_backend.TorchNativeAttnBackend",
        "layers.attention.triton_backend.TritonAttnBackend",
    )
    return [
        Hook(
            target="managers.scheduler.Scheduler.__init__",
            kind=HookType.AFTER,
            function=scheduler.after_init,
            why="checks model and backend, starts the publisher, sets the sampling observer",
            breaks="nothing is captured",
            relies_on=("server_args",),
        ),
        Hook(
            target="managers.scheduler.Scheduler.run_event_loop",
            kind=HookType.AROUND,
            function=scheduler.around_run_event_loop,
            why="drains the publisher when the server stops",
            breaks="what waits when the server stops is only on disk, or lost without a spool",
        ),
        Hook(
            target="managers.scheduler.Scheduler.get_internal_state",
            kind=HookType.AFTER,
            function=scheduler.after_get_internal_state,
            why="the publisher's state in /server_info",
            breaks="/server_info does not show a publisher that has stopped; the log and /metrics do",
            optional=True,
            relies_on=("recv_req",),
        ),
        Hook(
            target="managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
            kind=HookType.AFTER,
            function=scheduler.after_stream_output,
            why="the end of a request, be its last step captured or not",
            breaks="requests never end in the store",
            relies_on=("reqs",),
        ),
        Hook(
            target="managers.scheduler.Scheduler.send_abort_output",
            kind=HookType.AFTER,
            function=scheduler.after_send_abort_output,
            why="the end of a request that is aborted while it waits, after it had started",
            breaks="a request that is aborted while it waits has no end in the store",
            optional=True,
            relies_on=("req",),
        ),
        Hook(
            target="model_executor.forward_batch_info.ForwardBatch.init_new",
            kind=HookType.AROUND,
            function=capture.around_init_new,
            why="the one place that sees the requests and the batch of a step",
            breaks="no step has a plan, and nothing is captured",
            relies_on=("batch", "model_runner"),
        ),
        Hook(
            target="model_executor.model_runner.ModelRunner.forward",
            kind=HookType.AROUND,
            function=capture.around_forward,
            why="the backend gets a copy of the batch, so the step's plan is published here",
            breaks="no step is captured",
            relies_on=("forward_batch",),
        ),
        Hook(
            target="model_executor.model_runner.ModelRunner.init_cuda_graphs",
            kind=HookType.AROUND,
            function=building.around_init_cuda_graphs,
            why="model and cache are there, graphs are not yet recorded: the capture is built, and recorded with them",
            breaks="nothing is captured",
        ),
        Hook(
            target="mem_cache.kv_cache_configurator.KVCacheConfigurator._profile_available_bytes",
            kind=HookType.AROUND,
            function=building.around_profile_available_bytes,
            why="the capture's buffers are taken from the KV cache's budget",
            breaks="the buffers come on top of it, up to 1% of its size",
            optional=True,
        ),
        Hook(
            target="managers.schedule_batch.Req._compute_max_prefix_len",
            kind=HookType.AROUND,
            function=prompt_tokens.around_max_prefix_len,
            why="a request that asks for its prompt's attention computes all of its prompt",
            breaks="positions of a prompt that lie in the prefix cache are missing from its attention",
            relies_on=("input_len",),
        ),
        *(
            Hook(
                target=f"{backend}.{method}",
                kind=HookType.AROUND,
                function=capture.around_attention,
                why="each captured layer's attention passes the reader",
                breaks="the layers pass unread, and every step is marked as not captured",
                relies_on=("q", "k", "v", "layer", "forward_batch"),
            )
            for backend in backends
            for method in ("forward_decode", "forward_extend")
        ),
    ]


class HookError(Exception):
    """SGLang is not as the plugin expects it; the message says where."""


def install(hooks: list[Hook]) -> None:
    """Apply the hooks now and make sure that each one took; raises `HookError`."""
    present = [hook for hook in hooks if not _is_left_out(hook)]
    for hook in present:
        HookRegistry.register(f"sglang.srt.{hook.target}", hook.function, hook.kind)
    HookRegistry.apply_hooks()
    for hook in present:
        found = pkgutil.resolve_name(f"sglang.srt.{hook.target}")
        took = found is hook.function if hook.kind is HookType.REPLACE else hasattr(found, "__wrapped__")
        if not took:
            raise HookError(_message(hook, "the hook did not take"))


def _is_left_out(hook: Hook) -> bool:
    problem = problem_of(hook)
    if problem is None:
        return False
    if not hook.optional:
        raise HookError(_message(hook, problem))
    logger.warning("Attention capture: sglang.srt.%s: %s; so %s.", hook.target, problem, hook.breaks)
    return True


def problem_of(hook: Hook) -> str | None:
    """What keeps the installed SGLang from being hooked here, or None."""
    try:
        found = original_of(hook)
    except (ImportError, AttributeError) as error:
        return f"it is not there ({error})"
    missing = set(hook.relies_on) - set(inspect.signature(found).parameters)
    return f"it has no parameter {', '.join(sorted(missing))}" if missing else None


def original_of(hook: Hook) -> Callable[..., Any]:
    """The installed SGLang's own function or class, without our hook; raises ImportError or AttributeError."""
    owner, _, name = hook.target.rpartition(".")
    found = inspect.getattr_static(pkgutil.resolve_name(f"sglang.srt.{owner}"), name)
    if found is hook.function:  # a class that we have replaced by a subclass of it
        return hook.function.__mro__[1]  # type: ignore[attr-defined,no-any-return]
    return inspect.unwrap(getattr(found, "__func__", found))


def _message(hook: Hook, problem: str) -> str:
    return (
        f"attention capture cannot hook sglang.srt.{hook.target} ({hook.why}): {problem}. Without it {hook.breaks}. "
        f"It is made for sglang {' and '.join(versions.KNOWN_VERSIONS)}: install one of these, or start without "
        "--return-attention-tokens."
    )
