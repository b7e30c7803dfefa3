//! Data folder: a lock that reserves the folder for one process, and a socket on which that process accepts
//! commands.

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

/// Maximum length of a Unix socket path on Linux in bytes, without its terminator (`sun_path` in unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Maximum length of a request or response on the control socket, in bytes.
const MAX_MESSAGE_BYTES: u64 = 1024 * 1024;

/// Pause after an error while accepting connections, such as when the process has no free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time limit of a call on the control socket, for the client and for the server.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Data folder locked by this process. The lock is released when this value is dropped or the process ends.
#[derive(Debug)]
pub struct DataFolder {
    /// Lock file, which contains the name of the process that holds the lock.
    lock: File,
    /// The folder itself. It is also locked, so that deleting the lock file does not release the data folder.
    folder: File,
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        // The locks are released explicitly. A child process that is forked at this moment shares the open
        // files until it calls exec, so closing them would release the locks later. If unlocking fails,
        // closing the files releases the locks.
        let _ = self.lock.unlock();
        let _ = self.folder.unlock();
    }
}

impl DataFolder {
    /// Creates the folder with mode 0700 if it does not exist, and locks it.
    ///
    /// # Errors
    /// Returns [`OpenError::FolderInUse`] if another process holds the lock, and [`OpenError::Folder`] if the
    /// folder cannot be used.
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
            // NFS cannot lock folders.
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
        write_lock_owner(&mut lock).map_err(cannot(&path))?;
        Ok(Self { lock, folder: itself })
    }
}

/// Creates a folder and its missing parents with mode 0700. When this function returns, the folders survive a
/// power failure.
///
/// # Errors
/// Returns the I/O error if a folder cannot be created or synced.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    create_folder_with(folder, &sync_folder)
}

/// Creates the missing folders and syncs their parents. The parent of the lowest existing folder is also
/// synced, because the process that created that folder may have been killed before it synced the parent.
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

/// Syncs the entries of a folder to disk. If the file system does not support this, or the user may not open
/// the folder, it only logs a warning.
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

/// Writes the program name and the process id of this process into the lock file.
fn write_lock_owner(lock: &mut File) -> io::Result<()> {
    let name = std::env::args_os().next().map(PathBuf::from);
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default();
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{} (process {})", name.display(), std::process::id())
}

/// Handler of commands received through the socket. It receives the request as JSON and returns the response
/// as JSON.
pub type ControlHandler = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// Control socket in a data folder, with mode 0600. Dropping it closes and removes the socket.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl ControlSocket {
    /// Listens in `folder`, which this process must have locked. Each connection sends one line, which is
    /// answered with the result of `handler`.
    ///
    /// # Errors
    /// Returns the I/O error if the socket cannot be created.
    pub fn listen(folder: &Path, handler: ControlHandler) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        match std::fs::remove_file(&path) {
            // The process that created the socket has ended, because this process holds the lock.
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
                        tracing::warn!(%error, "cannot accept control commands");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    let answered = tokio::time::timeout(CALL_TIMEOUT, answer(stream, &handler)).await;
                    if !matches!(answered, Ok(Ok(()))) {
                        tracing::warn!("the response to a control command was not sent completely");
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
        // This fails if the folder was removed. Then no socket is left.
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

/// Reads one message, which is a line of JSON.
pub(crate) async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Value> {
    let mut line = String::new();
    stream.take(MAX_MESSAGE_BYTES).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(io::Error::from)
}

/// Sends a request to the process that uses `folder` and returns its response. Returns `None` if no process
/// listens there.
///
/// # Errors
/// Returns the I/O error of the connection, an error if the response is not JSON, or `TimedOut` after 60
/// seconds.
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
    tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(io::Error::from)?.map(Some)
}

/// Path of the control socket. It is short enough for the kernel even if the folder is deeply nested.
struct Address {
    path: PathBuf,
    _folder: Option<File>,
}

impl Address {
    fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() <= MAX_SOCKET_PATH_BYTES {
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
    fn locked_folder_error_names_holder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("data");
        let first = DataFolder::claim(&folder).unwrap();
        let refused = DataFolder::claim(&folder).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        // Deleting the lock file does not release the folder.
        std::fs::remove_file(folder.join(LOCK)).unwrap();
        let refused = DataFolder::claim(&folder).unwrap_err().to_string();
        assert!(refused.contains("is in use by another process"), "{refused}");
        drop(first);
        DataFolder::claim(&folder).unwrap();
    }

    #[test]
    fn new_folders_are_synced_up_to_first_existing_parent() {
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
        // A folder that already exists may not have been synced.
        let fails = |_: &Path| Err(io::Error::other("the disk is broken"));
        create_folder_with(&b, &fails).unwrap_err();
        create_folder(&b).unwrap();
    }

    #[tokio::test]
    async fn control_command_is_answered_over_private_socket() {
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
