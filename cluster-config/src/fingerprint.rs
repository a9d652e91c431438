//! The name of a public key.
//!
//! A fingerprint is the SHA-256 of a DER SubjectPublicKeyInfo, so it survives a renewed
//! certificate. Knows nothing of who is trusted; `claim` decides.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// SHA-256 of a host's or cluster's public key. Shown and stored as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hex digits, got `{0}`")]
pub struct ParseFingerprintError(String);

impl Fingerprint {
    /// The fingerprint of a public key given as DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// The digest itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hex digits: enough for people to tell hosts apart, not to trust one.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.short())
    }
}

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| ParseFingerprintError(text.chars().take(80).collect()))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let print = Fingerprint::of_public_key(b"a key");
        let text = print.to_string();
        assert_eq!(text.len(), 64);
        assert_eq!(text.parse(), Ok(print));
        assert_eq!(print.short(), text[..8]);
    }

    #[test]
    fn wrong_length_is_refused_by_name() {
        let refused = "abcd".parse::<Fingerprint>().expect_err("too short");
        assert_eq!(refused.to_string(), "a fingerprint is 64 hex digits, got `abcd`");
    }

    #[test]
    fn json_form_is_the_hex_text() {
        let print = Fingerprint::of_public_key(b"a key");
        let json = serde_json::to_string(&print).expect("plain string");
        assert_eq!(json, format!("\"{print}\""));
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).expect("round trip"), print);
    }
}
