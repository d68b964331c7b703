//! Rules from the Kubernetes API: each object is one more rule file, so that it is judged, kept and reported like those.
//!
//! `rules` owns which objects are known, `kinds` has their files, and `object` makes these. `follow` gets the objects from
//! the server, `secrets` the Secrets that rules name.

mod follow;
mod kinds;
mod object;
mod rules;
mod secrets;

pub use follow::rule_kind;
pub use object::{Judgement, judge_object, plural};
pub use rules::ApiRules;

use crate::kubernetes::ApiClient;
use crate::secret_store::SecretStore;
use std::sync::Arc;

/// Follows the objects, and the Secrets that rules in force name, until the future is dropped.
pub async fn follow_api(api: ApiClient, rules: ApiRules, store: Arc<SecretStore>) {
    let secrets = secrets::follow_secrets(api.clone(), rules.clone(), store);
    tokio::join!(follow::follow_kinds(api, rules), secrets);
}
