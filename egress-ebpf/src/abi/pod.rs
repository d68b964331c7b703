//! The types that the agent may read from bytes, for `aya`.

use super::{
    Addr, Ancestors, DenyEvent, DnsClient, DnsClientKey, FlowKey, FlowOrigin, PeerKey, ProxyPort,
    SocketState,
};
macro_rules! pod {
    ($($t:ty),*) => { $(
        // SAFETY: `#[repr(C)]`, integers only, no padding (sizes asserted above), so any
        // bytes of this length are a valid value.
        unsafe impl aya::Pod for $t {}
    )* };
}
pod!(
    Addr,
    Ancestors,
    DenyEvent,
    DnsClient,
    DnsClientKey,
    FlowKey,
    FlowOrigin,
    PeerKey,
    ProxyPort,
    SocketState
);
