//! Fuzz target for schedules. The `fuzz` folder runs it, and a test runs it on the seed files. Release builds
//! do not contain it.

use kith_kernel::Timestamp;
use kith_kernel::fuzzing::Target;

use crate::schedules::Spec;

/// Fuzz targets of this crate.
pub const TARGETS: &[Target] = &[("schedules", schedules)];

/// Checks properties of a schedule. The input has three lines: a schedule, a time zone, and the current time
/// in milliseconds.
pub fn schedules(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let [schedule, zone, now] = [(); 3].map(|()| lines.next().unwrap_or_default());
    let now = Timestamp::from_millis(now.parse().unwrap_or(1_767_225_600_000));
    let spec = match Spec::parse(schedule, zone, Timestamp::EPOCH) {
        Ok(spec) => spec,
        Err(refusal) => {
            assert!((10..200).contains(&refusal.to_string().len()), "{refusal}");
            return;
        }
    };
    assert!(Spec::parse(schedule, spec.zone(), Timestamp::EPOCH).is_ok());
    let mut last = now;
    for run in spec.runs_after(now).take(5) {
        assert!(run > last, "{run} after {last}");
        assert_eq!(run.as_millis() % 1_000, 0);
        assert_eq!(spec.latest_until(run), Some(run));
        let before = Timestamp::from_millis(run.as_millis() - 1);
        assert_eq!(spec.next_after(before), Some(run));
        assert!(spec.latest_until(before).is_none_or(|earlier| earlier <= last));
        last = run;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_inputs_satisfy_properties() {
        kith_kernel::fuzzing::run_on_seeds(TARGETS);
    }
}
