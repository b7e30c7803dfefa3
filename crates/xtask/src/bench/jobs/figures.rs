//! Reads and formats the figures in the output of a run.

use serde_json::Value;

/// Returns the number named `what` in the output, or NaN if it is missing.
pub fn number(output: &Value, what: &str) -> f64 {
    output[what].as_f64().unwrap_or(f64::NAN)
}

/// Formats a whole number with thousands separators.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn numbers_have_thousands_separators() {
        let formatted = [0.4, 999.0, 1_000.0, 1_234_567.8].map(thousands);
        assert_eq!(formatted, ["0", "999", "1,000", "1,234,568"]);
    }
}
