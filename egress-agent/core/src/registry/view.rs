//! What one workload sees of the registry: its services and what each does with a flow.

use super::Registry;
use super::routes::{self, HostPlan};
use super::services::Service;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Services and their routes, by host in canonical form.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Services.
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
    /// What each does, by port.
    pub plans: BTreeMap<Arc<str>, HostPlan>,
}

impl View {
    /// Everything that is registered.
    pub fn everything(registry: &Registry) -> Self {
        let services = registry.services.clone();
        let plan =
            |(host, s): (&Arc<str>, &Arc<Service>)| (Arc::clone(host), routes::plan(s, registry));
        let plans = services.iter().map(plan).collect();
        Self { services, plans }
    }
}
