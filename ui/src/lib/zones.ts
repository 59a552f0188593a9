/** The five manifold zones: their order on the wire, what they mean, and the colours that a colour-blind reader can tell apart. */

export const ZONES = ["syntax_floor", "semantic_bridge", "structure_ripple", "long_range", "diffuse"] as const;
export type Zone = (typeof ZONES)[number];

export type Scheme = "light" | "dark";

export interface ZoneMeaning {
  characteristics: string;
  examples: string;
}

/** Word for word from the guide's table of zones. */
export const ZONE_MEANINGS: Record<Zone, ZoneMeaning> = {
  syntax_floor: {
    characteristics: "High local mass, low entropy",
    examples: "JSON repair, bracket matching, formatting",
  },
  semantic_bridge: {
    characteristics: "Balanced mid-range attention",
    examples: "Coreference resolution, context retrieval",
  },
  structure_ripple: {
    characteristics: "Periodic patterns",
    examples: "Counting, tables, indentation tracking",
  },
  long_range: {
    characteristics: "High long-range attention",
    examples: "Document context, multi-turn dialogue",
  },
  diffuse: {
    characteristics: "Scattered attention",
    examples: "Uncertain predictions, exploration",
  },
};

/** A zone's characteristic in the guide's words, by the sidecar's name for it. */
export const CHARACTERISTIC_WORDS: Record<string, string> = {
  local_share: "local mass",
  mid_share: "mid-range attention",
  long_share: "long-range attention",
  evenness: "entropy over its largest",
  periodicity: "periodicity",
};

/**
 * Okabe-Ito hues with lightness spread further apart, so that every pair stays distinct under simulated protanopia,
 * deuteranopia and tritanopia on each ground (colour.test.ts measures it). `styles.css` carries the same values.
 */
export const ZONE_COLOURS: Record<Scheme, Record<Zone, string>> = {
  light: {
    syntax_floor: "#0072b2",
    semantic_bridge: "#00a878",
    structure_ripple: "#e09600",
    long_range: "#d55e00",
    diffuse: "#a8417f",
  },
  dark: {
    syntax_floor: "#4a90e2",
    semantic_bridge: "#5fd3b0",
    structure_ripple: "#ffc94d",
    long_range: "#e0662a",
    diffuse: "#b565a7",
  },
};

/** Where nothing has been classified, or no cluster claims the point. */
export const NEUTRAL_COLOURS: Record<Scheme, string> = { light: "#8a929c", dark: "#6d7682" };

export function isZone(value: unknown): value is Zone {
  return typeof value === "string" && (ZONES as readonly string[]).includes(value);
}
