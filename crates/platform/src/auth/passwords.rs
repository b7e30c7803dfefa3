//! Hashes and verifies passwords on dedicated low-priority threads, so that logins do not slow down other
//! requests. Hashes are argon2id PHC strings.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, thread};

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use kith_kernel::{Problem, Random, problems};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::ClientAddress;
use crate::config::Auth;
use crate::fair_queue::{FairQueue, FairQueueReceiver, QueueFull, fair_queue};

const SALT_BYTES: usize = 16;
/// Prefixes of bcrypt hashes. Imported accounts may have such hashes.
const BCRYPT: [&str; 3] = ["$2a$", "$2b$", "$2y$"];
/// Maximum number of queued passwords per thread, about ten seconds of work. Client networks have equal
/// shares of the queue.
const MAX_QUEUED_PER_THREAD: usize = 256;
/// Minimum size of the memory buffer for argon2. When a block of this size is freed, glibc always returns the
/// memory to the system. Smaller blocks may stay in the allocator. Unused pages of the buffer need no memory.
const MIN_CAPACITY_BYTES: usize = 33 << 20;
/// Lowest scheduling priority.
const NICE: i32 = 19;

/// Error of hashing or verifying a password.
#[derive(Clone, Debug, Error)]
pub enum PasswordError {
    /// The queue is full.
    #[error("the queue of the password hashing threads is full")]
    Busy,
    /// The stored hash is invalid, or hashing failed.
    #[error("cannot hash or verify a password: {0}")]
    Fault(String),
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::new(
                &problems::UNAVAILABLE,
                "Too many log-ins are being processed. Retry in a few seconds.",
            )
            .retry_after(2),
            PasswordError::Fault(why) => {
                tracing::error!(why, "cannot hash or verify a password");
                Self::new(&problems::INTERNAL, "The request could not be completed.")
            }
        }
    }
}

/// Result of verifying a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMatch {
    /// The password is wrong.
    No,
    /// The password is correct.
    Yes,
    /// The password is correct, but it should be hashed again: the hash uses another algorithm or other
    /// costs.
    Outdated,
}

/// Counters of the hashing threads.
#[derive(Debug, Default)]
pub(crate) struct PasswordCounts {
    /// Number of passwords that wait in the queue.
    pub queued: AtomicU64,
    /// Number of hashes computed, both for new passwords and for verification.
    pub computed: AtomicU64,
}

/// Handle of the hashing threads. Clones share the threads.
#[derive(Clone)]
pub struct Passwords {
    /// Queue, keyed by client network. All commands on the server itself have the key `None`.
    jobs: FairQueue<Option<IpAddr>, QueuedHashJob>,
    counts: Arc<PasswordCounts>,
    random: Arc<dyn Random>,
    /// Hash that is verified if the account is unknown, so that the response takes the same time.
    dummy: Arc<str>,
}

/// Job in the queue. Counts as queued until it is dropped.
struct QueuedHashJob {
    job: HashJob,
    _counted: QueueCountGuard,
}

struct QueueCountGuard(Arc<PasswordCounts>);

impl Drop for QueueCountGuard {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

enum HashJob {
    Hash { password: String, salt: [u8; SALT_BYTES], reply: oneshot::Sender<Result<String, PasswordError>> },
    Verify { password: String, phc: Arc<str>, reply: oneshot::Sender<Result<PasswordMatch, PasswordError>> },
}

impl HashJob {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Hash { reply, .. } => reply.is_closed(),
            Self::Verify { reply, .. } => reply.is_closed(),
        }
    }
}

impl Passwords {
    /// Starts the threads.
    ///
    /// # Errors
    /// Returns the I/O error if a thread cannot be started or the configured costs are invalid.
    pub fn start(config: &Auth, random: Arc<dyn Random>) -> io::Result<Self> {
        let params = Params::new(config.password_memory_kib, config.password_iterations, 1, None);
        let params = params.map_err(io::Error::other)?;
        let threads = config.hash_thread_count();
        let (jobs, waiting) = fair_queue(threads * MAX_QUEUED_PER_THREAD);
        let counts = Arc::<PasswordCounts>::default();
        for n in 0..threads {
            let worker = Worker::new(&params, &counts);
            let waiting = waiting.clone();
            thread::Builder::new().name(format!("kith-hash-{n}")).spawn(move || worker.run(&waiting))?;
        }
        let dummy = Worker::new(&params, &Arc::default()).hash("", &[0; SALT_BYTES]);
        Ok(Self { jobs, counts, random, dummy: dummy.map_err(io::Error::other)?.into() })
    }

    /// Hashes `password` with a new salt and returns a PHC string. Jobs of the same `client` network share
    /// one part of the queue; `None` is for commands on the server itself.
    ///
    /// # Errors
    /// Returns [`PasswordError::Busy`] if the queue is full, and [`PasswordError::Fault`] if hashing fails.
    pub async fn hash(
        &self,
        client: Option<ClientAddress>,
        password: String,
    ) -> Result<String, PasswordError> {
        let mut salt = [0; SALT_BYTES];
        self.random.fill(&mut salt);
        let (reply, answer) = oneshot::channel();
        self.enqueue(client, HashJob::Hash { password, salt, reply })?;
        answer.await.unwrap_or(Err(PasswordError::Busy))
    }

