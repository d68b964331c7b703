//! Checks that the pods of a DaemonSet are its own: its controller adopts every pod of its namespace that matches the
//! selector, and deletes the ones that it does not need.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize as _;
use serde_json::Value;
use std::collections::BTreeMap;

/// Labels by name.
type Labels = BTreeMap<String, String>;

/// Fails if a pod, or the template of the pods of another object, has the labels that a DaemonSet selects, or if a
/// DaemonSet selects by more than labels, which this does not compare.
pub fn check(objects: &[&str]) -> Result<()> {
    let mut selectors: BTreeMap<String, Labels> = BTreeMap::new();
    let mut pods: BTreeMap<String, Vec<Labels>> = BTreeMap::new();
    for text in objects {
        let object: Value = serde_yaml::from_str(text)?;
        let word = |at: &str| object.pointer(at).and_then(Value::as_str).unwrap_or("");
        let name = format!("{} {}", word("/kind"), word("/metadata/name"));
        if word("/kind") == "DaemonSet" {
            let selector = &object["spec"]["selector"];
            if !selector
                .as_object()
                .is_some_and(|by| by.keys().eq(["matchLabels"]))
            {
                bail!("{name}: select its pods by matchLabels only");
            }
            selectors.insert(name, labels(&selector["matchLabels"])?);
        } else if let Some(found) = template(&object) {
            pods.entry(name).or_default().push(labels(found)?);
        }
    }
    for (set, selector) in &selectors {
        let matches = |own: &Labels| selector.iter().all(|(name, of)| own.get(name) == Some(of));
        if let Some((name, _)) = pods.iter().find(|(_, all)| all.iter().any(matches)) {
            bail!("{name}: its pods have the labels that {set} selects: give them others");
        }
    }
    Ok(())
}

/// The labels of the pod that an object is or makes; `None` if it makes none.
fn template(object: &Value) -> Option<&Value> {
    let pods = [
        "/spec/template/metadata",
        "/spec/jobTemplate/spec/template/metadata",
    ];
    let metadata = match object["kind"].as_str() {
        Some("Pod") => Some(&object["metadata"]),
        _ => pods.iter().find_map(|at| object.pointer(at)),
    };
    metadata.map(|metadata| &metadata["labels"])
}

fn labels(value: &Value) -> Result<Labels> {
    let labels = Option::<Labels>::deserialize(value).context("labels that are not text")?;
    Ok(labels.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = "kind: DaemonSet\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {n: a}}\n  template: {metadata: {labels: {n: a, v: '1'}}}\n";

    #[test]
    fn no_pod_of_another_object_is_selected_by_a_daemonset() {
        let ends = |other: &str| check(&[SET, other]).map_err(|error| error.to_string());
        let refused = |kind: &str| {
            Err(format!(
                "{kind} b: its pods have the labels that DaemonSet a selects: give them others"
            ))
        };
        let pod = |labels: &str| format!("kind: Pod\nmetadata: {{name: b, labels: {labels}}}\n");
        let job =
            "kind: Job\nmetadata: {name: b}\nspec: {template: {metadata: {labels: {n: a}}}}\n";
        let cron = "kind: CronJob\nmetadata: {name: b}\nspec: {jobTemplate: {spec: {template: {metadata: {labels: {n: a}}}}}}\n";
        assert_eq!(ends(&pod("{n: a, c: test}")), refused("Pod"));
        assert_eq!(ends(job), refused("Job"));
        assert_eq!(ends(cron), refused("CronJob"));
        assert_eq!(ends(&pod("{n: a-test}")), Ok(()));
        assert_eq!(ends(&pod("null")), Ok(()));
        // Objects that are no pods share the labels.
        assert_eq!(
            ends("kind: Service\nmetadata: {name: b, labels: {n: a}}\n"),
            Ok(())
        );
        let by_expression = SET.replace("matchLabels: {n: a}", "matchExpressions: []");
        assert!(check(&[&by_expression]).is_err());
    }
}
