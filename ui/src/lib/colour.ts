/** Colour arithmetic: sRGB hex, OKLab distance, colour-vision simulation, and the scales built on them. */

import { NEUTRAL_COLOURS, type Scheme } from "./zones";

export type Rgb = readonly [number, number, number];
export type Vision = "normal" | "protanopia" | "deuteranopia" | "tritanopia";

/** Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB; rows. */
const VISION: Record<Vision, readonly Rgb[]> = {
  normal: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protanopia: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

/** Linear RGB, each 0..1, of "#rrggbb". */
export function linearRgb(hex: string): Rgb {
  const channel = (at: number): number => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return [channel(1), channel(3), channel(5)];
}

function dot(row: Rgb, v: Rgb): number {
  return row[0] * v[0] + row[1] * v[1] + row[2] * v[2];
}

function clamp01(x: number): number {
  return Math.min(1, Math.max(0, x));
}

/** OKLab (L, a, b) of linear RGB. */
export function oklab(rgb: Rgb): Rgb {
  const lms: Rgb = [
    Math.cbrt(dot([0.4122214708, 0.5363325363, 0.0514459929], rgb)),
    Math.cbrt(dot([0.2119034982, 0.6806995451, 0.1073969566], rgb)),
    Math.cbrt(dot([0.0883024619, 0.2817188376, 0.6299787005], rgb)),
  ];
  return [
    dot([0.2104542553, 0.793617785, -0.0040720468], lms),
    dot([1.9779984951, -2.428592205, 0.4505937099], lms),
    dot([0.0259040371, 0.7827717662, -0.808675766], lms),
  ];
}

/** Distance in OKLab of two colours as a reader with this colour vision sees them; about 0.02 is just noticeable. */
export function seenDistance(hexA: string, hexB: string, vision: Vision): number {
  const rows = VISION[vision];
  const seen = (hex: string): Rgb => {
    const rgb = linearRgb(hex);
    const [r, g, b] = rows.map((row) => clamp01(dot(row, rgb)));
    return oklab([r ?? 0, g ?? 0, b ?? 0]);
  };
  const [a, b] = [seen(hexA), seen(hexB)];
  return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
}

/** WCAG 2 contrast ratio, 1..21. */
export function contrastRatio(hexA: string, hexB: string): number {
  const luminance = (hex: string): number => dot([0.2126, 0.7152, 0.0722], linearRgb(hex));
  const [low, high] = [luminance(hexA), luminance(hexB)].sort((a, b) => a - b);
  return ((high ?? 0) + 0.05) / ((low ?? 0) + 0.05);
}

/** How strongly a token's zone colour fills its ground: 0.10 at no confidence, 0.42 when certain. Text stays readable. */
export function fillFromConfidence(confidence: number | null): number {
  return 0.1 + 0.32 * clamp01(confidence ?? 0);
}

/**
 * How strongly an attended position is inked, 0..1, from its exact probability. The square root keeps 1% visible beside
 * 50%; the scale is absolute, so that two tokens can be compared. A probability of 0 is not inked.
 */
export function inkFromProbability(probability: number): number {
  return probability <= 0 ? 0 : Math.max(0.08, Math.sqrt(clamp01(probability)));
}

/** Past this ink the text on it is drawn in the ground's colour: where both would read equally well, or badly. */
export const INVERTING_INK: Record<Scheme, number> = { light: 0.56, dark: 0.46 };

const CLUSTER_COLOURS: Record<Scheme, readonly string[]> = {
  light: ["#0072b2", "#e09600", "#00a878", "#a8417f", "#d55e00", "#3ba3d6", "#6b5fc7", "#7a8b00", "#d4699f", "#7a4a21"],
  dark: ["#4a90e2", "#ffc94d", "#5fd3b0", "#b565a7", "#e0662a", "#8cc8f2", "#9f93f0", "#c3cf45", "#f0a6c8", "#b98a5e"],
};

/** Colours of clusters, told apart ten at a time; more clusters repeat them, and the legend says so. */
export const NUM_CLUSTER_COLOURS = CLUSTER_COLOURS.light.length;

/** The colour of a stable cluster id; -1 (no cluster) is neutral. The same id keeps its colour from run to run. */
export function clusterColour(clusterId: number, scheme: Scheme): string {
  const colours = CLUSTER_COLOURS[scheme];
  const neutral = NEUTRAL_COLOURS[scheme];
  return clusterId < 0 ? neutral : (colours[clusterId % colours.length] ?? neutral);
}
