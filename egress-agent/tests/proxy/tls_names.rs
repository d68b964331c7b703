//! Whose certificate is accepted by TLS that the proxy originates, and files that change.

use crate::raw::get;
use crate::support::{Bed, HOST};
use crate::tls_origin::{Authority, Server};
use crate::tls_origination::tls_to;
use egress_core::routing::ByAddress;
use egress_core::traffic::{CertificateFiles, ClientCertificate, ClientTls, Verify};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn status(server: &Server, host: &str, tls: ClientTls) -> u16 {
    let mut port = tls_to(&[HOST, "*.example.com"], server.address, Some(tls));
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        let all = crate::support::entries(&port.hosts);
        port.addresses = ByAddress::new(vec![(address.into(), Arc::clone(&all[0]))], vec![]);
    }
    let bed = Bed::new(port).await;
    bed.client().await.ask(&get(host, "/")).await.status()
}

#[tokio::test]
async fn a_certificate_needs_one_of_the_names_that_the_rule_lists() {
    let authority = Authority::new();
    let names = [
        "www.shop.example",
        "*.wild.example",
        "spiffe://a/b",
        "192.0.2.7",
        "2001:db8::7",
    ];
    let server = Server::new(authority.server(&authority.identity(&names), false)).await;
    let with = |names: &[&str], sni: Option<&str>, host| {
        let simple = authority.simple();
        let verify = Verify {
            names: names.iter().map(|name| Arc::from(*name)).collect(),
            host,
            ..simple.verify.unwrap()
        };
        ClientTls {
            verify: Some(verify),
            sni: sni.map(Arc::from),
            certificate: None,
        }
    };
    for (names, passes) in [
        (&["www.shop.example"][..], true),
        (&["WWW.shop.example"], true),
        (&["a.wild.example"], true),
        (&["*.wild.example"], true),
        (&["wild.example"], false),
        (&["a.b.wild.example"], false),
        (&["spiffe://a/b"], true),
        (&["spiffe://a/B"], false),
        (&["spiffe://a"], false),
        (&["192.0.2.7"], true),
        (&["2001:db8::7"], true),
        (&["192.0.2.8"], false),
        (&["shop.example", "other.example"], false),
        (&["shop.example", "spiffe://a/b"], true),
        // With `sni` and without names, only the chain is verified, as by Istio.
        (&[], true),
    ] {
        let code = status(&server, HOST, with(names, Some("any.example"), false)).await;
        assert_eq!(code, if passes { 200 } else { 503 }, "{names:?}");
    }
    // Names of the ServiceEntry: the host is verified as well.
    assert_eq!(
        status(&server, HOST, with(&["spiffe://a/b"], None, true)).await,
        503
    );
    let own =
        Server::new(authority.server(&authority.identity(&[HOST, "spiffe://a/b"]), false)).await;
    assert_eq!(
        status(&own, HOST, with(&["spiffe://a/b"], None, true)).await,
        200
    );
    assert_eq!(
        status(&own, HOST, with(&["spiffe://other"], None, true)).await,
        503
    );
}

#[tokio::test]
async fn insecure_skip_verify_accepts_any_certificate_and_no_other_mode_does() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::new(other.server(&other.identity(&["elsewhere.example"]), false)).await;
    let skip = ClientTls {
        verify: None,
        ..authority.simple()
    };
    assert_eq!(status(&server, HOST, skip).await, 200);
    assert_eq!(status(&server, HOST, authority.simple()).await, 503);
    let system = ClientTls {
        verify: Some(Verify {
            host: true,
            ..Verify::default()
        }),
        ..authority.simple()
    };
    assert_eq!(status(&server, HOST, system).await, 503);
}

/// SIMPLE with a list of the authority that revokes one certificate and is followed by another list in this year.
fn with_list(authority: &Authority, revoked: u8, next_year: i32) -> ClientTls {
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(next_year, 1, 1),
        crl_number: vec![1].into(),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: vec![revoked].into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(authority.issuer()).unwrap();
    let mut tls = authority.simple();
    tls.verify.as_mut().unwrap().revoked = Some(authority.write("crl.pem", &list.pem().unwrap()));
    tls
}

#[tokio::test]
async fn a_list_of_revoked_certificates_that_has_expired_rejects_every_certificate() {
    let authority = Authority::new();
    let identity = authority.identity_with(&[HOST], |params| {
        params.serial_number = Some(vec![7].into());
    });
    let server = Server::new(authority.server(&identity, false)).await;
    for (next_year, code) in [(2090, 200), (2021, 503)] {
        let tls = with_list(&authority, 8, next_year);
        let bed = Bed::new(tls_to(&[HOST], server.address, Some(tls))).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!(reply.status(), code, "{next_year}: {}", reply.text());
        let expired = reply.text().contains(
            "X509_verify_cert: certificate verification error at depth 0: CRL has expired",
        );
        assert_eq!(expired, code == 503, "{}", reply.text());
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_rejected() {
    let authority = Authority::new();
    let serial = |number: u8| {
        move |params: &mut rcgen::CertificateParams| {
            params.serial_number = Some(vec![number].into());
        }
    };
    let good = authority.identity_with(&[HOST], serial(7));
    let bad = authority.identity_with(&[HOST], serial(8));
    let tls = with_list(&authority, 8, 2090);
    for (identity, code) in [(&good, 200), (&bad, 503)] {
        let server = Server::new(authority.server(identity, false)).await;
        assert_eq!(status(&server, HOST, tls.clone()).await, code);
    }
}

#[tokio::test]
async fn changed_files_are_used_without_a_restart_and_bad_ones_are_not() {
    let (authority, next) = (Authority::new(), Authority::new());
    let server = Server::new(authority.server(&authority.identity(&[HOST]), true)).await;
    let write = |from: &Authority| {
        let identity = from.identity(&["spiffe://client"]);
        authority.write("client.pem", &identity.pem);
        authority.write("client.key", &identity.key.serialize_pem());
    };
    write(&authority);
    let [chain, key] =
        ["client.pem", "client.key"].map(|name| crate::tls_origin::text_of(&authority.path(name)));
    let tls = ClientTls {
        certificate: Some(ClientCertificate::Files(CertificateFiles { chain, key })),
        ..authority.simple()
    };
    let bed = Bed::new(tls_to(&[HOST], server.address, Some(tls))).await;
    let ask = async || bed.client().await.ask(&get(HOST, "/")).await.status();
    assert_eq!(ask().await, 200);
    // Half of a pair, as while both are replaced.
    let other = authority.identity(&["spiffe://client"]);
    authority.write("client.key", &other.key.serialize_pem());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask().await, 200);
    // The server and all files belong to another authority from here on.
    server.change(next.server(&next.identity(&[HOST]), true));
    write(&next);
    authority.write("ca.pem", &next.pem());
    let changed = Instant::now();
    while ask().await != 200 {
        assert!(
            changed.elapsed() < Duration::from_secs(10),
            "the files were not read again"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_host_that_is_an_address_is_verified_and_not_sent() {
    let authority = Authority::new();
    for (name, code) in [("192.0.2.1", 200), ("192.0.2.2", 503)] {
        let server = Server::new(authority.server(&authority.identity(&[name]), false)).await;
        assert_eq!(status(&server, "192.0.2.1", authority.simple()).await, code);
    }
}
