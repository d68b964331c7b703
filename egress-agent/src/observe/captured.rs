//! For tests: captures the log lines of a function.

use std::io::Write;
use std::sync::{Arc, Mutex};
use tracing_subscriber::layer::{Identity, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log lines of `work`, as `log.format: json` writes them.
pub fn lines(work: impl FnOnce()) -> Vec<serde_json::Value> {
    lines_through(Identity::new(), work)
}

/// The same with a layer that may suppress lines.
pub fn lines_through(
    layer: impl Layer<Registry> + Send + Sync,
    work: impl FnOnce(),
) -> Vec<serde_json::Value> {
    let sink = Sink::default();
    let writer = sink.clone();
    let json = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(layer).with(json);
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}
