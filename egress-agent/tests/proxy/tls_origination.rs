//! TLS that the proxy originates: requests, relayed bytes, connections that are kept, and failures in Envoy's words.

use crate::raw::{Raw, get, raw_origin};
use crate::support::{Bed, HOST, destination, forwarding};
use crate::tls_origin::{Authority, Server, policy};
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{Cluster, PortRoutes, Split, TcpRoute, VirtualHost};
use egress_core::traffic::{
    Authorities, CertificateFiles, ClientCertificate, ClientTls, ClusterId,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A port with hosts that lead to one cluster.
pub fn tls_to(hosts: &[&str], endpoint: SocketAddr, tls: Option<ClientTls>) -> PortRoutes {
    let cluster = Arc::new(Cluster {
        id: ClusterId::new(HOST, 80),
        endpoints: vec![endpoint],
        policy: tls.map_or_else(Arc::default, policy),
        ..Cluster::default()
    });
    let host = |host: &&str| {
        Arc::new(VirtualHost {
            host: (*host).into(),
            nets: vec![],
            routes: vec![Arc::new(forwarding(Split::one(Arc::clone(&cluster))))],
        })
    };
    PortRoutes {
        hosts: hosts.iter().map(host).collect::<Vec<_>>().into(),
        ..PortRoutes::default()
    }
}

#[tokio::test]
async fn requests_leave_as_tls_with_the_host_as_server_name_over_one_connection() {
    let authority = Authority::new();
    let identity = authority.identity(&[HOST, "*.example.com"]);
    let server = Server::new(authority.server(&identity, false)).await;
    let bed = Bed::new(tls_to(
        &[HOST, "*.example.com"],
        server.address,
        Some(authority.simple()),
    ))
    .await;
    let mut client = bed.client().await;
    for _ in 0..3 {
        let reply = client.ask(&get(HOST, "/")).await;
        assert_eq!(
            (reply.status(), reply.text()),
            (200, "sni=httpbin.org alpn=- cert=false body=0")
        );
    }
    assert_eq!(server.connections(), 1);
    let record = bed.record().await;
    assert_eq!(
        (record.attempts, record.flags.to_string().as_str()),
        (1, "-")
    );
    // A connection to one host is not used for another one of the same cluster.
    for (host, sni) in [
        ("A.example.com:8080", "a.example.com"),
        ("b.example.com.", "b.example.com"),
    ] {
        let reply = client.ask(&get(host, "/")).await;
        assert!(
            reply.text().starts_with(&format!("sni={sni} ")),
            "{reply:?}"
        );
    }
    assert_eq!(server.connections(), 3);
    let long = vec![b'x'; 3_000_000];
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\ncontent-length: {}\r\n\r\n",
        long.len()
    );
    client.send(head.as_bytes()).await;
    client.send(&long).await;
    let reply = client.message().await.unwrap();
    assert!(reply.text().ends_with("body=3000000"), "{reply:?}");
}

