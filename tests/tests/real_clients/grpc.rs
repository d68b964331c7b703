//! gRPC by grpcio, client and server.

use crate::setting::{lab, lines, python, script, streams};
use egress_tests::client;
use serde_json::{Value, json};
use std::time::Duration;

const LONG: Duration = Duration::from_mins(1);

#[test]
fn grpc_calls_of_every_kind() {
    let lab = lab();
    let _peers = streams(&lab);
    for (target, other) in [
        (
            "streams4.clients.example:50051",
            "neighbour.clients.example",
        ),
        ("streams6.clients.example:50051", "bystander.example"),
    ] {
        let mut command = lab.client_place().command(python()).unwrap();
        // It uses the resolver of the lab only.
        command.env("GRPC_DNS_RESOLVER", "native");
        command.arg(script("grpc_client.py")).args([target, other]);
        let said = lines(&client::run(command, LONG).unwrap());
        judge(&said, other == "bystander.example");
    }
}

fn judge(said: &[Value], unlisted: bool) {
    let step = |name: &str| {
        let found = said.iter().find(|line| line["step"] == name);
        found.unwrap_or_else(|| panic!("no step {name}: {said:?}"))
    };
    let is = |name: &str, facts: Value| {
        for (key, value) in facts.as_object().unwrap() {
            assert_eq!(&step(name)[key], value, "{}", step(name));
        }
    };
    is(
        "unary",
        json!({"reply": "hello", "seen": "passed", "length": "5"}),
    );
    is("4 MiB", json!({"same": true}));
    is("server stream", json!({"count": 1000, "last": "999"}));
    is("client stream", json!({"total": 1_000_000}));
    is(
        "both streams",
        json!({"same": true, "rest": 0, "code": "OK"}),
    );
    is(
        "status",
        json!({"code": "FAILED_PRECONDITION", "details": "nöt now 100%"}),
    );
    let trailer = &step("status")["trailers"]["detail-bin"];
    assert_eq!(trailer, "b'\\x00\\x01\\xff'");
    is("unknown method", json!({"code": "UNIMPLEMENTED"}));
    // Client, gate and server know the limit, and each may be the first to end the call at that moment, as with Envoy.
    for name in ["deadline", "timeout of the route"] {
        let late = step(name);
        let by_gate =
            late["code"] == "UNAVAILABLE" && late["details"] == "upstream request timeout";
        assert!(late["code"] == "DEADLINE_EXCEEDED" || by_gate, "{late}");
        let after = late["ms"].as_u64().unwrap();
        assert!((290..3000).contains(&after), "{late}");
    }
    is("retry", json!({"attempts": "2"}));
    is(
        "abort",
        json!({"code": "RESOURCE_EXHAUSTED", "details": "fault filter abort"}),
    );
    is("no route", json!({"code": "UNIMPLEMENTED"}));
    is("cancel", json!({"first": "first", "server_saw": "yes"}));
    is(
        "authority that is not listed",
        json!({"code": "UNAVAILABLE"}),
    );
    let denied = step("host that is not listed");
    assert_eq!(denied["code"], "UNAVAILABLE", "{denied}");
    let details = denied["details"].as_str().unwrap();
    assert_eq!(details.contains("not permitted"), unlisted, "{denied}");
    for name in ["authority that is not listed", "host that is not listed"] {
        assert!(step(name)["ms"].as_u64().unwrap() < 5000, "{}", step(name));
    }
}
