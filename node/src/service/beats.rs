//! The node's signs of life as a stream, quick while it has requests.
//!
//! Says nothing but that the node lives: how its workers are, its state says.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use mlxcel_protocol::v1::Beat;
use tokio::time::{Instant, sleep_until};

use crate::host::Host;

/// Never ends by itself.
pub(super) fn watch(host: Arc<Host>) -> impl Stream<Item = Beat> + Send + 'static {
    stream::unfold((host, None::<Instant>), |(host, last)| async move {
        if let Some(last) = last {
            let mut next = last + QUICK;
            loop {
                sleep_until(next).await;
                let now = Instant::now();
                if host.running() > 0 || now >= last + SLOW {
                    break;
                }
                next = now + QUICK;
            }
        }
        Some((Beat {}, (host, Some(Instant::now()))))
    })
}

/// Several in the time after which a router takes a silent node for stalled.
const QUICK: Duration = Duration::from_millis(150);
/// Short of the second that is promised, for the way.
const SLOW: Duration = Duration::from_millis(850);
