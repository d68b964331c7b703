//! `retries`: which failures are tried again, how often, with which headers and body, and what the client gets when
//! they are used up.

use crate::raw::{Message, Raw, get, raw_origin, refused_address};
use crate::support::{Bed, HOST, destination, http_port, port_of};
use egress_agent::proxy::Limits;
use egress_core::traffic::{RetryOn, RetryPolicy, RoutePolicy};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What an origin does with one request.
#[derive(Clone, Copy)]
enum Does {
    /// Answers with this status and the text `from the origin`.
    Status(u16),
    /// Answers 200 with this header and no body.
    Header(&'static str),
    /// Closes without a byte.
    Close,
    /// Sends what is not HTTP.
    Garbage,
    /// Never answers.
    Hang,
}
use Does::{Close, Garbage, Hang, Header, Status};

/// The requests that an origin saw.
type Seen = Arc<Mutex<Vec<(Message, Instant)>>>;

/// An origin that does one thing after the other, and the last for ever.
async fn origin(does: &'static [Does]) -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    let addr = raw_origin(move |_, mut raw: Raw| {
        let all = Arc::clone(&all);
        async move {
            while let Some(message) = raw.message().await {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push((message, Instant::now()));
                    all.len() - 1
                };
                let head = match does[number.min(does.len() - 1)] {
                    Status(status) => {
                        format!("HTTP/1.1 {status} X\r\ncontent-length: 15\r\n\r\nfrom the origin")
                    }
                    Header(line) => {
                        format!("HTTP/1.1 200 OK\r\n{line}\r\ncontent-length: 0\r\n\r\n")
                    }
                    Garbage => "SSH-2.0-x\r\n\r\n".to_owned(),
                    Close => return,
                    Hang => return drop(raw.rest().await),
                };
                raw.send(head.as_bytes()).await;
            }
        }
    })
    .await;
    (addr, seen)
}

fn on(text: &str) -> RetryPolicy {
    RetryPolicy {
        named: true,
        on: RetryOn::parse(text),
        ..RetryPolicy::default()
    }
}

async fn bed(retries: RetryPolicy, endpoints: &[SocketAddr]) -> Bed {
    let policy = RoutePolicy {
        retries,
        ..RoutePolicy::default()
    };
    Bed::new(port_of(HOST, endpoints, policy)).await
}

#[tokio::test]
async fn a_failure_that_is_listed_is_tried_again_and_no_other() {
    for (text, does, status, attempts, flags) in [
        (
            "5xx",
            &[Status(503), Status(503), Status(200)][..],
            200,
            3,
            "-",
        ),
        ("5xx", &[Status(500)], 500, 3, "URX"),
        ("5xx", &[Close, Garbage, Status(200)], 200, 3, "-"),
        ("5xx", &[Status(429)], 429, 1, "-"),
        ("gateway-error", &[Status(502), Status(500)], 500, 2, "-"),
        ("reset", &[Close, Status(200)], 200, 2, "-"),
        ("reset", &[Close], 503, 3, "URX,UC"),
        ("reset", &[Garbage], 502, 3, "URX,UPE"),
        ("reset-before-request", &[Close], 503, 1, "UC"),
        ("connect-failure", &[Close], 503, 1, "UC"),
        ("retriable-4xx", &[Status(409), Status(200)], 200, 2, "-"),
        ("429", &[Status(429), Status(200)], 200, 2, "-"),
        ("429", &[Status(503)], 503, 1, "-"),
        ("retriable-status-codes", &[Status(503)], 503, 1, "-"),
        (
            "unavailable",
            &[Header("grpc-status: 14"), Status(200)],
            200,
            2,
            "-",
        ),
        ("internal", &[Header("grpc-status: 14")], 200, 1, "-"),
        (
            "envoy-ratelimited",
            &[Header("x-envoy-ratelimited: true"), Status(503)],
            503,
            2,
            "-",
        ),
        // The default policy, then that of a gRPC request.
        ("", &[Status(503)], 503, 1, "-"),
        ("", &[Close], 503, 1, "UC"),
        ("", &[Header("grpc-status: 1"), Status(503)], 200, 1, "-"),
        (
            "grpc",
            &[Header("grpc-status: 1"), Status(200)],
            200,
            2,
            "-",
        ),
    ] {
        let (addr, seen) = origin(does).await;
        let retries = match text {
            "" | "grpc" => RetryPolicy::default(),
            text => on(text),
        };
        let bed = bed(retries, &[addr]).await;
        let kind = if text == "grpc" {
            "application/grpc"
        } else {
            "text/plain"
        };
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\ncontent-type: {kind}\r\n\r\n");
        let reply = bed.client().await.ask(&request).await;
        let record = bed.record().await;
        let flags_seen = record.flags.to_string();
        assert_eq!(
            (reply.status(), record.attempts, flags_seen.as_str()),
            (status, attempts, flags),
            "{text}"
        );
        if reply.header("x-envoy-upstream-service-time").is_some() && status != 200 {
            assert_eq!(reply.text(), "from the origin", "{text}");
        }
        let seen = seen.lock().unwrap();
        let numbers: Vec<_> = seen
            .iter()
            .map(|(message, _)| message.header("x-envoy-attempt-count").unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (1..=attempts).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected, "{text}");
    }
}

