//! Simulates a power cut on a folder. `shim/power.c` records writes, and this module reverts all or some of
//! those that were not synced.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;

const MAGIC: u32 = 0x4b55_444e;
const HEAD_BYTES: usize = 48;
/// Unit that a disk writes atomically.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepKind {
    Write,
    Truncate,
    Unlink,
}

/// Recorded step (write, truncation or unlink) with the information to revert it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    kind: StepKind,
    offset: u64,
    length: u64,
    old_size: u64,
    old: Vec<u8>,
}

/// Record that the shim wrote in one run, parsed.
#[derive(Debug, Default)]
pub struct UndoLog {
    /// Unsynced steps of each file, in order, with their numbers.
    unsynced: BTreeMap<PathBuf, Vec<(u64, Step)>>,
    pub steps: u64,
    pub syncs: u64,
}

/// Extent of the loss in a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All unsynced writes in every file are lost.
    All,
    /// In each file, all unsynced writes after a random position are lost.
    Suffix,
    /// In each file, a random subset of the unsynced writes is lost. One of them is torn at a sector
    /// boundary.
    Subset,
}

impl Loss {
    /// Draws a random extent. `All` is twice as likely as each other.
    pub fn draw(rng: &mut Rng) -> Self {
        *rng.choice([Self::All, Self::All, Self::Suffix, Self::Subset].iter()).expect("there are four")
    }
}

impl UndoLog {
    /// Parses the record of the shim. A truncated entry at its end is ignored, because the write did not
    /// happen.
    ///
    /// # Errors
    /// Returns an error if the format is invalid, or if the shim recorded a step that cannot be reverted.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut log = Self::default();
        let mut rest = bytes;
        while rest.len() >= HEAD_BYTES {
            let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes"));
            let u64_at = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
            ensure!(u32_at(0) == MAGIC, "the shim's journal is damaged");
            let (path_length, data_length) = (u32_at(40) as usize, u32_at(44) as usize);
            let Some(tail) = rest.get(HEAD_BYTES..HEAD_BYTES + path_length + data_length) else { break };
            let (path, data) = tail.split_at(path_length);
            let path = PathBuf::from(std::str::from_utf8(path).context("a path that is not UTF-8")?);
            let (offset, length, old_size) = (u64_at(16), u64_at(24), u64_at(32));
            let step = |kind| Step { kind, offset, length, old_size, old: data.to_vec() };
            match u32_at(4) {
                1 => log.step(path, u64_at(8), step(StepKind::Write)),
                2 => log.step(path, u64_at(8), step(StepKind::Truncate)),
                3 => log.step(path, u64_at(8), step(StepKind::Unlink)),
                4 => log.synced(&path, u64_at(8)),
                5 => bail!("the shim cannot undo {} on {}", String::from_utf8_lossy(data), path.display()),
                kind => bail!("the shim's journal has a record of kind {kind}"),
            }
            rest = &rest[HEAD_BYTES + path_length + data_length..];
        }
        Ok(log)
    }

    fn step(&mut self, path: PathBuf, sequence: u64, step: Step) {
        self.steps += 1;
        self.unsynced.entry(path).or_default().push((sequence, step));
    }

    fn synced(&mut self, path: &Path, up_to: u64) {
        self.syncs += 1;
        if let Some(steps) = self.unsynced.get_mut(path) {
            steps.retain(|(sequence, _)| *sequence > up_to);
        }
    }

    /// Reverts the steps that are lost in a power cut. Returns their number.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or written.
    pub fn cut(&self, loss: Loss, rng: &mut Rng) -> Result<usize> {
        let mut lost = 0;
        for (path, steps) in self.unsynced.iter().filter(|(_, steps)| !steps.is_empty()) {
            let steps: Vec<_> = steps.iter().map(|(_, step)| step).collect();
            let kept = choose_kept_steps(steps.len(), loss, rng);
            lost += kept.iter().filter(|kept| !**kept).count();
            let tear = (loss == Loss::Subset).then(|| rng.clone());
            replay(path, &steps, &kept, tear).with_context(|| format!("undoing {}", path.display()))?;
        }
        Ok(lost)
    }
}

