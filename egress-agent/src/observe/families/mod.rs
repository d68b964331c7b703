//! Every counter of the gate, by family: name, unit, labels and meaning. `status` reads this list. Counts
//! nothing itself.
//!
//! To add a counter, add an entry here and count it where the thing happens.

mod family;

pub use family::{Family, Own, Section, Series, Source, Unit};

use egress_ebpf::abi::counter;

const fn kernel(
    labels: &'static [(&'static str, &'static str)],
    key: &'static str,
    index: u32,
) -> Series {
    Series {
        labels,
        section: Section::Counters,
        key,
        source: Source::Kernel(index),
    }
}

const fn agent(
    labels: &'static [(&'static str, &'static str)],
    section: Section,
    key: &'static str,
    own: Own,
) -> Series {
    Series {
        labels,
        section,
        key,
        source: Source::Agent(own),
    }
}

/// All of them.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "egress_kernel_verdicts_total",
        unit: Unit::Flows,
        help: "Verdicts of the kernel programs since the maps were created.",
        series: &[
            kernel(&[("verdict", "allowed")], "allowed", counter::ALLOWED),
            kernel(
                &[("verdict", "redirected")],
                "redirected",
                counter::REDIRECTED,
            ),
            kernel(&[("verdict", "denied")], "denied", counter::DENIED),
            kernel(
                &[("verdict", "would-deny")],
                "wouldDeny",
                counter::WOULD_DENY,
            ),
        ],
    },
    Family {
        name: "egress_kernel_answers_total",
        unit: Unit::Datagrams,
        help: "Datagrams let out as the answer to a peer that wrote first.",
        series: &[kernel(&[], "answered", counter::ANSWERED)],
    },
    Family {
        name: "egress_kernel_denials_repeated_total",
        unit: Unit::Denials,
        help: "Denials without an event: the same denial had one within the last second.",
        series: &[kernel(&[], "repeated", counter::REPEATED)],
    },
    Family {
        name: "egress_kernel_events_lost_total",
        unit: Unit::Denials,
        help: "Denials whose event exceeded the rate or found the ring buffer full.",
        series: &[kernel(&[], "eventsLost", counter::EVENTS_LOST)],
    },
    Family {
        name: "egress_kernel_flow_table_full_total",
        unit: Unit::Flows,
        help: "Redirected flows that were denied because the flow table had no room.",
        series: &[kernel(&[], "flowsFull", counter::FLOWS_FULL)],
    },
    Family {
        name: "egress_denial_events_total",
        unit: Unit::Denials,
        help: "Denials that the kernel reported to this agent as events.",
        series: &[agent(&[], Section::Rules, "events", Own::Events)],
    },
    Family {
        name: "egress_denials_not_logged_total",
        unit: Unit::Denials,
        help: "Denials without a log line, because of the rate limit.",
        series: &[
            agent(
                &[("by", "kernel")],
                Section::Rules,
                "notLogged",
                Own::EventsNotLogged,
            ),
            agent(
                &[("by", "proxy")],
                Section::Proxy,
                "notLogged",
                Own::ProxyNotLogged,
            ),
        ],
    },
    Family {
        name: "egress_proxy_denials_total",
        unit: Unit::Denials,
        help: "Connections and requests that the proxy denied, or would have under enforce.",
        series: &[
            agent(
                &[("verdict", "denied")],
                Section::Proxy,
                "denied",
                Own::ProxyDenied,
            ),
            agent(
                &[("verdict", "would-deny")],
                Section::Proxy,
                "wouldDeny",
                Own::ProxyWouldDeny,
            ),
        ],
    },
    Family {
        name: "egress_mirrored_requests_total",
        unit: Unit::Requests,
        help: "Copies of requests for the mirrors of a VirtualService. Without room, a copy is given up; the request is not.",
        series: &[
            agent(
                &[("result", "answered")],
                Section::Proxy,
                "copiesAnswered",
                Own::CopiesAnswered,
            ),
            agent(
                &[("result", "failed")],
                Section::Proxy,
                "copiesFailed",
                Own::CopiesFailed,
            ),
            agent(
                &[("result", "denied")],
                Section::Proxy,
                "copiesDenied",
                Own::CopiesDenied,
            ),
            agent(
                &[("result", "no-room")],
                Section::Proxy,
                "copiesNoRoom",
                Own::CopiesNoRoom,
            ),
        ],
    },
    Family {
        name: "egress_access_log_lines_total",
        unit: Unit::Lines,
        help: "Lines of the access log. Lost ones found no room, because the file could not be written in time or at all.",
        series: &[
            agent(
                &[("result", "written")],
                Section::Proxy,
                "accessLogWritten",
                Own::AccessLogWritten,
            ),
            agent(
                &[("result", "lost")],
                Section::Proxy,
                "accessLogLost",
                Own::AccessLogLost,
            ),
        ],
    },
    Family {
        name: "egress_table_entries_left_out_total",
        unit: Unit::Entries,
        help: "Addresses of listed names that found no room in a table and are denied.",
        series: &[agent(&[], Section::Rules, "leftOut", Own::LeftOut)],
    },
    Family {
        name: "egress_flows_ended_total",
        unit: Unit::Flows,
        help: "Running flows that a change of rules ended.",
        series: &[agent(&[], Section::Rules, "flowsEnded", Own::FlowsEnded)],
    },
    Family {
        name: "egress_engine_inputs_total",
        unit: Unit::Inputs,
        help: "Rules, workloads, DNS answers and questions that the engine acted on. Denials are not among them.",
        series: &[agent(&[], Section::Rules, "inputs", Own::Inputs)],
    },
    Family {
        name: "egress_dns_questions_total",
        unit: Unit::Questions,
        help: "DNS questions of the agent for listed names, by result. A question asks for both families.",
        series: &[
            agent(
                &[("result", "answered")],
                Section::Agent,
                "dnsAnswered",
                Own::DnsAnswered,
            ),
            agent(
                &[("result", "no-such-name")],
                Section::Agent,
                "dnsNoSuchName",
                Own::DnsNoSuchName,
            ),
            agent(
                &[("result", "no-address")],
                Section::Agent,
                "dnsNoAddress",
                Own::DnsNoAddress,
            ),
            agent(
                &[("result", "failed")],
                Section::Agent,
                "dnsFailed",
                Own::DnsFailed,
            ),
        ],
    },
    Family {
        name: "egress_dns_queries_total",
        unit: Unit::Queries,
        help: "DNS queries of workloads, by result, with dns.intercept auto. Forwarded ones were answered by a name server, local ones by the agent itself. Stale ones got the addresses that are leased, because no name server answered. Dropped ones had no answer: the owner of the query is not known, or too many queries of its workload wait.",
        series: &[
            agent(
                &[("result", "forwarded")],
                Section::Agent,
                "queriesForwarded",
                Own::QueriesForwarded,
            ),
            agent(
                &[("result", "cached")],
                Section::Agent,
                "queriesCached",
                Own::QueriesCached,
            ),
            agent(
                &[("result", "local")],
                Section::Agent,
                "queriesLocal",
                Own::QueriesLocal,
            ),
            agent(
                &[("result", "denied")],
                Section::Agent,
                "queriesDenied",
                Own::QueriesDenied,
            ),
            agent(
                &[("result", "stale")],
                Section::Agent,
                "queriesStale",
                Own::QueriesStale,
            ),
            agent(
                &[("result", "failed")],
                Section::Agent,
                "queriesFailed",
                Own::QueriesFailed,
            ),
            agent(
                &[("result", "malformed")],
                Section::Agent,
                "queriesMalformed",
                Own::QueriesMalformed,
            ),
            agent(
                &[("result", "dropped")],
                Section::Agent,
                "queriesDropped",
                Own::QueriesDropped,
            ),
        ],
    },
    Family {
        name: "egress_dns_queries_leased_total",
        unit: Unit::Queries,
        help: "Answers to queries of workloads whose addresses got leases in the kernel before the answer was sent.",
        series: &[agent(
            &[],
            Section::Agent,
            "queriesLeased",
            Own::QueriesLeased,
        )],
    },
    Family {
        name: "egress_canaries_total",
        unit: Unit::Canaries,
        help: "Connects of the agent's own canaries. Canary gate: an unlisted destination below an enforced root. Canary redirect: a connect that the kernel must redirect to this agent's proxy.",
        series: &[
            agent(
                &[("canary", "gate"), ("result", "passed")],
                Section::Agent,
                "canariesPassed",
                Own::CanariesPassed,
            ),
            agent(
                &[("canary", "gate"), ("result", "failed")],
                Section::Agent,
                "canariesFailed",
                Own::CanariesFailed,
            ),
            agent(
                &[("canary", "redirect"), ("result", "passed")],
                Section::Agent,
                "redirectsPassed",
                Own::RedirectsPassed,
            ),
            agent(
                &[("canary", "redirect"), ("result", "failed")],
                Section::Agent,
                "redirectsFailed",
                Own::RedirectsFailed,
            ),
        ],
    },
];

/// The meaning of a counter of `status`.
pub fn help(section: Section, key: &str) -> Option<&'static str> {
    let has = |family: &&Family| {
        let mut series = family.series.iter();
        series.any(|one| one.section == section && one.key == key)
    };
    FAMILIES.iter().find(has).map(|family| family.help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_counter_is_one_series_and_each_name_is_given_once() {
        let all = || FAMILIES.iter().flat_map(|family| family.series);
        for index in 0..counter::COUNT {
            let of = all().filter(|one| one.source == Source::Kernel(index));
            assert_eq!(of.count(), 1, "counter {index} of the kernel");
        }
        let own = all().filter(|one| matches!(one.source, Source::Agent(_)));
        assert_eq!(own.count(), Own::COUNT);
        assert_eq!(all().count(), Own::COUNT + counter::COUNT as usize);
        let places: BTreeSet<_> = all().map(|one| (one.section, one.key)).collect();
        assert_eq!(places.len(), all().count());
        let names: BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            let keys = |one: &Series| one.labels.iter().map(|(key, _)| *key).collect::<Vec<_>>();
            let first = keys(&family.series[0]);
            assert!(
                family.series.iter().all(|one| keys(one) == first),
                "{}",
                family.name
            );
        }
    }
}
