//! Program that `cargo xtask chaos jobs` starts and kills. It enqueues jobs, runs jobs, or lists what is in
//! the database. It prints each step as one line, because its output is all that remains after it was killed.
//!
//! Lines: `t N` a job with number N is being enqueued, `a N ID` the job was acknowledged, `b JOB ATTEMPT MS`
//! an attempt started, `e JOB ATTEMPT MS` an attempt ended, `q COUNT` number of jobs that have not ended, `s
//! COUNT` number of stale reports, printed on exit.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith_jobs::{
    AttemptContext, Handler, JOBS_MIGRATIONS, JobError, JobOutput, Jobs, NewJob, QueueConcurrency,
    RetryPolicy, WorkerOptions, Workers,
};
use kith_kernel::{Sources, SystemClock, SystemRandom, TimeOrderedIds};
use kith_store::testing::TestVault;
use kith_store::{
    EngineOptions, Migration, ModuleMigrations, PostgresOptions, Query, STORE_MIGRATIONS, SqliteOptions,
    Store, StoreOptions, params,
};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

const QUEUE: &str = "chaos";
const KIND: &str = "chaos.effect";
/// Number of concurrent callers that enqueue jobs.
const CALLERS: u64 = 16;

/// Tables of the effects of jobs. `effects` ensures that each effect happens once; `ledger` has a row for
/// each time that an effect happened.
const EFFECTS: ModuleMigrations = ModuleMigrations {
    module: "chaos",
    migrations: &[Migration {
        version: 1,
        name: "effects",
        sql: "-- up\nCREATE TABLE effects (\n    n BIGINT PRIMARY KEY\n);\nCREATE TABLE ledger (\n    n BIGINT NOT NULL,\n    \
              job BIGINT NOT NULL\n);\n\n-- down\nDROP TABLE ledger;\nDROP TABLE effects;\n",
    }],
};

