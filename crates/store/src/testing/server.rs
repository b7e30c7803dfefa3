//! PostgreSQL server for tests: the installed package, started on a free loopback port with a separate data
//! folder.
//!
//! It does not use or change existing servers. The server ends with the process that started it.

mod certificates;
mod host;
mod replica;

use std::collections::VecDeque;
use std::io;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;

pub use host::{INSTALL, find_bin};
use host::{free_port, make_folder, processes_in, send, set_owner, start_watchdog, unprivileged};

const SUPERUSER: &str = "kith";
/// Beginning of the log message that a primary or a replica writes when it is ready.
const READY: &str = "database system is ready to accept ";
const READY_WITHIN: Duration = Duration::from_secs(120);
const LOG_LINES: usize = 60;

/// Configuration of the server.
#[derive(Clone, Debug, Default)]
pub struct PostgresServerOptions {
    /// True to sync commits to disk. False is faster, for data that does not have to survive a crash.
    pub fsync: bool,
    /// True to enable TLS with a certificate for `localhost` and `127.0.0.1`.
    pub tls: bool,
    /// Parent of the server's folder; `None` for the temporary folder of the system.
    pub parent: Option<PathBuf>,
}

/// Reason why the server did not start or stop, with the last lines of its log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PostgresServerError(String);

/// Shutdown mode of PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients and shuts down cleanly.
    Fast,
    /// Ends all processes immediately. The next start recovers from the write-ahead log.
    Immediate,
}

/// Server that is running, or stopped and can be started again. Dropping this value stops the server and
/// removes its folder.
#[derive(Debug)]
pub struct PostgresServer {
    bin: PathBuf,
    port: u16,
    run_as: Option<(u32, u32)>,
    options: PostgresServerOptions,
    running: Option<Running>,
    frozen: bool,
    watchdog: Child,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    postmaster: Child,
    /// Thread that reads the log. It ends when no process of the server has the log pipe open.
    log: JoinHandle<()>,
}

impl PostgresServer {
    /// Creates a data folder and starts a server on it. The server accepts connections when this function
    /// returns.
    ///
    /// # Errors
    /// Returns an error if no server is installed (the message contains the name of the package) or if the
    /// server does not start.
    pub fn start(options: PostgresServerOptions) -> Result<Self, PostgresServerError> {
        Self::start_on(options, Self::init)
    }

    /// Starts a server on the data folder that `fill` creates.
    fn start_on(
        options: PostgresServerOptions,
        fill: impl FnOnce(&Self) -> Result<(), PostgresServerError>,
    ) -> Result<Self, PostgresServerError> {
        let bin = find_bin()?;
        let folder = make_folder(options.parent.as_deref()).map_err(because("make its folder"))?;
        let run_as = unprivileged(folder.path()).map_err(because("find an unprivileged user"))?;
        set_owner(folder.path(), run_as).map_err(because("hand over its folder"))?;
        let watchdog = start_watchdog(folder.path()).map_err(because("start its watchdog"))?;
        let mut server =
            Self { bin, port: 0, run_as, options, running: None, frozen: false, watchdog, folder };
        fill(&server)?;
        if server.options.tls {
            certificates::write(server.folder.path(), run_as).map_err(because("write its certificates"))?;
        }
        // Another process may use the port between the check and the start, so the start is tried several
        // times.
        let mut tries = 5;
        loop {
            server.port = free_port().map_err(because("find a free port"))?;
            tries -= 1;
            match server.restart() {
                Err(e) if tries > 0 && e.0.contains("could not bind") => {}
                outcome => return outcome.map(|()| server),
            }
        }
    }

