//! How much a document may hold, and how much the anchors and aliases of a file may copy.
//! Counts; where a limit is exceeded, `parse` says so.

/// Most values of a document, expanded aliases included.
pub(super) const MAX_NODES: usize = 400_000;
/// Most values that the anchors and aliases of a file copy. Of a file and not of a document: a file
/// has room for thousands of documents.
const MAX_COPIED_NODES: usize = MAX_NODES;
/// Most bytes of text that they copy. One value may be as long as the file.
const MAX_COPIED_BYTES: usize = 16 << 20;

/// What a value takes, with all inside it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Values.
    pub(super) nodes: usize,
    /// Of scalars, keys included.
    pub(super) bytes: usize,
}

impl Size {
    /// Both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            nodes: self.nodes.saturating_add(other.nodes),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// What came after an earlier size of the same document.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            nodes: self.nodes - before.nodes,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// What the anchors and aliases of a file have copied so far.
#[derive(Debug, Default)]
pub struct Copied(Size);

impl Copied {
    /// Adds a copy that is about to be made; an error says what it exceeds.
    pub(super) fn add(&mut self, copy: Size) -> Result<(), String> {
        self.0 = self.0.plus(copy);
        if self.0.nodes > MAX_COPIED_NODES || self.0.bytes > MAX_COPIED_BYTES {
            return Err(format!(
                "anchors and aliases of the file copy more than {MAX_COPIED_NODES} values or {MAX_COPIED_BYTES} bytes"
            ));
        }
        Ok(())
    }
}
