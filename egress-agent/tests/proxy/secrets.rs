//! `credentialName`: certificates and authorities from Kubernetes Secrets, as they are at the moment.

use crate::raw::get;
use crate::support::{Bed, destination};
use crate::tls_origin::{Authority, Identity, Server};
use crate::yaml::{rule, rules};
use egress_agent::proxy::{DenialReason, Limits};
use egress_agent::secret_store::Source;
use egress_core::istio::decode;
use egress_core::routing::PortRoutes;
use std::sync::Arc;

const HOST: &str = "a.example";

fn secret(name: &str, values: &[(&str, &str)]) -> String {
    let lines = values.iter().map(|(key, value)| {
        let value = value.replace('\n', "\n    ");
        format!("  {key}: |\n    {value}\n")
    });
    let lines: String = lines.collect();
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n{lines}---\n")
}

fn publish(bed: &Bed, documents: &str) {
    let decoded = decode("secrets.yaml", documents);
    assert!(!decoded.is_broken(), "{:?}", decoded.messages);
    let all = decoded.secrets.into_iter();
    let all = all.map(|(_, secret)| (secret.name.clone(), Arc::new(secret)));
    bed.secrets.publish(Source::Files, all.collect());
}

async fn bed(server: &Server, tls: &str) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let more = rule(&format!("trafficPolicy: {{tls: {{{tls}}}}}"));
    bed.put(rules(server.address, "protocol: HTTP", &more));
    bed
}

async fn ask(bed: &Bed) -> (u16, String) {
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    (reply.status(), reply.text().to_owned())
}

fn client(authority: &Authority) -> Identity {
    authority.identity(&["spiffe://client"])
}

#[tokio::test]
async fn a_secret_gives_the_client_certificate_and_the_authorities() {
    let authority = Authority::new();
    let server = Server::new(authority.server(&authority.identity(&[HOST]), true)).await;
    let own = client(&authority);
    let (key, ca) = (own.key.serialize_pem(), authority.pem());
    let tls = [
        ("tls.crt", own.pem.as_str()),
        ("tls.key", &key),
        ("ca.crt", &ca),
    ];
    let generic = [("cert", own.pem.as_str()), ("key", &key)];
    for (name, documents) in [
        ("one", secret("one", &tls)),
        ("kubernetes://one", secret("one", &tls)),
        (
            "two",
            secret("two", &generic) + &secret("two-cacert", &[("cacert", &ca)]),
        ),
    ] {
        let bed = bed(&server, &format!("mode: MUTUAL, credentialName: '{name}'")).await;
        publish(&bed, &documents);
        let (status, text) = ask(&bed).await;
        assert_eq!(
            (status, text.as_str()),
            (200, "sni=a.example alpn=- cert=true body=0"),
            "{name}"
        );
    }
}

/// `credentialName: configmap://NAMESPACE/NAME`.
#[tokio::test]
async fn a_config_map_gives_the_authorities_to_workloads_of_every_namespace() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Server::new(authority.server(&authority.identity(&[HOST]), false)).await;
    let config_map = |authority: &Authority| {
        let text = secret("a", &[("ca.crt", &authority.pem())]);
        let text = text.replace("kind: Secret", "kind: ConfigMap");
        text.replace("stringData:", "data:")
            .replace("{name: a}", "{name: a, namespace: istio-system}")
    };
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let more =
        rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://istio-system/a'}}")
            .replace("{name: b}", "{name: b, namespace: istio-system}");
    bed.put(rules(server.address, "protocol: HTTP", &more));
    // A Secret of the same name is something else.
    let as_secret = config_map(&authority).replace("kind: ConfigMap", "kind: Secret");
    publish(&bed, &as_secret.replace("\ndata:", "\nstringData:"));
    assert_eq!(ask(&bed).await.0, 503);
    let told = bed.denial().await.to_string();
    let missing = "there is no ConfigMap istio-system/a";
    assert!(told.contains(missing) && !told.contains("Secret"), "{told}");
    publish(&bed, &config_map(&other));
    assert_eq!(ask(&bed).await.0, 503);
    publish(&bed, &config_map(&authority));
    assert_eq!(ask(&bed).await.0, 200);
}

