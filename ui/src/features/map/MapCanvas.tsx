import { type KeyboardEvent, useEffect, useRef, useState } from "react";
import type { Cluster } from "../../lib/api";
import { nearestPoint, type Points } from "../../lib/points";
import type { ColourBy, MapView } from "../../lib/url-state";
import type { Scheme } from "../../lib/zones";
import { ClusterLabels } from "./ClusterLabels";
import styles from "./MapCanvas.module.css";
import { hasWebgl, MapPlot } from "./map-plot";
import { PlaceMark } from "./PlaceMark";
import { PointTooltip } from "./PointTooltip";
import { useTouchPan } from "./use-touch-pan";

interface MapCanvasProps {
  points: Points;
  clusters: readonly Cluster[];
  visible: Uint32Array | null;
  colourBy: ColourBy;
  scheme: Scheme;
  /** Where a token lies that is marked. */
  at: MapView["at"];
  camera: MapView["camera"];
  onCamera: (camera: MapView["camera"]) => void;
  onOpen: (requestId: string, step: number) => void;
}

/** The camera is written to the URL once it has rested this long. */
const CAMERA_REST_MS = 250;
const CONTEXT_RETRY_MS = 500;
const PAN_SHARE = 0.12;
const ZOOM_FACTOR = 0.7;