    /// Verifies `password` against `phc`, an argon2id PHC string or a bcrypt hash. If `phc` is `None`, takes
    /// the same time and returns [`PasswordMatch::No`].
    ///
    /// # Errors
    /// Returns [`PasswordError::Busy`] if the queue is full, and [`PasswordError::Fault`] if the stored hash
    /// is invalid.
    pub async fn verify(
        &self,
        client: Option<ClientAddress>,
        password: String,
        phc: Option<String>,
    ) -> Result<PasswordMatch, PasswordError> {
        let exists = phc.is_some();
        let phc = phc.map_or_else(|| Arc::clone(&self.dummy), Arc::from);
        let (reply, answer) = oneshot::channel();
        self.enqueue(client, HashJob::Verify { password, phc, reply })?;
        // The queue drops the job, and with it the sender, if it evicts the job in favour of another network.
        let answer = answer.await.unwrap_or(Err(PasswordError::Busy));
        answer.map(|found| if exists { found } else { PasswordMatch::No })
    }

    /// Returns the counters of the hashing threads.
    pub(crate) fn counts(&self) -> Arc<PasswordCounts> {
        Arc::clone(&self.counts)
    }

    fn enqueue(&self, client: Option<ClientAddress>, job: HashJob) -> Result<(), PasswordError> {
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        let queued = QueuedHashJob { job, _counted: QueueCountGuard(Arc::clone(&self.counts)) };
        let network = client.map(ClientAddress::first_of_network);
        self.jobs.push(network, queued).map_err(|QueueFull| PasswordError::Busy)
    }
}

fn fault(error: impl ToString) -> PasswordError {
    PasswordError::Fault(error.to_string())
}

struct Worker {
    params: Params,
    /// Memory buffer, reused for consecutive jobs, because its allocation takes a third of the time of
    /// hashing.
    memory: Vec<Block>,
    counts: Arc<PasswordCounts>,
}

impl Worker {
    fn new(params: &Params, counts: &Arc<PasswordCounts>) -> Self {
        Self { params: params.clone(), memory: Vec::new(), counts: Arc::clone(counts) }
    }

    fn run(mut self, jobs: &FairQueueReceiver<Option<IpAddr>, QueuedHashJob>) {
        lower_priority();
        while let Some(QueuedHashJob { job, _counted: counted }) = self.next(jobs) {
            drop(counted);
            // The job is skipped if its caller no longer waits for the result.
            match job {
                _ if job.is_abandoned() => {}
                HashJob::Hash { password, salt, reply } => drop(reply.send(self.hash(&password, &salt))),
                HashJob::Verify { password, phc, reply } => drop(reply.send(self.verify(&password, &phc))),
            }
        }
    }

    /// Returns the next job. If the queue is empty, frees the memory buffer and then waits for a job.
    fn next(&mut self, jobs: &FairQueueReceiver<Option<IpAddr>, QueuedHashJob>) -> Option<QueuedHashJob> {
        jobs.try_take().or_else(|| {
            self.memory = Vec::new();
            jobs.take()
        })
    }

    fn hash(&mut self, password: &str, salt: &[u8]) -> Result<String, PasswordError> {
        let params = self.params.clone();
        let output = self.derive(password, salt, &params, Params::DEFAULT_OUTPUT_LEN)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).map_err(fault)?,
            salt: Some(Salt::new(salt).map_err(fault)?),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    fn verify(&mut self, password: &str, phc: &str) -> Result<PasswordMatch, PasswordError> {
        if BCRYPT.iter().any(|prefix| phc.starts_with(prefix)) {
            self.counts.computed.fetch_add(1, Ordering::Relaxed);
            let matches = bcrypt::verify(password, phc).map_err(fault)?;
            return Ok(if matches { PasswordMatch::Outdated } else { PasswordMatch::No });
        }
        let hash = PasswordHash::new(phc).map_err(fault)?;
        let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else {
            return Err(PasswordError::Fault("the stored hash has no salt or no output".to_owned()));
        };
        if hash.algorithm != Algorithm::Argon2id.ident() {
            return Err(PasswordError::Fault(format!(
                "the stored hash uses an unsupported algorithm: {}",
                hash.algorithm
            )));
        }
        let params = Params::try_from(&hash).map_err(fault)?;
        // `Output` compares in constant time.
        let matches = self.derive(password, salt, &params, expected.len())? == *expected;
        Ok(
            match (
                matches,
                params.m_cost() == self.params.m_cost() && params.t_cost() == self.params.t_cost(),
            ) {
                (false, _) => PasswordMatch::No,
                (true, true) => PasswordMatch::Yes,
                (true, false) => PasswordMatch::Outdated,
            },
        )
    }

    fn derive(
        &mut self,
        password: &str,
        salt: &[u8],
        params: &Params,
        len: usize,
    ) -> Result<Output, PasswordError> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        if self.memory.is_empty() {
            self.memory.reserve_exact(MIN_CAPACITY_BYTES / Block::SIZE);
        }
        self.memory.resize(params.block_count(), Block::default());
        let mut bytes = [0; Output::MAX_LENGTH];
        let out = bytes
            .get_mut(..len)
            .ok_or_else(|| PasswordError::Fault("the stored hash is too long".to_owned()))?;
        argon2
            .hash_password_into_with_memory(password.as_bytes(), salt, out, &mut self.memory)
            .map_err(fault)?;
        self.counts.computed.fetch_add(1, Ordering::Relaxed);
        Output::new(out).map_err(fault)
    }
}

/// Lowers the priority of this thread. If the system does not permit this, the thread keeps the normal
/// priority.
fn lower_priority() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

#[cfg(test)]
#[path = "passwords_tests.rs"]
mod tests;
