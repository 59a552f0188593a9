-- The store of Attention Explorer, schema version 4.
--   sqlite3 fingerprints.db < schema.sql
-- may be run again at any time: it creates what is missing and changes nothing else. (A file of schema version 1
-- to 3 is brought up to this one by the sidecar when it starts.)
-- Instants are UTC microseconds since 1970 (the `_us` names), probabilities 0..1, entropies nats.

-- Only a new file takes this size: fewer pages to write for each batch of tokens.
PRAGMA page_size = 8192;
PRAGMA journal_mode = WAL;

BEGIN;

CREATE TABLE IF NOT EXISTS request_numbers (
    request_no INTEGER PRIMARY KEY,               -- short name of a request inside this file; no meaning elsewhere
    request_id TEXT    NOT NULL UNIQUE            -- the id that the OpenAI answer carries, or a name of reused_ids
) STRICT;

-- A client may use an id again after its first answer ended: its next answers have names of their own here.
CREATE TABLE IF NOT EXISTS reused_ids (
    request_id  TEXT PRIMARY KEY,                 -- the name: the id, a tilde and a number from 2
    response_id TEXT    NOT NULL,                 -- the id that the OpenAI answer carries
    began_at_us INTEGER NOT NULL                  -- what was captured from here on belongs to it, until the next began
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS reused_ids_response_id ON reused_ids (response_id, began_at_us);

CREATE TABLE IF NOT EXISTS labels (
    label_no INTEGER PRIMARY KEY,                 -- short name of a model, zone or run inside this file
    label    TEXT    NOT NULL UNIQUE              -- its text
) STRICT;

-- What the view `fingerprints` shows with its names written out: numbers are shorter and quicker to index than texts.
CREATE TABLE IF NOT EXISTS tokens (
    id                INTEGER PRIMARY KEY,        -- grows with arrival: the cursor of readers and sensors
    request_no        INTEGER NOT NULL,           -- of request_numbers
    step              INTEGER NOT NULL CHECK (step >= 0),  -- output token number, from 0
    captured_at_us    INTEGER NOT NULL,           -- when the model server captured it
    stored_at_us      INTEGER NOT NULL,           -- when this row was written
    model_no          INTEGER,                    -- of labels: the served model's name
    token_id          INTEGER,                    -- the output token; null in privacy mode
    token_text        TEXT,                       -- its text; null in privacy mode
    vector            BLOB    NOT NULL CHECK (length(vector) = 80),  -- float32[20] little-endian, the fingerprint
    context_len       INTEGER,                    -- positions attended over, n
    sink_mass         REAL,                       -- probability on positions 0..3
    prompt_mass       REAL,                       -- probability on the prompt beyond the sink
    periodicity       REAL,                       -- 0..1, strongest non-trivial period of the attended positions
    zone_no           INTEGER,                    -- of labels: the zone as classified on arrival
    zone_confidence   REAL,                       -- 0..1
    cluster_id        INTEGER,                    -- stable cluster id, -1 where no cluster claims it
    classified_run_no INTEGER,                    -- of labels: the run that classified it; null before the first
    topk_positions    BLOB,                       -- int32[k] little-endian, most attended first; null if not asked for
    topk_probs        BLOB,                       -- float32[k] little-endian, their true probabilities
    residual_mass     REAL,                       -- probability that the top-k leaves out
    UNIQUE (request_no, step)
) STRICT;

CREATE INDEX IF NOT EXISTS tokens_captured_at ON tokens (captured_at_us);

CREATE TABLE IF NOT EXISTS requests (
    request_id         TEXT PRIMARY KEY,  -- the id that the OpenAI answer carries, or a name of reused_ids
    model_id           TEXT,  -- the served model's name
    started_at_us      INTEGER,  -- when its prefill was scheduled
    ended_at_us        INTEGER,  -- when its last token was made; null while running
    prompt_len         INTEGER,                   -- tokens
    prompt_token_ids   BLOB,                      -- int32[prompt_len] little-endian; null in privacy mode
    prompt_token_texts TEXT,                      -- JSON array of strings; null in privacy mode
    prompt_spans       TEXT,                      -- JSON array of {"message", "role", "start", "end"} in prompt positions
    sampling_params    TEXT,                      -- JSON object
    num_output_tokens  INTEGER,  -- tokens made, those without text included
    finish_reason      TEXT,                      -- null while running
    zone               TEXT,                      -- zone of the whole answer, as of its end; null while running
    zone_confidence    REAL                       -- 0..1
) STRICT, WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS requests_started_at ON requests (started_at_us);

CREATE TABLE IF NOT EXISTS ingest_sources (
    source_id     BLOB PRIMARY KEY CHECK (length(source_id) = 16),  -- new for each model server process
    model_id      TEXT,  -- the served model's name
    last_seq      INTEGER NOT NULL,               -- highest batch number committed
    dropped       INTEGER NOT NULL DEFAULT 0,     -- batches that the sender says it had to drop
    first_seen_us INTEGER NOT NULL,  -- first batch committed
    last_seen_us  INTEGER NOT NULL  -- latest batch committed
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS discovery_runs (
    run_id           TEXT PRIMARY KEY,            -- UTC instant of its start, as 2026-01-10T04-02-11
    status           TEXT NOT NULL CHECK (status IN ('running', 'published', 'failed', 'interrupted')),  -- how far it came
    started_at_us    INTEGER NOT NULL,  -- when discovery began
    ended_at_us      INTEGER,  -- when it ended, well or not
    window_start_us  INTEGER NOT NULL,  -- first capture instant looked at
    window_end_us    INTEGER NOT NULL,            -- exclusive
    num_fingerprints INTEGER,  -- rows in the window
    num_clusters     INTEGER,  -- clusters found
    noise_share      REAL,                        -- share of points that no cluster claims
    parameters       TEXT,                        -- JSON object
    metrics          TEXT,                        -- JSON object
    error            TEXT                         -- why it failed
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS clusters (
    run_id        TEXT    NOT NULL REFERENCES discovery_runs (run_id),  -- the run that found it
    cluster_id    INTEGER NOT NULL,               -- stable across runs
    cluster_label TEXT    NOT NULL,  -- the name a person sees, as Cluster 3
    size          INTEGER NOT NULL,               -- fingerprints in the run's window
    zone          TEXT    NOT NULL,  -- the zone its members score highest for
    centroid      BLOB    NOT NULL CHECK (length(centroid) = 80),  -- mean fingerprint
    PRIMARY KEY (run_id, cluster_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS zone_labels (
    run_id     TEXT    NOT NULL,  -- the run that labelled it
    cluster_id INTEGER NOT NULL,  -- stable across runs
    zone       TEXT    NOT NULL,  -- one of the five; a row each
    score      REAL    NOT NULL,                  -- mean zone probability of the cluster's members
    margin     REAL    NOT NULL,                  -- score minus the runner-up's
    evidence   TEXT    NOT NULL,                  -- JSON object: the zone's features and how they decided
    PRIMARY KEY (run_id, cluster_id, zone)
) STRICT, WITHOUT ROWID;

-- One row a token, as a person and every reader see it; DELETE and UPDATE work on it as on a table.
CREATE VIEW IF NOT EXISTS fingerprints AS
SELECT t.id, r.request_id, t.step, t.captured_at_us, t.stored_at_us,
       (SELECT label FROM labels WHERE label_no = t.model_no) AS model_id,
       t.token_id, t.token_text, t.vector, t.context_len, t.sink_mass, t.prompt_mass, t.periodicity,
       t.topk_positions, t.topk_probs, t.residual_mass,
       (SELECT label FROM labels WHERE label_no = t.zone_no) AS zone, t.zone_confidence, t.cluster_id,
       (SELECT label FROM labels WHERE label_no = t.classified_run_no) AS classified_run_id
FROM tokens AS t
LEFT JOIN request_numbers AS r ON r.request_no = t.request_no;

CREATE TRIGGER IF NOT EXISTS fingerprints_delete INSTEAD OF DELETE ON fingerprints
BEGIN
    DELETE FROM tokens WHERE id = OLD.id;
END;

CREATE TRIGGER IF NOT EXISTS fingerprints_update INSTEAD OF UPDATE ON fingerprints
BEGIN
    INSERT OR IGNORE INTO request_numbers (request_id) VALUES (NEW.request_id);
    INSERT OR IGNORE INTO labels (label) SELECT NEW.model_id WHERE NEW.model_id IS NOT NULL;
    INSERT OR IGNORE INTO labels (label) SELECT NEW.zone WHERE NEW.zone IS NOT NULL;
    INSERT OR IGNORE INTO labels (label) SELECT NEW.classified_run_id WHERE NEW.classified_run_id IS NOT NULL;
    UPDATE tokens SET
        id = NEW.id,
        request_no = (SELECT request_no FROM request_numbers WHERE request_id = NEW.request_id),
        step = NEW.step,
        captured_at_us = NEW.captured_at_us,
        stored_at_us = NEW.stored_at_us,
        model_no = (SELECT label_no FROM labels WHERE label = NEW.model_id),
        token_id = NEW.token_id,
        token_text = NEW.token_text,
        vector = NEW.vector,
        context_len = NEW.context_len,
        sink_mass = NEW.sink_mass,
        prompt_mass = NEW.prompt_mass,
        periodicity = NEW.periodicity,
        zone_no = (SELECT label_no FROM labels WHERE label = NEW.zone),
        zone_confidence = NEW.zone_confidence,
        cluster_id = NEW.cluster_id,
        classified_run_no = (SELECT label_no FROM labels WHERE label = NEW.classified_run_id),
        topk_positions = NEW.topk_positions,
        topk_probs = NEW.topk_probs,
        residual_mass = NEW.residual_mass
    WHERE id = OLD.id;
END;

CREATE TRIGGER IF NOT EXISTS requests_delete AFTER DELETE ON requests
BEGIN
    DELETE FROM reused_ids WHERE request_id = OLD.request_id
        AND NOT EXISTS (SELECT 1 FROM request_numbers WHERE request_id = OLD.request_id);
END;

CREATE TRIGGER IF NOT EXISTS request_numbers_delete AFTER DELETE ON request_numbers
BEGIN
    DELETE FROM reused_ids WHERE request_id = OLD.request_id
        AND NOT EXISTS (SELECT 1 FROM requests WHERE request_id = OLD.request_id);
END;

CREATE VIEW IF NOT EXISTS zones_per_hour AS
SELECT strftime('%Y-%m-%dT%H:00Z', captured_at_us / 1000000, 'unixepoch') AS hour_utc,
       model_id,
       zone,
       count(*)             AS num_fingerprints,
       avg(zone_confidence) AS mean_confidence
FROM fingerprints
GROUP BY 1, 2, 3;

CREATE VIEW IF NOT EXISTS newest_fingerprints AS
SELECT f.id, f.request_id, f.step, f.token_text,
       strftime('%Y-%m-%dT%H:%M:%fZ', f.captured_at_us / 1e6, 'unixepoch') AS captured_at_utc,
       f.zone, round(f.zone_confidence, 3) AS zone_confidence, f.cluster_id,
       f.context_len, round(f.sink_mass, 4) AS sink_mass, round(f.prompt_mass, 4) AS prompt_mass,
       round(f.periodicity, 4) AS periodicity, f.model_id
FROM fingerprints AS f
ORDER BY f.id DESC
LIMIT 100;

PRAGMA user_version = 4;

COMMIT;
