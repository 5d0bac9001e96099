//! The published vectors of our own formats: fixed keys and inputs, and every byte that must come out.
//!
//! The files in `tests/vectors/` are what a second implementation is checked against. They change only with a new
//! version of the format; `cargo run -p swarm-proto --example vectors` writes them anew.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "vectors are files on disk; this module is also part of the example that writes them"
)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use rand_core::{TryCryptoRng, TryRng};
use serde_json::{Value, json};
use swarm_proto::bitmap::Holding;
use swarm_proto::call::CallToken;
use swarm_proto::catalog::Policy;
use swarm_proto::drip::Drip;
use swarm_proto::geometry::ChunkIndex;
use swarm_proto::id::OrderId;
use swarm_proto::licence::{Licence, Subject};
use swarm_proto::manifest::segment_values;
use swarm_proto::pb::common as pb;
use swarm_proto::seal::Released;
use swarm_proto::signed::{Signed, SigningKey, Statement};
use swarm_proto::span_tree::SpanTree;
use swarm_proto::succession::Succession;
use swarm_proto::wire::{Answer, Ask, Refusal, Request};
use swarm_proto::wrap::{Label, deposit_aad, span_keys_aad, unwrap, wrap};

use crate::support::{NOON, content_key, entry, hpke_secret, licence, membership, pattern, seal, signing_key, ticket};