/// Returns for each of `n` steps true if it reached the disk.
fn choose_kept_steps(n: usize, loss: Loss, rng: &mut Rng) -> Vec<bool> {
    let first_lost = rng.usize(0..=n);
    (0..n)
        .map(|at| match loss {
            Loss::All => false,
            Loss::Suffix => at < first_lost,
            Loss::Subset => rng.bool(),
        })
        .collect()
}

/// Reverts all steps, newest first, and remembers the data that they had written. Then repeats the kept
/// steps, oldest first. With `tear`, the first lost write that is longer than a sector is written again in
/// part, up to a random sector boundary.
fn replay(path: &Path, steps: &[&Step], kept: &[bool], tear: Option<Rng>) -> Result<()> {
    let mut made = Vec::new();
    for step in steps.iter().rev() {
        made.push(undo(path, step)?);
    }
    made.reverse();
    let torn = tear.and_then(|mut rng| {
        let at = (0..steps.len()).find(|at| !kept[*at] && made[*at].len() > SECTOR_BYTES)?;
        Some((at, SECTOR_BYTES * rng.usize(1..=(made[at].len() - 1) / SECTOR_BYTES)))
    });
    for (at, (step, bytes)) in steps.iter().zip(&made).enumerate() {
        match torn {
            Some((torn_at, length)) if torn_at == at => redo(path, step, &bytes[..length])?,
            _ if kept[at] => redo(path, step, bytes)?,
            _ => {}
        }
    }
    Ok(())
}

/// Reverts a step and returns the bytes that it had written.
fn undo(path: &Path, step: &Step) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let mut made = Vec::new();
    if step.kind == StepKind::Write {
        let end = (step.offset + step.length).min(size);
        made.resize(usize::try_from(end.saturating_sub(step.offset))?, 0);
        file.read_exact_at(&mut made, step.offset)?;
    }
    file.write_all_at(&step.old, step.offset)?;
    if step.kind != StepKind::Write || size > step.old_size {
        file.set_len(step.old_size)?;
    }
    Ok(made)
}

fn redo(path: &Path, step: &Step, bytes: &[u8]) -> Result<()> {
    match step.kind {
        StepKind::Write => open(path)?.write_all_at(bytes, step.offset)?,
        StepKind::Truncate => open(path)?.set_len(step.length)?,
        StepKind::Unlink => remove_if_there(path)?,
    }
    Ok(())
}

