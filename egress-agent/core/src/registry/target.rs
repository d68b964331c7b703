//! The target of a rule's destination: its service, port and subset, and its share.
//!
//! Source of the port's choice: istio `GetDestinationCluster`.

use super::VirtualService;
use super::destination_policy::policy;
use super::plan::{Context, Mirror, Share, Shares, Subset, To};
use super::services::Service;
use crate::istio::fields::Destination;
use crate::istio::hosts;
use crate::istio::virtual_service::{Headers, HttpRoute};
use crate::traffic::mirror;
use crate::traffic::{ClusterId, ClusterPolicy, HeaderChanges};
use std::sync::Arc;

/// The service itself as a destination.
pub(super) fn itself(service: &Service, port: u16, policy: Arc<ClusterPolicy>) -> To {
    To {
        id: ClusterId::new(Arc::clone(&service.host), port),
        subset: Subset::All,
        policy,
    }
}

/// Destinations by weight. A single one gets everything, whatever its weight.
pub(super) fn shares<'a>(
    route: impl Iterator<Item = (i32, Option<&'a Destination>, Option<&'a Headers>)>,
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Shares {
    let share = |(weight, to, headers): (i32, Option<&Destination>, Option<&Headers>)| {
        // A route whose headers cannot be changed has no action.
        let headers = headers.and_then(|h| HeaderChanges::new(Some(h)).ok());
        Some(Share {
            weight: u32::try_from(weight).unwrap_or(0),
            to: target(to?, vs, port, context),
            headers: headers.map(Arc::new),
        })
    };
    let mut all: Vec<_> = route.filter_map(share).collect();
    if let [only] = all.as_mut_slice() {
        only.weight = 1;
    }
    all.retain(|share| share.weight > 0);
    all
}

/// Destinations of copies, found like those of the requests.
pub(super) fn mirrors(
    route: &HttpRoute,
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Vec<Mirror> {
    let mirrors = mirror::mirrors(route).map(|(to, share)| Mirror {
        to: target(to, vs, port, context),
        share,
    });
    mirrors.collect()
}

/// The destination with this id; one that is not registered leads nowhere.
pub(super) fn registered(id: ClusterId, context: &Context<'_>) -> To {
    let service = context.services.get(&id.host).map(AsRef::as_ref);
    let ClusterId { host, port, subset } = &id;
    let with_labels = if subset.is_empty() {
        Subset::All
    } else {
        let namespace = service
            .and_then(|s| s.entries.first())
            .map(|e| e.object.meta.namespace.as_str());
        let namespace = namespace.unwrap_or_default();
        let found = context
            .registry
            .subset(host, namespace, subset, context.scope);
        found.map_or(Subset::Undefined, Subset::Labels)
    };
    let policy = service.map(|s| policy(host, Some(subset), *port, s, context));
    To {
        subset: with_labels,
        policy: Arc::new(policy.unwrap_or_default()),
        id,
    }
}

/// Host and port of a destination (istio `GetDestinationCluster`): without a port it is the service's only port, else
/// the dialled port.
fn target(to: &Destination, vs: &VirtualService, dialled: u16, context: &Context<'_>) -> To {
    let host = hosts::full_name(
        &to.host,
        &vs.object.meta.namespace,
        &context.registry.domain,
    );
    let service = context.services.get(&host);
    let only = || {
        let ports = service?.ports();
        (ports.len() == 1).then(|| ports.keys().next().copied())?
    };
    let port = match &to.port {
        // A number that is not a port leads nowhere: no service lists port 0.
        Some(port) => u16::try_from(port.number).unwrap_or(0),
        None => only().unwrap_or(dialled),
    };
    let subset = to.subset.as_str().into();
    registered(ClusterId { host, port, subset }, context)
}
