/** The sidecar's answers, generated from its OpenAPI by dev/generate_types.py. Not edited by hand. */

export interface Characteristic {
  name: string;
  value: number;
  usual: number;
}

export interface Cluster {
  cluster_id: number;
  cluster_label: string;
  size: number;
  zone: string;
  zone_score: number | null;
  zone_margin: number | null;
  centroid: number[];
  centroid_x: number | null;
  centroid_y: number | null;
  stability: number | null;
  exemplars: Exemplar[];
  lineage: Lineage | null;
}

export interface ClusterAnswer {
  run_id: string;
  cluster: Cluster;
  zones: ZoneEvidence[];
  typical: TypicalFingerprint | null;
  exemplars: ExemplarInText[];
}

export interface ClusterComparison {
  a: Share;
  b: Share;
  difference: number;
  low: number;
  high: number;
  cluster_id: number;
  cluster_label: string;
}

export interface ClusterHour {
  cluster_id: number;
  num_fingerprints: number;
  share: number;
}

export interface ClusterLineage {
  cluster_id: number;
  cluster_label: string;
  size: number;
  zone: string;
  event: string | null;
  parents: number[];
  overlap: number | null;
}

export interface ClustersAnswer {
  run_id: string | null;
  clusters: Cluster[];
}

export interface CompareAnswer {
  a: Side;
  b: Side;
  zones: ZoneComparison[];
  clusters: ClusterComparison[];
  features: FeatureDifference[];
}

export interface Exemplar {
  request_id: string;
  step: number;
}

export interface ExemplarInText {
  request_id: string;
  step: number;
  token: Token | null;
  text_before: string | null;
  text_after: string | null;
}

export interface FeatureDifference {
  name: string;
  mean_a: number;
  mean_b: number;
  sd_a: number;
  sd_b: number;
  effect: number;
  low: number;
  high: number;
}

export interface Grounding {
  parts: Part[];
  tokens: TokenGrounding[];
  sentences: SentenceGrounding[];
}

export interface Lineage {
  event: string;
  parents: number[];
  overlap: number | null;
}

export interface ModelHour {
  hour_utc: string;
  hour_start_us: number;
  model_id: string | null;
  num_fingerprints: number;
  mean_confidence: number;
  zones: ZoneHour[];
  clusters: ClusterHour[];
}

export interface OnlineFigures {
  run_id: string | null;
  num_points: number;
  num_passed_over: number;
  novelty: number | null;
  novelty_expected: number | null;
  novelty_excess: number | null;
  novelty_excess_interval: [number, number] | null;
  novelty_bound: number;
  drift: number | null;
  drift_interval: [number, number] | null;
  drift_bound: number;
  followed_shift: number | null;
  half_life_points: number;
  min_points: number;
  not_judged: string | null;
  early_run_asked_at_us: number | null;
  early_run_reason: string | null;
}

export interface Part {
  kind: string;
  message: number | null;
  role: string | null;
  ranges: [number, number][];
}

export interface Run {
  run_id: string;
  status: string;
  served: boolean;
  available: boolean;
  started_at_us: number | null;
  ended_at_us: number | null;
  published_at_us: number | null;
  window_start_us: number | null;
  window_end_us: number | null;
  num_fingerprints: number | null;
  num_clusters: number | null;
  noise_share: number | null;
  parameters: Record<string, unknown> | null;
  metrics: Record<string, unknown> | null;
  error: string | null;
  models: string[] | null;
  previous_run_id: string | null;
  gone_cluster_ids: number[] | null;
  unreadable: string[];
}

export interface RunAnswer {
  run: Run;
  lineage: ClusterLineage[];
  reliability: Record<string, unknown>[];
  versions: Record<string, string>;
  problem: string | null;
}

export interface RunsAnswer {
  runs: Run[];
  next_before: string | null;
}

export interface SentenceGrounding {
  low: number[];
  high: number[];
  mass_not_shown: number;
  first_step: number;
  end_step: number;
  text: string | null;
}

export interface Share {
  num_fingerprints: number;
  share: number;
  low: number;
  high: number;
}

export interface Side {
  run: string | null;
  model: string | null;
  hour: string | null;
  num_fingerprints: number;
  num_requests: number;
  num_vectors: number;
  sampled_every: number;
}

export interface TimelineAnswer {
  from_us: number;
  to_us: number;
  hours: ModelHour[];
}

export interface Token {
  id: number;
  request_id: string;
  step: number;
  captured_at_us: number;
  model_id: string | null;
  token_id: number | null;
  token_text: string | null;
  zone: string | null;
  confidence: number | null;
  cluster_id: number | null;
  classified_run_id: string | null;
  context_len: number | null;
  sink_mass: number | null;
  prompt_mass: number | null;
  periodicity: number | null;
  vector: number[];
  topk_positions: number[] | null;
  topk_probs: number[] | null;
  residual_mass: number | null;
  head_sketch: number[] | null;
  zone_evidence: number[] | null;
  head_projection: string | null;
  characteristic: Characteristic | null;
}

export interface TokenGrounding {
  low: number[];
  high: number[];
  mass_not_shown: number;
  step: number;
}

export interface TypicalFingerprint {
  names: string[];
  p10: number[];
  p50: number[];
  p90: number[];
  num_prototypes: number;
}

export interface ZoneComparison {
  a: Share;
  b: Share;
  difference: number;
  low: number;
  high: number;
  zone: string;
}

export interface ZoneEvidence {
  zone: string;
  score: number;
  margin: number;
  evidence: Record<string, unknown>;
}

export interface ZoneHour {
  zone: string;
  num_fingerprints: number;
  share: number;
  mean_confidence: number;
}
