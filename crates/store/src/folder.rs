//! The data folder: a lock, so that it belongs to one process, and a socket, so that commands can speak to that one.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::future::Future;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::OpenError;

const LOCK: &str = "kith.lock";
const SOCKET: &str = "kith.sock";

/// Longest address of a socket on Linux, less its terminator (`sun_path` in unix(7)).
const SOCKET_PATH: usize = 107;

/// Longest line either side reads.
const MESSAGE_BYTES: u64 = 1024 * 1024;

/// How long to leave the listener alone when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(60);

/// A data folder that this process holds, until it drops it or dies.
#[derive(Debug)]
pub struct DataFolder {
    /// The lock file, which names the holder.
    lock: File,
    /// The folder itself is locked too: whoever deletes the lock file lets nobody in.
    folder: File,
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // Closing would do, but not at once: a process forked this moment shares the open file until it has become
        // another program. If this fails, closing releases it.
        let _ = self.lock.unlock();
        let _ = self.folder.unlock();
    }
}

impl DataFolder {
    /// Makes the folder if it is absent, readable by its owner only, and takes its lock.
    ///
    /// # Errors
    /// [`OpenError::FolderInUse`] names who has it; [`OpenError::Folder`] says what is wrong with it.
    pub fn claim(folder: &Path) -> Result<Self, OpenError> {
        let cannot = |path: &Path| {
            let path = path.display().to_string();
            move |source| OpenError::Folder { path, source }
        };
        create_folder(folder).map_err(cannot(folder))?;
        let path = folder.join(LOCK);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot(&path))?;
        let itself = File::open(folder).map_err(cannot(folder))?;
        let is_free = match (lock.try_lock(), itself.try_lock()) {
            (Err(TryLockError::Error(error)), _) => return Err(cannot(&path)(error)),
            (Err(TryLockError::WouldBlock), _) | (_, Err(TryLockError::WouldBlock)) => false,
            // NFS locks no folders.
            (Ok(()), Ok(()) | Err(TryLockError::Error(_))) => true,
        };
        if !is_free {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(cannot(&path))?;
            let holder = Some(holder.trim()).filter(|holder| !holder.is_empty());
            return Err(OpenError::FolderInUse {
                folder: folder.display().to_string(),
                holder: holder.unwrap_or("another process").to_owned(),
            });
        }
        sign(&mut lock).map_err(cannot(&path))?;
        Ok(Self { lock, folder: itself })
    }
}

/// Makes a folder and those above it that are absent, readable by their owner only. When this returns, they survive a power
/// cut.
///
/// # Errors
/// The operating system's, if a folder cannot be made or synced.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    create_folder_with(folder, &sync_folder)
}

/// Ends with the folder above the lowest that was there: who made that may have been killed before its entry was synced.
fn create_folder_with(folder: &Path, sync: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    let Some(parent) = folder.parent() else { return Ok(()) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    if !folder.is_dir() {
        create_folder_with(parent, sync)?;
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => made?,
        }
    }
    sync(parent)
}

/// Waits until the entries of a folder are on the disk. Some file systems cannot, and a folder may be closed to this user.
fn sync_folder(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if [InvalidInput, PermissionDenied, Unsupported].contains(&error.kind()) => {
            tracing::warn!(folder = %folder.display(), %error, "a folder cannot be synced to the disk");
            Ok(())
        }
        synced => synced,
    }
}

/// Writes who holds the lock into it, for those who come second.
fn sign(lock: &mut File) -> io::Result<()> {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default();
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{} (process {})", name.display(), std::process::id())
}

