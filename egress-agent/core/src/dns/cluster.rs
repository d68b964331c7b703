//! Names of the cluster's domain, and names that search lists make of others: no server needs to be asked for those.

use super::decision::{Decision, Forward, Local, Source};
use super::listing::Listing;
use super::query::Question;
use super::text::{below, last_label};

/// The most labels before `svc.` and the cluster's domain: port, protocol, pod, service and namespace
/// (https://github.com/kubernetes/dns/blob/master/docs/specification.md).
const SERVICE_LABELS: usize = 5;

/// A name of the cluster's domain; `inside` is the part before it.
pub(super) fn of_cluster(listing: Listing<'_>, question: &Question, inside: &str) -> Decision {
    let before = last_label(inside).map_or("", |(before, _)| before);
    let labels = before.split('.').count();
    // The forms that a cluster has. Others are made of search lists, and no server needs to be asked.
    let exists = match inside.rsplit('.').next() {
        Some("svc") => labels <= SERVICE_LABELS && !is_variant(listing, before),
        Some("pod") => labels <= 2,
        Some("" | "dns-version") => before.is_empty(),
        Some(_) | None => listing.lists(&question.name),
    };
    if !exists {
        return Local::no_such_name(Source::SearchList);
    }
    let services = listing.services(&question.name);
    Decision::Forward(Forward {
        services: services.into_iter().cloned().collect(),
        ..Forward::as_asked()
    })
}

/// Whether `before` is a listed name to which a search list added a namespace, or nothing: `api.example.com.shop`.
fn is_variant(listing: Listing<'_>, before: &str) -> bool {
    let completes = |name: &str| name.contains('.') && listing.lists(name);
    completes(before) || last_label(before).is_some_and(|(name, _)| completes(name))
}

/// Whether a name is short for a Service: the client's search list has its other forms.
pub(super) fn is_short(name: &str) -> bool {
    !name.contains('.') && !name.is_empty() || below(name, "svc").is_some()
}

/// Whether a search list made this name of one that is listed, or of the cluster's own.
pub(super) fn is_of_search_list(listing: Listing<'_>, name: &str) -> bool {
    let settings = listing.settings();
    settings.search.iter().any(|domain| {
        below(name, domain).is_some_and(|before| {
            let cluster = settings.cluster_domain.as_deref();
            // In a cluster, one label is most likely a Service's short name.
            let of_cluster =
                |cluster: &str| !before.contains('.') || below(before, cluster).is_some();
            cluster.is_some_and(of_cluster) || listing.lists(before)
        })
    })
}
