//! Findings that follow the rules: after a change, only what depends on the changed object is checked again.
//!
//! Owns the dependences. `look` has the checks.

use super::look::{Found, Lint};
use crate::istio::{Object, Spec, hosts};
use crate::registry::Registry;
use crate::registry::scope::Import;
use crate::registry::virtual_service::serves_mesh;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What one look checks. Its findings may be about several objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// The service of a host.
    Service(Arc<str>),
    /// A `VirtualService`, `DestinationRule` or `Sidecar`, by its place in memory.
    Object(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Linter {
    registry: Registry,
    /// `VirtualService`s, `DestinationRule`s and `Sidecar`s, by their place in memory.
    objects: HashMap<usize, Arc<Object>>,
    /// Objects by the hosts and wildcards whose services they depend on.
    asking: BTreeMap<Arc<str>, BTreeSet<usize>>,
    /// What was found, without subjects that have no finding.
    found: BTreeMap<Subject, Vec<Found>>,
}

impl Default for Linter {
    /// Of no rules, with Istio's default root namespace.
    fn default() -> Self {
        Self::new("istio-system")
    }
}

/// The subjects to check again.
#[derive(Default)]
struct Anew {
    services: BTreeSet<Arc<str>>,
    objects: BTreeSet<usize>,
}

impl Linter {
    /// Of no rules. Rules of the root namespace apply to the workloads of all namespaces.
    pub fn new(root_namespace: &str) -> Self {
        Self {
            registry: Registry::empty("cluster.local", root_namespace),
            objects: HashMap::new(),
            asking: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    /// Adds and removes objects. An object that is in both lists stays.
    pub fn change(&mut self, added: &[Arc<Object>], gone: &[Arc<Object>]) {
        let places = |list: &[Arc<Object>]| -> HashSet<usize> { list.iter().map(place).collect() };
        let (coming, leaving) = (places(added), places(gone));
        let added = || added.iter().filter(|o| !leaving.contains(&place(o)));
        let gone = || gone.iter().filter(|o| !coming.contains(&place(o)));
        let (some, others): (Vec<_>, Vec<_>) =
            (added().cloned().collect(), gone().cloned().collect());
        let _ = self.registry.change(&some, &others);
        let mut anew = Anew::default();
        for object in gone() {
            self.objects.remove(&place(object));
            self.found.remove(&Subject::Object(place(object)));
            for host in self.asks(object) {
                if let Some(asking) = self.asking.get_mut(&host) {
                    asking.remove(&place(object));
                    if asking.is_empty() {
                        self.asking.remove(&host);
                    }
                }
            }
        }
        for object in added() {
            if let Some(Spec::VirtualService(_) | Spec::DestinationRule(_) | Spec::Sidecar(_)) =
                &object.spec
            {
                self.objects.insert(place(object), Arc::clone(object));
                anew.objects.insert(place(object));
            }
            for host in self.asks(object) {
                self.asking.entry(host).or_default().insert(place(object));
            }
        }
        for object in gone().chain(added()) {
            self.touch(object, &mut anew);
        }
        self.look(&anew);
    }

    /// All findings, each once, although a service is checked under each of its hosts. The findings about one object
    /// are in order.
    pub fn findings(&self) -> impl Iterator<Item = &Found> {
        let mut said = HashSet::new();
        let all = self.found.values().flatten();
        all.filter(move |found| {
            let message = &found.message;
            said.insert((place(&found.object), &*message.field, &*message.text))
        })
    }

    fn look(&mut self, anew: &Anew) {
        for host in &anew.services {
            let mut lint = Lint::new(&self.registry);
            if let Some(service) = lint.service_of(host) {
                lint.service(&service);
            }
            let found = lint.found;
            self.keep(Subject::Service(Arc::clone(host)), found);
        }
        for place in &anew.objects {
            let Some(object) = self.objects.get(place) else {
                continue;
            };
            let mut lint = Lint::new(&self.registry);
            lint.object(object);
            let found = lint.found;
            self.keep(Subject::Object(*place), found);
        }
    }

    fn keep(&mut self, subject: Subject, found: Vec<Found>) {
        if found.is_empty() {
            self.found.remove(&subject);
        } else {
            self.found.insert(subject, found);
        }
    }

    /// Hosts and wildcards whose services a look at an object depends on.
    fn asks(&self, object: &Object) -> BTreeSet<Arc<str>> {
        let own = &object.meta.namespace;
        let full = |host: &String| hosts::full_name(host, own, &self.registry.domain);
        match &object.spec {
            Some(Spec::VirtualService(spec)) if serves_mesh(spec) => {
                let http = spec.http.iter().flat_map(|r| &r.route);
                let tls = spec.tls.iter().flat_map(|r| &r.route);
                let tcp = spec.tcp.iter().flat_map(|r| &r.route);
                let http = http.filter_map(|to| to.destination.as_ref());
                let tls = tls.filter_map(|to| to.destination.as_ref());
                let tcp = tcp.filter_map(|to| to.destination.as_ref());
                let mirror = spec.http.iter().filter_map(|r| r.mirror.as_ref());
                let mirrors = spec.http.iter().flat_map(|r| &r.mirrors);
                let mirrors = mirrors.filter_map(|m| m.destination.as_ref());
                let all = http.chain(tls).chain(tcp).chain(mirror).chain(mirrors);
                let destinations = all.map(|to| &to.host);
                spec.hosts.iter().chain(destinations).map(full).collect()
            }
            Some(Spec::DestinationRule(spec)) => BTreeSet::from([full(&spec.host)]),
            Some(Spec::Sidecar(spec)) => {
                let listed = spec.egress.iter().flat_map(|listener| &listener.hosts);
                let listed = listed.filter_map(|host| Some(Import::new(host, own)?.host));
                let outbound = spec.outbound_traffic_policy.iter();
                let proxy = outbound.filter_map(|policy| policy.egress_proxy.as_ref());
                listed.chain(proxy.map(|to| full(&to.host))).collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// Notes the subjects that depend on an object that was added or removed.
    fn touch(&self, object: &Object, anew: &mut Anew) {
        let full = |host: &str| {
            let (own, domain) = (&object.meta.namespace, &self.registry.domain);
            hosts::full_name(host, own, domain)
        };
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => {
                for host in spec.hosts.iter().map(|host| hosts::canonical(host)) {
                    let asking = hosts::patterns(&host).filter_map(|p| self.asking.get(&*p));
                    anew.objects.extend(asking.flatten());
                    anew.services.insert(host);
                }
            }
            // Which of several rules for a host is in force, and whether a delegate can be used.
            Some(Spec::VirtualService(_)) => {
                for rule in self.registry.delegating_to(object) {
                    self.touch_rules(rule, anew);
                }
                self.touch_rules(object, anew);
            }
            // Which subsets a destination has.
            Some(Spec::DestinationRule(spec)) => {
                let host = full(&spec.host);
                let asking = under(&self.asking, &host).flatten();
                anew.objects.extend(asking.copied());
            }
            Some(Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => {}
        }
    }

    /// Notes the rules for the hosts of a `VirtualService`.
    fn touch_rules(&self, object: &Object, anew: &mut Anew) {
        let Some(Spec::VirtualService(spec)) = &object.spec else {
            return;
        };
        let (own, domain) = (&object.meta.namespace, &self.registry.domain);
        for host in &spec.hosts {
            let host = hosts::full_name(host, own, domain);
            let same = under(&self.registry.rules, &host).flatten();
            anew.objects.extend(same.map(|rule| place(&rule.object)));
        }
    }
}

/// The values of the hosts that a host or wildcard covers.
fn under<'a, T>(map: &'a BTreeMap<Arc<str>, T>, pattern: &str) -> impl Iterator<Item = &'a T> {
    let exact = (!hosts::is_wildcard(pattern)).then(|| map.get(pattern));
    let wild = exact.is_none().then(|| {
        let all = map.iter();
        all.filter(|(host, _)| hosts::covers(pattern, host))
            .map(|(_, value)| value)
    });
    exact
        .flatten()
        .into_iter()
        .chain(wild.into_iter().flatten())
}

fn place(object: &Arc<Object>) -> usize {
    Arc::as_ptr(object).addr()
}