fn main() -> ExitCode {
    if env::args().len() == 1 {
        eprintln!("struck by `cargo xtask chaos jobs`");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(run_command())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command line. The task is `--do migrate|enqueue|work|both|look|backends|terminate`, and the
/// database `--data FOLDER` or `--database URL`. Enqueueing needs `--from N --rate JOBS_PER_S`; working needs
/// `--concurrency N --max-ms MS`.
async fn run_command() -> Result<(), Failure> {
    let words: Vec<_> = env::args().skip(1).collect();
    let all: HashMap<_, _> = words.chunks_exact(2).map(|pair| (&*pair[0], &*pair[1])).collect();
    let text = |name: &str| all.get(name).copied().ok_or_else(|| format!("{name} is missing"));
    let number = |name: &str| -> Result<u64, Failure> { Ok(text(name)?.parse()?) };
    let engine = match text("--database") {
        Ok(url) => EngineOptions::Postgres(PostgresOptions { write_threads: 8, ..PostgresOptions::at(url) }),
        Err(_) => EngineOptions::Sqlite(SqliteOptions::in_folder(text("--data")?)),
    };
    let options = StoreOptions::new(engine, TestVault::with_secret(1));
    let task = text("--do")?;
    if task == "migrate" {
        let modules = vec![STORE_MIGRATIONS, JOBS_MIGRATIONS, EFFECTS];
        Store::migrate_up(&options, modules, kith_kernel::Clock::now(&SystemClock)).await?;
        return Ok(());
    }
    let sources = Sources {
        clock: Arc::new(SystemClock),
        ids: Arc::new(TimeOrderedIds::new(SystemRandom)),
        random: Arc::new(SystemRandom),
    };
    let jobs = Jobs::new(Store::open(options).await?, sources);
    let (pause, paused) = watch::channel(false);
    match task {
        "enqueue" => {
            let enqueuers = enqueue(&jobs, number("--from")?, number("--rate")?, &paused);
            read_commands(&jobs, enqueuers, &pause).await
        }
        "work" => {
            let workers = work(&jobs, number("--concurrency")?, number("--max-ms")?).await?;
            read_commands(&jobs, JoinSet::new(), &pause).await?;
            leave(workers).await;
            Ok(())
        }
        "both" => {
            let workers = work(&jobs, number("--concurrency")?, number("--max-ms")?).await?;
            let enqueuers = enqueue(&jobs, number("--from")?, number("--rate")?, &paused);
            read_commands(&jobs, enqueuers, &pause).await?;
            leave(workers).await;
            Ok(())
        }
        "look" => print_queues(&jobs).await,
        "backends" => say(&jobs, "p", BACKENDS).await,
        "terminate" => say(&jobs, "p", TERMINATE).await,
        _ => Err(format!("what is `{task}`?").into()),
    }
}

/// SQL that lists the connections of clients, except this one.
const BACKENDS: &str =
    "SELECT CAST(pid AS BIGINT), CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM pg_stat_activity
     WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
/// SQL that terminates one of these connections, chosen at random.
const TERMINATE: &str = "SELECT CAST(pid AS BIGINT), CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM (
         SELECT pid FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
         ORDER BY random() LIMIT 1) AS one
     WHERE pg_terminate_backend(pid)";

/// Reads commands from standard input. `pause` and `go on` control the enqueueing, and `stop` ends it. `left`
/// prints the number of jobs that have not ended. The end of the input ends the program.
async fn read_commands(
    jobs: &Jobs,
    mut enqueuers: JoinSet<()>,
    pause: &watch::Sender<bool>,
) -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match &*line {
            "stop" => {
                enqueuers.shutdown().await;
                continue;
            }
            "pause" | "go on" => {
                pause.send_replace(line == "pause");
                continue;
            }
            _ => {}
        }
        let count =
            jobs.db().read(|q| q.one("SELECT COUNT(*) FROM jobs", params![], |row| row.get::<i64>(0))).await;
        match count {
            Ok(count) => println!("q {}", count.unwrap_or(0)),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

async fn leave(workers: Workers) {
    let stale = workers.stale();
    workers.stop().await;
    println!("s {stale}");
}

/// Enqueues jobs with numbers from `from` on, and prints a line for each job that is acknowledged. After an
/// error, continues with the next number.
fn enqueue(jobs: &Jobs, from: u64, per_s: u64, paused: &watch::Receiver<bool>) -> JoinSet<()> {
    let next = Arc::new(AtomicU64::new(from));
    let mut callers = JoinSet::new();
    let pause = Duration::from_micros(CALLERS * 1_000_000 / per_s.max(1));
    for _ in 0..CALLERS {
        let (next, jobs, mut paused) = (Arc::clone(&next), jobs.clone(), paused.clone());
        callers.spawn(async move {
            while paused.wait_for(|paused| !paused).await.is_ok() {
                let n = next.fetch_add(1, Ordering::Relaxed);
                println!("t {n}");
                let often =
                    RetryPolicy::times(1_000).waiting(Duration::from_millis(100), Duration::from_secs(1));
                match jobs.enqueue(NewJob::new(QUEUE, KIND, n.to_string()).retry(often)).await {
                    Ok(enqueued) => println!("a {n} {}", enqueued.id),
                    Err(error) => eprintln!("{n} was not acknowledged: {error}"),
                }
                tokio::time::sleep(pause).await;
            }
        });
    }
    callers
}

async fn work(jobs: &Jobs, concurrency: u64, max_ms: u64) -> Result<Workers, Failure> {
    let engine = jobs.clone();
    let handler = Handler::new(KIND, move |run| {
        let engine = engine.clone();
        async move {
            let (job, attempt) = (run.id, run.attempt);
            println!("b {job} {attempt} {}", run.ctx.refreshed().now.as_millis());
            let done = effect(&engine, &run, max_ms).await;
            println!("e {job} {attempt} {}", run.ctx.refreshed().now.as_millis());
            done
        }
    });
    let share = QueueConcurrency { queue: QUEUE.to_owned(), concurrency: usize::try_from(concurrency)? };
    let mut options = WorkerOptions::new("chaos", vec![share]);
    // Other workers run the jobs that are not finished within this time, as after a kill.
    options.grace = Duration::from_secs(10);
    Ok(Workers::start(jobs, vec![handler], options).await?)
}

/// Sleeps for less than `max_ms` milliseconds, then applies the effect unless it has already happened.
async fn effect(jobs: &Jobs, run: &AttemptContext, max_ms: u64) -> Result<JobOutput, JobError> {
    let n: i64 = run.payload.parse().map_err(JobError::discard)?;
    // Knuth's multiplicative hash gives a pseudo-random value that is the same in each run.
    let draw = (run.id as u64).wrapping_mul(2_654_435_761) >> 16;
    tokio::time::sleep(Duration::from_millis(draw % max_ms.max(1))).await;
    let job = run.id;
    let written = jobs.db().write(move |tx| {
        if tx.exec("INSERT INTO effects (n) VALUES ($1) ON CONFLICT DO NOTHING", params![n])? == 1 {
            tx.exec("INSERT INTO ledger (n, job) VALUES ($1, $2)", params![n, job])?;
        }
        Ok::<_, kith_store::Error>(())
    });
    written.await.map_err(JobError::retry)?;
    Ok(JobOutput::default())
}

/// Prints the contents of the database: `l ID` a live job, `d ID` a dead letter, `h ID STATE ATTEMPT` an
/// ended job, `x N` an effect, once for each time that it happened.
async fn print_queues(jobs: &Jobs) -> Result<(), Failure> {
    let lines = jobs.db().export(|q| {
        let mut lines = numbers(q, "l", "SELECT id, CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM jobs")?;
        lines.extend(numbers(
            q,
            "d",
            "SELECT id, CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM job_dead_letters",
        )?);
        lines.extend(numbers(q, "h", "SELECT id, state, attempt FROM job_history")?);
        lines.extend(numbers(q, "x", "SELECT n, CAST(0 AS BIGINT), CAST(0 AS BIGINT) FROM ledger")?);
        Ok::<_, kith_store::Error>(lines)
    });
    lines.await?.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}

async fn say(jobs: &Jobs, word: &'static str, sql: &'static str) -> Result<(), Failure> {
    jobs.db().read(move |q| numbers(q, word, sql)).await?.into_iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn numbers(q: &Query<'_>, word: &str, sql: &'static str) -> Result<Vec<String>, kith_store::Error> {
    q.all(sql, params![], |row| {
        Ok(format!("{word} {} {} {}", row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?))
    })
}