#[tokio::test]
async fn without_its_secret_a_connection_is_denied_and_never_unverified() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = authority.server(&authority.identity(&[HOST]), false);
    let server = Server::serving(config, |_| async { panic!("a handshake was completed") }).await;
    let own = client(&authority);
    let key = own.key.serialize_pem();
    let pair = [("tls.crt", own.pem.as_str()), ("tls.key", &key)];
    let foreign = client(&other).key.serialize_pem();
    let wrong_pair = [("tls.crt", own.pem.as_str()), ("tls.key", &foreign)];
    let ca = authority.pem();
    let hidden = "-----BEGIN hidden";
    for (mode, documents, why) in [
        (
            "SIMPLE",
            "apiVersion: v1\nkind: Service\n".to_owned(),
            "there is no Secret default/a-cacert and no Secret default/a",
        ),
        (
            "SIMPLE",
            secret("a", &pair),
            "Secret default/a: no authorities in it",
        ),
        (
            "MUTUAL",
            secret("a-cacert", &[("ca.crt", &ca)]),
            "there is no Secret default/a",
        ),
        (
            "MUTUAL",
            secret("a-cacert", &[("ca.crt", &ca)]) + &secret("a", &wrong_pair),
            "not the private key of Secret default/a",
        ),
        (
            "SIMPLE",
            secret("a", &[("ca.crt", hidden)]),
            "Secret default/a: n",
        ),
    ] {
        let bed = bed(&server, &format!("mode: {mode}, credentialName: a")).await;
        publish(&bed, &documents);
        let (status, text) = ask(&bed).await;
        assert_eq!(status, 503, "{mode} {why}: {text}");
        let DenialReason::ClientTls(told) = bed.denial().await else {
            panic!("another reason")
        };
        assert!(told.contains(why), "{told}");
        assert!(!format!("{told}{text}").contains("hidden"), "{told}");
    }
}

#[tokio::test]
async fn a_changed_secret_is_used_by_the_next_connection_and_a_removed_one_is_not() {
    let (authority, next) = (Authority::new(), Authority::new());
    let server = Server::new(authority.server(&authority.identity(&[HOST]), false)).await;
    let bed = bed(&server, "mode: SIMPLE, credentialName: a").await;
    publish(&bed, &secret("a", &[("cacert", &authority.pem())]));
    assert_eq!(ask(&bed).await.0, 200);
    server.change(next.server(&next.identity(&[HOST]), false));
    assert_eq!(ask(&bed).await.0, 503);
    publish(&bed, &secret("a", &[("cacert", &next.pem())]));
    assert_eq!(ask(&bed).await.0, 200);
    // What cannot be used keeps the last good content, as a file does.
    publish(&bed, &secret("a", &[("cacert", "nothing")]));
    assert_eq!(ask(&bed).await.0, 200);
    publish(&bed, "apiVersion: v1\nkind: Service\n");
    assert_eq!(ask(&bed).await.0, 503);
}

#[tokio::test]
async fn a_rule_of_another_namespace_lends_no_secret() {
    let authority = Authority::new();
    let server = Server::new(authority.server(&authority.identity(&[HOST]), false)).await;
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let more = rule("trafficPolicy: {tls: {mode: SIMPLE, credentialName: a}}")
        .replace("{name: b}", "{name: b, namespace: istio-system}");
    bed.put(rules(server.address, "protocol: HTTP", &more));
    let secret = secret("a", &[("cacert", &authority.pem())]);
    publish(
        &bed,
        &secret.replace("{name: a}", "{name: a, namespace: istio-system}"),
    );
    assert_eq!(ask(&bed).await.0, 503);
    let told = bed.denial().await.to_string();
    assert!(
        told.contains("only workloads of the same namespace"),
        "{told}"
    );
    assert_eq!(server.connections(), 0);
}
