//! Tests of a dump that is restored on another server. Its rows contain transaction ids of the original
//! server, which may be higher than those of the new server.

use kith_kernel::uuid::Uuid;
use kith_store::testing::server::{PostgresServer, PostgresServerOptions};
use kith_store::testing::{TestDatabase, postgres_url};
use tokio_postgres::{Client, NoTls};

use crate::sequencer::{all_events, assert_sequence, change};
use crate::support::{Db, modules};

/// Number of rows of each kind that already had positions in the dump.
const SEQUENCED: i64 = 60_000;

/// SQL that inserts the rows of a server whose transaction ids start at 8,000,000,000. All rows below the
/// watermark have positions, and three rows above it have none. Before a sequencer runs, this server adds two
/// changes to the same subject.
const RESTORED: &str = "
    INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, tx, ordinal)
        SELECT '00000000-0000-0000-0000-' || lpad(n::text, 12, '0'), 0, 'thing.changed',
               '00000000-0000-0000-0000-000000000001', '', format('{\"n\": %s}', n), 'restored', 8000000000 + n, 0
        FROM generate_series(1, 60003) AS n;
    INSERT INTO outbox_positions (position, event_id)
        SELECT n, '00000000-0000-0000-0000-' || lpad(n::text, 12, '0') FROM generate_series(1, 60000) AS n;
    INSERT INTO audit_entries (id, at, actor, action, object, request_id, tx, ordinal)
        SELECT '00000000-0000-0000-0000-' || lpad(n::text, 12, '0'), 0, 'system:test', 'thing.changed', n::text,
               'restored', 8000000000 + n, 0
        FROM generate_series(1, 60003) AS n;
    INSERT INTO audit_seals (n, entry_id, prev, hash)
        SELECT n, '00000000-0000-0000-0000-' || lpad(n::text, 12, '0'), sha256('before'), sha256('after')
        FROM generate_series(1, 60000) AS n;
    INSERT INTO sequencer (id, low_tx) VALUES (1, 8000059990)
        ON CONFLICT (id) DO UPDATE SET low_tx = excluded.low_tx;
    INSERT INTO counters (name, n) VALUES ('00000000-0000-0000-0000-000000000001', 60005);
    ANALYZE";

const CHANGED_HERE: &str = "
    INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, ordinal)
        SELECT '00000000-0000-0000-0001-' || lpad(n::text, 12, '0'), 0, 'thing.changed',
               '00000000-0000-0000-0000-000000000001', '', format('{\"n\": %s}', n), 'restored', n
        FROM generate_series(60004, 60005) AS n";

const ROWS_READ: &str = "
    SELECT CAST(relname AS TEXT), CAST(t.seq_tup_read + SUM(i.idx_tup_read) AS BIGINT)
    FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid, relname)
    WHERE relname IN ('outbox', 'outbox_positions', 'audit_entries', 'audit_seals')
    GROUP BY relname, t.seq_tup_read";

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Waits until the sessions of the store have ended. At their end they report their statistics.
async fn until_alone(client: &Client) {
    let others = "SELECT COUNT(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    while number(client, others).await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restored_events_are_sequenced_first_without_full_scans() {
    if postgres_url().is_none() {
        return;
    }
    // The server is separate, so that no transaction of another test delays the watermark.
    let server = PostgresServer::start(PostgresServerOptions::default()).unwrap();
    let database = TestDatabase::postgres(&server.url("postgres")).await.unwrap();
    database.migrate(modules()).await.unwrap();
    let db = Db::open(database, |_| {}).await;
    db.store.close().await;
    let client = connect(&db.database.url()).await;
    until_alone(&client).await;
    client.batch_execute(RESTORED).await.unwrap();
    client.batch_execute(CHANGED_HERE).await.unwrap();
    client.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    client.batch_execute("SELECT pg_stat_reset()").await.unwrap();

    let db = db.reopened(|_| {}).await;
    db.wait_for_positions(SEQUENCED + 5).await;
    // The events are written one at a time, so that the statements run often enough for a generic plan.
    for n in 6..=30 {
        let ctx = db.ctx();
        db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(1))).await.unwrap();
        db.wait_for_positions(SEQUENCED + n).await;
        assert_eq!(db.store.oldest_unsequenced().await.unwrap(), None);
    }
    while number(&client, "SELECT low_tx FROM sequencer").await > 8_000_000_000 {
        tokio::task::yield_now().await;
    }
    // The next sequencer continues at the saved watermark.
    let db = db.reopened(|_| {}).await;
    db.wait_for_positions(SEQUENCED + 30).await;
    db.store.close().await;
    until_alone(&client).await;

    for row in client.query(ROWS_READ, &[]).await.unwrap() {
        let (table, rows): (String, i64) = (row.get(0), row.get(1));
        assert!(rows < SEQUENCED / 4, "{rows} rows of {table} were read to sequence 30 rows");
    }
    let in_order = "SELECT COUNT(*) FROM outbox_positions p JOIN outbox o ON o.id = p.event_id
                    WHERE p.position = CAST(CAST(o.payload AS json) ->> 'n' AS BIGINT)";
    assert_eq!(
        number(&client, in_order).await,
        SEQUENCED + 30,
        "each position equals the number in the payload"
    );
    let unsealed = "SELECT COUNT(*) FROM audit_entries a
                    WHERE NOT EXISTS (SELECT 1 FROM audit_seals s WHERE s.entry_id = a.id)";
    assert_eq!(number(&client, unsealed).await, 0);
}

/// The dump contains more rows without a position than one pass processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn restored_backlog_is_sequenced_once() {
    let Some(db) = Db::postgres().await else { return };
    db.store.close().await;
    let client = connect(&db.database.url()).await;
    until_alone(&client).await;
    let backlog = "
        INSERT INTO outbox (id, at, kind, subject, recipients, payload, request_id, tx, ordinal)
            SELECT '00000000-0000-0000-0000-' || lpad(n::text, 12, '0'), 0, 'thing.changed',
                   '00000000-0000-0000-0000-000000000001', '', format('{\"n\": %s}', n), 'restored', 9000000000 + n / 7, n
            FROM generate_series(1, 4500) AS n;
        INSERT INTO counters (name, n) VALUES ('00000000-0000-0000-0000-000000000001', 4500);
        INSERT INTO sequencer (id, low_tx) VALUES (1, 9000000000)
            ON CONFLICT (id) DO UPDATE SET low_tx = excluded.low_tx";
    client.batch_execute(backlog).await.unwrap();
    let db = db.reopened(|_| {}).await;
    for n in 1..=3 {
        let ctx = db.ctx();
        db.store.write(move |tx| change(tx, &ctx, Uuid::from_u128(n % 2))).await.unwrap();
    }
    db.wait_for_positions(4_503).await;
    assert_sequence(&all_events(&db.store).await, 4_503);
}
