//! Mode of a command: full, or a smoke run with tiny amounts.

/// Mode of a command: a full run or a smoke run.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Run tiny amounts on the debug binary to test the command itself; judges no result and writes no
    /// evidence
    #[arg(long)]
    smoke: bool,
}

impl Mode {
    /// The smoke mode.
    pub const SMOKE: Self = Self { smoke: true };

    /// Returns `full` or `smoke`, depending on the mode.
    pub fn pick<T>(self, full: T, smoke: T) -> T {
        if self.smoke { smoke } else { full }
    }

    /// Returns true in smoke mode.
    pub fn is_smoke(self) -> bool {
        self.smoke
    }
}
