/** Questions to the sidecar over HTTP. */

import type { Grounding, OnlineFigures } from "./answers";
import { below } from "./base";
import { authorization, wantToken } from "./token";
import { type RequestDetail, type RequestInfo, requestDetailFromJson, requestInfoFromJson, type Token } from "./wire";
import { isZone, type Zone } from "./zones";

/** An answer that is no answer: RFC 9457 problem details, or no connection at all (status 0). */
export class SidecarError extends Error {
  override readonly name = "SidecarError";
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string | null,
    /** What to do about it, in the sidecar's words. */
    readonly mend: string | null = null,
  ) {
    super(detail === null ? title : `${title}: ${detail}`);
  }
}

/** A GET, or a POST of `body` as JSON where there is one. */
async function ask(
  path: string,
  signal: AbortSignal | undefined,
  accepts: readonly number[] = [],
  body?: unknown,
): Promise<Response> {
  let response: Response;
  const headers = authorization();
  const post =
    body === undefined
      ? {}
      : {
          method: "POST",
          body: JSON.stringify(body),
          headers: { ...headers, "content-type": "application/json" },
        };
  try {
    response = await fetch(below(path), { headers, ...post, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new SidecarError(0, "The sidecar does not answer", null);
  }
  if (response.ok || accepts.includes(response.status)) return response;
  // Unless a token was given while this question was under way: then it is asked again with it.
  if (response.status === 401 && headers.Authorization === authorization().Authorization) wantToken();
  const isProblem = response.headers.get("content-type")?.includes("json") ?? false;
  const problem: unknown = isProblem ? await response.json() : null;
  const { title, detail, mend } = (problem ?? {}) as Record<string, unknown>;
  throw new SidecarError(
    response.status,
    typeof title === "string" ? title : `The sidecar answered ${response.status}`,
    typeof detail === "string" ? detail : null,
    typeof mend === "string" ? mend : null,
  );
}

/** Where a token lies on the served map, and how sure its cluster is. */
export interface TokenPlace {
  x: number;
  y: number;
  cluster_label: string;
  cluster_confidence: number;
  run_id: string | null;
}

/** The token's place by the served run's classifier; null where there is no map, or the token has no vector. */
export async function fetchPlace(token: Token, signal?: AbortSignal): Promise<TokenPlace | null> {
  const { vector, context_len, sink_mass, periodicity, head_sketch, zone_evidence, head_projection } = token;
  if (vector === null) return null;
  const isWhole = head_sketch !== null && zone_evidence !== null && head_projection !== null;
  const body = {
    vector,
    context_len,
    sink_mass,
    periodicity,
    ...(isWhole ? { head_sketch, zone_evidence, head_projection } : {}),
    include: ["position"],
  };
  const answer = (await (await ask("/classify", signal, [], body)).json()) as {
    manifold?: Partial<TokenPlace> & { x?: number | null; y?: number | null };
    run_id?: string | null;
  };
  const { x, y, cluster_label, cluster_confidence } = answer.manifold ?? {};
  if (typeof x !== "number" || typeof y !== "number") return null;
  return {
    x,
    y,
    cluster_label: cluster_label ?? "",
    cluster_confidence: cluster_confidence ?? 0,
    run_id: answer.run_id ?? null,
  };
}

export async function askJson(path: string, signal?: AbortSignal): Promise<unknown> {
  return (await ask(path, signal)).json();
}

/**
 * Why the live connection does not open although the page did, in one line that says what to do; null where the sidecar
 * does not answer at all. A browser does not show a WebSocket's refusal, so the same is asked for in another way: what
 * the sidecar would not let listen may not post either.
 */
export async function whyNotLive(): Promise<string | null> {
  let response: Response;
  try {
    response = await fetch(below("/events"), { method: "POST", headers: authorization() });
  } catch {
    return null;
  }
  if (response.status === 401) {
    wantToken();
    return null;
  }
  const isProblem = response.headers.get("content-type")?.includes("problem+json") ?? false;
  const problem = (isProblem ? await response.json() : {}) as Record<string, unknown>;
  if (response.status === 403 || response.status === 421) return `${problem.title}: ${problem.mend}`;
  if (response.status === 404 && isProblem) return NOT_PASSED_ON;
  return `The proxy in between answers ${response.status}`;
}

const NOT_PASSED_ON =
  "The WebSocket /events does not come through: let the proxy pass it on (nginx: proxy_http_version 1.1 and the headers Upgrade and Connection)";

export interface Health {
  status: string;
  version: string | null;
  reasons: string[];
}

export async function fetchHealth(signal?: AbortSignal): Promise<Health> {
  // 503 says that fingerprints cannot be stored, and why: an answer, not a failure to answer.
  const response = await ask("/health", signal, [503]);
  const { status, version, reasons } = (await response.json()) as Record<string, unknown>;
  return {
    status: typeof status === "string" ? status : "unknown",
    version: typeof version === "string" ? version : null,
    reasons: Array.isArray(reasons) ? reasons.map((reason) => reasonText(reason)) : [],
  };
}

function reasonText(reason: unknown): string {
  return typeof reason === "string" ? reason : JSON.stringify(reason);
}

export interface Stats {
  fingerprints: number;
  requests: number;
  zones: Partial<Record<Zone, number>>;
  clusters: number;
  run_id: string | null;
  /** Null without `--online`. */
  online: OnlineFigures | null;
}

export async function fetchStats(signal?: AbortSignal): Promise<Stats> {
  const answer = (await askJson("/stats", signal)) as Stats;
  return { ...answer, online: answer.online ?? null };
}

export interface DiscoveryStatus {
  status: string;
  run_id: string | null;
  detail: string | null;
  what_to_do: string[];
  /** Why a newer bundle is not the one served. */
  problem: string | null;
  discovery_dir: string | null;
  /** What a person should know of the run, as that its clusters were not clear. */
  note: string | null;
  /** Hours of the window of which the map has no tokens though some are stored. */
  missing_hours: string[];
}

export async function fetchDiscoveryStatus(signal?: AbortSignal): Promise<DiscoveryStatus> {
  const answer = (await askJson("/discovery/status", signal)) as Partial<DiscoveryStatus>;
  return {
    status: answer.status ?? "unavailable",
    run_id: answer.run_id ?? null,
    detail: answer.detail ?? null,
    what_to_do: answer.what_to_do ?? [],
    problem: answer.problem ?? null,
    discovery_dir: answer.discovery_dir ?? null,
    note: answer.note ?? null,
    missing_hours: answer.missing_hours ?? [],
  };
}

function listIn(answer: unknown, name: string): unknown[] {
  if (Array.isArray(answer)) return answer;
  const list = (answer as Record<string, unknown> | null)?.[name];
  return Array.isArray(list) ? list : [];
}

export async function fetchRequests(limit: number, signal?: AbortSignal): Promise<RequestInfo[]> {
  const answer = await askJson(`/requests?limit=${limit}`, signal);
  return listIn(answer, "requests").flatMap((item) => requestInfoFromJson(item) ?? []);
}

/** Tokens a page: a whole number of the feed's chunks. */
export const PAGE_TOKENS = 512;

/** A page of an answer, from this step on; the first one brings the prompt. */
export async function fetchRequest(requestId: string, fromStep: number, signal?: AbortSignal): Promise<RequestDetail> {
  const prompt = fromStep === 0 ? "yes" : "no";
  const query = `?from_step=${fromStep}&max_tokens=${PAGE_TOKENS}&prompt=${prompt}`;
  const detail = requestDetailFromJson(await askJson(`/requests/${encodeURIComponent(requestId)}${query}`, signal));
  if (detail === null) throw new SidecarError(200, "The sidecar's answer holds no request", null);
  return detail;
}

/** What the sentences of an answer attended to; null where nothing is known of its prompt. */
export async function fetchGrounding(requestId: string, signal?: AbortSignal): Promise<GroundingPage | null> {
  const query = `?max_tokens=${GROUNDED_TOKENS}&prompt=no`;
  const answer = (await askJson(`/requests/${encodeURIComponent(requestId)}${query}`, signal)) as {
    grounding?: Grounding | null;
    next_step?: number | null;
  };
  const grounding = answer.grounding ?? null;
  return grounding === null ? null : { ...grounding, endStep: answer.next_step ?? null };
}

const GROUNDED_TOKENS = 2048;

export interface GroundingPage extends Grounding {
  /** The first step that is not in it; null where it is the whole answer. */
  endStep: number | null;
}

export interface Cluster {
  cluster_id: number;
  cluster_label: string;
  size: number;
  zone: Zone | null;
  centroid_x: number | null;
  centroid_y: number | null;
}

/** The clusters of a run; null is the served one. */
export async function fetchClusters(run: string | null, signal?: AbortSignal): Promise<Cluster[]> {
  const query = run === null ? "" : `?run=${encodeURIComponent(run)}`;
  return listIn(await askJson(`/clusters${query}`, signal), "clusters").flatMap((item) => {
    const cluster = item as Partial<Record<keyof Cluster, unknown>>;
    if (typeof cluster.cluster_id !== "number") return [];
    const asNumber = (value: unknown): number | null => (typeof value === "number" ? value : null);
    return [
      {
        cluster_id: cluster.cluster_id,
        cluster_label:
          typeof cluster.cluster_label === "string" ? cluster.cluster_label : `Cluster ${cluster.cluster_id}`,
        size: asNumber(cluster.size) ?? 0,
        zone: isZone(cluster.zone) ? cluster.zone : null,
        centroid_x: asNumber(cluster.centroid_x),
        centroid_y: asNumber(cluster.centroid_y),
      },
    ];
  });
}

/** What the map and its tooltips read; without it `/points` gives only what is drawn. */
const POINT_COLUMNS = "x,y,cluster_id,zone,confidence,request_id,step,token_text";

/** The published embedding, or one hour of it, as Arrow IPC bytes. */
export async function fetchPoints(hour: string | null, signal?: AbortSignal): Promise<Uint8Array> {
  const only = hour === null ? "" : `&hour=${encodeURIComponent(hour)}`;
  return new Uint8Array(await (await ask(`/points?columns=${POINT_COLUMNS}${only}`, signal)).arrayBuffer());
}
