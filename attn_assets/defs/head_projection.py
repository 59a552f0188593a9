"""`head_projection`: the matrix of a model's head sketches. Made once there is enough to learn from, or when asked for.

A new matrix begins a new map, since sketches of two matrices cannot be compared: it is made where a model has none, and
after that when a person asks.
"""

# No postponed annotations in this module: Dagster reads them as types.

import time
from contextlib import closing

import dagster as dg

from attn_assets.defs.attempts import attempt_in, next_try
from attn_assets.defs.automation import SENSOR_INTERVAL_S
from attn_assets.defs.resources import FingerprintStore, Plan
from attn_assets.head_learning import LEAST_STABILITY, MIN_REQUESTS, MIN_TOKENS, learn_from_database
from attn_assets.measure import Cost
from attn_core.errors import ProjectionError, StoreError
from attn_core.head_projection import FOLDER, current_projection, shipped_projection
from attn_core.store import open_reader, sampled_models

LEAST_VARIANCE = 0.3
CHECKS = ("head_projection_is_stable", "sketch_holds_the_variance")


class HeadProjectionConfig(dg.Config):
    """Whose matrix is learned."""

    model_id: str = ""
    """As the model server names it; empty: the model with the most sampled tokens."""


@dg.asset(
    group_name="calibration",
    kinds={"numpy"},
    check_specs=[dg.AssetCheckSpec(name, asset="head_projection", blocking=name == CHECKS[0]) for name in CHECKS],
)
def head_projection(
    context: dg.AssetExecutionContext, config: HeadProjectionConfig, store: FingerprintStore, plan: Plan
) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """The 16 numbers that a token's heads are told in, learned from the raw figures of a sample of tokens.

    Written beside the bundles; the sidecar offers it to the model server, which takes it up while it runs. The map
    begins anew with the first window in which most sketches are of the new matrix.
    """
    with Cost() as cost:
        model_id = config.model_id or _model_of_most(store)
        learned, replaces = learn_from_database(store.path, plan.output, model_id=model_id)
    sha256 = learned.projection.sha256
    context.log.info(f"the matrix of {model_id} is {sha256}, in place of {replaces}")
    stable = dg.AssetCheckResult(
        check_name=CHECKS[0],
        passed=learned.stability >= LEAST_STABILITY,
        metadata={"stability": learned.stability, "least": LEAST_STABILITY},
    )
    held = dg.AssetCheckResult(
        check_name=CHECKS[1],
        passed=learned.variance_held >= LEAST_VARIANCE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"variance_held": learned.variance_held, "least": LEAST_VARIANCE},
    )
    return dg.MaterializeResult(
        check_results=[stable, held],
        metadata={
            **cost.metadata(),
            "model": learned.projection.model,
            "sha256": sha256,
            "replaces": str(replaces),
            "variance_held": learned.variance_held,
            "stability": learned.stability,
            "num_tokens": learned.num_tokens,
            "num_requests": learned.num_requests,
            "layers": list(learned.projection.layers),
            "num_heads": learned.projection.num_heads,
            "has_zone_evidence": learned.projection.has_evidence,
        },
    )


def build_head_projection_sensor() -> dg.SensorDefinition:
    """Requests a model's first matrix, once enough of its tokens are sampled."""

    @dg.sensor(
        target=dg.AssetSelection.assets("head_projection"), name="first_head_projection",
        minimum_interval_seconds=SENSOR_INTERVAL_S, default_status=dg.DefaultSensorStatus.RUNNING,
    )  # fmt: skip
    def first_head_projection(
        context: dg.SensorEvaluationContext, store: FingerprintStore, plan: Plan
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            with closing(open_reader(store.path)) as connection:
                sampled = sampled_models(connection)
        except StoreError as error:
            return dg.SkipReason(str(error))
        waiting = "no model has raw head figures"
        for model_id, num_tokens, num_requests in sampled:
            if _has_matrix(plan, model_id):
                waiting = f"{model_id} has a matrix"
                continue
            if num_tokens < MIN_TOKENS or num_requests < MIN_REQUESTS:
                waiting = f"{model_id}: {num_tokens} of {MIN_TOKENS} tokens, {num_requests} of {MIN_REQUESTS} requests"
                continue
            now_us = time.time_ns() // 1000
            again = next_try(
                f"head_projection/{model_id}",
                attempt_of=lambda key: attempt_in(context.instance, key),
                now_us=now_us,
            )
            if again.run_key is None:
                waiting = again.reason
                continue
            request = dg.RunRequest(
                run_key=again.run_key,
                run_config={"ops": {"head_projection": {"config": {"model_id": model_id}}}},
            )
            return dg.SensorResult(run_requests=[request])
        return dg.SkipReason(waiting)

    return first_head_projection


def _has_matrix(plan: Plan, model_id: str) -> bool:
    try:
        return (current_projection(plan.output / FOLDER, model_id) or shipped_projection(model_id)) is not None
    except ProjectionError:
        return False


def _model_of_most(store: FingerprintStore) -> str:
    with closing(open_reader(store.path)) as connection:
        sampled = sampled_models(connection)
    if not sampled:
        raise dg.Failure(
            "no token has raw head figures: start the model server with --attention-head-sample 8 (the default)"
        )
    return sampled[0][0]
