//! Checks that Istio's objects in examples and documentation are valid for an API server with strict field
//! validation: against the schemas of the definitions that the chart ships.
//!
//! The rules in `x-kubernetes-validations` (CEL) are not evaluated.

use super::tools;
use crate::workspace::root;
use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The definitions that the chart ships.
const DEFINITIONS: &str = "deploy/chart/egress-agent/files/istio-crds.yaml";
/// Folders without examples and documentation.
const SKIPPED: [&str; 6] = ["target", ".git", "data", "corpus", "chart", "node_modules"];

/// Schemas by API version and kind.
type Schemas = BTreeMap<(String, String), Value>;

/// An object, and where it is.
struct Found {
    place: String,
    object: Value,
}

/// Fails with every mistake in the objects of `examples` and of the YAML blocks in Markdown files, and in the rules of
/// these rendered ConfigMaps.
pub fn check(rendered: &[&str]) -> Result<()> {
    let mut paths = Vec::new();
    walk(root(), &mut paths)?;
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let shown = path.strip_prefix(root()).unwrap_or(&path).display();
        if path.extension().is_some_and(|e| e == "md") {
            for (line, block) in blocks(&text) {
                found.extend(objects(&format!("{shown}:{line}"), &block)?);
            }
        } else {
            found.extend(objects(&shown.to_string(), &text)?);
        }
    }
    for text in rendered.iter().filter(|t| t.contains("\nkind: ConfigMap")) {
        let map: Value = serde_yaml::from_str(text)?;
        for (name, value) in map["data"].as_object().into_iter().flatten() {
            found.extend(objects(name, value.as_str().unwrap_or_default())?);
        }
    }
    let mistakes = mistakes(&found)?;
    if !mistakes.is_empty() {
        bail!("{}", mistakes.join("\n"));
    }
    eprintln!(
        "manifests: {} Istio objects in examples, documentation and values, all valid",
        found.len()
    );
    Ok(())
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let example = path.starts_with(root().join("examples"))
            || path.starts_with(root().join("deploy/examples"));
        if path.is_dir() && !path.is_symlink() {
            if !SKIPPED.contains(&name.as_ref()) {
                walk(&path, found)?;
            }
        } else if name.ends_with(".md") || (example && name.ends_with(".yaml")) {
            found.push(path);
        }
    }
    Ok(())
}

/// The YAML blocks of a Markdown text with the line of each.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (at, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (&mut open, line.trim()) {
            (None, "```yaml") => open = Some((at + 2, indent, String::new())),
            (None, _) => {}
            (Some(_), "```") => {
                found.extend(open.take().map(|(line, _, block)| (line, block)));
            }
            (Some((_, outer, block)), _) => {
                block.push_str(line.get(indent.min(*outer)..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    found
}

/// The documents that are Istio's.
fn objects(place: &str, text: &str) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    if !text.contains("istio.io/v") {
        return Ok(found);
    }
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = Value::deserialize(document).with_context(|| place.to_owned())?;
        let version = object["apiVersion"].as_str().unwrap_or_default();
        if version.contains("istio.io/") {
            let place = place.to_owned();
            found.push(Found { place, object });
        }
    }
    Ok(found)
}

