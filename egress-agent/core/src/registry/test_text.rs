//! Rules as text, for tests of which of them applies.

use crate::istio::{Object, decode};
use std::sync::Arc;

/// The document of an object.
pub(super) fn object(kind: &str, namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// The objects of documents, valid or not.
pub(super) fn objects(text: &str) -> Vec<Arc<Object>> {
    let decoded = decode("test.yaml", text);
    decoded.objects.into_iter().map(Arc::new).collect()
}
