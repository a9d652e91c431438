//! The ed25519 key that names a host or a cluster, and the certificate made from it.
//!
//! The certificate is made anew from the key at every start, so only the key is kept.
//! Knows nothing of who trusts it; `tls` presents it and `claim` decides.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;

use crate::Fingerprint;
use crate::storage::{Existing, write_private};
use crate::sys;

/// Name of the key file inside its directory.
pub const KEY_FILE: &str = "identity.key";

/// An ed25519 key with its self-signed certificate. Cheap to clone; never shows its key.
///
/// A router's cluster key is the same type, kept in its own directory; its fingerprint is the
/// cluster's id.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

/// Why a key could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file exists and cannot be read.
    #[error(
        "cannot read identity key {path}: {cause}; give the user running mlxcel access to it",
        path = path.display()
    )]
    Read {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The key file is not an ed25519 key in PKCS#8 PEM form.
    #[error(
        "identity key {path} is damaged ({detail}); restore it from a backup, or remove it to \
         start with a new identity, which the cluster has to claim anew",
        path = path.display()
    )]
    Corrupt {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The key file could not be written.
    #[error(
        "cannot write identity key {path}: {cause}; make the directory writable, or set \
         MLXCEL_STATE_DIR to one that is",
        path = path.display()
    )]
    Write {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The operating system gave no random numbers, or the key could not sign.
    #[error("cannot make an ed25519 identity: {0}")]
    Generate(String),
}

impl Identity {
    /// Loads the key kept in `dir`, or makes one there the first time.
    ///
    /// Processes that start at once on a fresh directory agree on one key.
    ///
    /// # Errors
    /// Names the key file and the mend; a damaged key is never replaced silently.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(pem) => Self::load(&path, &pem),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Self::create(dir, &path),
            Err(garbled) if garbled.kind() == io::ErrorKind::InvalidData => {
                Err(IdentityError::Corrupt { path, detail: "not a text file".to_owned() })
            }
            Err(cause) => Err(IdentityError::Read { path, cause }),
        }
    }

    /// A fresh identity that lives in memory only.
    ///
    /// # Errors
    /// The operating system gave no random numbers.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_key(&new_key()?).map_err(IdentityError::Generate)
    }

    /// The name of this key.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    fn load(path: &Path, pem: &str) -> Result<Self, IdentityError> {
        let corrupt = |detail: String| IdentityError::Corrupt { path: path.to_owned(), detail };
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ED25519)
            .map_err(|e| corrupt(format!("not an ed25519 key in PKCS#8 PEM form: {e}")))?;
        let identity = Self::from_key(&key).map_err(corrupt)?;
        match sys::make_private(path) {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                path = %path.display(),
                "identity key was readable by other users; now it is not"
            ),
            Err(cause) => tracing::warn!(
                path = %path.display(), %cause,
                "identity key may be readable by other users"
            ),
        }
        Ok(identity)
    }

    fn create(dir: &Path, path: &Path) -> Result<Self, IdentityError> {
        let key = new_key()?;
        let pem = key.serialize_pem();
        match write_private(dir, KEY_FILE, pem.as_bytes(), Existing::Keep) {
            Ok(()) => Self::from_key(&key).map_err(IdentityError::Generate),
            // Another process was first: its key is the one.
            Err(lost) if lost.kind() == io::ErrorKind::AlreadyExists && path.is_file() => {
                let pem = std::fs::read_to_string(path)
                    .map_err(|cause| IdentityError::Read { path: path.to_owned(), cause })?;
                Self::load(path, &pem)
            }
            Err(cause) => Err(IdentityError::Write { path: path.to_owned(), cause }),
        }
    }

    fn from_key(key: &KeyPair) -> Result<Self, String> {
        let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])
            .map_err(|e| format!("certificate name: {e}"))?;
        params.distinguished_name.push(DnType::CommonName, "mlxcel host");
        let certificate = params.self_signed(key).map_err(|e| format!("self-signed certificate: {e}"))?;
        let pkcs8 = PrivatePkcs8KeyDer::from(key.serialize_der());
        let signer =
            rustls::crypto::ring::sign::any_eddsa_type(&pkcs8).map_err(|e| format!("signing key: {e}"))?;
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer)),
            fingerprint: Fingerprint::of_public_key(&key.subject_public_key_info()),
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint.short())
    }
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(|e| IdentityError::Generate(e.to_string()))
}

/// The name in every certificate and SNI field. It identifies nobody: the key does.
pub(crate) const SERVER_NAME: &str = "mlxcel.internal";

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("temporary directory")
    }

    #[test]
    fn same_directory_gives_the_same_identity() {
        let dir = dir();
        let state = dir.path().join("new").join("node");
        let first = Identity::load_or_create(&state).expect("created");
        let second = Identity::load_or_create(&state).expect("loaded");
        assert_eq!(first.fingerprint(), second.fingerprint());
    }

    #[test]
    fn generated_identities_differ() {
        let one = Identity::generate().expect("generated");
        let other = Identity::generate().expect("generated");
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn processes_racing_on_a_fresh_directory_agree() {
        let dir = dir();
        let prints: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(dir.path()).expect("identity")))
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic").fingerprint()).collect()
        });
        assert!(prints.iter().all(|print| *print == prints[0]), "{prints:?}");
    }

    #[test]
    fn damaged_key_is_refused_naming_file_and_mend_and_left_alone() {
        let dir = dir();
        let path = dir.path().join(KEY_FILE);
        for damage in [&b"not a key"[..], b"", b"\xff\xfe\x00"] {
            std::fs::write(&path, damage).expect("written");
            let refused = Identity::load_or_create(dir.path()).expect_err("damaged");
            let text = refused.to_string();
            assert!(matches!(refused, IdentityError::Corrupt { .. }), "{text}");
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("restore it from a backup"), "{text}");
            assert_eq!(std::fs::read(&path).expect("still there"), damage);
        }
    }

    #[test]
    fn truncated_key_is_refused() {
        let dir = dir();
        Identity::load_or_create(dir.path()).expect("created");
        let path = dir.path().join(KEY_FILE);
        let pem = std::fs::read(&path).expect("readable");
        std::fs::write(&path, &pem[..pem.len() / 2]).expect("written");
        let refused = Identity::load_or_create(dir.path()).expect_err("truncated");
        assert!(matches!(refused, IdentityError::Corrupt { .. }));
    }

    #[test]
    fn directory_that_is_a_file_is_named() {
        let dir = dir();
        let file = dir.path().join("state");
        std::fs::write(&file, "occupied").expect("written");
        let refused = Identity::load_or_create(&file).expect_err("not a directory").to_string();
        assert!(refused.contains(&file.display().to_string()), "{refused}");
    }

    #[test]
    fn debug_output_holds_no_key() {
        let identity = Identity::generate().expect("generated");
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.fingerprint().short()));
    }

    #[cfg(unix)]
    #[test]
    fn key_file_is_private_even_after_it_was_opened_up() {
        use std::os::unix::fs::PermissionsExt;
        let dir = dir();
        Identity::load_or_create(dir.path()).expect("created");
        let path = dir.path().join(KEY_FILE);
        let mode = || std::fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        Identity::load_or_create(dir.path()).expect("loaded");
        assert_eq!(mode(), 0o600);
    }
}
