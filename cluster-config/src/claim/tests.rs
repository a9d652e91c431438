use super::*;
use crate::token::token_proof;

fn print(name: &[u8]) -> Fingerprint {
    Fingerprint::of_public_key(name)
}

struct Caller {
    key: Fingerprint,
    cluster: String,
    proof: Vec<u8>,
}

impl Caller {
    fn router(name: &[u8]) -> Self {
        Self { key: print(name), cluster: print(name).to_string(), proof: Vec::new() }
    }

    fn with_token(mut self, token: &str) -> Self {
        self.proof = token_proof(token, self.key, print(b"node")).to_vec();
        self
    }

    fn meets(&self, claim: &Claim, token: Option<&str>) -> Decision {
        let hello = Hello {
            caller: self.key,
            cluster: &self.cluster,
            cluster_name: "home",
            token_proof: &self.proof,
        };
        decide(claim, token, &hello, print(b"node"))
    }
}

fn claimed_by(name: &[u8]) -> Claim {
    Claim::Claimed { cluster: print(name), name: "home".into() }
}

#[test]
fn first_router_claims_an_unclaimed_node() {
    assert_eq!(
        Caller::router(b"first").meets(&Claim::Unclaimed, None),
        Decision::ClaimAndAccept(claimed_by(b"first"))
    );
}

#[test]
fn owner_is_accepted_again_without_a_new_claim() {
    assert_eq!(Caller::router(b"first").meets(&claimed_by(b"first"), None), Decision::Accept);
}

#[test]
fn another_cluster_is_refused_with_both_keys_and_the_mend() {
    let Decision::Refuse(reason) = Caller::router(b"second").meets(&claimed_by(b"first"), None) else {
        panic!("a second cluster must be refused")
    };
    let text = LinkCause::from(reason).to_string();
    assert!(text.contains(&print(b"first").to_string()), "{text}");
    assert!(text.contains(&print(b"second").to_string()), "{text}");
    assert!(text.contains("mlxcel node --forget-cluster"), "{text}");
}

#[test]
fn token_turns_trust_on_first_use_off() {
    let bare = Caller::router(b"first");
    assert_eq!(bare.meets(&Claim::Unclaimed, Some("secret")), Decision::Refuse(RefuseReason::TokenRequired));
    let proven = Caller::router(b"first").with_token("secret");
    assert_eq!(
        proven.meets(&Claim::Unclaimed, Some("secret")),
        Decision::ClaimAndAccept(claimed_by(b"first"))
    );
}

#[test]
fn wrong_token_is_told_from_a_missing_one() {
    let wrong = Caller::router(b"first").with_token("guess");
    assert_eq!(wrong.meets(&Claim::Unclaimed, Some("secret")), Decision::Refuse(RefuseReason::TokenWrong));
}

#[test]
fn owner_must_prove_the_token_too() {
    assert_eq!(
        Caller::router(b"first").meets(&claimed_by(b"first"), Some("secret")),
        Decision::Refuse(RefuseReason::TokenRequired)
    );
}

#[test]
fn right_token_does_not_take_a_node_from_its_owner() {
    let thief = Caller::router(b"second").with_token("secret");
    assert_eq!(
        thief.meets(&claimed_by(b"first"), Some("secret")),
        Decision::Refuse(RefuseReason::ClaimedByOther { owner: print(b"first"), caller: print(b"second") })
    );
}

#[test]
fn router_without_a_token_node_may_still_send_a_proof() {
    let proven = Caller::router(b"first").with_token("secret");
    assert_eq!(proven.meets(&Claim::Unclaimed, None), Decision::ClaimAndAccept(claimed_by(b"first")));
}

#[test]
fn speaking_for_a_cluster_without_its_key_is_refused() {
    for cluster in [print(b"first").to_string(), String::new(), "home".into()] {
        let liar = Caller { cluster: cluster.clone(), ..Caller::router(b"liar") };
        assert_eq!(
            liar.meets(&claimed_by(b"first"), None),
            Decision::Refuse(RefuseReason::NotTheClusterKey { claimed: cluster, seen: print(b"liar") })
        );
    }
}

#[test]
fn claim_survives_a_restart_until_forgotten() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let load = || Claim::load(dir.path()).expect("readable");
    assert_eq!(load(), Claim::Unclaimed);
    claimed_by(b"first").save(dir.path()).expect("saved");
    assert_eq!(load(), claimed_by(b"first"));
    claimed_by(b"second").save(dir.path()).expect("replaced");
    assert_eq!(load(), claimed_by(b"second"));
    Claim::forget(dir.path()).expect("forgotten");
    assert_eq!(load(), Claim::Unclaimed);
    Claim::forget(dir.path()).expect("nothing left to forget");
}

#[test]
fn damaged_claim_never_counts_as_unclaimed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join(CLAIM_FILE);
    for damage in ["", "{}", "{\"state\":\"claimed\"}", "{\"state\":\"claim"] {
        std::fs::write(&path, damage).expect("written");
        let refused = Claim::load(dir.path()).expect_err(damage);
        let text = refused.to_string();
        assert!(matches!(refused, ClaimError::Corrupt { .. }), "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains("--forget-cluster"), "{text}");
    }
    Claim::forget(dir.path()).expect("a damaged claim can be forgotten");
    assert_eq!(Claim::load(dir.path()).expect("readable"), Claim::Unclaimed);
}
