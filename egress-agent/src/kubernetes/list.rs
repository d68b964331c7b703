//! A list in pages.

use super::client::ApiClient;
use super::meta::{Object, or_default};
use super::problem::Problem;
use super::selection::{Freshness, Selection};
use serde::Deserialize;

/// Objects of a page.
pub(super) const PAGE: u32 = 250;
/// The most bytes of a page. A list of the cache is one.
const PAGE_MOST: usize = 64 << 20;

/// A page of a list. One malformed object fails the page: which one it is cannot be known.
#[derive(Deserialize)]
pub(super) struct Page<K> {
    pub(super) metadata: PageMetadata,
    #[serde(
        alias = "rows",
        deserialize_with = "or_default",
        bound = "K: Deserialize<'de>"
    )]
    pub(super) items: Vec<K>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMetadata {
    pub(super) resource_version: String,
    pub(super) r#continue: String,
}

/// Which page.
pub(super) struct Asked<'a> {
    /// The index of the kind's version.
    pub(super) version: usize,
    pub(super) freshness: Freshness,
    /// The most objects.
    pub(super) limit: u32,
    /// What the last page said to continue with; empty for the first page.
    pub(super) more: &'a str,
}

impl ApiClient {
    /// A page of a list.
    pub(super) async fn page<K: Object>(
        &self,
        selection: &Selection,
        asked: &Asked<'_>,
    ) -> Result<Page<K>, Problem> {
        let Asked {
            version,
            freshness,
            limit,
            more,
        } = *asked;
        let within = selection.limits.answer;
        let request = selection.page(version, freshness, limit, more)?;
        let answer = self.ask(request, within).await?;
        let text = answer.whole(PAGE_MOST, within).await?;
        serde_json::from_slice(&text).map_err(|error| Problem::malformed(&error))
    }

    /// All objects of a kind with one version. If everything at once is too large, this and later lists of the selection
    /// are in pages.
    pub(super) async fn each<K: Object>(
        &self,
        selection: &mut Selection,
        mut take: impl FnMut(K),
    ) -> Result<(), Problem> {
        let mut more = String::new();
        loop {
            let asked = Asked {
                version: 0,
                freshness: selection.freshness,
                limit: PAGE,
                more: &more,
            };
            let page = match self.page(selection, &asked).await {
                Err(Problem::TooLarge(_))
                    if more.is_empty() && selection.freshness == Freshness::Cached =>
                {
                    selection.freshness = Freshness::Latest;
                    continue;
                }
                page => page?,
            };
            let empty = page.items.is_empty();
            page.items.into_iter().for_each(&mut take);
            more = page.metadata.r#continue;
            if more.is_empty() {
                return Ok(());
            }
            if empty {
                let text = "a list that does not end".to_owned();
                return Err(Problem::Malformed(text));
            }
        }
    }
}