    /// Returns the URL of `database` for the superuser `kith`, which has no password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the path of the certificate authority that signed the server's certificate, in PEM format. The
    /// file exists only if TLS is enabled.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join(certificates::CA)
    }

    /// Returns the loopback port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the process id of the postmaster while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.postmaster.id())
    }

    /// Stops the server and waits until all its processes have ended. Does nothing if it is already stopped.
    ///
    /// # Errors
    /// Returns an error if the signal cannot be sent.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), PostgresServerError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let signal = match mode {
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        };
        // A server that has already ended is not an error.
        if running.postmaster.try_wait().map_err(because("be waited for"))?.is_none() {
            send(signal, running.postmaster.id()).map_err(because("be signalled to stop"))?;
        }
        if std::mem::take(&mut self.frozen) {
            self.send_all("CONT");
        }
        running.wait_until_gone()
    }

    /// Sends SIGKILL to all processes of the server and waits until they have ended. Afterwards the port
    /// refuses connections.
    ///
    /// # Errors
    /// Returns an error if the signal cannot be sent.
    pub fn kill(&mut self) -> Result<(), PostgresServerError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.postmaster.kill().map_err(because("be killed"))?;
        running.postmaster.wait().map_err(because("be waited for"))?;
        // Backends end when they notice that their parent has ended. A backend that waits for a lock may
        // never notice it.
        self.send_all("KILL");
        running.wait_until_gone()
    }

    fn send_all(&self, signal: &str) {
        for pid in processes_in(&self.data()) {
            // The process may have ended since it was listed.
            let _ = send(signal, pid);
        }
    }

    /// Starts a stopped or killed server on the same port and data folder. The server accepts connections
    /// when this function returns.
    ///
    /// # Errors
    /// Returns an error if the server does not become ready. The message ends with the last lines of its log.
    pub fn restart(&mut self) -> Result<(), PostgresServerError> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).args(self.settings());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut postmaster = command.spawn().map_err(because("start"))?;
        let stderr = postmaster.stderr.take().expect("standard error is piped");
        let (ready_sender, ready) = mpsc::channel();
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let log = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || follow(stderr, &lines, &ready_sender)
        });
        self.running = Some(Running { postmaster, log });
        let why = match ready.recv_timeout(READY_WITHIN) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => "was not ready in time",
            Err(RecvTimeoutError::Disconnected) => "ended at once",
        };
        self.kill()?;
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let output = lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        Err(PostgresServerError(format!("PostgreSQL {why}; it said:\n{output}")))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns a command for a program of the server. It runs as an unprivileged user and in a separate
    /// process group, so that Ctrl-C in the terminal does not end it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.folder.path()).process_group(0);
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn init(&self) -> Result<(), PostgresServerError> {
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.data()).args([
            "-U",
            SUPERUSER,
            "--auth=trust",
            "--encoding=UTF8",
            "--data-checksums",
        ]);
        // The default collation is an ICU collation, as on many managed servers, so that tests detect queries
        // that depend on the default order.
        command.args([
            "--locale=C.UTF-8",
            "--locale-provider=icu",
            "--icu-locale=en-US",
            "--no-instructions",
        ]);
        if !self.options.fsync {
            command.arg("--no-sync");
        }
        self.finish(command).map(drop)
    }

    fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            "max_connections=400".to_owned(),
            "timezone=UTC".to_owned(),
        ];
        if !self.options.fsync {
            settings.extend(["fsync", "synchronous_commit", "full_page_writes"].map(|s| format!("{s}=off")));
        }
        if self.options.tls {
            let file = |name: &str| self.folder.path().join(name).display().to_string();
            settings.push("ssl=on".to_owned());
            settings.push(format!("ssl_cert_file={}", file(certificates::CERTIFICATE)));
            settings.push(format!("ssl_key_file={}", file(certificates::KEY)));
        }
        settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]).collect()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Errors cannot be reported here. The watchdog cleans up when this process ends.
        let _ = self.stop(StopMode::Immediate);
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

impl Running {
    fn wait_until_gone(mut self) -> Result<(), PostgresServerError> {
        self.postmaster.wait().map_err(because("be waited for"))?;
        self.log.join().map_err(|_| PostgresServerError("the log's reader panicked".to_owned()))
    }
}

fn because(what: &str) -> impl FnOnce(io::Error) -> PostgresServerError {
    move |e| PostgresServerError(format!("PostgreSQL for tests could not {what}: {e}"))
}

/// Reads the server's log to its end, stores the last lines, and sends a message when the server is ready.
fn follow(from: impl io::Read, lines: &Mutex<VecDeque<String>>, ready_sender: &mpsc::Sender<()>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        if line.contains(READY) {
            // The receiver is dropped after the first start.
            let _ = ready_sender.send(());
        }
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(line);
        if lines.len() > LOG_LINES {
            lines.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpStream};
    use std::{env, fs};

    use super::*;

    /// Sends `what` (a protocol version and the rest of the packet) and returns the first byte of the
    /// response.
    fn first_answer(port: u16, what: &[u8]) -> u8 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let length = u32::try_from(what.len() + 4).unwrap();
        stream.write_all(&[&length.to_be_bytes(), what].concat()).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte[0]
    }

    const HELLO: &[u8] = b"\0\x03\0\0user\0kith\0database\0postgres\0\0";
    const SSL_REQUEST: &[u8] = &80_877_103_u32.to_be_bytes();

    #[test]
    fn server_restarts_on_same_port_after_kill_and_cleans_up() {
        if env::var_os("KITH_TEST_SQLITE_ONLY").is_some() {
            return;
        }
        let options = PostgresServerOptions { tls: true, ..PostgresServerOptions::default() };
        let mut server = PostgresServer::start(options).unwrap();
        let (port, folder) = (server.port(), server.folder.path().to_owned());
        assert_eq!(first_answer(port, HELLO), b'R', "the server authenticates `kith`");
        assert_eq!(first_answer(port, SSL_REQUEST), b'S', "the server accepts TLS");
        assert!(fs::read_to_string(server.ca_file()).unwrap().contains("BEGIN CERTIFICATE"));

        server.kill().unwrap();
        assert!(processes_in(&server.data()).is_empty());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the port rejects connections");
        server.restart().unwrap();
        assert_eq!(first_answer(port, HELLO), b'R');

        server.stop(StopMode::Fast).unwrap();
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the port rejects connections");
        server.restart().unwrap();
        drop(server);
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "the port rejects connections");
        assert!(!folder.exists());
    }
}
