//! Sends bytes on an HTTP/2 stream, no faster than the peer reads.
//!
//! It keeps the bytes of one frame at most, besides what the library's buffer for the stream holds.

use bytes::Bytes;
use h2::{Reason, SendStream};
use std::future::poll_fn;

/// Sends `data` as the peer's windows allow. `is_over`: it ends the stream.
pub(super) async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_over: bool,
) -> Result<(), h2::Error> {
    if data.is_empty() {
        return if is_over {
            stream.send_data(data, true)
        } else {
            Ok(())
        };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let mut capacity = stream.capacity();
        while capacity == 0 {
            capacity = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(Reason::CANCEL.into()),
            };
        }
        let part = data.split_to(capacity.min(data.len()));
        stream.send_data(part, is_over && data.is_empty())?;
    }
    Ok(())
}
