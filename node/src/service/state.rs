//! The node's state as a stream: at once, after every change, and every second.
//!
//! Changes that come faster than a router can use them are told together. Knows nothing of what
//! the state holds.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use mlxcel_protocol::v1::NodeState;
use tokio::time::{sleep, timeout};

use crate::host::Host;

/// Never ends by itself.
pub(super) fn watch(host: Arc<Host>) -> impl Stream<Item = NodeState> + Send + 'static {
    let changes = host.changes();
    stream::unfold((host, changes, true), |(host, mut changes, first)| async move {
        if !first {
            // Fails only without a sender, and the host holds one.
            if let Ok(Ok(())) = timeout(LONGEST_SILENCE, changes.changed()).await {
                sleep(TOGETHER).await;
            }
        }
        changes.borrow_and_update();
        let state = host.state();
        Some((state, (host, changes, false)))
    })
}

/// Short of the second that is promised, for the way.
const LONGEST_SILENCE: Duration = Duration::from_millis(900);
const TOGETHER: Duration = Duration::from_millis(10);
