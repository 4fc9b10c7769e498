use super::minisign::PublicKey;
use super::*;

fn key(id: u8) -> TrustedKey {
    TrustedKey {
        name: format!("k{id}").into(),
        key: PublicKey {
            id: KeyId([id; 8]),
            key: [id; 32],
        },
    }
}

fn signer() -> Signer {
    Signer {
        name: "k1".into(),
        key: KeyId([1; 8]),
        trusted_comment: "timestamp:1\tname:press\tversion:1.2.0".to_owned(),
    }
}

fn unsigned() -> Failure {
    Failure::new(Reason::Unsigned, "no press.wasm.minisig")
}

#[test]
fn the_policy_decides_what_an_unproven_component_may() {
    let with = |policy| Settings {
        policy,
        ..Settings::default()
    };
    let origin = |policy, found| with(policy).admit(found);
    assert_eq!(origin(Policy::Off, Err(unsigned())), Ok(Origin::Unchecked));
    assert_eq!(
        origin(Policy::Warn, Err(unsigned())),
        Ok(Origin::Doubtful(unsigned()))
    );
    assert_eq!(origin(Policy::Require, Err(unsigned())), Err(unsigned()));
    for policy in [Policy::Warn, Policy::Require] {
        let signed = origin(policy, Ok(signer())).unwrap();
        assert_eq!(signed.to_string(), "signed by k1 (0101010101010101)");
        let release = |version| with(policy).confirm(signed.clone(), "press", version);
        assert_eq!(release("1.2.0"), Ok(signed.clone()));
        match (policy, release("1.3.0")) {
            (Policy::Warn, Ok(Origin::Doubtful(failure))) | (Policy::Require, Err(failure)) => {
                assert_eq!(failure.reason, Reason::BadSignature);
            }
            (_, other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unknown_key_is_named_beside_the_known_ones() {
    let settings = Settings {
        keys: vec![key(1), key(2)],
        ..Settings::default()
    };
    assert_eq!(settings.keys_of(KeyId([2; 8])).unwrap(), [&key(2)]);
    let failure = settings.keys_of(KeyId([9; 8])).unwrap_err();
    assert_eq!(failure.reason, Reason::UnknownKey);
    assert!(failure.detail.contains("key 0909090909090909"), "{failure}");
    assert!(
        failure.detail.contains("k2 (0202020202020202)"),
        "{failure}"
    );
}

#[test]
fn a_claim_is_written_and_read_and_holds_for_nothing_else() {
    let digest = Digest([0xab; 32]);
    let claim = Claim {
        name: Some("press".to_owned()),
        version: Some("1.2.0".to_owned()),
        sha256: Some(digest.hex()),
    };
    let comment = claim.comment("press\n.wasm", 1_700_000_000);
    assert_eq!(
        comment,
        format!(
            "timestamp:1700000000\tfile:press .wasm\tname:press\tversion:1.2.0\tsha256:{}\thashed",
            "ab".repeat(32)
        )
    );
    assert_eq!(Claim::of(&comment), claim);
    assert_eq!(claim.check_digest(digest), Ok(()));
    assert_eq!(claim.check_release("press", "1.2.0"), Ok(()));
    for (failure, words) in [
        (claim.check_digest(Digest([0; 32])), "SHA-256"),
        (claim.check_release("pump", "1.2.0"), "name press"),
        (
            claim.check_release("press", "1.3.0"),
            "version 1.2.0, and this is 1.3.0",
        ),
    ] {
        let failure = failure.unwrap_err();
        assert_eq!(failure.reason, Reason::BadSignature);
        assert!(failure.detail.contains(words), "{failure}");
    }
    // minisign alone claims nothing of it.
    let plain = Claim::of("timestamp:1\tfile:press.wasm\thashed");
    assert_eq!(plain, Claim::default());
    assert_eq!(plain.check_release("anything", "0.0.1"), Ok(()));
    // The first word counts: appending cannot change one.
    assert_eq!(Claim::of("name:a\tname:b").name.as_deref(), Some("a"));
}

#[test]
fn an_older_version_does_not_follow_a_newer_one() {
    let mut served = Served::default();
    assert_eq!(served.check("press", "0.0.1"), Ok(()));
    assert!(served.note("press", "1.2.0"));
    assert!(!served.note("press", "1.2.0"));
    for newer in ["1.2.0", "1.2.0+build7", "1.2.1-rc.1", "1.10.0", "2.0.0"] {
        assert_eq!(served.check("press", newer), Ok(()), "{newer}");
    }
    for older in ["1.1.9", "1.2.0-rc.1", "0.9.0", "latest", ""] {
        let failure = served.check("press", older).unwrap_err();
        assert_eq!(failure.reason, Reason::Downgrade);
        assert!(failure.detail.contains("1.2.0 served last"), "{failure}");
    }
    // Another plugin has versions of its own, and coming back is still no way to get an old one in.
    assert_eq!(served.check("pump", "0.1.0"), Ok(()));
    assert!(served.note("pump", "0.1.0"));
    assert!(served.check("press", "1.1.0").is_err());
    // What served last counts, not the highest: an allowed downgrade is one.
    assert!(served.note("press", "1.0.0"));
    assert_eq!(served.check("press", "1.1.0"), Ok(()));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut served = Served::default();
    for name in 0..100 {
        served.note(&format!("p{name}"), "1.0.0");
    }
    assert_eq!(served.0.len(), NAMES_MAX);
    assert!(served.note("p3", "2.0.0"));
    assert!(!served.note(&"p".repeat(10_000), "1.0.0"));
}
