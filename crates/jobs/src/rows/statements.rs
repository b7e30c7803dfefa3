//! Statements that differ between the databases: claiming, promoting, ending in bulk, and truncating
//! segments.
//!
//! On PostgreSQL, dead index entries remain while a transaction holds an old snapshot. Claims therefore scan
//! each priority from a watermark below which no job is ready. `position` is the id of the transaction that
//! made a job ready. Jobs that are not visible yet belong to transactions that are not older than the oldest
//! running transaction. Each claim reads the id of that transaction first, and the watermark never exceeds
//! it.

use kith_store::{Bulk, Statement};

use super::releases::job_release_columns;

/// Number of history segments.
pub const SEGMENTS: usize = 8;

/// Claims jobs. Parameters: `$1` now, `$2` worker, `$3` queue, `$4` maximum number, `$5` claim token, `$6`
/// start of the attempts if known. On PostgreSQL also two arrays: `$7` priorities and `$8` their watermarks.
/// No further jobs are picked after their payloads exceed 2 MiB in total.
///
/// On PostgreSQL a picked job is not claimed if it changed before its row was locked. Each row ends with the
/// id of the oldest running transaction, the number of jobs found, the number of jobs picked, and the
/// priority and position of the last job picked. At least one row is returned; its job columns are NULL if no
/// job was claimed.
pub const CLAIM: Statement = Statement {
    sqlite: states!("UPDATE jobs SET state = {running}, attempt = attempt + 1, worker = $2, claim_token = $5, started_at = $1,
            deadline_at = CASE WHEN timeout_ms > 0 THEN CAST($6 AS BIGINT) + timeout_ms END
         WHERE id IN (SELECT id FROM (
             SELECT id, bytes, SUM(bytes) OVER (ORDER BY priority, position, id) AS total FROM (
                 SELECT id, priority, position, OCTET_LENGTH(payload) AS bytes FROM jobs
                 WHERE queue = $3 AND state = {ready} AND crashes < 2
                 ORDER BY priority, position, id LIMIT $4))
             WHERE total - bytes < 2097152)
         RETURNING id, kind, payload, attempt, failures, max_attempts, crashes, timeout_ms, retry, run_at, created_at,
             limit_key, unique_key, has_dependents, priority, position, 0, 0, 0, 0, 0"),
    postgres: states!("WITH first AS (
             SELECT c.* FROM unnest($7::bigint[], $8::bigint[]) AS lane (priority, mark)
             CROSS JOIN LATERAL (
                 SELECT j.id, j.priority, j.position, OCTET_LENGTH(j.payload) AS bytes FROM jobs j
                 WHERE j.queue = $3 AND j.state = {ready} AND j.crashes < 2
                   AND j.priority = lane.priority AND j.position >= lane.mark
                 ORDER BY j.position, j.id LIMIT $4) AS c
             ORDER BY c.priority, c.position, c.id LIMIT $4),
         picked AS (
             SELECT id, priority, position FROM (
                 SELECT id, priority, position, bytes, SUM(bytes) OVER (ORDER BY priority, position, id) AS total
                 FROM first) AS summed
             WHERE total - bytes < 2097152),
         last AS (SELECT priority, position FROM picked ORDER BY priority DESC, position DESC LIMIT 1),
         claimed AS (
             UPDATE jobs SET state = {running}, attempt = attempt + 1, worker = $2, claim_token = $5, started_at = $1,
                 deadline_at = CASE WHEN timeout_ms > 0 THEN CAST($6 AS BIGINT) + timeout_ms END
             FROM picked WHERE jobs.id = picked.id AND jobs.state = {ready}
             RETURNING jobs.id, kind, payload, attempt, failures, max_attempts, crashes, timeout_ms, retry, run_at,
                 created_at, limit_key, unique_key, has_dependents, jobs.priority, jobs.position)
         SELECT c.*, page.oldest, page.found, page.picked, last.priority, last.position FROM (
             SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT) AS oldest,
                 (SELECT COUNT(*) FROM first) AS found, (SELECT COUNT(*) FROM picked) AS picked) AS page
         LEFT JOIN last ON TRUE LEFT JOIN claimed AS c ON TRUE"),
};

