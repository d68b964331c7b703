//! The header `grpc-timeout`: the time that a gRPC client allows for its call.
//!
//! Source of its form: gRPC over HTTP2, `PROTOCOL-HTTP2.md`; of the rules: Envoy `router.cc` `finalTimeout` and
//! `grpc/common.cc` `toGrpcTimeout`, with Istio's `max_grpc_timeout`. It starts no timer.

use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// The name of the header.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The largest number of the header: 8 digits.
const MOST: u128 = 99_999_999;

/// The timeout of a gRPC call on a route with this timeout: the shorter of the client's and the route's. A client's
/// value that cannot be read, and zero, are no timeout.
pub fn call_timeout(headers: &HeaderMap, of_route: Option<Duration>) -> Option<Duration> {
    let of_client = headers.get(GRPC_TIMEOUT).and_then(parse);
    match (of_client, of_route) {
        (Some(client), Some(route)) => Some(client.min(route)),
        (one, other) => one.or(other),
    }
}

/// Tells the origin how long its client waits.
pub fn set_call_timeout(headers: &mut HeaderMap, timeout: Duration) {
    let value = [
        (timeout.as_millis(), "m"),
        (u128::from(timeout.as_secs()), "S"),
        (u128::from(timeout.as_secs() / 60), "M"),
    ]
    .into_iter()
    .find(|(number, _)| *number <= MOST)
    .map_or_else(
        || format!("{MOST}H"),
        |(number, unit)| format!("{number}{unit}"),
    );
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

/// One to eight digits and a unit. The result has whole milliseconds, rounded up.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = str::from_utf8(digits)
        .ok()
        .filter(|_| is_number)?
        .parse()
        .ok()?;
    let millis = match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    };
    Some(Duration::from_millis(millis)).filter(|timeout| !timeout.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(GRPC_TIMEOUT.parse().unwrap(), value)])
    }

    #[test]
    fn the_shorter_of_both_timeouts_holds() {
        let millis = Duration::from_millis;
        for (client, route, both) in [
            ("100m", None, Some(millis(100))),
            ("1S", Some(millis(300)), Some(millis(300))),
            ("100m", Some(millis(300)), Some(millis(100))),
            ("2H", None, Some(millis(7_200_000))),
            ("1M", None, Some(millis(60_000))),
            ("1500u", None, Some(millis(2))),
            ("1n", None, Some(millis(1))),
            ("0m", Some(millis(5)), Some(millis(5))),
            ("0m", None, None),
            ("m", None, None),
            ("123456789m", None, None),
            ("1x", None, None),
            ("-1m", None, None),
            ("", Some(millis(5)), Some(millis(5))),
        ] {
            assert_eq!(
                call_timeout(&headers(client), route),
                both,
                "{client} {route:?}"
            );
        }
        assert_eq!(call_timeout(&HeaderMap::new(), None), None);
    }

    #[test]
    fn the_origin_gets_the_timeout_in_eight_digits() {
        for (timeout, value) in [
            (Duration::from_millis(300), "300m"),
            (Duration::from_secs(1), "1000m"),
            (Duration::from_secs(99_999), "99999000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_hours(1_666_667), "99999999H"),
            (Duration::from_mins(2_000_000), "2000000M"),
        ] {
            let mut headers = headers("9H");
            set_call_timeout(&mut headers, timeout);
            assert_eq!(headers[GRPC_TIMEOUT], value, "{timeout:?}");
        }
    }
}
