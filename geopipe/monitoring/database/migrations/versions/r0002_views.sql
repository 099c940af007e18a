-- The day that a run's rows are kept under: that of its UUIDv7, or of its beginning where the id is of another kind
-- (runs of the old system). Uses nothing but its arguments.
CREATE FUNCTION geopipe_run_day(run_id uuid, created_at timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN substr(run_id::text, 15, 1) = '7'
        THEN date '1970-01-01'
             + (('x' || lpad(left(replace(run_id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 86400000)::int
        ELSE (created_at AT TIME ZONE 'UTC')::date
    END
$$;

-- What messages of one cause have in common: quoted text, addresses and paths, and numbers become #.
CREATE FUNCTION geopipe_cause(message text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left(
        regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(
            left(message, 2000),
            '"[^"\n]*"|`[^`\n]*`|(?<!\w)''[^''\n]*''(?!\w)', '#', 'g'),
            '(?<![\w#])(\w+://|~?/|\.{1,2}/|[A-Za-z]:\\)[^\s,;()]*[^\s,;().:]', '#', 'g'),
            '[\w.-]+(/[\w.-]+)*\.(tiff?|nc|hdf5?|h5|zarr|grib2?|jp2|vrt|img|asc|parquet|csv|gz|zst|json|toml|shp|gpkg)\M',
            '#', 'g'),
            '\m0[xX][0-9a-fA-F]+\M|\m[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\M', '#', 'g'),
            '[-+]?\d+([.,]\d+)*([eE][-+]?\d+)?', '#', 'g'),
        300)
$$;

CREATE VIEW pipeline_active_runs AS
SELECT run_id, name, state, request, attempt, output, plan_hash, ray_job_id, created_at, started_at, heartbeat_at,
       silent AS seconds_since_heartbeat,
       silent > 60 AND state <> 'paused' AS stale -- who waits for a person says nothing
FROM (SELECT *, extract(epoch FROM now() - coalesce(heartbeat_at, started_at, created_at))::double precision AS silent
      FROM pipeline_runs) r
WHERE state IN ('pending', 'running', 'paused');

CREATE VIEW pipeline_error_summary AS
SELECT run_id,
       geopipe_cause(message) AS cause,
       count(*) AS count,
       min(ts) AS first_ts,
       max(ts) AS last_ts,
       (array_agg(message ORDER BY ts, source, seq))[1] AS example,
       array_agg(DISTINCT stage) FILTER (WHERE stage IS NOT NULL) AS stages,
       array_agg(DISTINCT layer) FILTER (WHERE layer IS NOT NULL) AS layers
FROM pipeline_logs
WHERE level_no >= 40
GROUP BY run_id, geopipe_cause(message);

-- How far each stage of a run is: what is done (progress) of what is to be done (totals). Under a stage are its layers,
-- of which only totals.layers, where it is there, knows how much there is.
CREATE VIEW pipeline_progress_tree AS
WITH promised AS (
    SELECT r.run_id, t.key AS stage, t.value::numeric::bigint AS units
    FROM pipeline_runs r, jsonb_each(CASE jsonb_typeof(r.totals) WHEN 'object' THEN r.totals ELSE '{}' END) t
    WHERE jsonb_typeof(t.value) = 'number'
), done AS (
    SELECT run_id, stage, sum(tiles)::bigint AS tiles, sum(cells)::bigint AS cells, sum(rows)::bigint AS rows,
           sum(bytes)::bigint AS bytes, sum(seconds) AS seconds, max(updated_at) AS updated_at
    FROM pipeline_progress GROUP BY run_id, stage
), tree AS (
    SELECT run_id, stage, '' AS layer, coalesce(d.tiles, 0) AS tiles, p.units AS "of", coalesce(d.cells, 0) AS cells,
           coalesce(d.rows, 0) AS rows, coalesce(d.bytes, 0) AS bytes, coalesce(d.seconds, 0) AS seconds, d.updated_at
    FROM promised p FULL JOIN done d USING (run_id, stage)
    UNION ALL
    SELECT l.run_id, l.stage, l.layer, l.tiles,
           CASE WHEN jsonb_typeof(r.totals #> ARRAY['layers', l.layer]) = 'number'
               THEN (r.totals #>> ARRAY['layers', l.layer])::numeric::bigint END,
           l.cells, l.rows, l.bytes, l.seconds, l.updated_at
    FROM pipeline_progress l LEFT JOIN pipeline_runs r USING (run_id)
    WHERE l.layer <> ''
)
SELECT t.run_id, r.name, r.state, t.stage, t.layer, t.tiles, t."of",
       CASE WHEN t."of" > 0 THEN least(1.0, t.tiles / t."of"::double precision) END AS share,
       t.cells, t.rows, t.bytes, t.seconds, t.updated_at
FROM tree t LEFT JOIN pipeline_runs r USING (run_id)
ORDER BY t.run_id, array_position(ARRAY['read', 'merge', 'write'], t.stage), t.stage, t.layer;
