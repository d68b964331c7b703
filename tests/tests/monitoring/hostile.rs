//! Requests that break the rules, and clients that hold on to what they get.

use super::{SOON, at, options, path, scrape};
use egress_tests::Lab;
use egress_tests::rules::HTTPBIN;
use egress_tests::scrape::{answer, exchange};
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn requests_that_are_not_for_it_are_answered_with_the_reason() {
    let lab = Lab::start_with(options()).unwrap();
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(500));
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        ("DELETE /readyz HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (
            "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
            413,
        ),
        (
            "GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            413,
        ),
        (&long, 431),
        (&many, 431),
        ("nonsense\r\n\r\n", 400),
    ] {
        let answer = answer(lab.node(), at(), request.as_bytes()).unwrap();
        assert_eq!(answer.code, code, "{request:.60}: {}", answer.head);
        if request.starts_with("HEAD") {
            assert_eq!(answer.body, "");
        }
    }
}

#[test]
fn hostile_clients_keep_neither_others_nor_the_agent_waiting() {
    let mut lab = Lab::start_with(options()).unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let before = lab.agent().unwrap().resident().unwrap();
    // Clients that send nothing, half a head, or do not read, many more than are served.
    let idle: Vec<TcpStream> = lab
        .node()
        .run(|| {
            let open = |n: usize| {
                let mut stream = TcpStream::connect_timeout(&at(), SOON).ok()?;
                let request = ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"][n % 3];
                stream.write_all(request.as_bytes()).ok()?;
                Some(stream)
            };
            (0..200).filter_map(open).collect()
        })
        .unwrap();
    assert!(idle.len() >= 16, "{} connections", idle.len());
    for _ in 0..10 {
        let answer = path(&lab, "/metrics");
        assert_eq!(answer.code, 200);
        assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
    }
    assert_eq!(path(&lab, "/readyz").code, 200);
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    let scrape = scrape(&lab);
    assert!(scrape.value("process_open_fds", &[]).unwrap() < 150.0);
    let grown = lab
        .agent()
        .unwrap()
        .resident()
        .unwrap()
        .saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
    // A connection on which nothing is asked ends.
    drop(idle);
    let begin = Instant::now();
    assert_eq!(exchange(lab.node(), at(), b"").unwrap(), "");
    assert!(begin.elapsed() < Duration::from_secs(15));
}
