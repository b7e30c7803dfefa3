//! Streaming replicas of a test server, and failover to them.

use std::process::Stdio;
use std::time::Instant;

use super::host::send;
use super::{PostgresServer, PostgresServerError, READY_WITHIN, SUPERUSER, because};

impl PostgresServer {
    /// Starts an asynchronous streaming replica of this server. The replica is read-only until
    /// [`PostgresServer::promote`] is called.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the copy fails or the replica does not start.
    pub fn replica(&self) -> Result<Self, PostgresServerError> {
        Self::start_on(self.options.clone(), |replica| {
            let mut copy = replica.command("pg_basebackup");
            copy.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", SUPERUSER]);
            copy.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]);
            copy.arg("-D").arg(replica.data());
            replica.finish(copy).map(drop)
        })
    }

    /// Returns a URL of `database` that names both servers, this one first.
    pub fn url_with(&self, other: &Self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{},127.0.0.1:{}/{database}", self.port, other.port)
    }

    /// Runs `statements` in order, each in a separate transaction, and returns their output.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if a statement fails.
    pub fn run(&self, statements: &[&str]) -> Result<String, PostgresServerError> {
        let mut psql = self.command("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        psql.args(["-U", SUPERUSER, "-d", "postgres"]);
        statements.iter().for_each(|statement| {
            psql.args(["-c", statement]);
        });
        Ok(self.finish(psql)?.trim().to_owned())
    }

    /// Waits until this replica has replayed everything that `primary` has written so far.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the replica has not caught up within two minutes.
    pub fn catch_up(&self, primary: &Self) -> Result<(), PostgresServerError> {
        let written = primary.run(&["SELECT pg_current_wal_insert_lsn()"])?;
        self.wait_for(&format!("SELECT pg_last_wal_replay_lsn() >= '{written}'"))
    }

    /// Disconnects this replica from its primary, so that it does not receive later commits.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the replica is still connected after two minutes.
    pub fn stop_receiving(&self) -> Result<(), PostgresServerError> {
        self.run(&["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"])?;
        self.wait_for("SELECT count(*) = 0 FROM pg_stat_wal_receiver")
    }

    /// Promotes this replica to a primary. It accepts writes when this function returns.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the promotion fails.
    pub fn promote(&self) -> Result<(), PostgresServerError> {
        self.run(&["SELECT pg_promote(true, 120)"])?;
        self.wait_for("SELECT NOT pg_is_in_recovery()")
    }

    /// Makes the server reject or accept writes. The setting applies to the next transaction of each session.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the server rejects the change.
    pub fn set_read_only(&self, read_only: bool) -> Result<(), PostgresServerError> {
        let value = if read_only { "on" } else { "off" };
        let set = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        self.run(&["SET default_transaction_read_only = off", &set, "SELECT pg_reload_conf()"])?;
        // The postmaster signals all existing sessions before it starts the session that reports the new
        // setting.
        self.wait_for(&format!("SELECT current_setting('default_transaction_read_only') = '{value}'"))
    }

    /// Stops all processes of this server with SIGSTOP. The kernel still accepts connections for them.
    ///
    /// # Errors
    /// Returns [`PostgresServerError`] if the signal cannot be sent.
    pub fn freeze(&mut self) -> Result<(), PostgresServerError> {
        let Some(postmaster) = self.pid() else { return Ok(()) };
        self.frozen = true;
        // The postmaster is stopped first, so that it cannot start other processes.
        send("STOP", postmaster).map_err(because("be frozen"))?;
        self.send_all("STOP");
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "waits for a real process, with a timeout")]
    fn wait_for(&self, condition: &str) -> Result<(), PostgresServerError> {
        let started = Instant::now();
        while self.run(&[condition])? != "t" {
            if started.elapsed() > READY_WITHIN {
                return Err(PostgresServerError(format!("PostgreSQL did not come to: {condition}")));
            }
        }
        Ok(())
    }

    /// Runs a program until it ends, and returns its standard output.
    pub(super) fn finish(&self, mut command: std::process::Command) -> Result<String, PostgresServerError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let done = command.stdin(Stdio::null()).output().map_err(because("run a program"))?;
        if done.status.success() {
            return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
        }
        let output = String::from_utf8_lossy(&done.stderr);
        Err(PostgresServerError(format!("{program} failed ({}):\n{output}", done.status)))
    }
}