/// Where the vectors are.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Every file and what must stand in it.
pub(crate) fn all() -> [(&'static str, Value); 6] {
    [
        ("codes.json", codes()),
        ("drip.json", drip()),
        ("frames.json", frames()),
        ("sealing.json", sealing()),
        ("statements.json", statements()),
        ("wrapping.json", wrapping()),
    ]
}

/// The file as it stands on disk.
pub(crate) fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
#[test]
fn published_vectors_are_what_this_code_makes() {
    for (name, value) in all() {
        let path = folder().join(name);
        let published = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(published, text(&value), "{name} differs: the format has changed");
    }
}

fn codes() -> Value {
    let of = |bytes: [u8; 16]| json!({ "bytes": hex(&bytes), "code": OrderId::from(bytes).to_string() });
    json!({
        "about": "Title, account and order ids as people see them: 128 bits in Crockford base 32, most significant \
                  first, and a check character.",
        "codes": [of([0; 16]), of([0xff; 16]), of(std::array::from_fn(|place| place as u8))],
    })
}

fn sealing() -> Value {
    let cases: Vec<Value> = [1, 65_520, 65_521, 1_048_320, 1_048_321, 3_000_000, 17_000_000]
        .map(|plain_len| {
            let (sealed, manifest) = seal(&content_key(), &pattern(plain_len));
            let geometry = *manifest.geometry();
            let first = &sealed[..geometry.chunk_len(ChunkIndex::FIRST)];
            let segments = segment_values(&geometry, ChunkIndex::FIRST, first).expect("the chunk's length");
            json!({
                "plain_len": plain_len,
                "sealed_len": sealed.len(),
                "sealed_begin": hex(&sealed[..sealed.len().min(32)]),
                "sealed_end": hex(&sealed[sealed.len() - sealed.len().min(32)..]),
                "item_id": manifest.item().to_string(),
                "chunk_values": manifest.values().iter().map(|value| hex(value)).collect::<Vec<_>>(),
                "segment_values_of_chunk_0": segments.iter().map(|value| hex(value)).collect::<Vec<_>>(),
                "manifest_file_blake3": blake3::hash(&manifest.to_bytes()).to_string(),
            })
        })
        .into();
    let spans = content_key().spans(0..3).expect("not empty");
    json!({
        "about": "Files of the given length with bytes 0, 1, … 250, 0, 1, …, sealed with one content key. (Only test \
                  vectors use a key twice.)",
        "content_key": hex(content_key().expose()),
        "commitment": content_key().commitment().to_string(),
        "released_whole": hex(&Released::Whole(content_key()).encode()),
        "released_spans_0_to_2": hex(&Released::Spans(spans).encode()),
        "items": cases,
    })
}

fn drip() -> Value {
    let trees: Vec<Value> = [1, 2, 3, 5, 8, 67, 2_048]
        .map(|n_spans| {
            let tree = SpanTree::of(&content_key(), n_spans).expect("spans");
            let run = n_spans / 2..(n_spans / 2 + 3).min(n_spans);
            let siblings = tree.siblings(&run).expect("spans of it");
            let keys = content_key().spans(run.clone()).expect("spans");
            json!({
                "n_spans": n_spans,
                "span_commitment": tree.commitment().to_string(),
                "first": run.start,
                "count": run.len(),
                "released": hex(&Released::Spans(keys).encode()),
                "siblings": siblings.iter().map(|value| hex(value)).collect::<Vec<_>>(),
            })
        })
        .into();
    let (recipient, spans) = (hpke_secret(4), 1..3);
    let tree = SpanTree::of(&content_key(), 5).expect("spans");
    let (device, item) = (signing_key(2).device_id(), entry().item);
    let secret = Released::Spans(content_key().spans(spans.clone()).expect("spans")).encode();
    let wrapped = |order: Option<&OrderId>| {
        let aad = span_keys_aad(order, &device, &item, &tree.commitment(), &spans);
        let seed = OneSeed(Some([0x5a; 32]));
        let wrapped = wrap(&mut { seed }, &recipient.public(), Label::SpanKeys, &aad, &secret).expect("a good key");
        json!({
            "info": "reelswarm v1 span keys",
            "aad": hex(&aad),
            "secret": hex(&secret),
            "enc": hex(wrapped.enc()),
            "ciphertext": hex(wrapped.ciphertext()),
        })
    };
    let dripping =
        Policy { drip: Some(Drip::new(Duration::from_millis(3_350), 8).expect("a pace")), ..Policy::UNLIMITED };
    let subject = Subject { order: licence().order, device, item, commitment: content_key().commitment(), spans: 0..5 };
    let licence_of_a_drip = Licence::new(12, subject, &dripping, NOON, NOON);
    let signed = Signed::sign(&signing_key(6), &licence_of_a_drip).expect("valid");
    json!({
        "about": "Trees over the span keys of the content key in sealing.json; the run of spans from `first` is proven by \
                  `siblings`. Wrapped to the recipient of wrapping.json, with its ephemeral key.",
        "trees": trees,
        "span_keys_1_and_2_of_5_under_an_order": wrapped(Some(&licence().order)),
        "span_keys_1_and_2_of_5_as_a_preview": wrapped(None),
        "licence_payload": hex(&pb::Signed::from(&signed).payload),
        "licence_signature": hex(&pb::Signed::from(&signed).signature),
    })
}

fn wrapping() -> Value {
    let of = |label: Label, info: &str, aad: &[u8]| {
        let (recipient, secret) = (hpke_secret(4), content_key());
        let seed = [0x5a; 32];
        let wrapped =
            wrap(&mut OneSeed(Some(seed)), &recipient.public(), label, aad, secret.expose()).expect("a good key");
        let opened = unwrap(&recipient, label, aad, &wrapped).expect("ours");
        assert_eq!(opened.as_slice(), secret.expose());
        json!({
            "info": info,
            "aad": hex(aad),
            "ephemeral_ikm": hex(&seed),
            "recipient_secret": hex(&*recipient.expose()),
            "recipient_public": recipient.public().to_string(),
            "secret": hex(secret.expose()),
            "enc": hex(wrapped.enc()),
            "ciphertext": hex(wrapped.ciphertext()),
        })
    };
    let signed = Signed::sign(&signing_key(6), &licence()).expect("valid");
    json!({
        "about": "HPKE base mode; the ephemeral key is DeriveKeyPair(ephemeral_ikm). The grant belongs to the licence \
                  in statements.json.",
        "grant": of(Label::Grant, "reelswarm v1 grant", &licence().grant_aad(&signed)),
        "deposit": of(Label::Deposit, "reelswarm v1 deposit", &deposit_aad(&entry().item, &entry().commitment)),
        "job_key": of(Label::JobKey, "reelswarm v1 job key", b""),
    })
}

fn statements() -> Value {
    fn of<T: Statement>(key: &SigningKey, statement: &T) -> Value {
        let signed = Signed::sign(key, statement).expect("valid");
        let message = pb::Signed::from(&signed);
        json!({
            "context": T::CONTEXT,
            "seed": hex(&*key.expose()),
            "signer": hex(&message.signer),
            "payload": hex(&message.payload),
            "payload_blake3": hex(&signed.payload_hash()),
            "signature": hex(&message.signature),
            "signed": hex(&signed.to_bytes()),
        })
    }
    let server = signing_key(6);
    let token = CallToken::sign(&signing_key(2), server.server_id(), NOON).expect("valid");
    let token = token.verify(&signing_key(2).device_id()).expect("ours");
    let succession = Succession::sign(&server, &signing_key(8), NOON).expect("valid");
    let succession = succession.verify(&server.server_id()).expect("ours");
    json!({
        "about": "Ed25519 over \"reelswarm v1 \" ‖ context ‖ 0x00 ‖ payload; seed is the secret key of RFC 8032.",
        "catalog_entry": of(&signing_key(1), &entry()),
        "membership": of(&server, &membership()),
        "ticket": of(&server, &ticket()),
        "licence": of(&server, &licence()),
        "call_token": of(&signing_key(2), &token),
        "succession": of(&server, &succession),
    })
}

fn frames() -> Value {
    let item = ticket().item;
    let bearer = Signed::sign(&signing_key(6), &ticket()).expect("valid").to_bytes();
    let request = |ask| hex(&Request { item, ask, ticket: bearer.clone() }.encode().expect("fits"));
    let index = ChunkIndex::new(5).expect("possible");
    let answer = |answer: Answer| {
        let frame = answer.into_frame().expect("fits");
        hex(&[&frame.header[..], &frame.values, &frame.payload].concat())
    };
    let mut holding = Holding::empty(12).expect("a size");
    [0, 1, 9].into_iter().filter_map(ChunkIndex::new).for_each(|chunk| assert!(holding.insert(chunk)));
    let bytes = Bytes::from_static(b"sealed bytes of a very short chunk");
    json!({
        "about": "Requests and answers of /reelswarm/chunk/2. The requests bear the ticket of statements.json.",
        "request_manifest": request(Ask::Manifest),
        "request_holding": request(Ask::Holding),
        "request_chunk_5": request(Ask::Chunk { index, want_segment_values: false }),
        "request_chunk_5_with_segment_values": request(Ask::Chunk { index, want_segment_values: true }),
        "answer_data": answer(Answer::Data { segment_values: Bytes::new(), bytes: bytes.clone() }),
        "answer_data_with_one_segment_value": answer(Answer::Data { segment_values: vec![7; 32].into(), bytes }),
        "answer_manifest_of_2_chunks": answer(Answer::Manifest { sealed_len: 1_048_593, values: vec![8; 64].into() }),
        "answer_holding_of_chunks_0_1_9_of_12": answer(Answer::Holding(holding)),
        "answer_busy_for_1500_ms": answer(Answer::Busy { retry_ms: 1500 }),
        "answer_not_held": answer(Answer::NotHeld),
        "answer_refused_expired_ticket": answer(Answer::Refused(Refusal::ExpiredTicket)),
    })
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Gives one seed, once: HPKE draws 32 bytes for its ephemeral key and nothing else.
struct OneSeed(Option<[u8; 32]>);

impl TryRng for OneSeed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("HPKE fills bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("HPKE fills bytes")
    }

    fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
        target.copy_from_slice(&self.0.take().expect("one ephemeral key per wrapping"));
        Ok(())
    }
}

impl TryCryptoRng for OneSeed {}
