-- Constraints and indexes have the names that Postgres gives: it avoids those that the old system's tables have.

CREATE TABLE pipeline_runs (
    run_id          uuid PRIMARY KEY,
    name            text NOT NULL,
    idempotency_key text UNIQUE,
    plan_hash       text,
    attempt         int NOT NULL DEFAULT 1,
    parent_run_id   uuid,
    state           text NOT NULL
                    CHECK (state IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled')),
    request         text CHECK (request IN ('pause', 'cancel')),
    output          text,
    settings        jsonb,
    versions        jsonb,
    totals          jsonb,
    ray_job_id      text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    heartbeat_at    timestamptz,
    finished_at     timestamptz,
    exit_code       int,
    error           jsonb
);
COMMENT ON COLUMN pipeline_runs.request IS 'what a person asked of a run at work; the driver reads it';

-- No foreign keys to pipeline_runs: what a worker says may arrive before the driver has said that there is a run.
-- The primary keys are what makes a record that is delivered twice one row.

CREATE TABLE pipeline_logs (
    run_day   date NOT NULL,
    run_id    uuid NOT NULL,
    source    text NOT NULL,
    seq       bigint NOT NULL,
    ts        timestamptz NOT NULL,
    level     text NOT NULL,
    level_no  smallint NOT NULL,
    logger    text,
    message   text NOT NULL,
    stage     text,
    layer     text,
    tile      bigint,
    worker    bigint,
    node      text,
    attempt   int,
    traceback text,
    extra     jsonb,
    PRIMARY KEY (run_day, run_id, source, seq)
) PARTITION BY RANGE (run_day);
CREATE INDEX ON pipeline_logs (run_id, ts);
CREATE INDEX ON pipeline_logs (run_id, ts) WHERE level_no >= 30;

CREATE TABLE pipeline_events (
    run_day date NOT NULL,
    run_id  uuid NOT NULL,
    source  text NOT NULL,
    seq     bigint NOT NULL,
    ts      timestamptz NOT NULL,
    name    text NOT NULL,
    stage   text,
    layer   text,
    tile    bigint,
    worker  bigint,
    node    text,
    attempt int,
    detail  jsonb,
    PRIMARY KEY (run_day, run_id, source, seq)
) PARTITION BY RANGE (run_day);
CREATE INDEX ON pipeline_events (run_id, ts);

CREATE TABLE pipeline_metrics (
    run_day date NOT NULL,
    run_id  uuid NOT NULL,
    source  text NOT NULL,
    seq     bigint NOT NULL,
    ts      timestamptz NOT NULL,
    name    text NOT NULL,
    value   double precision NOT NULL,
    unit    text,
    stage   text,
    node    text,
    worker  bigint,
    PRIMARY KEY (run_day, run_id, source, seq)
) PARTITION BY RANGE (run_day);
CREATE INDEX ON pipeline_metrics (run_id, name, ts);

CREATE TABLE pipeline_metrics_latest (
    run_id uuid NOT NULL,
    node   text NOT NULL,
    name   text NOT NULL,
    stage  text NOT NULL DEFAULT '',
    ts     timestamptz NOT NULL,
    value  double precision NOT NULL,
    unit   text,
    PRIMARY KEY (run_id, node, name, stage)
);

CREATE TABLE pipeline_progress (
    run_id     uuid NOT NULL,
    stage      text NOT NULL,
    layer      text NOT NULL DEFAULT '',
    tiles      bigint NOT NULL DEFAULT 0,
    cells      bigint NOT NULL DEFAULT 0,
    rows       bigint NOT NULL DEFAULT 0,
    bytes      bigint NOT NULL DEFAULT 0,
    seconds    double precision NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, stage, layer)
);

CREATE TABLE pipeline_sources (
    run_id     uuid NOT NULL,
    source     text NOT NULL,
    seq        bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, source)
);
COMMENT ON COLUMN pipeline_sources.seq IS 'the highest sequence number that has arrived from this source';

-- Works with the rights of the owner, so that the role that writes needs no CREATE. Its search path is that of the
-- upgrade: the schema and nothing else. One call at a time makes partitions; a table is made first and attached then,
-- because that does not wait for those who write into other days. It looks into pg_class and not by to_regclass, whose
-- cache does not know what another transaction made while this one waited.
CREATE FUNCTION geopipe_partitions(day date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    parents constant text[] := ARRAY['pipeline_logs', 'pipeline_events', 'pipeline_metrics'];
    suffix text;
    there text[];
    parent text;
BEGIN
    IF day IS NULL OR day NOT BETWEEN date '1970-01-01' AND date '9999-12-30' THEN
        RAISE EXCEPTION 'geopipe_partitions: % is no day of a run', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    suffix := to_char(day, '"_"YYYYMMDD');
    there := ARRAY(SELECT relname FROM pg_class
                   WHERE relnamespace = quote_ident(current_schema())::regnamespace
                   AND relname IN (SELECT unnest(parents) || suffix));
    IF cardinality(there) = cardinality(parents) THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(7166461129431216132);
    there := ARRAY(SELECT relname FROM pg_class
                   WHERE relnamespace = quote_ident(current_schema())::regnamespace
                   AND relname IN (SELECT unnest(parents) || suffix));
    FOREACH parent IN ARRAY parents LOOP
        IF NOT (parent || suffix) = ANY (there) THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                           parent || suffix, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, parent || suffix, day, day + 1);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION geopipe_partitions(date) FROM PUBLIC;
