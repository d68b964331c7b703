//! Types that several kinds share: string matches, selectors, destinations and percentages.
//!
//! Field by field as in istio/api `networking/v1alpha3/*.proto`; the registry decides what they
//! mean for a flow.

use super::decode::macros::messages;
use super::decode::node::{Node, Value};
use super::decode::reader::{Decode, Reader};
use std::collections::BTreeMap;

/// How a string is compared. The member of Istio's `StringMatch` oneof that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StringMatch {
    /// `{}`: no member set; for headers and query parameters it means "is present".
    #[default]
    Present,
    /// Equal.
    Exact(String),
    /// Starts with; raw, not by path segments.
    Prefix(String),
    /// RE2 regular expression over the whole string.
    Regex(String),
}

messages! {
    /// The oneof as it is written.
    RawStringMatch oneof("exact" | "prefix" | "regex") {
        /// Equal.
        exact: Option<String> = "exact",
        /// Starts with.
        prefix: Option<String> = "prefix",
        /// RE2 regular expression.
        regex: Option<String> = "regex",
    }

    /// Labels that a workload must have, all of them; empty selects every workload of the namespace.
    WorkloadSelector {
        /// Label names and values.
        labels: BTreeMap<String, String> = "labels",
    }

    /// `istio.type.v1beta1.WorkloadSelector`, which `DestinationRule` uses.
    MatchLabelsSelector {
        /// Label names and values.
        match_labels: BTreeMap<String, String> = "matchLabels",
    }

    /// A port by number.
    PortSelector {
        /// Port number; 0 is rejected by validation.
        number: u32 = "number",
    }

    /// A service to send to, with an optional subset and port of it.
    Destination {
        /// Name of a registered service; a name without a dot is short for one in the namespace.
        host: String = "host",
        /// Name of a `DestinationRule` subset; empty for none.
        subset: String = "subset",
        /// Port of the service; unset means its only one, else the one that was dialled.
        port: Option<PortSelector> = "port",
    }

    /// A share in percent, from 0 to 100.
    Percent {
        /// The share.
        value: f64 = "value",
    }
}

impl Decode for StringMatch {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        if node.value == Value::Null {
            return Self::Present;
        }
        let raw = RawStringMatch::decode(node, reader);
        match (raw.exact, raw.prefix, raw.regex) {
            (Some(text), _, _) => Self::Exact(text),
            (None, Some(text), _) => Self::Prefix(text),
            (None, None, Some(text)) => Self::Regex(text),
            (None, None, None) => Self::Present,
        }
    }
}
