//! An address instead of a name: as the Host of a request, and TLS without a server name.

use super::bench::Bench;
use super::{entry, port};
use crate::policy::state::Settings;
use crate::routing::{DenialReason, HttpDecision, RequestHead, TlsDecision};
use egress_ebpf::ids::PolicyId;
use http::HeaderMap;

/// Host of the destination of a request for `authority` to a dialled address.
fn http(text: &[&str], dialled: &str, authority: &str) -> Option<String> {
    let mut bench = Bench::new(Settings::default(), text);
    let head = RequestHead {
        authority,
        method: "GET",
        path: "/",
        headers: &HeaderMap::new(),
    };
    match bench
        .state
        .routes()
        .http(PolicyId(0), dialled.parse().unwrap(), &head, 0)
    {
        HttpDecision::Act(act) => {
            let to = act.action.destinations()?;
            Some(to.cluster.id.host.to_string())
        }
        _ => None,
    }
}

fn single(resolution: &str, protocol: &str, addresses: &str) -> String {
    let endpoints = match resolution {
        "STATIC" => "endpoints: [{address: 198.51.100.100}]",
        _ => "",
    };
    let rest = format!("addresses: [{addresses}]\n  {endpoints}");
    entry("a.example", resolution, &port(80, protocol), &rest)
}

#[test]
fn a_request_may_name_the_single_address_that_it_dialled() {
    let both = "198.51.100.5, '2001:db8:2::5/128'";
    for resolution in ["STATIC", "NONE"] {
        let text = single(resolution, "HTTP", both);
        for (dialled, authority) in [
            ("198.51.100.5:80", "198.51.100.5"),
            ("198.51.100.5:80", "198.51.100.5:80"),
            ("198.51.100.5:80", "198.51.100.5:8080"),
            ("[::ffff:198.51.100.5]:80", "198.51.100.5"),
            ("[2001:db8:2::5]:80", "[2001:db8:2::5]"),
            ("[2001:db8:2::5]:80", "[2001:DB8:2::5]:80"),
        ] {
            let to = http(&[&text], dialled, authority);
            assert_eq!(
                to.as_deref(),
                Some("a.example"),
                "{resolution} {dialled} {authority}"
            );
        }
        for (dialled, authority) in [
            // Another listed address than the one that was dialled, and one that is not listed.
            ("198.51.100.5:80", "[2001:db8:2::5]"),
            ("[2001:db8:2::5]:80", "198.51.100.5"),
            ("198.51.100.5:80", "198.51.100.6"),
            ("198.51.100.6:80", "198.51.100.6"),
            ("198.51.100.5:81", "198.51.100.5"),
            // Other spellings.
            ("198.51.100.5:80", "198.51.100.5."),
            ("198.51.100.5:80", "[::ffff:198.51.100.5]"),
            ("[2001:db8:2::5]:80", "[2001:db8:2:0::5]"),
        ] {
            let to = http(&[&text], dialled, authority);
            assert_eq!(to, None, "{resolution} {dialled} {authority}");
        }
    }
}

#[test]
fn of_a_network_the_address_is_a_name_with_resolution_none_only() {
    let at = ("198.51.100.9:80", "198.51.100.9");
    let of = |text: &str| http(&[text], at.0, at.1);
    assert_eq!(of(&single("STATIC", "HTTP", "198.51.100.0/24")), None);
    let none = single("NONE", "HTTP", "198.51.100.0/24");
    assert_eq!(of(&none).as_deref(), Some("a.example"));
    // Without addresses it covers every address except those that lead inside.
    let any = single("NONE", "HTTP", "");
    assert_eq!(of(&any).as_deref(), Some("a.example"));
    assert_eq!(http(&[&any], "169.254.169.254:80", "169.254.169.254"), None);
    // The more specific network wins, in either order.
    let other = single("NONE", "HTTP", "198.51.100.9")
        .replace("a.example", "z.example")
        .replace("name: e", "name: f");
    assert_eq!(
        http(&[&none, &other], at.0, at.1).as_deref(),
        Some("z.example")
    );
}

#[test]
fn the_dialled_address_of_one_entry_takes_no_address_of_another_as_its_name() {
    let other = single("STATIC", "HTTP", "198.51.100.6")
        .replace("a.example", "b.example")
        .replace("name: e", "name: f");
    let both = [&*single("STATIC", "HTTP", "198.51.100.5"), &other];
    assert_eq!(http(&both, "198.51.100.5:80", "198.51.100.6"), None);
    assert_eq!(
        http(&both, "198.51.100.6:80", "198.51.100.6").as_deref(),
        Some("b.example")
    );
}

#[test]
fn an_entry_for_every_address_takes_no_single_address_from_an_older_one() {
    let narrow = single("NONE", "TLS", "198.51.100.7");
    let wide = single("NONE", "TLS", "").replace("name: e", "name: f");
    for text in [vec![&*narrow], vec![&*narrow, &wide]] {
        let mut bench = Bench::new(Settings::default(), &text);
        let (routes, dialled) = (bench.state.routes(), "198.51.100.7:80".parse().unwrap());
        let decision = routes.tls(PolicyId(0), dialled, None, 0);
        assert!(matches!(decision, TlsDecision::Forward(_)), "{text:?}");
    }
    let narrow = single("NONE", "HTTP", "198.51.100.7");
    let wide = single("NONE", "HTTP", "").replace("name: e", "name: f");
    for ip in ["198.51.100.7", "198.51.100.8"] {
        let to = http(&[&narrow, &wide], &format!("{ip}:80"), ip);
        assert_eq!(to.as_deref(), Some("a.example"), "{ip}");
    }
}

#[test]
fn tls_to_a_single_address_needs_no_server_name_and_to_a_network_it_does() {
    let decide = |text: &str, dialled: &str, sni: Option<&str>| {
        let mut bench = Bench::new(Settings::default(), &[text]);
        let (routes, dialled) = (bench.state.routes(), dialled.parse().unwrap());
        let passes = matches!(
            routes.tls(PolicyId(0), dialled, sni, 0),
            TlsDecision::Forward(_)
        );
        assert_eq!(routes.lists_server(PolicyId(0), dialled, sni), passes);
        (passes, routes.no_server_name(PolicyId(0), dialled))
    };
    for resolution in ["STATIC", "NONE"] {
        let text = single(
            resolution,
            "HTTPS",
            "198.51.100.36/32, '2001:db8:2::36', 203.0.113.0/24",
        );
        for at in ["198.51.100.36:80", "[2001:db8:2::36]:80"] {
            assert!(decide(&text, at, None).0, "{resolution} {at}");
            assert!(decide(&text, at, Some("a.example")).0);
            assert!(
                !decide(&text, at, Some("b.example")).0,
                "a name that is there is checked"
            );
        }
        let network = "203.0.113.0/24".parse().unwrap();
        let (passes, reason) = decide(&text, "203.0.113.9:80", None);
        assert!(!passes);
        assert_eq!(reason, DenialReason::NoServerNameInNetwork(network));
        assert!(reason.to_string().contains("protocol TCP"));
        assert!(decide(&text, "203.0.113.9:80", Some("a.example")).0);
        let (passes, reason) = decide(&text, "198.51.100.38:80", None);
        assert_eq!((passes, reason), (false, DenialReason::NoServerName));
    }
}
