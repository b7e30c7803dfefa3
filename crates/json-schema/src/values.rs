//! Compares JSON values as JSON Schema requires: numbers are equal if their mathematical values are equal,
//! regardless of notation.

use std::cmp::Ordering;
use std::fmt::Write as _;

use serde_json::{Number, Value};

use super::{TooCostly, Work};

/// Compares two numbers exactly.
pub fn compare(one: &Number, other: &Number) -> Ordering {
    let exact = |n: &Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    let float = |n: &Number| n.as_f64().unwrap_or(f64::NAN);
    match (exact(one), exact(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(one), None) => compare_mixed(one, float(other)),
        (None, Some(other)) => compare_mixed(other, float(one)).reverse(),
        (None, None) => float(one).total_cmp(&float(other)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the float is within the integers that are compared")]
fn compare_mixed(integer: i128, float: f64) -> Ordering {
    if float >= 2f64.powi(65) {
        Ordering::Less
    } else if float <= -2f64.powi(65) {
        Ordering::Greater
    } else {
        let whole = float.trunc();
        integer.cmp(&(whole as i128)).then_with(|| 0f64.total_cmp(&((float - whole) + 0.0)))
    }
}

/// Returns true if the number has no fractional part. `1.0` is an integer.
pub fn is_integer(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

/// Steps charged for formatting a floating-point number in decimal notation.
pub const FLOAT_STEPS: u64 = 16;
/// Steps charged for checking whether a number is a multiple of another.
pub const MULTIPLE_STEPS: u64 = 64;

/// Non-negative decimal number: `digits` times ten to the power of `exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    digits: u128,
    exponent: i32,
}

impl Decimal {
    /// Returns the absolute value of `number` in its JSON notation, or `None` if its digits do not fit.
    pub fn of(number: &Number) -> Option<Self> {
        let text = number.to_string();
        let text = text.trim_start_matches('-');
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
        let mut exponent = exponent.parse::<i32>().ok()? - i32::try_from(fraction.len()).ok()?;
        while digits != 0 && digits.is_multiple_of(10) {
            digits /= 10;
            exponent += 1;
        }
        Some(Self { digits, exponent })
    }

    /// Returns true if the number is a multiple of `other`, which must not be zero.
    pub fn is_multiple_of(self, other: Self) -> bool {
        let shift = (self.exponent - other.exponent).unsigned_abs();
        if self.digits == 0 {
            true
        } else if self.exponent >= other.exponent {
            // `digits` of a 64-bit number are below 2^64, so the products fit into 128 bits.
            let modulus = other.digits;
            // Computes ten to the power of `shift` by repeated squaring (Knuth, TAOCP 4.6.3), because `shift`
            // can exceed 600.
            let (mut rest, mut power, mut left) = (self.digits % modulus, 10 % modulus, shift);
            while left > 0 {
                if left % 2 == 1 {
                    rest = rest * power % modulus;
                }
                power = power * power % modulus;
                left /= 2;
            }
            rest == 0
        } else {
            let scaled = 10u128.checked_pow(shift).and_then(|power| power.checked_mul(other.digits));
            scaled.is_some_and(|scaled| self.digits.is_multiple_of(scaled))
        }
    }
}

/// Returns a text that is the same for equal values and different for different values.
///
/// # Errors
/// Returns [`TooCostly`] if the budget is used up.
pub fn key(value: &Value, work: &mut Work) -> Result<String, TooCostly> {
    let mut text = String::new();
    write_key(value, &mut text, work)?;
    Ok(text)
}

fn write_key(value: &Value, text: &mut String, work: &mut Work) -> Result<(), TooCostly> {
    work.charge(1)?;
    match value {
        Value::Null => text.push('n'),
        Value::Bool(true) => text.push('t'),
        Value::Bool(false) => text.push('f'),
        Value::Number(number) => {
            work.charge(if number.is_f64() { FLOAT_STEPS } else { 1 })?;
            write_number(number, text);
        }
        Value::String(string) => write_string(string, text, work)?,
        Value::Array(items) => {
            text.push('[');
            items.iter().try_for_each(|item| write_key(item, text, work))?;
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in sorted {
                write_string(name, text, work)?;
                write_key(value, text, work)?;
            }
            text.push('}');
        }
    }
    Ok(())
}

fn write_string(string: &str, text: &mut String, work: &mut Work) -> Result<(), TooCostly> {
    work.charge_bytes(string.len())?;
    let _ = write!(text, "\"{}:{string}", string.len());
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
fn write_number(number: &Number, text: &mut String) {
    let _ = match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) if float.fract() == 0.0 && float.abs() < 2f64.powi(100) => {
            write!(text, "#{};", float as i128)
        }
        Some(float) => write!(text, "#{float:e};"),
        None => write!(text, "#{number};"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(value: Value) -> Number {
        value.as_number().unwrap().clone()
    }

    #[test]
    fn numbers_are_compared_exactly() {
        for (one, other, order) in [
            (json!(1), json!(1.0), Ordering::Equal),
            (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992.0), Ordering::Greater),
            (json!(1), json!(1.5), Ordering::Less),
            (json!(-1), json!(-1.5), Ordering::Greater),
            (json!(u64::MAX), json!(1e300), Ordering::Less),
            (json!(i64::MIN), json!(-1e300), Ordering::Greater),
            (json!(0), json!(-0.0), Ordering::Equal),
        ] {
            assert_eq!(compare(&number(one.clone()), &number(other.clone())), order, "{one} {other}");
            assert_eq!(
                compare(&number(other.clone()), &number(one.clone())),
                order.reverse(),
                "{other} {one}"
            );
        }
    }

    #[test]
    fn multiple_of_is_exact_for_decimals() {
        for (one, other, is_multiple) in [
            (json!(0.0075), json!(0.0001), true),
            (json!(0.00751), json!(0.0001), false),
            (json!(1e308), json!(0.5), true),
            (json!(1e308), json!(0.123_456_789), false),
            (json!(12_391_239_123_u64), json!(1e-8), true),
            (json!(4.5), json!(1.5), true),
            (json!(35), json!(1.5), false),
            (json!(0), json!(7), true),
            (json!(-21), json!(7), true),
            (json!(1), json!(1e300), false),
        ] {
            let [a, b] = [&one, &other].map(|value| Decimal::of(&number(value.clone())).unwrap());
            assert_eq!(a.is_multiple_of(b), is_multiple, "{one} as a multiple of {other}");
        }
    }

    #[test]
    fn comparison_keys_are_equal_only_for_equal_values() {
        let key = |value: &Value| key(value, &mut Work::new(1_000)).unwrap();
        for (one, other) in [
            (json!(1), json!(1.0)),
            (json!(0), json!(-0.0)),
            (json!({ "a": 1, "b": [2.0] }), json!({ "b": [2], "a": 1 })),
        ] {
            assert_eq!(key(&one), key(&other), "{one} {other}");
        }
        let distinct = [
            json!(null),
            json!(false),
            json!(0),
            json!(""),
            json!("0"),
            json!([]),
            json!({}),
            json!([[]]),
            json!(["", ""]),
            json!(["\"0:"]),
            json!(1.5),
        ];
        let keys: std::collections::HashSet<_> = distinct.iter().map(key).collect();
        assert_eq!(keys.len(), distinct.len());
    }
}
