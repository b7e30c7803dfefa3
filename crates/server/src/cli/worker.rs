//! `kith worker`: runs jobs in a separate process, on the PostgreSQL database of the servers.

use anyhow::{Context as _, anyhow};
use clap::Args;
use kith_platform::telemetry::log;

use super::serve::Signals;
use super::{Failure, Settings, print};
use crate::start::{self, TestOverrides};

#[derive(Debug, Args)]
pub(super) struct Worker {
    #[command(flatten)]
    settings: Settings,
    /// Queues whose jobs to run, separated by commas; default all queues of the modules of this build
    #[arg(long, value_name = "QUEUES", value_delimiter = ',')]
    queues: Vec<String>,
    /// Maximum number of concurrent jobs per queue [default: `jobs.concurrency`]
    #[arg(long, value_name = "NUMBER")]
    concurrency: Option<u16>,
}

impl Worker {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.settings.load(Vec::new())?;
        if config.is_sqlite() {
            let reason = "`kith worker` requires PostgreSQL: a SQLite database is used by one process, which \
                       serves requests and runs jobs";
            return Err(anyhow!(reason).into());
        }
        let concurrency = self.concurrency.unwrap_or(config.jobs.concurrency);
        if concurrency == 0 {
            return Err(anyhow!("--concurrency must be at least 1").into());
        }
        for queue in &self.queues {
            kith_jobs::check_name("--queues", queue).map_err(anyhow::Error::from)?;
        }
        let (_flush, log_level) = log::init(&config.log).context("cannot log")?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        let overrides = TestOverrides { log_level: Some(log_level), ..TestOverrides::default() };
        let done = runtime.block_on(async {
            let mut signals = Signals::listen().context("cannot listen for signals")?;
            let app = start::open(config, overrides).await.map_err(anyhow::Error::from)?;
            let queues = if self.queues.is_empty() {
                app.job_queues().into_iter().map(str::to_owned).collect()
            } else {
                self.queues
            };
            let clock =
                app.clock.clone().map(|clock| tokio::spawn(clock.run(app.db.clone(), app.stop.clone())));
            let workers =
                app.start_workers(&queues, usize::from(concurrency)).await.map_err(anyhow::Error::from)?;
            print(&format!("Kith runs jobs of {} as worker {}", queues.join(", "), workers.worker()))?;
            signals.next().await;
            tracing::info!("stopping");
            tokio::select! {
                () = workers.stop() => tracing::info!("stopped"),
                () = signals.next() => return Err(anyhow!("stopped immediately by a second signal").into()),
            }
            if let Some(clock) = clock {
                clock.abort();
            }
            app.db.close().await;
            Ok(())
        });
        runtime.shutdown_background();
        done
    }
}
