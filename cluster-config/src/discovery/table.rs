//! What is heard, turned into changes worth telling.
//!
//! Several instances may share a key (routers of one cluster); they are told as one peer. Pure:
//! the listening task feeds it.

use std::collections::BTreeMap;

use super::{DiscoveryEvent, Peer};
use crate::Fingerprint;
use crate::address::{Interface, order};

pub(super) struct Table {
    own: Fingerprint,
    instances: BTreeMap<String, Peer>,
    told: BTreeMap<Fingerprint, Peer>,
}

impl Table {
    /// A table that leaves out `own`: this host hears itself.
    pub(super) const fn new(own: Fingerprint) -> Self {
        Self { own, instances: BTreeMap::new(), told: BTreeMap::new() }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.told.values()
    }

    /// An instance announced itself, for the first time or again.
    pub(super) fn heard(
        &mut self,
        instance: &str,
        mut peer: Peer,
        local: &[Interface],
    ) -> Option<DiscoveryEvent> {
        if peer.id == self.own {
            return None;
        }
        peer.addresses = order(&peer.addresses, local);
        let id = peer.id;
        self.instances.insert(instance.to_lowercase(), peer);
        self.change(id)
    }

    /// An instance said goodbye or ran out.
    pub(super) fn gone(&mut self, instance: &str) -> Option<DiscoveryEvent> {
        let peer = self.instances.remove(&instance.to_lowercase())?;
        self.change(peer.id)
    }

    fn change(&mut self, id: Fingerprint) -> Option<DiscoveryEvent> {
        let Some(now) = self.merged(id) else {
            return self.told.remove(&id).map(|_| DiscoveryEvent::Lost(id));
        };
        match self.told.insert(id, now.clone()) {
            None => Some(DiscoveryEvent::Found(now)),
            Some(before) if before != now => Some(DiscoveryEvent::Updated(now)),
            Some(_) => None,
        }
    }

    fn merged(&self, id: Fingerprint) -> Option<Peer> {
        let mut sharing = self.instances.values().filter(|peer| peer.id == id);
        let mut merged = sharing.next()?.clone();
        for peer in sharing {
            for address in &peer.addresses {
                if !merged.addresses.contains(address) {
                    merged.addresses.push(*address);
                }
            }
        }
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;

    fn peer(key: &[u8], address: &str) -> Peer {
        Peer {
            id: Fingerprint::of_public_key(key),
            role: Role::Router,
            cluster: None,
            protocol_version: 1,
            software_version: "0.1.0".into(),
            hostname: "alpha".into(),
            addresses: vec![address.parse().expect("address")],
        }
    }

    fn table() -> Table {
        Table::new(Fingerprint::of_public_key(b"own"))
    }

    #[test]
    fn repeated_announcement_is_told_once() {
        let mut table = table();
        let alpha = peer(b"a", "10.0.0.2:1");
        let first = table.heard("a", alpha.clone(), &[]);
        assert_eq!(first, Some(DiscoveryEvent::Found(alpha.clone())));
        assert_eq!(table.heard("A", alpha, &[]), None);
    }

    #[test]
    fn changed_announcement_is_an_update() {
        let mut table = table();
        let mut alpha = peer(b"a", "10.0.0.2:1");
        table.heard("a", alpha.clone(), &[]);
        alpha.cluster = Some(Fingerprint::of_public_key(b"cluster"));
        assert_eq!(table.heard("a", alpha.clone(), &[]), Some(DiscoveryEvent::Updated(alpha)));
    }

    #[test]
    fn own_announcement_is_not_told() {
        assert_eq!(table().heard("own", peer(b"own", "10.0.0.1:1"), &[]), None);
    }

    #[test]
    fn peer_is_lost_with_its_last_instance() {
        let mut table = table();
        let id = Fingerprint::of_public_key(b"a");
        table.heard("a1", peer(b"a", "10.0.0.2:1"), &[]);
        let Some(DiscoveryEvent::Updated(both)) = table.heard("a2", peer(b"a", "10.0.0.3:1"), &[]) else {
            panic!("a second instance changes the peer")
        };
        assert_eq!(both.addresses.len(), 2);
        assert_eq!(table.gone("a1"), Some(DiscoveryEvent::Updated(peer(b"a", "10.0.0.3:1"))));
        assert_eq!(table.gone("a2"), Some(DiscoveryEvent::Lost(id)));
        assert_eq!(table.gone("a2"), None);
        assert_eq!(table.peers().count(), 0);
    }
}
