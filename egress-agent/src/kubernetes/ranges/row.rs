//! A node as a row of the server's table.
//!
//! A kubelet writes its node's status every five minutes, with the list of images: 10 to 20 KB for each watch. The row
//! has the name, the state and an address in 0.4 KB, and shows when the node itself must be read.

use super::collected::Found;
use super::objects::{Node, Source as _};
use crate::kubernetes::{Kind, Metadata, Object};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::net::IpAddr;

/// See the module.
#[derive(Debug)]
pub(super) struct NodeRow {
    metadata: Metadata,
    /// What to compare: if it differs, the node must be read.
    pub(super) mark: String,
    /// Addresses in the row.
    pub(super) addresses: Vec<IpAddr>,
    /// The ranges, if the server sent the node itself: it makes no tables.
    pub(super) whole: Option<Vec<Found>>,
}

impl NodeRow {
    pub(super) const KIND: Kind = Node::KIND;

    /// From the cells: the name, the state, and others by what they look like, since columns may be added.
    fn of_cells(cells: &[Value], version: Option<&str>) -> Option<Self> {
        let text = |at: usize| cells.get(at).and_then(Value::as_str);
        let (name, state) = (text(0)?, text(1).unwrap_or_default());
        let texts = cells.iter().skip(1).filter_map(Value::as_str);
        let addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        let mark = format!("{state} {addresses:?}");
        let metadata = Metadata {
            name: name.to_owned(),
            // A row of a list has no version of its own. This is none that has an order.
            resource_version: version.map_or_else(|| format!("row {mark}"), str::to_owned),
            ..Metadata::default()
        };
        Some(Self {
            metadata,
            mark,
            addresses,
            whole: None,
        })
    }
}

impl<'de> Deserialize<'de> for NodeRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let cells = |row: &Value, version: Option<&str>| {
            let cells = row["cells"].as_array();
            let row = cells.and_then(|cells| Self::of_cells(cells, version));
            row.ok_or_else(|| D::Error::custom("a row of a table without a name"))
        };
        if value.get("cells").is_some() {
            return cells(&value, None);
        }
        if let Some(rows) = value.get("rows") {
            // An event has a table of one row.
            return cells(&rows[0], value["metadata"]["resourceVersion"].as_str());
        }
        let node = Node::deserialize(value).map_err(D::Error::custom)?;
        Ok(Self {
            metadata: node.metadata().clone(),
            mark: String::new(),
            addresses: Vec::new(),
            whole: Some(node.ranges()),
        })
    }
}

impl Object for NodeRow {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(state: &str, age: &str, address: &str) -> Value {
        json!([
            "a",
            state,
            "<none>",
            age,
            "v1.36.2",
            address,
            "<none>",
            "Debian",
            "6.1",
            "containerd://2.1"
        ])
    }

    fn row(value: Value) -> NodeRow {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_row_differs_when_the_node_must_be_read() {
        let of =
            |state, age, address| row(json!({"cells": cells(state, age, address), "object": null}));
        let first = of("Ready", "3d", "10.0.0.7");
        assert_eq!(
            (first.metadata.name.as_str(), &first.addresses[..]),
            ("a", &["10.0.0.7".parse().unwrap()][..])
        );
        assert_eq!(first.mark, of("Ready", "4d", "10.0.0.7").mark);
        for other in [
            of("NotReady", "3d", "10.0.0.7"),
            of("Ready", "3d", "10.0.0.8"),
            of("Ready", "3d", "<none>"),
        ] {
            assert_ne!(first.mark, other.mark);
            assert_ne!(
                first.metadata.resource_version,
                other.metadata.resource_version
            );
        }
    }

    #[test]
    fn an_event_is_a_table_and_a_server_without_tables_sends_the_node() {
        let event = row(json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "77"},
            "columnDefinitions": null, "rows": [{"cells": cells("Ready", "3d", "fd00::7"), "object": null}],
        }));
        assert_eq!(event.metadata.resource_version, "77");
        assert!(event.whole.is_none());
        let node = row(json!({
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "78"}, "spec": {"podCIDR": "10.244.1.0/24"},
        }));
        assert_eq!(node.whole.unwrap().len(), 1);
        for wrong in [
            json!({"rows": []}),
            json!({"cells": [7]}),
            json!({"rows": [{"cells": null}]}),
        ] {
            assert!(serde_json::from_value::<NodeRow>(wrong).is_err());
        }
    }
}