/// Claims the given jobs. Parameters: `$1` now, `$2` worker, `$3` claim token, `$4` start of the attempts if
/// known; then the ids. A payload of more than 16 KiB is not returned. The caller reads it separately, up to
/// the size limit of a claim.
pub const CLAIM_THESE: Bulk = Bulk {
    each: &[states!("UPDATE jobs SET state = {running}, attempt = attempt + 1, worker = $2, claim_token = $3, started_at = $1,
             deadline_at = CASE WHEN timeout_ms > 0 THEN CAST($4 AS BIGINT) + timeout_ms END
         WHERE id = $5 AND state = {ready}
         RETURNING id, kind, CASE WHEN OCTET_LENGTH(payload) <= 16384 THEN payload END, attempt, failures, max_attempts,
             crashes, timeout_ms, retry, run_at, created_at, limit_key, unique_key, has_dependents, priority,
             position, 0")],
    all: states!("UPDATE jobs SET state = {running}, attempt = attempt + 1, worker = $2, claim_token = $3, started_at = $1,
             deadline_at = CASE WHEN timeout_ms > 0 THEN CAST($4 AS BIGINT) + timeout_ms END
         FROM unnest($5::bigint[]) AS these (id) WHERE jobs.id = these.id AND jobs.state = {ready}
         RETURNING jobs.id, kind, CASE WHEN OCTET_LENGTH(payload) <= 16384 THEN payload END, attempt, failures,
             max_attempts, crashes, timeout_ms, retry, run_at, created_at, limit_key, unique_key, has_dependents, priority,
             position, CAST(0 AS BIGINT)"),
};

/// Selects the attempts that are still running. Columns of the input: job, claim token.
pub const STILL_RUNNING: Bulk = Bulk {
    each: &[states!(
        "SELECT id, claim_token FROM jobs WHERE id = $1 AND claim_token = $2 AND state = {running}"
    )],
    all: states!(
        "SELECT j.id, j.claim_token FROM unnest($1::bigint[], $2::bigint[]) AS a (id, token)
         JOIN jobs j ON j.id = a.id AND j.claim_token = a.token AND j.state = {running}"
    ),
};

/// Records the deadlines of running attempts. Columns of the input: job, claim token, deadline.
pub const SET_DEADLINES: Bulk = Bulk {
    each: &[states!(
        "UPDATE jobs SET deadline_at = $3 WHERE id = $1 AND claim_token = $2 AND state = {running} RETURNING id"
    )],
    all: states!(
        "UPDATE jobs SET deadline_at = d.deadline_at
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS d (id, token, deadline_at)
         WHERE jobs.id = d.id AND jobs.claim_token = d.token AND jobs.state = {running} RETURNING jobs.id"
    ),
};

/// Selects the first ready jobs of each limit key. Parameters: `$1` queue; then the keys, and the number of
/// jobs for each key.
pub const FIRST_OF_KEYS: Bulk = Bulk {
    each: &[states!(
        "SELECT id FROM jobs WHERE queue = $1 AND state = {ready} AND limit_key = $2 AND crashes < 2
         ORDER BY priority, position, id LIMIT $3"
    )],
    all: states!(
        "SELECT j.id FROM unnest($2::text[], $3::bigint[]) AS wanted (limit_key, room)
         CROSS JOIN LATERAL (SELECT id FROM jobs WHERE queue = $1 AND state = {ready} AND crashes < 2
             AND limit_key = wanted.limit_key COLLATE \"C\"
             ORDER BY priority, position, id LIMIT wanted.room) AS j"
    ),
};

/// Sets the lock timeout for the following statements of the transaction. Parameter: `$1` a duration with its
/// unit.
pub const SET_LOCK_TIMEOUT: Statement =
    Statement { sqlite: "SELECT $1", postgres: "SELECT set_config('lock_timeout', $1, TRUE)" };

/// Promotes due jobs to ready. Parameters: `$1` queue, `$2` now, `$3` time before which no job is scheduled,
/// `$4` maximum number.
pub const PROMOTE: Statement = Statement {
    sqlite: states!(
        "UPDATE jobs SET state = {ready} WHERE id IN (
             SELECT id FROM jobs WHERE queue = $1 AND state = {scheduled} AND run_at <= $2 AND run_at >= $3
             ORDER BY run_at, id LIMIT $4)"
    ),
    postgres: states!(
        "UPDATE jobs SET state = {ready}, position = CAST(CAST(pg_current_xact_id() AS TEXT) AS BIGINT)
         WHERE state = {scheduled} AND id IN (
             SELECT id FROM jobs WHERE queue = $1 AND state = {scheduled} AND run_at <= $2 AND run_at >= $3
             ORDER BY run_at, id LIMIT $4 FOR UPDATE SKIP LOCKED)"
    ),
};

/// Inserts jobs. Parameters: `$1` now; then the columns queue, kind, state, priority, run_at, payload,
/// max_attempts, timeout_ms, retry, limit_key, source.
pub const INSERT: Bulk = Bulk {
    each: &["INSERT INTO jobs (created_at, queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, retry,
             limit_key, source)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id"],
    all: "INSERT INTO jobs (created_at, queue, kind, state, priority, run_at, payload, max_attempts, timeout_ms, retry,
             limit_key, source)
         SELECT $1::bigint, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[],
             $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::text[])
         RETURNING id",
};

