/** One finger pans, two fingers zoom: the plot itself listens to the mouse alone. */

import { type RefObject, useEffect } from "react";
import type { MapPlot } from "./map-plot";

export function useTouchPan(canvas: RefObject<HTMLCanvasElement | null>, plot: MapPlot | null): void {
  useEffect(() => {
    const element = canvas.current;
    if (element === null || plot === null) return;
    const fingers = new Map<number, { x: number; y: number }>();

    const spread = (): number => {
      const [a, b] = [...fingers.values()];
      return a && b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
    };
    const onDown = (event: PointerEvent): void => {
      if (event.pointerType !== "touch") return;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    };
    const onMove = (event: PointerEvent): void => {
      const from = fingers.get(event.pointerId);
      if (from === undefined) return;
      const spreadBefore = spread();
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const { x, y, distance } = plot.camera();
      const spreadAfter = spread();
      if (spreadBefore > 0 && spreadAfter > 0) {
        plot.setCamera({ x, y, distance: (distance * spreadBefore) / spreadAfter });
        return;
      }
      // The height of the canvas shows 2 × distance map units.
      const unitsPerPx = (2 * distance) / element.clientHeight;
      plot.setCamera({
        x: x - (event.clientX - from.x) * unitsPerPx,
        y: y + (event.clientY - from.y) * unitsPerPx,
        distance,
      });
    };
    const onEnd = (event: PointerEvent): void => {
      fingers.delete(event.pointerId);
    };
    element.addEventListener("pointerdown", onDown);
    element.addEventListener("pointermove", onMove);
    element.addEventListener("pointerup", onEnd);
    element.addEventListener("pointercancel", onEnd);
    return () => {
      element.removeEventListener("pointerdown", onDown);
      element.removeEventListener("pointermove", onMove);
      element.removeEventListener("pointerup", onEnd);
      element.removeEventListener("pointercancel", onEnd);
    };
  }, [canvas, plot]);
}