/// Removes a file if it exists. If everything written between two unlinks of the file is lost, the second
/// unlink finds no file.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Opens a file. If it was unlinked, creates it again, so that the step can restore its content.
fn open(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folder with one file, and the record that the shim would write for changes of the file.
    struct Disk {
        _folder: tempfile::TempDir,
        path: PathBuf,
        log: Vec<u8>,
        sequence: u64,
    }

    impl Disk {
        fn holding(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            fs::write(&path, text).unwrap();
            Self { _folder: folder, path, log: Vec::new(), sequence: 0 }
        }

        fn record(&mut self, kind: u32, offset: u64, length: u64, old: &[u8]) {
            self.sequence += u64::from(kind != 4);
            let size = fs::metadata(&self.path).unwrap().len();
            let path = self.path.to_str().unwrap().as_bytes();
            self.log.extend(MAGIC.to_le_bytes());
            self.log.extend(kind.to_le_bytes());
            for number in [self.sequence, offset, length, size] {
                self.log.extend(number.to_le_bytes());
            }
            for length in [path.len(), old.len()] {
                self.log.extend(u32::try_from(length).unwrap().to_le_bytes());
            }
            self.log.extend(path);
            self.log.extend(old);
        }

        fn write(&mut self, offset: usize, text: &str) {
            let now = fs::read(&self.path).unwrap();
            let old = now.get(offset..(offset + text.len()).min(now.len())).unwrap_or_default().to_vec();
            self.record(1, offset as u64, text.len() as u64, &old);
            open(&self.path).unwrap().write_all_at(text.as_bytes(), offset as u64).unwrap();
        }

        fn truncate(&mut self, length: usize) {
            let now = fs::read(&self.path).unwrap();
            self.record(2, length as u64, length as u64, &now[length..]);
            open(&self.path).unwrap().set_len(length as u64).unwrap();
        }

        fn unlink(&mut self) {
            let now = fs::read(&self.path).unwrap();
            self.record(3, 0, 0, &now);
            fs::remove_file(&self.path).unwrap();
        }

        fn sync(&mut self) {
            self.record(4, 0, 0, &[]);
        }

        fn cut(&self, loss: Loss, seed: u64) -> usize {
            UndoLog::read(&self.log).unwrap().cut(loss, &mut Rng::with_seed(seed)).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }
    }

    #[test]
    fn only_unsynced_writes_are_lost() {
        let mut disk = Disk::holding("one two three");
        disk.write(4, "TWO");
        disk.sync();
        disk.write(8, "THREE and more");
        disk.write(0, "ONE");
        disk.truncate(5);
        disk.write(3, "!!!!!!");
        assert_eq!(disk.text(), "ONE!!!!!!");
        assert_eq!(disk.cut(Loss::All, 1), 4);
        assert_eq!(disk.text(), "one TWO three");
    }

    #[test]
    fn sync_does_not_cover_later_writes() {
        let mut disk = Disk::holding("");
        disk.write(0, "a");
        let up_to = disk.sequence;
        disk.write(1, "b");
        let after = std::mem::replace(&mut disk.sequence, up_to);
        disk.sync();
        disk.sequence = after;
        disk.cut(Loss::All, 1);
        assert_eq!(disk.text(), "a");
    }

    #[test]
    fn lost_unlink_restores_file() {
        let mut disk = Disk::holding("kept");
        disk.unlink();
        assert_eq!(disk.cut(Loss::All, 1), 1);
        assert_eq!(disk.text(), "kept");
    }

    #[test]
    fn second_unlink_tolerates_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "first").unwrap();
        remove_if_there(&path).unwrap();
        remove_if_there(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn suffix_loss_restores_an_earlier_state() {
        let states = ["0", "01", "012", "0123"];
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut disk = Disk::holding("0");
            (1..4).for_each(|at| disk.write(at, &at.to_string()));
            disk.cut(Loss::Suffix, seed);
            assert!(states.contains(&disk.text().as_str()), "{}", disk.text());
            seen.insert(disk.text());
        }
        assert_eq!(seen.len(), states.len());
    }

    #[test]
    fn subset_loss_keeps_remaining_writes_whole_and_in_order() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let mut disk = Disk::holding("....");
            disk.write(0, "ab");
            disk.write(1, "cd");
            disk.cut(Loss::Subset, seed);
            seen.insert(disk.text());
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["....", ".cd.", "ab..", "acd."]);
    }

    #[test]
    fn torn_write_ends_at_sector_boundary() {
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let mut disk = Disk::holding("");
            disk.write(0, &"x".repeat(2_000));
            disk.cut(Loss::Subset, seed);
            lengths.insert(disk.text().len());
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [512, 1_024, 1_536, 2_000]);
    }

    #[test]
    fn truncated_record_is_ignored_and_unknown_step_is_an_error() {
        let mut disk = Disk::holding("old");
        disk.write(0, "new");
        let whole = disk.log.len();
        disk.record(1, 0, 3, b"new");
        assert_eq!(UndoLog::read(&disk.log[..whole + 50]).unwrap().steps, 1);
        disk.record(5, 0, 0, b"writev");
        assert!(UndoLog::read(&disk.log).unwrap_err().to_string().contains("writev"));
    }
}