/// What an API server would answer about each object that it rejects.
fn mistakes(found: &[Found]) -> Result<Vec<String>> {
    let path = root().join(DEFINITIONS);
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let schemas = read(&text)?;
    let (mut said, mut known, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    for Found { place, object } in found {
        let word = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let key = (word("apiVersion"), word("kind"));
        match schemas.keys().position(|k| *k == key) {
            Some(at) => {
                known.push(format!("{place}: {}", key.1));
                pairs.push(json!([at, object]));
            }
            None => said.push(format!("{place}: {} {}: no definition", key.0, key.1)),
        }
    }
    let schemas: Vec<&Value> = schemas.values().collect();
    let answers = ask(&json!({"schemas": schemas, "objects": pairs}))?;
    for (shown, answers) in known.iter().zip(answers) {
        said.extend(answers.iter().map(|mistake| format!("{shown}: {mistake}")));
    }
    Ok(said)
}

/// Runs the library for JSON schemas that the validator of Kubernetes objects brings.
fn ask(question: &Value) -> Result<Vec<Vec<String>>> {
    let mut python = Command::new(tools::validator()?.with_file_name("python"))
        .args(["-c", include_str!("mistakes.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run python")?;
    let mut input = python.stdin.take().context("a pipe")?;
    input.write_all(question.to_string().as_bytes())?;
    drop(input);
    let output = python.wait_with_output()?;
    ensure!(output.status.success(), "python: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn read(definitions: &str) -> Result<Schemas> {
    let mut schemas = Schemas::new();
    for document in serde_yaml::Deserializer::from_str(definitions) {
        let definition = Value::deserialize(document)?;
        let spec = &definition["spec"];
        let group = spec["group"].as_str().context("a group")?;
        let kind = spec["names"]["kind"].as_str().context("a kind")?;
        for version in spec["versions"].as_array().context("versions")? {
            let name = version["name"].as_str().context("a version's name")?;
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            // The API server knows these in each object.
            for field in ["apiVersion", "kind"] {
                schema["properties"][field] = json!({"type": "string"});
            }
            schema["properties"]["metadata"] =
                json!({"x-kubernetes-preserve-unknown-fields": true});
            close(&mut schema);
            schemas.insert((format!("{group}/{name}"), kind.to_owned()), schema);
        }
    }
    Ok(schemas)
}

/// Turns a structural schema into a JSON schema that rejects unknown fields, as an API server does with
/// `fieldValidation=Strict`. Fields are declared outside `allOf`, `anyOf`, `oneOf` and `not` only.
fn close(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    if map.remove("nullable") == Some(Value::Bool(true))
        && let Some(kind) = map.get("type").cloned()
    {
        map.insert("type".to_owned(), json!([kind, "null"]));
    }
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if map.contains_key("properties") && !map.contains_key("additionalProperties") && !open {
        map.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    if let Some(fields) = map.get_mut("properties").and_then(Value::as_object_mut) {
        fields.values_mut().for_each(close);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(inner) {
            close(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_object_is_held_to_its_definition() {
        let object = |spec: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a.example]\n{spec}"
            )
        };
        let tls = |field: &str| {
            object(&format!(
                "  tls:\n  - match: [{{port: 443, {field}: [a.example]}}]\n    route: [{{destination: {{host: a.example}}}}]\n"
            ))
        };
        let texts = [
            tls("sniHosts"),
            tls("sni_hosts"),
            object("  http: {}\n"),
            object("  timeout: 3s\n"),
            object("  http:\n  - route: 1\n"),
            object("").replace("/v1", "/v9"),
            "kind: Pod\napiVersion: v1\nspec: {a: istio.io/v1}\n".to_owned(),
        ];
        let found: Vec<Found> = texts
            .iter()
            .enumerate()
            .flat_map(|(at, text)| objects(&at.to_string(), text).unwrap())
            .collect();
        let said = mistakes(&found).unwrap();
        let parts = [
            ("5: ", "no definition"),
            ("1: ", "'sni_hosts' was unexpected"),
            ("2: ", "/spec/http: "),
            ("3: ", "'timeout' was unexpected"),
            ("4: ", "/spec/http/0/route: "),
        ];
        for (begin, part) in parts {
            let is_said = |said: &String| said.starts_with(begin) && said.contains(part);
            assert!(said.iter().any(is_said), "{begin}{part}: {said:#?}");
        }
        let places: BTreeSet<&str> = said.iter().map(|said| &said[..3]).collect();
        assert_eq!(places, parts.map(|(begin, _)| begin).into());
    }

    #[test]
    fn only_yaml_blocks_are_read_and_their_indent_is_removed() {
        let text =
            "a\n```yaml\nx: 1\n```\n- b\n\n  ```yaml\n  y:\n    z: 2\n  ```\n```console\nw\n```\n";
        assert_eq!(
            blocks(text),
            [(3, "x: 1\n".to_owned()), (8, "y:\n  z: 2\n".to_owned())]
        );
    }
}