export function MapCanvas(props: MapCanvasProps) {
  const { points, clusters, visible, colourBy, scheme, camera, at, onCamera, onOpen } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [plot, setPlot] = useState<MapPlot | null>(null);
  const [hovered, setHovered] = useState<number | null>(null);
  const [numDrawn, setNumDrawn] = useState(0);
  const [isDrawn, setIsDrawn] = useState(false);
  const [numViews, setNumViews] = useState(0);
  /** Counts the canvases made: one whose WebGL context was lost (sleep, driver) is replaced by another. */
  const [generation, setGeneration] = useState(0);
  const [isLost, setIsLost] = useState(false);
  const latest = useRef({ points, visible, colourBy, scheme, camera, onCamera, onOpen });
  latest.current = { points, visible, colourBy, scheme, camera, onCamera, onOpen };

  // biome-ignore lint/correctness/useExhaustiveDependencies: a new canvas needs a new plot
  useEffect(() => {
    if (canvas.current === null) return;
    const element = canvas.current;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let again: ReturnType<typeof setTimeout> | undefined;
    const replace = (): void => {
      // A driver that starts anew gives no context for a while.
      if (hasWebgl()) setGeneration((count) => count + 1);
      else again = setTimeout(replace, CONTEXT_RETRY_MS);
    };
    const onLost = (event: Event): void => {
      event.preventDefault();
      setIsLost(true);
      setIsDrawn(false);
      setNumDrawn(0);
      again = setTimeout(replace, CONTEXT_RETRY_MS);
    };
    const made = new MapPlot(element, {
      onHover: setHovered,
      onOpen: (index) => {
        const { points, onOpen } = latest.current;
        onOpen(points.requestId(index), points.step(index));
      },
      onCamera: (moved) => {
        setNumViews((count) => count + 1);
        clearTimeout(timer);
        timer = setTimeout(() => latest.current.onCamera(moved), CAMERA_REST_MS);
      },
    });
    const held = made.contextCanvas();
    held.addEventListener("webglcontextlost", onLost);
    made.setCamera(latest.current.camera ?? made.home());
    setPlot(made);
    setIsLost(false);
    return () => {
      clearTimeout(timer);
      clearTimeout(again);
      held.removeEventListener("webglcontextlost", onLost);
      setPlot(null);
      made.destroy();
    };
  }, [generation]);

  useEffect(() => {
    if (plot === null) return;
    let isStale = false;
    setHovered(null);
    const drawAll = async (): Promise<void> => {
      await plot.draw(points);
      plot.colour(latest.current.colourBy, latest.current.scheme);
      await plot.show(latest.current.visible);
      if (isStale) return;
      setNumDrawn(plot.numDrawn());
      setIsDrawn(true);
    };
    void drawAll();
    return () => {
      isStale = true;
    };
  }, [plot, points]);

  useEffect(() => {
    if (isDrawn) plot?.colour(colourBy, scheme);
  }, [plot, isDrawn, colourBy, scheme]);

  useEffect(() => {
    if (plot === null || !isDrawn) return;
    setHovered(null);
    void plot.show(visible).then(() => setNumDrawn(plot.numDrawn()));
  }, [plot, visible, isDrawn]);

  useTouchPan(canvas, plot);

  const move = (to: { dx?: number; dy?: number; zoom?: number }): void => {
    if (plot === null) return;
    const { x, y, distance } = plot.camera();
    const step = distance * PAN_SHARE * 2;
    plot.setCamera({ x: x + (to.dx ?? 0) * step, y: y + (to.dy ?? 0) * step, distance: distance * (to.zoom ?? 1) });
    const at = plot.camera();
    const nearest = nearestToCentre(points, at, visible);
    setHovered(nearest);
    if (nearest !== null) plot.mark(nearest);
  };

  const onKeyDown = (event: KeyboardEvent): void => {
    const action = KEYS[event.key];
    if (action) {
      event.preventDefault();
      move(action);
    } else if (event.key === "0") {
      plot?.setCamera(plot.home());
    } else if (event.key === "Enter" && hovered !== null) {
      onOpen(points.requestId(hovered), points.step(hovered));
    }
  };

  return (
    <div className={styles.area}>
      {/* biome-ignore lint/a11y/noInteractiveElementToNoninteractiveRole: the canvas is worked by keyboard, as an application */}
      <canvas
        ref={canvas}
        tabIndex={0}
        className={styles.canvas}
        role="application"
        aria-label={`Map of ${numDrawn} tokens. Arrow keys move, plus and minus zoom, 0 shows all, Enter opens the token nearest to the middle.`}
        key={generation}
        data-testid="map"
        data-generation={generation}
        data-drawn-points={numDrawn}
        onKeyDown={onKeyDown}
      />
      {plot && colourBy === "cluster" && isDrawn ? (
        <ClusterLabels plot={plot} points={points} clusters={clusters} numViews={numViews} />
      ) : null}
      {plot && at !== null && isDrawn ? <PlaceMark plot={plot} points={points} at={at} numViews={numViews} /> : null}
      {plot && hovered !== null ? (
        <PointTooltip plot={plot} points={points} index={hovered} numViews={numViews} />
      ) : null}
      {isLost ? (
        <p className={styles.lost} role="status">
          The browser lost the map's graphics. It is drawn anew as soon as they are back.
        </p>
      ) : null}
      <div className={styles.buttons}>
        <button type="button" aria-label="Zoom in" onClick={() => move({ zoom: ZOOM_FACTOR })}>
          +
        </button>
        <button type="button" aria-label="Zoom out" onClick={() => move({ zoom: 1 / ZOOM_FACTOR })}>
          −
        </button>
        <button type="button" aria-label="Show all" onClick={() => plot?.setCamera(plot.home())}>
          ⤢
        </button>
      </div>
    </div>
  );
}

const KEYS: Record<string, { dx?: number; dy?: number; zoom?: number }> = {
  ArrowLeft: { dx: -1 },
  ArrowRight: { dx: 1 },
  ArrowUp: { dy: 1 },
  ArrowDown: { dy: -1 },
  "+": { zoom: ZOOM_FACTOR },
  "=": { zoom: ZOOM_FACTOR },
  "-": { zoom: 1 / ZOOM_FACTOR },
};

function nearestToCentre(
  points: Points,
  { x, y, distance }: { x: number; y: number; distance: number },
  visible: Uint32Array | null,
): number | null {
  const index = nearestPoint(points, { x, y, radius: distance * 0.2, visible });
  return index < 0 ? null : index;
}
