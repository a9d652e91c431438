//! Proof that a caller holds the cluster's shared token.
//!
//! The proof is bound to the keys of both ends of the TLS connection, so a peer that receives
//! it can use it nowhere else. Knows nothing of when one is needed; `claim` decides.

use ring::hmac;

use crate::Fingerprint;

/// HMAC-SHA-256 of both fingerprints under the shared token: what `HelloRequest.token_proof`
/// carries. `client` is the caller's key, `server` the answering side's.
#[must_use]
pub fn token_proof(token: &str, client: Fingerprint, server: Fingerprint) -> [u8; 32] {
    let tag = hmac::sign(&key(token), &message(client, server));
    let mut proof = [0; 32];
    proof.copy_from_slice(tag.as_ref());
    proof
}

/// Whether `proof` is [`token_proof`] of the same token and keys, compared in constant time.
#[must_use]
pub fn verify_token_proof(token: &str, client: Fingerprint, server: Fingerprint, proof: &[u8]) -> bool {
    hmac::verify(&key(token), &message(client, server), proof).is_ok()
}

fn key(token: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes())
}

fn message(client: Fingerprint, server: Fingerprint) -> Vec<u8> {
    [CONTEXT, client.as_bytes(), server.as_bytes()].concat()
}

/// Keeps this use of the token apart from any other.
const CONTEXT: &[u8] = b"mlxcel token proof 1\0";

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (Fingerprint, Fingerprint) {
        (Fingerprint::of_public_key(b"client"), Fingerprint::of_public_key(b"server"))
    }

    #[test]
    fn proof_of_the_same_token_and_keys_holds() {
        let (client, server) = keys();
        let proof = token_proof("secret", client, server);
        assert!(verify_token_proof("secret", client, server, &proof));
    }

    #[test]
    fn proof_of_another_token_fails() {
        let (client, server) = keys();
        let proof = token_proof("other", client, server);
        assert!(!verify_token_proof("secret", client, server, &proof));
    }

    #[test]
    fn proof_cannot_be_replayed_to_a_third_host_or_back() {
        let (client, server) = keys();
        let third = Fingerprint::of_public_key(b"third");
        let proof = token_proof("secret", client, server);
        assert!(!verify_token_proof("secret", client, third, &proof));
        assert!(!verify_token_proof("secret", third, server, &proof));
        assert!(!verify_token_proof("secret", server, client, &proof));
    }

    #[test]
    fn short_or_missing_proof_fails() {
        let (client, server) = keys();
        let proof = token_proof("secret", client, server);
        assert!(!verify_token_proof("secret", client, server, &proof[..31]));
        assert!(!verify_token_proof("secret", client, server, &[]));
    }
}
