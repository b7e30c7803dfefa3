//! Tests for SQLite only: the lock of the data folder, checkpoints, and a full disk.

use std::time::Duration;

use kith_store::{Error, OpenError, Store, params};

use crate::support::{Db, add};

#[tokio::test(flavor = "multi_thread")]
async fn data_folder_allows_only_one_store() {
    let db = Db::sqlite().await;
    let second =
        Store::open(db.options.clone()).await.err().expect("a second store in the same folder is rejected");
    assert!(
        matches!(&second, OpenError::FolderInUse { holder, .. } if holder.contains("process")),
        "{second}"
    );
    let db = db.reopened(|_| {}).await;
    db.add("again").await.unwrap();
}

/// The write-ahead log is truncated during writes, by a connection other than the writer's.
#[tokio::test(flavor = "multi_thread")]
async fn wal_is_truncated_during_writes() {
    let db = Db::sqlite().await;
    let log = db.database.folder().unwrap().join("kith.db-wal");
    let log_mib = || std::fs::metadata(&log).unwrap().len() >> 20;
    let mut sizes = Vec::new();
    for burst in 0..4_u8 {
        for id in 0..40_i64 {
            let bytes = vec![burst; 1024 * 1024];
            let upsert = "INSERT INTO kinds (id, bytes) VALUES ($1, $2)
                          ON CONFLICT (id) DO UPDATE SET bytes = excluded.bytes";
            let done: Result<u64, Error> =
                db.store.write(move |tx| tx.exec(upsert, params![id, bytes])).await;
            done.unwrap();
        }
        sizes.push(log_mib());
        let before = db.store.stats().checkpoints;
        let copied = async {
            while db.store.stats().checkpoints < before + 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), copied).await.expect("checkpoints run automatically");
    }
    assert!(sizes[0] >= 40 && sizes[3] < 2 * sizes[0], "log size in MiB after each burst: {sizes:?}");
    let file = db.database.folder().unwrap().join("kith.db");
    assert!(
        std::fs::metadata(file).unwrap().len() > 39 * 1024 * 1024,
        "checkpoints have written to the database file"
    );
    db.store.close().await;
    let left =
        std::fs::metadata(db.database.folder().unwrap().join("kith.db-wal")).map_or(0, |log| log.len());
    assert_eq!(left, 0, "closing empties the write-ahead log");
}

/// Only the writer itself can restart the log, because only it knows when nothing is being written.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wal_size_is_bounded_while_writer_is_saturated() {
    const CALLERS: i64 = 1_000;
    let db = Db::sqlite().await;
    let log = db.database.folder().unwrap().join("kith.db-wal");
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = db.store.clone();
        callers.spawn(async move {
            for n in 0..16 {
                let (id, bytes) = ((n * CALLERS + caller) % 2_000, vec![0; 64 * 1024]);
                let upsert = "INSERT INTO kinds (id, bytes) VALUES ($1, $2)
                              ON CONFLICT (id) DO UPDATE SET bytes = excluded.bytes";
                let done: Result<u64, Error> =
                    store.write(move |tx| tx.exec(upsert, params![id, bytes])).await;
                done.unwrap();
            }
        });
    }
    callers.join_all().await;
    // The file never shrinks, so its size is the maximum size that the log had.
    let max = std::fs::metadata(&log).unwrap().len() >> 20;
    assert!(max < 120, "the log grew to {max} MiB while 1,000 MiB were written");
    let now = db.store.stats().wal_bytes >> 20;
    assert!(now <= max, "{now} MiB");
}

/// Uses a disk that is really full: a file system that is too small for the data. Mounting it needs root, as
/// in CI.
#[tokio::test(flavor = "multi_thread")]
async fn full_disk_loses_no_acknowledged_write() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(mount.path())
        .output()
        .is_ok_and(|done| done.status.success());
    if !mounted {
        eprintln!("not run: mounting a small file system needs root");
        return;
    }
    let outcome = tokio::spawn(fill(mount.path().join("data"))).await;
    let unmounted = std::process::Command::new("umount").arg("-l").arg(mount.path()).status().unwrap();
    assert!(unmounted.success());
    outcome.unwrap();
}

async fn fill(folder: std::path::PathBuf) {
    use kith_store::testing::TestVault;
    use kith_store::{EngineOptions, SqliteOptions, StoreOptions};
    let ballast = folder.with_file_name("ballast");
    std::fs::write(&ballast, vec![0; 1024 * 1024]).unwrap();
    let options = StoreOptions::new(
        EngineOptions::Sqlite(SqliteOptions::in_folder(&folder)),
        TestVault::with_secret(1),
    );
    Store::migrate_up(&options, crate::support::modules(), kith_kernel::Timestamp::EPOCH).await.unwrap();
    let store = Store::open(options).await.unwrap();
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for n in 0..200 {
        let name = format!("{n:04} {}", "x".repeat(64 * 1024));
        let written = name.clone();
        let done: Result<(), Error> = store.write(move |tx| add(tx, &written)).await;
        match done {
            Ok(()) => acknowledged.push(name),
            Err(Error::Unavailable(_) | Error::OutcomeUnknown(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        if refused > 5 {
            break;
        }
    }
    assert!(refused > 5, "200 rows of 64 KiB did not fill 4 MiB");
    assert!(!acknowledged.is_empty());
    let there: Result<Vec<String>, Error> = store.read(crate::support::names).await;
    let there = there.expect("reads succeed while the disk is full");
    assert!(acknowledged.iter().all(|name| there.contains(name)), "an acknowledged row is missing");
    std::fs::remove_file(ballast).unwrap();
    let done: Result<(), Error> = store.write(|tx| add(tx, "room again")).await;
    done.expect("writes succeed again after disk space is freed");
    store.close().await;
}