#[tokio::test]
async fn the_last_reason_is_given_where_no_attempt_had_a_response() {
    for (does, text) in [
        (&[Close][..], "connection termination"),
        (&[Close, Garbage], "protocol error"),
    ] {
        let (addr, _) = origin(does).await;
        let bed = bed(on("reset"), &[addr]).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        let begin = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: ";
        assert_eq!(reply.text(), format!("{begin}{text}"));
    }
}

#[tokio::test]
async fn attempts_are_as_many_as_the_rule_says() {
    for attempts in [0, 1, 5] {
        let (addr, seen) = origin(&[Status(503)]).await;
        let retries = RetryPolicy {
            attempts,
            ..on("5xx")
        };
        let bed = bed(retries, &[addr]).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!((reply.status(), reply.text()), (503, "from the origin"));
        assert_eq!(seen.lock().unwrap().len(), attempts as usize + 1);
        let flags = if attempts == 0 { "-" } else { "URX" };
        assert_eq!(bed.record().await.flags.to_string(), flags, "{attempts}");
    }
    // Nothing is tried again where retries are off, not even a connection that cannot be made.
    let none = RetryPolicy {
        attempts: 0,
        ..RetryPolicy::default()
    };
    let bed = bed(none, &[refused_address()]).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert!(!reply.text().contains("retried"), "{}", reply.text());
    assert_eq!(bed.record().await.attempts, 1);
}

