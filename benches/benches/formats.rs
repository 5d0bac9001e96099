//! Sealing, opening, verifying and framing one chunk, beside the bare cipher and the bare hash on the same bytes.
//!
//! `cargo bench -p benches --bench formats`. Read the rates against each other: `seal` and `open` against `bare cipher`,
//! `verify` against `bare hash`.

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use swarm_proto::geometry::{Geometry, SEGMENT_BYTES, SEGMENT_PLAIN_BYTES};
use swarm_proto::id::ItemId;
use swarm_proto::manifest::{Manifest, ManifestBuilder};
use swarm_proto::seal::{ContentKey, Opener, Released, Sealer};
use swarm_proto::wire::{Answer, AnswerHeader};

/// Sixteen segments: one chunk of 1 MiB.
const PLAIN: usize = 16 * SEGMENT_PLAIN_BYTES as usize;

struct Item {
    key: ContentKey,
    geometry: Geometry,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    manifest: Manifest,
}

fn item() -> Item {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let mut plain = vec![0; PLAIN];
    rng.fill_bytes(&mut plain);
    let key = ContentKey::generate(&mut rng);
    let geometry = Geometry::of_plain(PLAIN as u64).expect("one chunk is a size");
    let mut sealed = Vec::new();
    Sealer::new(key.clone(), geometry).push(&plain, &mut sealed).expect("the size is right");
    let mut builder = ManifestBuilder::new(geometry);
    builder.update(&sealed).expect("the size is right");
    let manifest = builder.finish().expect("the item is complete");
    Item { key, geometry, plain, sealed, manifest }
}

fn formats(c: &mut Criterion) {
    let Item { key, geometry, plain, sealed, manifest } = item();
    let first = geometry.chunks().next().expect("an item has a chunk");
    let mut group = c.benchmark_group("one chunk");
    group.throughput(Throughput::Bytes(PLAIN as u64)).sample_size(30);

    let cipher = ChaCha20Poly1305::new(&Key::from([7; 32]));
    group.bench_function("bare cipher", |b| {
        let mut buffer = plain.clone();
        b.iter(|| {
            for segment in buffer.chunks_mut(SEGMENT_PLAIN_BYTES as usize) {
                black_box(
                    cipher.encrypt_inout_detached(&Nonce::from([0; 12]), &[], segment.into()).expect("it is short"),
                );
            }
        });
    });
    group.bench_function("seal", |b| {
        let mut out = Vec::with_capacity(sealed.len());
        b.iter(|| {
            out.clear();
            Sealer::new(key.clone(), geometry).push(black_box(&plain), &mut out).expect("the size is right");
        });
    });
    group.bench_function("open", |b| {
        let opener = Opener::new(Released::Whole(key.clone()), geometry);
        let mut buffer = sealed.clone();
        b.iter(|| {
            buffer.copy_from_slice(&sealed);
            for (n, segment) in buffer.chunks_mut(SEGMENT_BYTES as usize).enumerate() {
                let index = geometry.segment(n as u32).expect("the segment exists");
                black_box(opener.open_segment(index, segment).expect("it opens"));
            }
        });
    });
    group.bench_function("bare hash", |b| b.iter(|| blake3::hash(black_box(&sealed))));
    group
        .bench_function("verify", |b| b.iter(|| manifest.check_chunk(first, black_box(&sealed)).expect("it is whole")));
    group.finish();

    let mut group = c.benchmark_group("bookkeeping");
    let values = vec![[3; 32]; 1024];
    group.bench_function("fold a manifest of 1 GiB", |b| {
        b.iter(|| Manifest::prove(ItemId::from_bytes([0; 32]), 1 << 30, black_box(values.clone())).is_ok());
    });
    group.bench_function("frame a chunk and read its header", |b| {
        let bytes = bytes::Bytes::from(sealed.clone());
        b.iter(|| {
            let answer = Answer::Data { segment_values: bytes::Bytes::new(), bytes: bytes.clone() };
            let frame = answer.into_frame().expect("a chunk fits");
            AnswerHeader::decode(black_box(&frame.header)).expect("it reads back")
        });
    });
    group.finish();
}

criterion_group!(benches, formats);
criterion_main!(benches);
