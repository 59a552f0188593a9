/** The WebGL scatter plot behind a small face: points in, hover and click out. Knows nothing of React. */

import createScatterplot from "regl-scatterplot";
import { clusterColour } from "../../lib/colour";
import { countsByCluster, type Points } from "../../lib/points";
import type { ColourBy, MapView } from "../../lib/url-state";
import { NEUTRAL_COLOURS, type Scheme, ZONE_COLOURS, ZONES } from "../../lib/zones";

type Camera = NonNullable<MapView["camera"]>;
type Scatterplot = ReturnType<typeof createScatterplot>;

/** A value the plot takes and its types leave out. */
const BY_DENSITY = "density" as unknown as null;
/** No key changes what the mouse does: there is no lasso yet. */
const NO_KEYS = {};

/** Above this many points, opacity follows the density on screen. */
const DENSE_POINTS = 20_000;
/** Above this many, it does not: the plot counts the points in view at each frame, 3 ms of script for 100,000. */
const TOO_DENSE_POINTS = 150_000;
export const GROUND: Record<Scheme, string> = { light: "#ffffff", dark: "#14181f" };
const MARK: Record<Scheme, string> = { light: "#14181f", dark: "#ffffff" };

/** Whether this browser gives a WebGL context at all (a machine without a GPU may refuse). */
export function hasWebgl(): boolean {
  return document.createElement("canvas").getContext("webgl") !== null;
}

/** Radius of a point in CSS pixels: fewer points, larger ones. */
export function pointSize(count: number): number {
  return Math.max(1.5, Math.min(6, 12 - 2 * Math.log10(Math.max(10, count))));
}

/** The camera that shows -1..1 both ways in an area of this shape. */
export function homeCamera(widthPx: number, heightPx: number): Camera {
  return { x: 0, y: 0, distance: Math.max(1, heightPx / Math.max(1, widthPx)) };
}

export interface MapPlotEvents {
  onHover: (index: number | null) => void;
  onOpen: (index: number) => void;
  onCamera: (camera: Camera) => void;
}

export class MapPlot {
  readonly #plot: Scatterplot;
  readonly #canvas: HTMLCanvasElement;
  #points: Points | null = null;
  #clusterRanks: number[] = [];

  constructor(canvas: HTMLCanvasElement, events: MapPlotEvents) {
    this.#canvas = canvas;
    const unlisted = { actionKeyMap: NO_KEYS };
    this.#plot = createScatterplot({
      ...unlisted,
      canvas,
      width: "auto",
      height: "auto",
      lassoInitiator: false,
      lassoOnLongPress: false,
      deselectOnEscape: true,
      showReticle: false,
      pointOutlineWidth: 2,
      pointSizeSelected: 2,
    });
    this.#plot.subscribe("pointOver", (index) => events.onHover(index));
    this.#plot.subscribe("pointOut", () => events.onHover(null));
    this.#plot.subscribe("select", ({ points: [index] }) => {
      if (index !== undefined) events.onOpen(index);
    });
    this.#plot.subscribe("view", () => events.onCamera(this.camera()));
  }

  /** The canvas that holds the WebGL context: the plot draws there, and copies what it drew to the one on the page. */
  contextCanvas(): HTMLCanvasElement {
    return this.#plot.get("renderer").canvas;
  }

  camera(): Camera {
    const [x, y] = this.#plot.get("cameraTarget") as [number, number];
    return { x, y, distance: Number(this.#plot.get("cameraDistance")) };
  }

  setCamera({ x, y, distance }: Camera): void {
    this.#plot.set({ cameraTarget: [x, y], cameraDistance: distance });
  }

  home(): Camera {
    return homeCamera(this.#canvas.clientWidth, this.#canvas.clientHeight);
  }

  /** Draws these points, leaving the camera where it is. */
  async draw(points: Points): Promise<void> {
    this.#points = points;
    const clusterIds = countsByCluster(points).map(({ clusterId }) => clusterId);
    this.#clusterRanks = clusterIds;
    const rankOf = new Map(clusterIds.map((id, rank) => [id, rank]));
    this.#plot.set({
      pointSize: pointSize(points.count),
      opacityBy: points.count > DENSE_POINTS && points.count <= TOO_DENSE_POINTS ? BY_DENSITY : null,
      opacity: points.count > TOO_DENSE_POINTS ? 0.35 : 0.85,
    });
    await this.#plot.draw(
      {
        x: points.x,
        y: points.y,
        valueA: points.zoneIndex,
        valueB: Float32Array.from(points.clusterId, (id) => rankOf.get(id) ?? 0),
      },
      { zDataType: "categorical", wDataType: "categorical" },
    );
  }

  colour(by: ColourBy, scheme: Scheme): void {
    const neutral = NEUTRAL_COLOURS[scheme];
    const zoneColours = [...ZONES.map((zone) => ZONE_COLOURS[scheme][zone]), neutral];
    const clusterColours = this.#clusterRanks.map((id) => clusterColour(id, scheme));
    this.#plot.set({
      backgroundColor: GROUND[scheme],
      colorBy: by === "zone" ? "valueA" : "valueB",
      pointColor: by === "zone" ? zoneColours : clusterColours.length > 0 ? clusterColours : [neutral],
      pointColorHover: MARK[scheme],
      pointColorActive: MARK[scheme],
    });
  }

  /** Shows only these points; null shows all. */
  async show(visible: Uint32Array | null): Promise<void> {
    this.#plot.deselect({ preventEvent: true });
    if (visible === null) await this.#plot.unfilter();
    else await this.#plot.filter(Array.from(visible));
  }

  /** Points now drawn, as the plot itself counts them. */
  numDrawn(): number {
    if (!this.#plot.get("isPointsDrawn")) return 0;
    const shown = this.#plot.get("isPointsFiltered") ? this.#plot.get("filteredPoints") : this.#plot.get("points");
    return shown?.length ?? 0;
  }

  /** Marks a point as if it was pointed at. */
  mark(index: number): void {
    this.#plot.hover(index, { preventEvent: true });
  }

  /** CSS pixels within the canvas of a place on the map. */
  screenFromMap(x: number, y: number): [number, number] {
    const view = this.#plot.get("cameraView") as Float32Array;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const [a = 1, b = 0, c = 0, d = 1, tx = 0, ty = 0] = [view[0], view[1], view[4], view[5], view[12], view[13]];
    const ndcX = ((a * x + c * y + tx) * height) / Math.max(1, width);
    const ndcY = b * x + d * y + ty;
    return [((ndcX + 1) / 2) * width, ((1 - ndcY) / 2) * height];
  }

  screenOfPoint(index: number): [number, number] | null {
    if (this.#points === null || index >= this.#points.count) return null;
    return this.screenFromMap(this.#points.x[index] ?? 0, this.#points.y[index] ?? 0);
  }

  /** Width and height of the canvas in CSS pixels. */
  size(): [number, number] {
    return [this.#canvas.clientWidth, this.#canvas.clientHeight];
  }

  destroy(): void {
    this.#plot.destroy();
  }
}