#[tokio::test]
async fn each_attempt_has_its_own_time_where_the_rule_says_so() {
    let limit = Duration::from_millis(300);
    for (text, does, status, attempts, flags) in [
        ("5xx", &[Hang, Status(200)][..], 200, 2, "-"),
        ("reset", &[Hang, Status(200)], 200, 2, "-"),
        ("gateway-error", &[Hang], 504, 3, "URX,UT"),
        // A time limit is not among the default conditions.
        ("connect-failure", &[Hang], 504, 1, "UT"),
    ] {
        let (addr, seen) = origin(does).await;
        let retries = RetryPolicy {
            per_try_timeout: Some(limit),
            ..on(text)
        };
        let bed = bed(retries, &[addr]).await;
        let asked = Instant::now();
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        let record = bed.record().await;
        let flags_seen = record.flags.to_string();
        assert_eq!(
            (reply.status(), record.attempts, flags_seen.as_str()),
            (status, attempts, flags),
            "{text}"
        );
        if status == 504 {
            assert_eq!(reply.text(), "upstream request timeout");
            assert!(asked.elapsed() >= limit * attempts);
        }
        for (message, _) in &*seen.lock().unwrap() {
            let expected = message.header("x-envoy-expected-rq-timeout-ms");
            assert_eq!(expected, Some("300"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_routes_timeout_covers_all_attempts_and_the_last_is_told_the_rest() {
    let (addr, seen) = origin(&[Status(503), Hang]).await;
    let policy = RoutePolicy {
        timeout: Some(Duration::from_millis(900)),
        retries: RetryPolicy {
            per_try_timeout: Some(Duration::from_millis(850)),
            base: Duration::from_millis(200),
            ..on("5xx")
        },
        ..RoutePolicy::default()
    };
    let bed = Bed::new(port_of(HOST, &[addr], policy)).await;
    let asked = Instant::now();
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!(reply.status(), 504);
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(bed.record().await.flags.to_string(), "UT");
    let seen = seen.lock().unwrap();
    let told = |at: usize| -> u128 {
        let value = seen[at].0.header("x-envoy-expected-rq-timeout-ms");
        value.unwrap().parse().unwrap()
    };
    assert_eq!(told(0), 850);
    // The rest of the route's time, as it was when the retry began.
    assert!((1..=850).contains(&told(1)), "{}", told(1));
}

#[tokio::test]
async fn a_body_is_sent_again_whole_in_either_framing() {
    let body: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    for chunked in [false, true] {
        let (addr, seen) = origin(&[Status(503), Close, Status(200)]).await;
        let bed = bed(on("5xx"), &[addr]).await;
        let mut client = bed.client().await;
        post(&mut client, &body, chunked).await;
        let reply = client.message().await.unwrap();
        assert_eq!(reply.status(), 200, "{chunked}");
        assert_eq!(bed.record().await.bytes_received, body.len() as u64);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3);
        for (message, _) in &*seen {
            assert!(message.body == body, "{chunked}: {}", message.body.len());
            assert_eq!(message.header("transfer-encoding").is_some(), chunked);
        }
    }
}

async fn post(client: &mut Raw, body: &[u8], chunked: bool) {
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {}", body.len())
    };
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n");
    client.send(head.as_bytes()).await;
    if !chunked {
        return client.send(body).await;
    }
    for part in body.chunks(9_999) {
        client
            .send(format!("{:x}\r\n", part.len()).as_bytes())
            .await;
        client.send(part).await;
        client.send(b"\r\n").await;
    }
    client.send(b"0\r\n\r\n").await;
}

#[tokio::test]
async fn a_body_over_the_bound_or_without_memory_is_not_sent_again() {
    let small = Limits {
        memory: 4 * 20 * 4096,
        ..Limits::default()
    };
    for (limits, length) in [(Limits::default(), 1_100_000), (small, 400_000)] {
        let (addr, seen) = origin(&[Status(503), Status(200)]).await;
        let policy = RoutePolicy {
            retries: on("5xx"),
            ..RoutePolicy::default()
        };
        let port = port_of(HOST, &[addr], policy);
        let bed = Bed::with(port, Some(destination("192.0.2.1:80")), limits).await;
        let mut client = bed.client().await;
        post(&mut client, &vec![b'x'; length], false).await;
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (503, "from the origin"));
        assert_eq!(bed.record().await.flags.to_string(), "-");
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_endpoint_that_failed_is_avoided() {
    let (bad, _) = origin(&[Status(503)]).await;
    let (good, _) = origin(&[Status(200)]).await;
    let bed = bed(on("5xx"), &[bad, good]).await;
    for _ in 0..8 {
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!(reply.status(), 200);
        let record = bed.record().await;
        assert!(record.attempts <= 2, "{}", record.attempts);
    }
}

#[tokio::test]
async fn a_connection_that_is_between_two_requests_is_used_for_the_retry() {
    let (connections, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let addr = raw_origin(move |number, mut raw: Raw| {
        let connections = connections.clone();
        async move {
            connections.send(number).unwrap();
            for status in [503, 200, 200] {
                raw.message().await;
                raw.send(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await;
            }
            raw.rest().await;
        }
    })
    .await;
    let bed = bed(on("5xx"), &[addr]).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!(reply.status(), 200);
    assert_eq!(seen.recv().await, Some(0));
    assert!(seen.try_recv().is_err(), "one connection for both attempts");
}

#[tokio::test]
async fn retries_wait_at_most_the_back_off() {
    let (addr, seen) = origin(&[Status(503)]).await;
    let retries = RetryPolicy {
        attempts: 4,
        base: Duration::from_millis(100),
        ..on("5xx")
    };
    let bed = bed(retries, &[addr]).await;
    bed.client().await.ask(&get(HOST, "/")).await;
    let seen = seen.lock().unwrap();
    let waits: Vec<_> = seen
        .windows(2)
        .map(|pair| pair[1].1.duration_since(pair[0].1))
        .collect();
    for (wait, most) in waits.iter().zip([100, 200, 400, 800]) {
        // Under load a task may run late.
        let most = Duration::from_millis(most + 2000);
        assert!(*wait < most, "{waits:?}");
    }
    assert_eq!(waits.len(), 4);
}

#[tokio::test]
async fn a_route_without_a_rule_tries_connections_again_and_nothing_else() {
    let bed = Bed::new(http_port(HOST, &[refused_address()], None)).await;
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    let reply = bed.client().await.ask(&post).await;
    assert_eq!(reply.status(), 503);
    let record = bed.record().await;
    assert_eq!(
        (record.attempts, record.flags.to_string().as_str()),
        (3, "URX,UF")
    );
}
