//! Benchmark of the job engine, started by `cargo xtask bench jobs`. It measures one row per run, on the
//! database named on the command line, and prints the result as one line of JSON. `load/peers/rows.js` does
//! the same for the peers.
//!
//! Example: `jobs --row drain --jobs 20000 --data FOLDER`, or `--database postgres://…`.

mod apart;
mod bloat;
mod engine;
mod rows;

use std::collections::HashMap;
use std::env;
use std::process::ExitCode;

use serde_json::{Value, json};

use self::engine::Engine;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Command-line arguments.
struct Args(HashMap<String, String>);

impl Args {
    fn parse() -> Result<Self, Error> {
        let mut all = HashMap::new();
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("what is `{word}`?"))?;
            all.insert(name.to_owned(), words.next().ok_or_else(|| format!("{word} needs a value"))?);
        }
        Ok(Self(all))
    }

    fn text(&self, name: &str) -> Result<&str, Error> {
        self.0.get(name).map(String::as_str).ok_or_else(|| format!("--{name} is missing").into())
    }

    fn number(&self, name: &str, usual: u64) -> Result<u64, Error> {
        Ok(self.0.get(name).map(|text| text.parse()).transpose()?.unwrap_or(usual))
    }
}

fn main() -> ExitCode {
    // `cargo test` and `cargo bench` also run this program. Without `--row` it measures nothing.
    if !env::args().any(|word| word == "--row") {
        eprintln!("driven by `cargo xtask bench jobs`");
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let measured = runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(measure()));
    match measured {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<Value, Error> {
    let args = Args::parse()?;
    let (row, jobs) = (args.text("row")?, args.number("jobs", 20_000)?);
    let engine = Engine::open(&args).await?;
    let seen = match row {
        "single" => rows::single(&engine, jobs).await?,
        "bulk" => rows::bulk(&engine, jobs).await?,
        "drain" => rows::drain(&engine, jobs).await?,
        "cycle" => rows::cycle(&engine, jobs).await?,
        "latency" => rows::latency(&engine, jobs).await?,
        "due" | "million" => rows::due(&engine, jobs).await?,
        "bloat" => bloat::bloat(&engine, jobs).await?,
        "workers" => apart::workers(&engine, jobs, args.number("workers", 1)?).await?,
        "child" => return apart::child(&engine).await,
        _ => return Err(format!("there is no row `{row}`").into()),
    };
    let mut line = json!({
        "peer": "Kith",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": { "concurrency": engine::CONCURRENCY, "history": "kept" },
        "durability": engine.durability().await?,
        "row": row,
        "jobs": jobs,
    });
    line.as_object_mut().zip(seen.as_object()).into_iter().for_each(|(line, seen)| line.extend(seen.clone()));
    Ok(line)
}
