//! What a plain YAML scalar means: the rules of go-yaml v2, which Kubernetes uses (YAML 1.1).

use super::node::Value;

/// The value of a plain, untagged scalar.
///
/// Source: go-yaml v2 `resolve.go`. Timestamps stay strings there when JSON is the target, and
/// sexagesimal numbers (`1:30`) were never read as numbers.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Value::String(text.to_owned());
    }
    let plain = text.replace('_', "");
    if let Some(literal) = integer(&plain) {
        return Value::Number(literal);
    }
    if is_float(&plain) {
        // JSON has no leading plus and no bare point: such a number is spelt anew.
        let bare = plain.strip_prefix('+').unwrap_or(&plain);
        let digits = bare.strip_prefix('-').unwrap_or(bare);
        let json = !digits.starts_with('.')
            && !digits.ends_with('.')
            && !digits.contains(".e")
            && !digits.contains(".E")
            && (!digits.starts_with('0')
                || digits.len() == 1
                || !digits.as_bytes()[1].is_ascii_digit());
        return match plain.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::Number(if json {
                bare.to_owned()
            } else {
                number.to_string()
            }),
            _ => Value::String(text.to_owned()),
        };
    }
    Value::String(text.to_owned())
}

/// An integer in any base that Go's `strconv.ParseInt(text, 0, 64)` reads, in decimal.
fn integer(text: &str) -> Option<String> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let value = u64::from_str_radix(digits, radix).ok()?;
    if sign == "-" && value > 1 << 63 {
        return None;
    }
    Some(if value == 0 {
        "0".to_owned()
    } else {
        format!("{sign}{value}")
    })
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => all_digits(fraction),
        Some((whole, fraction)) => {
            all_digits(whole) && (fraction.is_empty() || all_digits(fraction))
        }
        None => all_digits(mantissa),
    };
    mantissa_fits
        && exponent.is_none_or(|exponent| {
            all_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubernetes() {
        let number = |text: &str| Value::Number(text.to_owned());
        let string = |text: &str| Value::String(text.to_owned());
        for (text, expected) in [
            ("on", Value::Bool(true)),
            ("No", Value::Bool(false)),
            ("y", Value::Bool(true)),
            ("~", Value::Null),
            ("443", number("443")),
            ("0x1F", number("31")),
            ("010", number("8")),
            ("0o10", number("8")),
            ("1_000", number("1000")),
            ("+5", number("5")),
            ("443.0", number("443.0")),
            (".5", number("0.5")),
            ("1e3", number("1e3")),
            ("18446744073709551615", number("18446744073709551615")),
            ("5s", string("5s")),
            ("1.2.3.4", string("1.2.3.4")),
            ("001:db8::", string("001:db8::")),
            ("1:30", string("1:30")),
            ("2020-01-02", string("2020-01-02")),
            ("-", string("-")),
            ("0x", string("0x")),
            ("nope", string("nope")),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
