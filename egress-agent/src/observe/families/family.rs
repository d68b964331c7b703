//! What a family of counters is: unit, labels, and where its values come from. Lists none.

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Connects and first datagrams.
    Flows,
    /// Denied connects, packets and requests, or those that an auditing policy let pass.
    Denials,
    /// Datagrams.
    Datagrams,
    /// HTTP requests.
    Requests,
    /// Entries of a rule table.
    Entries,
    /// Inputs of the engine.
    Inputs,
    /// Lines of a file.
    Lines,
    /// DNS questions for one name, both families.
    Questions,
    /// DNS queries of workloads.
    Queries,
    /// Connects of the agent's own canaries.
    Canaries,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel programs, since the maps were created; one of [`egress_ebpf::abi::counter`].
    Kernel(u32),
    /// This agent, since its start.
    Agent(Own),
}

/// The counters of the agent itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Denials that the kernel reported as events.
    Events,
    /// Of them, those without a log line.
    EventsNotLogged,
    /// Addresses that found no room in a table.
    LeftOut,
    /// Running flows that a rules change ended.
    FlowsEnded,
    /// Inputs of the engine.
    Inputs,
    /// Denials by the proxy.
    ProxyDenied,
    /// Connections and requests that the proxy let pass because the policy audits.
    ProxyWouldDeny,
    /// Of these two, those without a log line.
    ProxyNotLogged,
    /// Copies of requests that mirrors answered.
    CopiesAnswered,
    /// Those that mirrors did not answer, or whose request ended early.
    CopiesFailed,
    /// Those that the rules do not let leave.
    CopiesDenied,
    /// Those for which there was no memory or socket to spare.
    CopiesNoRoom,
    /// Lines that were written to the access log.
    AccessLogWritten,
    /// Lines of the access log that found no room, or could not be written.
    AccessLogLost,
    /// DNS questions with addresses as the answer.
    DnsAnswered,
    /// Those for names that do not exist.
    DnsNoSuchName,
    /// Those for names without an address.
    DnsNoAddress,
    /// Those without an answer, or with an error of the name server.
    DnsFailed,
    /// Canaries that the gate denied, or treated as the policy says.
    CanariesPassed,
    /// Canaries with another outcome.
    CanariesFailed,
    /// Redirected canaries that reached the agent's proxy.
    RedirectsPassed,
    /// Redirected canaries that did not.
    RedirectsFailed,
    /// Queries of workloads that a name server answered.
    QueriesForwarded,
    /// Those that were answered from the cache.
    QueriesCached,
    /// Those whose answer the agent knows itself.
    QueriesLocal,
    /// Those that were denied.
    QueriesDenied,
    /// Those without a usable answer of a name server, answered with the addresses that are leased.
    QueriesStale,
    /// Those without a usable answer of a name server.
    QueriesFailed,
    /// Messages that are not queries.
    QueriesMalformed,
    /// Queries without an answer: their owner is not known, or too many of their workload wait.
    QueriesDropped,
    /// Answers whose addresses got leases before they were sent.
    QueriesLeased,
}

impl Own {
    /// The number of counters.
    pub const COUNT: usize = Self::QueriesLeased as usize + 1;
}

/// The object in `status -o json` that contains a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `counters`.
    Counters,
    /// `rules`.
    Rules,
    /// `proxy`.
    Proxy,
    /// `agent`.
    Agent,
}

/// One value of a family.
#[derive(Debug)]
pub struct Series {
    /// Labels and their values.
    pub labels: &'static [(&'static str, &'static str)],
    /// The object of `status` that contains it.
    pub section: Section,
    /// Its key in that object.
    pub key: &'static str,
    /// Where the value comes from.
    pub source: Source,
}

/// Series that count the same thing and differ in their labels.
#[derive(Debug)]
pub struct Family {
    /// Its name as a metric.
    pub name: &'static str,
    /// What it counts.
    pub unit: Unit,
    /// Its meaning in a sentence.
    pub help: &'static str,
    /// Its values.
    pub series: &'static [Series],
}
