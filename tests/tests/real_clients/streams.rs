//! A WebSocket and server-sent events by Python's libraries.

use crate::setting::{lab, lines, python, script, streams};
use egress_tests::client;
use serde_json::{Value, json};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

#[test]
fn websocket_and_events() {
    let lab = lab();
    let _peers = streams(&lab);
    for host in ["streams4.clients.example", "streams6.clients.example"] {
        let mut command = lab.client_place().command(python()).unwrap();
        command.arg(script("streams.py"));
        command.args([host, "neighbour.clients.example"]);
        let said = lines(&client::run(command, LONG).unwrap());
        let events: Vec<_> = (0..5).map(|number| format!("event {number}")).collect();
        let expected: [(&str, Value); 10] = [
            ("echo", json!({"got": "hello", "header": "by the rule"})),
            ("ping", json!({"answered": true})),
            ("1 MiB", json!({"same": true})),
            ("many", json!({"same": true})),
            ("closed by the client", json!({"server_saw": true})),
            (
                "closed by the server",
                json!({"code": 4002, "reason": "as asked"}),
            ),
            ("reset by the server", json!({"code": null, "reason": null})),
            ("longer than the timeout", json!({"got": "still here"})),
            ("not listed", json!({"status": 502})),
            (
                "events over HTTP/1.1",
                json!({"got": events, "version": "HTTP/1.1"}),
            ),
        ];
        let two = (
            "events over HTTP/2",
            json!({"got": events, "version": "HTTP/2"}),
        );
        let all: Vec<_> = expected.into_iter().chain([two]).collect();
        assert_eq!(said.len(), all.len(), "{said:?}");
        for (line, (step, mut facts)) in said.iter().zip(all) {
            facts["step"] = step.into();
            assert_eq!(line, &facts);
        }
    }
}
