//! A client inside the gate whose second `ClientHello`, after a real server's HelloRetryRequest, names a
//! host that no rule lists.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::lab::{v4, v6};
use egress_tests::{Lab, client};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const CLIENT: &str = env!("CARGO_BIN_EXE_hello");
const LISTED: &str = "hello.example";
/// It is as long as the listed name.
const UNLISTED: &str = "other.example";

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hello}
spec:
  hosts: [hello.example]
  ports: [{number: 443, name: tls, protocol: TLS}]
  resolution: DNS
";

/// Every byte that reached the server.
type Seen = Arc<Mutex<Vec<u8>>>;

/// A server of the outside that requires a key share that no client sends at first.
fn server(lab: &Lab, ip: IpAddr) -> Seen {
    let mut provider = ring::default_provider();
    provider.kx_groups = vec![ring::kx_group::SECP384R1];
    let made = rcgen::generate_simple_self_signed(vec![LISTED.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let at = SocketAddr::new(ip, 443);
    let listener = lab
        .outside()
        .run(|| TcpListener::bind(at))
        .unwrap()
        .unwrap();
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    // Both end with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, all) = (Arc::clone(&config), Arc::clone(&all));
            thread::spawn(move || answer(stream, config, &all));
        }
    });
    seen
}

fn answer(mut stream: TcpStream, config: Arc<ServerConfig>, seen: &Mutex<Vec<u8>>) {
    let mut server = ServerConnection::new(config).unwrap();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        seen.lock().unwrap().extend_from_slice(&bytes[..count]);
        let mut rest = &bytes[..count];
        while !rest.is_empty() && server.read_tls(&mut rest).is_ok() {
            server.process_new_packets().ok();
        }
        let mut out = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut out).unwrap();
        }
        if stream.write_all(&out).is_err() {
            return;
        }
    }
}

fn hellos(lab: &Lab, second: &str, ip: IpAddr) -> serde_json::Value {
    let mut command = lab.command(CLIENT).unwrap();
    command.args([LISTED, second, &SocketAddr::new(ip, 443).to_string()]);
    let ended = client::run(command, Duration::from_secs(20)).unwrap();
    assert_eq!(ended.exit, 0, "{second} {ip}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// How often a name reached the server.
fn times(seen: &Seen, name: &str) -> usize {
    let seen = seen.lock().unwrap();
    let found = seen.windows(name.len()).filter(|w| *w == name.as_bytes());
    found.count()
}

#[test]
fn a_second_hello_for_another_host_does_not_leave() {
    let addresses = [v4(60), v6(60)];
    let lab = Lab::start().unwrap();
    lab.dns.set(LISTED, &addresses, 30);
    lab.rules("hello.yaml", RULES).unwrap();
    for ip in addresses {
        let seen = server(&lab, ip);
        let same = hellos(&lab, LISTED, ip);
        assert_eq!(same["end"], "handshake", "the same host: {same}");
        assert_eq!(times(&seen, LISTED), 2, "both hellos reach the server");
        let other = hellos(&lab, UNLISTED, ip);
        println!("{ip}: same host {same}, another host {other}");
        assert_eq!(times(&seen, LISTED), 3, "the first hello reaches it");
        assert_eq!(times(&seen, UNLISTED), 0, "the second does not: {other}");
        assert_eq!(other["end"], "unexpected end of file", "{ip}: {other}");
    }
}
