//! A wrapped secret opens for one key, one purpose and one context.

use proptest::prelude::*;
use swarm_proto::pb::common as pb;
use swarm_proto::wrap::{HpkePublic, Label, MAX_SECRET_BYTES, WrapError, Wrapped, deposit_aad, unwrap, wrap};

use crate::support::{content_key, hpke_secret, licence, rng, signing_key};
use swarm_proto::signed::Signed;

#[test]
fn a_grant_opens_on_the_device_it_was_made_for_and_nowhere_else() {
    let (device, other) = (hpke_secret(4), hpke_secret(5));
    let licence = licence();
    let signed = Signed::sign(&signing_key(6), &licence).expect("valid");
    let aad = licence.grant_aad(&signed);
    let key = content_key();
    let wrapped = wrap(&mut rng(1), &device.public(), Label::Grant, &aad, key.expose()).expect("a good key");

    let opened = unwrap(&device, Label::Grant, &aad, &wrapped).expect("ours");
    assert_eq!(opened.as_slice(), key.expose());
    assert_eq!(unwrap(&other, Label::Grant, &aad, &wrapped).err(), Some(WrapError::Forged));
    assert_eq!(unwrap(&device, Label::Deposit, &aad, &wrapped).err(), Some(WrapError::Forged));

    let mut renewed = licence.clone();
    renewed.serial += 1;
    let other_signed = Signed::sign(&signing_key(6), &renewed).expect("valid");
    let other_aad = renewed.grant_aad(&other_signed);
    assert_eq!(unwrap(&device, Label::Grant, &other_aad, &wrapped).err(), Some(WrapError::Forged));
}

#[test]
fn public_keys_that_give_no_secret_are_refused() {
    // The points of small order on Curve25519 that need no reduction.
    let one = std::array::from_fn(|place| u8::from(place == 0));
    let of_order_eight = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ];
    for weak in [[0; 32], one, of_order_eight] {
        let result = wrap(&mut rng(1), &HpkePublic::from_bytes(weak), Label::Grant, b"", b"secret");
        assert_eq!(result, Err(WrapError::WeakKey));
        let message = pb::Wrapped { enc: weak.to_vec(), ciphertext: vec![0; 22] };
        let received = Wrapped::try_from(message).expect("well-formed");
        assert_eq!(unwrap(&hpke_secret(4), Label::Grant, b"", &received).err(), Some(WrapError::WeakKey));
    }
}

#[test]
fn lengths_are_bounded_on_both_sides() {
    let to = hpke_secret(4).public();
    assert_eq!(wrap(&mut rng(1), &to, Label::JobKey, b"", b"").err(), Some(WrapError::Length(0)));
    let too_long = vec![0; MAX_SECRET_BYTES + 1];
    assert!(matches!(wrap(&mut rng(1), &to, Label::JobKey, b"", &too_long), Err(WrapError::Length(_))));
    for (enc, ciphertext) in [(31, 48), (33, 48), (32, 16), (32, MAX_SECRET_BYTES + 17)] {
        let message = pb::Wrapped { enc: vec![1; enc], ciphertext: vec![0; ciphertext] };
        assert!(Wrapped::try_from(message).is_err(), "{enc} and {ciphertext} bytes");
    }
}

#[test]
fn the_same_secret_never_looks_the_same() {
    let mut rng = rng(3);
    let to = hpke_secret(4).public();
    let one = wrap(&mut rng, &to, Label::JobKey, b"", b"secret").expect("a good key");
    let two = wrap(&mut rng, &to, Label::JobKey, b"", b"secret").expect("a good key");
    assert_ne!(one.enc(), two.enc());
    assert_ne!(one.ciphertext(), two.ciphertext());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_altered_wrapping_does_not_open(secret in prop::collection::vec(any::<u8>(), 1..100), place: prop::sample::Index) {
        let device = hpke_secret(4);
        let aad = deposit_aad(&[1; 32].into(), &content_key().commitment());
        let wrapped = wrap(&mut rng(1), &device.public(), Label::Deposit, &aad, &secret).expect("a good key");
        let opened = unwrap(&device, Label::Deposit, &aad, &wrapped).expect("ours");
        prop_assert_eq!(opened.as_slice(), &secret);

        let mut message = pb::Wrapped::from(wrapped);
        let place = place.index(message.ciphertext.len());
        message.ciphertext[place] ^= 1;
        let altered = Wrapped::try_from(message).expect("well-formed");
        prop_assert_eq!(unwrap(&device, Label::Deposit, &aad, &altered).err(), Some(WrapError::Forged));
    }
}