/// Adds to the counts of a minute. Columns of the input: minute, queue, kind, started, completed, failed,
/// dead, cancelled, run_ms, wait_ms, longest_ms.
pub const COUNT: Bulk = Bulk {
    each: &["INSERT INTO job_minutes (minute, queue, kind, started, completed, failed, dead, cancelled, run_ms, wait_ms,
             longest_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (minute, queue, kind) DO UPDATE SET started = job_minutes.started + excluded.started,
             completed = job_minutes.completed + excluded.completed, failed = job_minutes.failed + excluded.failed,
             dead = job_minutes.dead + excluded.dead, cancelled = job_minutes.cancelled + excluded.cancelled,
             run_ms = job_minutes.run_ms + excluded.run_ms, wait_ms = job_minutes.wait_ms + excluded.wait_ms,
             longest_ms = MAX(job_minutes.longest_ms, excluded.longest_ms)
         RETURNING minute"],
    all: "INSERT INTO job_minutes (minute, queue, kind, started, completed, failed, dead, cancelled, run_ms, wait_ms,
             longest_ms)
         SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
             $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
         ON CONFLICT (minute, queue, kind) DO UPDATE SET started = job_minutes.started + excluded.started,
             completed = job_minutes.completed + excluded.completed, failed = job_minutes.failed + excluded.failed,
             dead = job_minutes.dead + excluded.dead, cancelled = job_minutes.cancelled + excluded.cancelled,
             run_ms = job_minutes.run_ms + excluded.run_ms, wait_ms = job_minutes.wait_ms + excluded.wait_ms,
             longest_ms = GREATEST(job_minutes.longest_ms, excluded.longest_ms)
         RETURNING minute",
};

macro_rules! per_segment {
    ($($n:literal)+) => {
        /// Moves running jobs to the history; one statement per segment. Parameters: `$1` now; then the
        /// columns state, result, id, attempt, claim token. A job whose attempt or claim token does not match
        /// is left unchanged and returns no row.
        pub const END: [Bulk; SEGMENTS] = [$(Bulk {
            each: &[
                states!(concat!("INSERT INTO job_history_segment_", $n, " (id, queue, kind, state, priority, run_at, payload,
                         attempt, failures, max_attempts, timeout_ms, retry, limit_key, started_at, finished_at, result,
                         errors, source, created_at)
                     SELECT id, queue, kind, $2, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms,
                         retry, limit_key, started_at, $1, $3, errors, source, created_at
                     FROM jobs WHERE id = $4 AND attempt = $5 AND claim_token = $6 AND state = {running}")),
                states!(concat!("DELETE FROM jobs WHERE id = $4 AND attempt = $5 AND claim_token = $6 AND state = {running}
                 RETURNING ", job_release_columns!())),
            ],
            all: states!(concat!("WITH ended AS (
                     DELETE FROM jobs j
                     USING unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])
                         AS e (state, result, id, attempt, token)
                     WHERE j.id = e.id AND j.attempt = e.attempt AND j.claim_token = e.token AND j.state = {running}
                     RETURNING j.id, j.queue, j.kind, e.state, j.priority, j.run_at, j.payload, j.attempt, j.failures,
                         j.max_attempts, j.timeout_ms, j.retry, j.limit_key, j.started_at, e.result, j.errors, j.source,
                         j.created_at, j.unique_key, j.has_dependents),
                 kept AS (
                     INSERT INTO job_history_segment_", $n, " (id, queue, kind, state, priority, run_at, payload, attempt,
                         failures, max_attempts, timeout_ms, retry, limit_key, started_at, finished_at, result, errors,
                         source, created_at)
                     SELECT id, queue, kind, state, priority, run_at, payload, attempt, failures, max_attempts,
                         timeout_ms, retry, limit_key, started_at, $1::bigint, result, errors, source, created_at
                     FROM ended)
                 SELECT ", job_release_columns!(), " FROM ended")),
        }),+];

        /// Copies a job that is not running to the history as cancelled; one statement per segment.
        /// Parameters: `$1` now, `$2` result, `$3` id.
        pub const CANCEL: [&str; SEGMENTS] = [$(
            states!(concat!("INSERT INTO job_history_segment_", $n, " (id, queue, kind, state, priority, run_at, payload, attempt,
                     failures, max_attempts, timeout_ms, retry, limit_key, started_at, finished_at, result, errors, source,
                     created_at)
                 SELECT id, queue, kind, {cancelled}, priority, run_at, payload, attempt, failures, max_attempts, timeout_ms, retry,
                     limit_key, started_at, $1, $2, errors, source, created_at
                 FROM jobs WHERE id = $3"))
        ),+];

        /// Adds a line to a job's log; one statement per segment. Parameters: job, attempt, at, level, line.
        pub const LOG: [&str; SEGMENTS] = [$(
            concat!("INSERT INTO job_log_segment_", $n, " (job, attempt, at, level, line) VALUES ($1, $2, $3, $4, $5)")
        ),+];

        /// Truncates a segment of the history; one statement per segment.
        pub const EMPTY_HISTORY: [Statement; SEGMENTS] = [$(Statement {
            sqlite: concat!("DELETE FROM job_history_segment_", $n),
            postgres: concat!("TRUNCATE job_history_segment_", $n),
        }),+];

        /// Truncates a segment of the logs; one statement per segment.
        pub const EMPTY_LOG: [Statement; SEGMENTS] = [$(Statement {
            sqlite: concat!("DELETE FROM job_log_segment_", $n),
            postgres: concat!("TRUNCATE job_log_segment_", $n),
        }),+];

        /// Counts the jobs in a segment of the history; one statement per segment.
        pub const SIZE: [&str; SEGMENTS] = [$(concat!("SELECT COUNT(*) FROM job_history_segment_", $n)),+];
    };
}

per_segment!("0" "1" "2" "3" "4" "5" "6" "7");
