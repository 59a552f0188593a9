import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  clusterColour,
  contrastRatio,
  fillFromConfidence,
  INVERTING_INK,
  inkFromProbability,
  seenDistance,
  type Vision,
} from "./colour";
import { NEUTRAL_COLOURS, type Scheme, ZONE_COLOURS, ZONES } from "./zones";

const VISIONS: Vision[] = ["normal", "protanopia", "deuteranopia", "tritanopia"];
const SCHEMES: Scheme[] = ["light", "dark"];
const GROUND: Record<Scheme, string> = { light: "#ffffff", dark: "#14181f" };

describe("zone colours", () => {
  it.each(SCHEMES.flatMap((scheme) => VISIONS.map((vision) => ({ scheme, vision }))))(
    "are told apart under $vision on $scheme",
    ({ scheme, vision }) => {
      const colours = ZONES.map((zone) => ZONE_COLOURS[scheme][zone]);
      const distances = colours.flatMap((a, k) => colours.slice(k + 1).map((b) => seenDistance(a, b, vision)));
      // Four times what is just noticeable; the same five of Okabe-Ito unchanged reach 0.076.
      expect(Math.min(...distances)).toBeGreaterThan(0.08);
    },
  );

  it.each(SCHEMES)("stand out from the %s ground", (scheme) => {
    for (const zone of ZONES) expect(contrastRatio(ZONE_COLOURS[scheme][zone], GROUND[scheme])).toBeGreaterThan(2.3);
    expect(contrastRatio(NEUTRAL_COLOURS[scheme], GROUND[scheme])).toBeGreaterThan(2.3);
  });

  it("are the same in the style sheet", () => {
    const css = readFileSync(new URL("../app/styles.css", import.meta.url), "utf8");
    const [light = "", dark = ""] = css.split(':root[data-theme="dark"]');
    for (const zone of ZONES) {
      expect(light).toContain(`--zone-${zone}: ${ZONE_COLOURS.light[zone]};`);
      expect(dark).toContain(`--zone-${zone}: ${ZONE_COLOURS.dark[zone]};`);
    }
  });

  it("are measured by a distance that knows confusions: orange and green come close without the green cone", () => {
    const [orange, green] = ["#b08000", "#6f9a00"];
    expect(seenDistance(orange, green, "deuteranopia")).toBeLessThan(seenDistance(orange, green, "normal") / 2);
  });
});

describe("contrast of text", () => {
  const css = readFileSync(new URL("../app/styles.css", import.meta.url), "utf8");
  const [light = "", dark = ""] = css.split(':root[data-theme="dark"]');
  it.each([
    ["light", light],
    ["dark", dark],
  ])("is at least 4.5 on each %s ground", (_, block) => {
    const value = (name: string): string => new RegExp(`--${name}: (#[0-9a-f]{6})`).exec(block)?.[1] ?? "missing";
    for (const ground of ["ground", "panel", "raised"]) {
      for (const ink of ["ink", "ink-2", "ink-3", "accent", "good", "warn", "bad"]) {
        expect(contrastRatio(value(ink), value(ground)), `${ink} on ${ground}`).toBeGreaterThanOrEqual(4.5);
      }
    }
  });
});

describe("scales", () => {
  it("fill grows with confidence and stays light enough to read", () => {
    expect(fillFromConfidence(0)).toBeCloseTo(0.1);
    expect(fillFromConfidence(1)).toBeCloseTo(0.42);
    expect(fillFromConfidence(7)).toBeCloseTo(0.42);
    expect(fillFromConfidence(null)).toBe(fillFromConfidence(0));
  });

  it.each([
    ["light", "#14181f", "#ffffff"],
    ["dark", "#e8ecf1", "#14181f"],
  ] as const)("text on ink reads best with the %s threshold", (scheme, ink, panel) => {
    const mixed = (share: number): string =>
      `#${[1, 3, 5]
        .map((at) => {
          const [a, b] = [ink, panel].map((hex) => Number.parseInt(hex.slice(at, at + 2), 16)) as [number, number];
          return Math.round(a * share + b * (1 - share))
            .toString(16)
            .padStart(2, "0");
        })
        .join("")}`;
    for (let share = 0; share <= 1; share += 0.02) {
      const text = share >= INVERTING_INK[scheme] ? panel : ink;
      expect(contrastRatio(text, mixed(share))).toBeGreaterThan(3.9);
    }
  });

  it("ink is absolute, keeps small probabilities visible and inverts the text for large ones", () => {
    expect(inkFromProbability(0)).toBe(0);
    expect(inkFromProbability(0.0001)).toBe(0.08);
    expect(inkFromProbability(0.01)).toBeCloseTo(0.1);
    expect(inkFromProbability(0.5)).toBeGreaterThan(INVERTING_INK.light);
    expect(inkFromProbability(1)).toBe(1);
  });

  it("a cluster keeps its colour by id, and no cluster is neutral", () => {
    expect(clusterColour(-1, "dark")).toBe(NEUTRAL_COLOURS.dark);
    expect(clusterColour(3, "light")).toBe(clusterColour(13, "light"));
    expect(clusterColour(3, "light")).not.toBe(clusterColour(4, "light"));
  });
});