/// Answers a command that came through the socket: JSON in, JSON out.
pub type ControlHandler = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// The socket in a data folder, readable and writable by its owner only. Dropping it closes and removes it.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl ControlSocket {
    /// Listens in `folder`, which this process must hold, and answers each line with `handler`.
    ///
    /// # Errors
    /// The operating system's, if a folder cannot be made or synced.
    pub fn listen(folder: &Path, handler: ControlHandler) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        match std::fs::remove_file(&path) {
            // Whoever left it there is dead: the lock is ours.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let address = Address::of(folder)?;
        let listener = UnixListener::bind(&address.path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let task = tokio::spawn(async move {
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "no command can be accepted at the moment");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(PATIENCE, answer(stream, &handler)).await;
                    if !matches!(answered, Ok(Ok(()))) {
                        tracing::warn!("a command over the control socket was not answered to its end");
                    }
                });
            }
        });
        Ok(Self { path, task })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        // Someone may have removed the folder; there is nothing left to clean up then.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, handler: &ControlHandler) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let request = read_line(&mut stream).await?;
    let mut reply = handler(request).await.to_string();
    reply.push('\n');
    stream.get_mut().write_all(reply.as_bytes()).await
}

/// The next message of either side.
pub(crate) async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Value> {
    let mut line = String::new();
    stream.take(MESSAGE_BYTES).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(io::Error::from)
}

/// Speaks to the process that holds `folder`; `None` if none listens there.
///
/// # Errors
/// What went wrong on the way.
pub async fn control_call(folder: &Path, request: &Value) -> io::Result<Option<Value>> {
    let connected = match Address::of(folder) {
        Ok(address) => UnixStream::connect(&address.path).await,
        Err(error) => Err(error),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut stream = BufReader::new(stream);
    let call = async {
        stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
        read_line(&mut stream).await
    };
    tokio::time::timeout(PATIENCE, call).await.map_err(io::Error::from)?.map(Some)
}

/// Where the socket is, in a form short enough for the kernel however deep the folder lies.
struct Address {
    path: PathBuf,
    _folder: Option<File>,
}

impl Address {
    fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() <= SOCKET_PATH {
            return Ok(Self { path, _folder: None });
        }
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET);
        Ok(Self { path, _folder: Some(folder) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> ControlHandler {
        Arc::new(|request| Box::pin(async move { serde_json::json!({ "echo": request }) }))
    }

    #[test]
    fn a_folder_belongs_to_one_and_the_second_learns_who() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        let first = DataFolder::claim(&folder).unwrap();
        let refused = DataFolder::claim(&folder).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        // The lock file is no key: without it the folder is still taken.
        std::fs::remove_file(folder.join(LOCK)).unwrap();
        let refused = DataFolder::claim(&folder).unwrap_err().to_string();
        assert!(refused.contains("is in use by another process"), "{refused}");
        drop(first);
        DataFolder::claim(&folder).unwrap();
    }

    #[test]
    fn every_entry_on_the_way_to_a_new_folder_is_synced_once_it_is_there() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("a/b"));
        let synced = std::cell::RefCell::new(Vec::new());
        let sync = |folder: &Path| {
            let entries = std::fs::read_dir(folder)?.map(|entry| entry.unwrap().path());
            synced.borrow_mut().push((folder.to_owned(), entries.collect::<std::collections::BTreeSet<_>>()));
            sync_folder(folder)
        };
        create_folder_with(&b, &sync).unwrap();
        let synced = synced.take();
        assert_eq!(
            synced.iter().map(|(folder, _)| &**folder).collect::<Vec<_>>(),
            [root.path().parent().unwrap(), root.path(), &*a,]
        );
        assert!(synced[1].1.contains(&a) && synced[2].1.contains(&b), "{synced:?}");
        // One that is there already may not be on the disk.
        let fails = |_: &Path| Err(io::Error::other("the disk is broken"));
        create_folder_with(&b, &fails).unwrap_err();
        create_folder(&b).unwrap();
    }

    #[tokio::test]
    async fn a_command_speaks_to_the_holder_through_an_owner_only_socket() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(150));
        for folder in [root.path(), &deep] {
            let _held = DataFolder::claim(folder).unwrap();
            assert_eq!(control_call(folder, &Value::Null).await.unwrap(), None);
            let socket = ControlSocket::listen(folder, echo()).unwrap();
            let mode = std::fs::metadata(folder.join(SOCKET)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let reply = control_call(folder, &serde_json::json!({ "command": "status" })).await.unwrap();
            assert_eq!(reply.unwrap()["echo"]["command"], "status");
            drop(socket);
            assert_eq!(control_call(folder, &Value::Null).await.unwrap(), None);
        }
    }
}
