import {
  Dictionary,
  Field,
  Float32,
  Int8,
  Int32,
  makeData,
  makeVector,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableToIPC,
  Utf8,
  vectorFromArray,
} from "apache-arrow";
import { describe, expect, it } from "vitest";
import { countsByCluster, countsByZone, NO_ZONE, nearestPoint, pointsFromArrow, visiblePoints } from "./points";
import { ZONES } from "./zones";

interface Row {
  x: number;
  y: number;
  zone: string;
  cluster: number;
}

/** Bytes as `/points` sends them: two batches, the zones by a dictionary in the order given. */
function arrowBytes(rows: Row[], zones: readonly string[]): Uint8Array {
  const dictionary = vectorFromArray([...zones], new Utf8());
  const zoneType = new Dictionary(new Utf8(), new Int8(), 0);
  const fields = [
    new Field("x", new Float32()),
    new Field("y", new Float32()),
    new Field("cluster_id", new Int32()),
    new Field("zone", zoneType),
    new Field("confidence", new Float32()),
    new Field("request_id", new Utf8()),
    new Field("step", new Int32()),
    new Field("token_text", new Utf8()),
  ];
  const schema = new Schema(fields, new Map([["run_id", "2026-01-10T04-02-11"]]));
  const batch = (part: Row[], first: number): RecordBatch => {
    const children = [
      makeVector(Float32Array.from(part, ({ x }) => x)),
      makeVector(Float32Array.from(part, ({ y }) => y)),
      makeVector(Int32Array.from(part, ({ cluster }) => cluster)),
      makeVector(
        makeData({
          type: zoneType,
          data: Int8Array.from(part, ({ zone }) => zones.indexOf(zone)),
          dictionary,
        }),
      ),
      makeVector(Float32Array.from(part, () => 0.75)),
      vectorFromArray(
        part.map((_, k) => `request-${first + k}`),
        new Utf8(),
      ),
      makeVector(Int32Array.from(part, (_, k) => first + k)),
      vectorFromArray(
        part.map((_, k) => ` token ${first + k}`),
        new Utf8(),
      ),
    ];
    const data = makeData({
      type: new Struct(fields),
      length: part.length,
      children: children.map((child) => child.data[0] as never),
    });
    return new RecordBatch(schema, data);
  };
  const half = Math.ceil(rows.length / 2);
  return tableToIPC(new Table(schema, [batch(rows.slice(0, half), 0), batch(rows.slice(half), half)]), "stream");
}

const ROWS: Row[] = [
  { x: 10, y: 0, zone: "diffuse", cluster: -1 },
  { x: 14, y: 1, zone: "syntax_floor", cluster: 3 },
  { x: 12, y: 2, zone: "syntax_floor", cluster: 3 },
  { x: 11, y: 1, zone: "long_range", cluster: 8 },
  { x: 12, y: 1, zone: "diffuse", cluster: 3 },
];

describe("points from Arrow", () => {
  const shuffled = [...ZONES].reverse();
  const points = pointsFromArrow(arrowBytes(ROWS, shuffled));

  it("joins the batches", () => {
    expect(points.count).toBe(5);
    expect(points.runId).toBe("2026-01-10T04-02-11");
    expect(points.requestId(4)).toBe("request-4");
    expect(points.step(3)).toBe(3);
    expect(points.tokenText(1)).toBe(" token 1");
    expect(points.confidence(0)).toBeCloseTo(0.75);
    expect([...points.clusterId]).toEqual([-1, 3, 3, 8, 3]);
  });

  it("numbers zones by name, whatever the dictionary's order", () => {
    expect([...points.zoneIndex].map((index) => ZONES[index])).toEqual(ROWS.map(({ zone }) => zone));
    const odd = pointsFromArrow(arrowBytes([{ x: 0, y: 0, zone: "new_zone", cluster: 0 }], ["new_zone"]));
    expect([...odd.zoneIndex]).toEqual([NO_ZONE]);
  });

  it("scales the map into -1..1 and keeps its shape", () => {
    expect(Math.max(...points.x)).toBeCloseTo(0.95);
    expect(Math.min(...points.x)).toBeCloseTo(-0.95);
    const [width, height] = [
      Math.max(...points.x) - Math.min(...points.x),
      Math.max(...points.y) - Math.min(...points.y),
    ];
    expect(width / height).toBeCloseTo(2);
    expect((12 - points.frame.centreX) * points.frame.scale).toBeCloseTo(points.x[2] ?? Number.NaN);
  });

  it("draws a single point in the middle", () => {
    const one = pointsFromArrow(arrowBytes([ROWS[1] as Row], ZONES));
    expect([one.x[0], one.y[0]]).toEqual([0, 0]);
  });

  it("counts by zone and by cluster, the unclaimed last", () => {
    expect(countsByZone(points)).toEqual([2, 0, 0, 1, 2, 0]);
    expect(countsByCluster(points)).toEqual([
      { clusterId: 3, count: 3 },
      { clusterId: 8, count: 1 },
      { clusterId: -1, count: 1 },
    ]);
  });

  it("filters by zone and cluster together", () => {
    const none = new Set<number>();
    expect(visiblePoints(points, { hiddenZones: none, hiddenClusters: none })).toBeNull();
    const kept = visiblePoints(points, {
      hiddenZones: new Set([ZONES.indexOf("diffuse")]),
      hiddenClusters: new Set([8]),
    });
    expect([...(kept ?? [])]).toEqual([1, 2]);
  });

  it("finds the nearest point among those shown", () => {
    const at = { x: points.x[2] ?? 0, y: points.y[2] ?? 0 };
    expect(nearestPoint(points, { ...at, radius: 0.01, visible: null })).toBe(2);
    expect(nearestPoint(points, { ...at, radius: 0.01, visible: Uint32Array.of(0, 1) })).toBe(-1);
    expect(nearestPoint(points, { ...at, radius: 5, visible: Uint32Array.of(0, 4) })).toBe(4);
  });

  it("says which column is missing", () => {
    const bare = tableToIPC(new Table({ x: vectorFromArray([1], new Float32()) }), "stream");
    expect(() => pointsFromArrow(bare)).toThrow(/column y/);
  });
});
