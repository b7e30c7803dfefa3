//! Environment of a test server: its programs, folder, user, port and processes.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, io};

use tempfile::TempDir;

use super::PostgresServerError;

/// Command that installs PostgreSQL on Debian and Ubuntu.
pub const INSTALL: &str = "apt-get install -y postgresql";

/// Shell script that stops the server and removes its folder when the process that started it has ended. That
/// process has the other end of the script's input pipe open.
const WATCHDOG: &str = r#"
read -r _
if [ -s "$1/data/postmaster.pid" ]; then
    kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")"
    tries=0
    while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
fi
rm -rf "$1"
"#;

/// Returns the folder with the programs of the newest installed server. It searches Debian's folders first,
/// then `PATH`.
///
/// # Errors
/// Returns an error if no server is installed. Its message contains the name of the package.
pub fn find_bin() -> Result<PathBuf, PostgresServerError> {
    let complete = |bin: &Path| bin.join("initdb").is_file() && bin.join("postgres").is_file();
    let version = |path: &Path| path.file_name().and_then(OsStr::to_str)?.parse::<u32>().ok();
    let mut found: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((version(&entry.path())?, entry.path().join("bin"))))
        .filter(|(_, bin)| complete(bin))
        .collect();
    found.sort();
    let on_path = || env::split_paths(&env::var_os("PATH")?).find(|bin| complete(bin));
    found.pop().map(|(_, bin)| bin).or_else(on_path).ok_or_else(|| {
        PostgresServerError(format!("no PostgreSQL server is installed; on Debian and Ubuntu: {INSTALL}"))
    })
}

pub(super) fn make_folder(parent: Option<&Path>) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("kith-postgres-").tempdir_in(parent.unwrap_or(&env::temp_dir()))
}

/// Returns the user and group with which to run the server if this process is root, because PostgreSQL
/// refuses to run as root. Returns `None` otherwise.
pub(super) fn unprivileged(ours: &Path) -> io::Result<Option<(u32, u32)>> {
    if fs::metadata(ours)?.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = fields.find(|fields| fields[0] == name && fields.len() > 3)?;
        Some((user[2].parse().ok()?, user[3].parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.map(Some).ok_or_else(|| io::Error::other("neither `postgres` nor `nobody` exists"))
}

pub(super) fn set_owner(path: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
}

pub(super) fn start_watchdog(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", WATCHDOG, "kith-postgres-watchdog"]).arg(folder).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Returns a free port outside the range used for outgoing connections, so that no other connection uses it
/// while the server is stopped.
pub(super) fn free_port() -> io::Result<u16> {
    let seed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let candidates = (0..10_000).map(|i| 20_000 + (seed.wrapping_add(i)) % 10_000);
    let mut free = candidates.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    free.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))
}

/// Returns the ids of the processes whose working directory is `folder`. All processes of a server run in its
/// data folder.
pub(super) fn processes_in(folder: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let here =
        processes.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder));
    here.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(super) fn send(signal: &str, pid: u32) -> io::Result<()> {
    let kill = ["-c", r#"kill -s "$1" "$2""#, "sh", signal, &pid.to_string()];
    let done = Command::new("sh").args(kill).stderr(Stdio::null()).status()?;
    done.success().then_some(()).ok_or_else(|| io::Error::other(format!("kill: {done}")))
}
