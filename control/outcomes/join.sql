-- The rules of join.py, step by step. Before it: the views read_predictions and read_outcomes, the table rules, and the
-- variables as_of_ns, patience_ns, skew_ns, fallback and follows.

-- What callers got. A row that shares another one's draw is no evidence of its own, and so of no rollout.
CREATE TEMP TABLE predictions AS
SELECT DISTINCT ON (prediction_id)
    prediction_id, time_ns, model::VARCHAR AS model, version, arm::VARCHAR AS arm,
    CASE WHEN rollout_flags & getvariable('follows') = 0 THEN rollout_id END AS rollout_id, step, weight_bps, entity_hash,
    score, decision::VARCHAR AS decision
FROM read_predictions
WHERE score IS NOT NULL AND answered_by::VARCHAR <> 'unassigned' AND flags & getvariable('fallback') = 0
    AND time_ns <= getvariable('as_of_ns');

-- Of the outcomes under one id the first one is taken; the order is total, so that files may come in any.
CREATE TEMP TABLE known AS
SELECT * REPLACE (model::VARCHAR AS model), row_number() OVER (
    PARTITION BY outcome_id
    ORDER BY recorded_ns, gateway_id::VARCHAR, event_time_ns, coalesce(prediction_id, ''), coalesce(model::VARCHAR, ''),
        coalesce(label_number, '-infinity'::DOUBLE), coalesce(label_text, '')
) AS place
FROM read_outcomes
WHERE recorded_ns <= getvariable('as_of_ns');

-- An entity's predictions, one at a time: ASOF wants no ties. Calls that named a version are found by id alone.
CREATE TEMP TABLE by_entity AS
SELECT model, entity_hash, time_ns, max(prediction_id) AS prediction_id
FROM predictions
WHERE entity_hash IS NOT NULL AND arm <> 'pinned'
GROUP BY ALL;

-- The prediction that an outcome names, or the last one for its entity at or before it.
CREATE TEMP TABLE found AS
SELECT outcome_id, prediction_id FROM known WHERE place = 1 AND prediction_id IS NOT NULL
UNION ALL
SELECT named.outcome_id, by_entity.prediction_id
FROM (
    SELECT outcome_id, known.model, event_time_ns, entity_hashes[rules.entity] AS entity_hash
    FROM known LEFT JOIN rules ON rules.model = known.model
    WHERE place = 1 AND prediction_id IS NULL
) AS named
ASOF LEFT JOIN by_entity
    ON named.model = by_entity.model AND named.entity_hash = by_entity.entity_hash
    AND named.event_time_ns >= by_entity.time_ns;

-- What becomes of each.
CREATE TEMP TABLE fates AS
SELECT known.* EXCLUDE (prediction_id, model), predictions.prediction_id,
    CASE
        WHEN coalesce(predictions.model, known.model) IS NOT NULL AND rules.model IS NULL THEN 'ruleless'
        WHEN predictions.prediction_id IS NULL AND getvariable('as_of_ns') < recorded_ns + getvariable('patience_ns')
            THEN 'waiting'
        WHEN predictions.prediction_id IS NULL THEN 'unmatched'
        WHEN event_time_ns < time_ns - getvariable('skew_ns') THEN 'early'
        WHEN greatest(event_time_ns, recorded_ns) > time_ns + window_ns THEN 'late'
        ELSE 'matched'
    END AS fate
FROM known
JOIN found ON found.outcome_id = known.outcome_id AND known.place = 1
LEFT JOIN predictions ON predictions.prediction_id = found.prediction_id
LEFT JOIN rules ON rules.model = coalesce(predictions.model, known.model);

-- Labels, the one that counts first.
CREATE TEMP TABLE labels AS
SELECT *, row_number() OVER newest AS age,
    label_number IS DISTINCT FROM first_value(label_number) OVER newest
        OR label_text IS DISTINCT FROM first_value(label_text) OVER newest AS conflicts
FROM fates
WHERE fate = 'matched' AND (label_number IS NOT NULL OR label_text IS NOT NULL)
WINDOW newest AS (PARTITION BY prediction_id ORDER BY event_time_ns DESC, recorded_ns DESC, outcome_id DESC);

-- No label means 0 where the window has ended and no newer prediction for the entity took this one's place before.
CREATE TEMP TABLE silent AS
SELECT followed.prediction_id, followed.time_ns + window_ns AS arrival_ns
FROM (
    SELECT *, CASE WHEN entity_hash IS NOT NULL THEN lead(time_ns) OVER (
        PARTITION BY model, entity_hash ORDER BY time_ns, prediction_id
    ) END AS next_ns
    FROM predictions
    WHERE arm <> 'pinned'
) AS followed
JOIN rules ON rules.model = followed.model AND negative
WHERE getvariable('as_of_ns') >= followed.time_ns + window_ns
    AND (next_ns IS NULL OR next_ns > followed.time_ns + window_ns)
    AND followed.prediction_id NOT IN (SELECT prediction_id FROM labels);
