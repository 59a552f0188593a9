"""`zone_calibration`: the zones calibrated to the model that is served. No hour of its own: made when a person asks."""

# No postponed annotations in this module: Dagster reads them as types.

import dagster as dg

from attn_assets.calibration.asking import Server
from attn_assets.calibration.calibrating import HELD_OUT_PER_ZONE, MAX_TOKENS, NUM_PER_ZONE, Recipe, calibrate
from attn_assets.defs.resources import Plan
from attn_assets.measure import Cost


class CalibrationConfig(dg.Config):
    """Which server is asked, and how much."""

    model_url: str = "http://127.0.0.1:30000"
    num_per_zone: int = NUM_PER_ZONE
    held_out_per_zone: int = HELD_OUT_PER_ZONE
    max_tokens: int = MAX_TOKENS
    seed: int = 0


@dg.asset(group_name="calibration", kinds={"numpy", "json"})
def zone_calibration(context: dg.AssetExecutionContext, config: CalibrationConfig, plan: Plan) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """A new calibration of the served model's zones, beside the bundles; `zone_labels` uses the newest of its model.

    Each materialisation is a version with the one before it named: what bundles made earlier say stays as it was.
    """
    recipe = Recipe(
        num_per_zone=config.num_per_zone,
        held_out_per_zone=config.held_out_per_zone,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
    with Cost() as cost:
        found = calibrate(Server(url=config.model_url), plan.calibrations(), recipe)
    formula = found.formula
    context.log.info(f"kept as {formula.version}, in place of {formula.provenance['replaces']}")
    return dg.MaterializeResult(
        metadata={
            **cost.metadata(),
            **found.quality.figures(),
            "version": formula.version,
            "replaces": str(formula.provenance["replaces"]),
            "model": str(formula.provenance["model"]),
            "num_answers": int(formula.provenance["num_answers"]),
            "macro_f1": found.requests.macro_f1,
            "macro_f1_of_tokens": found.tokens.macro_f1,
            "confusion": dg.MetadataValue.md(f"```\n{found.requests.table()}\n```"),
        }
    )