#[tokio::test]
async fn an_idle_tls_connection_is_kept_until_its_origin_closes_it() {
    let authority = Authority::new();
    let identity = authority.identity(&[HOST]);
    let server = Server::new(authority.server(&identity, false)).await;
    let bed = Bed::new(tls_to(&[HOST], server.address, Some(authority.simple()))).await;
    let mut client = bed.client().await;
    for _ in 0..2 {
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        // The HTTP library gives the connection back after a second.
        tokio::time::sleep(Duration::from_millis(1300)).await;
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_made_under_other_settings_is_never_used_again() {
    let authority = Authority::new();
    let identity = authority.identity(&[HOST, "other.example"]);
    let server = Server::new(authority.server(&identity, true)).await;
    let plain = crate::raw::echo_origin().await;
    let bed = Bed::new(tls_to(&[HOST], plain, None)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    let client_identity = authority.identity(&["spiffe://client"]);
    let chain = authority.write("client.pem", &client_identity.pem);
    let key = authority.write("client.key", &client_identity.key.serialize_pem());
    let certificate = Some(ClientCertificate::Files(CertificateFiles { chain, key }));
    let mutual = ClientTls {
        certificate,
        ..authority.simple()
    };
    let named = ClientTls {
        sni: Some("other.example".into()),
        ..mutual.clone()
    };
    for (tls, sni, connections) in [
        (&mutual, HOST, 1),
        (&named, "other.example", 2),
        (&mutual, HOST, 2),
    ] {
        bed.change(tls_to(&[HOST], server.address, Some(tls.clone())));
        let reply = client.ask(&get(HOST, "/")).await;
        assert_eq!(reply.text(), format!("sni={sni} alpn=- cert=true body=0"));
        assert_eq!(server.connections(), connections);
    }
    bed.change(tls_to(&[HOST], server.address, None));
    let reply = client.ask(&get(HOST, "/")).await;
    assert_eq!(reply.status(), 502, "clear text to a TLS server: {reply:?}");
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn relayed_bytes_are_tls_too_and_end_as_the_client_ends() {
    let authority = Authority::new();
    let identity = authority.identity(&[HOST]);
    let server = Server::serving(
        authority.server(&identity, false),
        |mut stream| async move {
            let named = stream.get_ref().1.server_name().is_some();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&[u8::from(named)]).await.unwrap();
            stream.write_all(&all).await.unwrap();
            stream.shutdown().await.unwrap();
        },
    )
    .await;
    let origin = destination(&server.address.to_string());
    let cluster = Cluster {
        id: ClusterId::new("db.example", 5432),
        endpoints: vec![server.address],
        policy: policy(authority.simple()),
        ..Cluster::default()
    };
    let tcp = vec![Arc::new(TcpRoute {
        nets: vec![server.address.ip().into()],
        sniffed: false,
        to: Split::one(Arc::new(cluster)),
    })];
    let port = PortRoutes {
        tcp: tcp.into(),
        ..PortRoutes::default()
    };
    let bed = Bed::with(port.clone(), Some(origin), Limits::default()).await;
    let mut routes = crate::support::table(port.clone());
    let policy = routes.policies.get_mut(&crate::support::POLICY).unwrap();
    Arc::make_mut(policy)
        .ports
        .insert(server.address.port(), Arc::new(port));
    bed.put(routes);
    let mut client = bed.client().await;
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    client.send(&sent).await;
    client.stream.shutdown().await.unwrap();
    let got = client.rest().await;
    assert_eq!(got.first(), Some(&0), "no server name without a request");
    assert!(got[1..] == sent, "{} bytes", got.len());
    drop(client);
    assert_eq!(bed.record().await.flags.to_string(), "-");
}

const RETRIED: &str = "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
     remote connection failure";

/// What Envoy 1.40 answers (with `hide_transport_failure_reason_in_response_body` off).
#[tokio::test]
async fn a_failed_handshake_is_503_with_envoys_words() {
    let verify = |why: &str| {
        format!(
            "{RETRIED}, transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:\
             CERTIFICATE_VERIFY_FAILED:verify cert failed: {why}:TLS_error_end"
        )
    };
    let at_depth = |why: &str| {
        verify(&format!(
            "X509_verify_cert: certificate verification error at depth 0: {why}"
        ))
    };
    let (authority, other) = (Authority::new(), Authority::new());
    let good = authority.identity(&[HOST]);
    let expired = authority.identity_with(&[HOST], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let future = authority.identity_with(&[HOST], |params| {
        params.not_before = rcgen::date_time_ymd(2100, 2, 1);
    });
    let elsewhere = authority.identity(&["www.shop.example", "*.wild.example", "spiffe://a/b"]);
    let old = authority.server_at(&good, true, &[&rustls::version::TLS12]);
    for (config, body) in [
        (
            other.server(&other.identity(&[HOST]), false),
            at_depth("unable to get local issuer certificate"),
        ),
        (
            authority.server(&expired, false),
            at_depth("certificate has expired"),
        ),
        (
            authority.server(&future, false),
            at_depth("certificate is not yet valid"),
        ),
        (
            authority.server(&elsewhere, false),
            verify(
                "verify SAN list, expected SANs: [httpbin.org], certificate SANs: \
                 [www.shop.example, *.wild.example, spiffe://a/b]",
            ),
        ),
        (
            old,
            format!(
                "{RETRIED}, transport failure reason: TLS_error:|268436572:SSL routines:OPENSSL_internal:\
                 TLSV1_ALERT_CERTIFICATE_REQUIRED:TLS_error_end"
            ),
        ),
    ] {
        let server =
            Server::serving(config, |_| async { panic!("a handshake was completed") }).await;
        fails(server.address, &authority, &body, 3).await;
        assert_eq!(server.connections(), 3);
    }
}

#[tokio::test]
async fn a_server_without_tls_never_sees_a_request() {
    let authority = Authority::new();
    let wrong_version = format!(
        "{RETRIED}, transport failure reason: TLS_error:|268435703:SSL routines:OPENSSL_internal:\
         WRONG_VERSION_NUMBER:TLS_error_end"
    );
    let plain = raw_origin(|_, mut raw: Raw| async move {
        let hello = raw.take(5).await.unwrap();
        assert_eq!(hello[..2], [22, 3]);
        raw.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
        raw.rest().await;
    })
    .await;
    fails(plain, &authority, &wrong_version, 3).await;
    let closes = raw_origin(|_, mut raw: Raw| async move {
        raw.take(5).await;
        raw.stream.shutdown().await.ok();
        raw.rest().await;
    })
    .await;
    fails(closes, &authority, RETRIED, 3).await;
    let silent = raw_origin(|_, mut raw: Raw| async move {
        raw.rest().await;
    })
    .await;
    let timeout = RETRIED.replace("remote connection failure", "connection timeout");
    fails(silent, &authority, &timeout, 3).await;
}

/// TLS 1.3: the client has its last message out before the server misses the certificate.
#[tokio::test]
async fn a_server_that_wants_a_certificate_terminates_the_connection() {
    let authority = Authority::new();
    let server = authority.server(&authority.identity(&[HOST]), true);
    let server = Server::new(server).await;
    let bed = Bed::new(tls_to(&[HOST], server.address, Some(authority.simple()))).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!(
        (reply.status(), reply.text()),
        (
            503,
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
        )
    );
    assert_eq!(bed.record().await.flags.to_string(), "UC");
}

async fn fails(endpoint: SocketAddr, authority: &Authority, body: &str, attempts: u32) {
    let limits = Limits {
        connect: Duration::from_millis(400),
        ..Limits::default()
    };
    let port = tls_to(&[HOST], endpoint, Some(authority.simple()));
    let bed = Bed::with(port, Some(destination("192.0.2.1:80")), limits).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (503, body));
    let record = bed.record().await;
    assert_eq!(
        (record.flags.to_string().as_str(), record.attempts),
        ("URX,UF", attempts),
        "{body}"
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_used_denies_with_its_reason_and_shows_nothing_of_it() {
    let authority = Authority::new();
    let server = Server::new(authority.server(&authority.identity(&[HOST]), false)).await;
    let secret = "root:$6$secret:19000:0:99999:7:::";
    for (text, why) in [
        (Some(format!("{secret}\n")), "no PEM certificate in it"),
        (Some(format!("-----BEGIN {secret}\n")), "not a PEM file"),
        (None, "No such file or directory"),
    ] {
        let path = authority.path("shadow");
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let mut tls = authority.simple();
        tls.verify.as_mut().unwrap().authorities =
            Some(Authorities::File(crate::tls_origin::text_of(&path)));
        let bed = Bed::new(tls_to(&[HOST], server.address, Some(tls))).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!(
            (reply.status(), reply.text()),
            (
                503,
                &*format!(
                    "{RETRIED}, transport failure reason: TLS error: Secret is not supplied by SDS"
                )
            )
        );
        let DenialReason::ClientTls(told) = bed.denial().await else {
            panic!("another reason")
        };
        assert_eq!(*told, format!("{}: {why}", path.display()));
    }
}
