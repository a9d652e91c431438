//! One direction of a TLS 1.3 connection: sealing and opening records (RFC 8446, sections 5.2 and 5.3).
//!
//! Counts records; when it is time for another key is said here, where it comes from is `session`'s affair.

use ring::aead::{self, AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::TlsError;

/// Most plaintext of a record, in bytes.
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// The most a record takes on the wire.
pub(super) const MAX_RECORD: usize = HEADER + MAX_PLAINTEXT + 256;
/// What sealing adds to plaintext.
pub(super) const OVERHEAD: usize = HEADER + 1 + TAG;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Content {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

/// The key of one direction and how many records it has protected.
pub(super) struct Protection {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
    /// How many records the key may protect.
    limit: u64,
}

impl Protection {
    /// Takes over from rustls, which has protected `sequence` records.
    pub(super) fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, TlsError> {
        let (algorithm, key, iv, limit) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, GCM_LIMIT),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, GCM_LIMIT),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, u64::MAX),
            _ => return Err(TlsError::Protocol("a cipher that was not offered")),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| TlsError::Protocol("a key of the wrong length"))?;
        let iv = iv.as_ref().try_into().map_err(|_| TlsError::Protocol("a nonce of the wrong length"))?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence, limit })
    }

    #[cfg(test)]
    pub(super) const fn wear_out(&mut self) {
        self.limit = self.sequence;
    }

    /// Whether this direction needs another key before many more records.
    pub(super) const fn is_worn(&self) -> bool {
        self.sequence >= self.limit
    }

    /// Appends a record of the `len` bytes that `fill` writes where it is told.
    pub(super) fn seal(
        &mut self,
        out: &mut Vec<u8>,
        content: Content,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), TlsError> {
        debug_assert!(len <= MAX_PLAINTEXT);
        let start = out.len();
        let body = u16::try_from(len + 1 + TAG).expect("a record's plaintext is short");
        let [high, low] = body.to_be_bytes();
        let header = [Content::Data as u8, 3, 3, high, low];
        out.extend(header);
        out.resize(start + HEADER + len, 0);
        fill(&mut out[start + HEADER..]);
        out.push(content as u8);
        let nonce = self.next_nonce()?;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start + HEADER..])
            .map_err(|_| TlsError::Protocol("a record that cannot be sealed"))?;
        out.extend(tag.as_ref());
        Ok(())
    }

    /// Opens a whole record in place: what it carries, and how many bytes of that lie behind its header.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), TlsError> {
        let (header, body) = record.split_at_mut(HEADER);
        let header: [u8; HEADER] = (&*header).try_into().expect("a record has a header");
        if header[0] == CHANGE_CIPHER_SPEC {
            return Err(TlsError::Protocol("an unprotected record"));
        }
        let nonce = self.next_nonce()?;
        let plain = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| TlsError::Forged)?;
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or(TlsError::Protocol("an empty record"))?;
        let content = match plain[end] {
            21 => Content::Alert,
            22 => Content::Handshake,
            23 => Content::Data,
            _ => return Err(TlsError::Protocol("a record of an unknown kind")),
        };
        Ok((content, end))
    }

    fn next_nonce(&mut self) -> Result<Nonce, TlsError> {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(TlsError::Protocol("too many records"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// How long the record at the front of `bytes` is, once its header is there.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, TlsError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    let body = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if header[0] != Content::Data as u8 || body < TAG + 1 || HEADER + body > MAX_RECORD {
        return Err(TlsError::Protocol("a malformed record"));
    }
    Ok(Some(HEADER + body))
}

/// Bytes before a record's protected part.
pub(super) const HEADER: usize = 5;
const TAG: usize = 16;
const CHANGE_CIPHER_SPEC: u8 = 20;
/// RFC 8446, section 5.5, rounded down.
const GCM_LIMIT: u64 = 1 << 24;
