//! From "paid" to a key on its way, beside what the same disk gives without us.
//!
//! Each purchase here is what a till and a box make of it: the word that money has arrived becomes a durable record,
//! the grant becomes a durable record, the content key is opened, held against its commitment, wrapped to the box, and
//! the licence is signed. Beside it, in turn and in the same folder: the same number of records, of the same size, in
//! batches as large as there are buyers at a time, each batch written and `fdatasync`ed, and nothing else.
//!
//! `cargo bench -p benches --bench keyserver [-- FOLDER]` prints one JSON object a line. The process holds itself to one
//! processor. FOLDER is where the disk is to be measured; a temporary folder by default.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::{DataFolder, Health, Metrics, Shutdown};
use film::{Film, money};
use keyserver::books::{self, Books, Setting, Watched};
use keyserver::journal::Journal;
use keyserver::journal::shelf::Shelf;
use keyserver::vault::Keys;
use keyserver::vault::ring::KeyRing;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use swarm_proto::catalog::{CatalogEntry, Money};
use swarm_proto::id::{AccountId, DeviceId, ItemId, OrderId};
use swarm_proto::keyserver::grants::Asker;
use swarm_proto::keyserver::ledger::{self, Ledger, Release, TillEvent, TillNews};
use swarm_proto::keyserver::record::{EventId, IdempotencyKey, Record, SealedKey};
use swarm_proto::membership::DeviceKind;
use swarm_proto::seal::Released;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::wrap::{HpkePublic, HpkeSecret, Label, wrap};

/// What the keyserver's own tests sell.
#[path = "../../keyserver/tests/it/film.rs"]
mod film;

/// Buyers at a time.
const CROWDS: [usize; 4] = [1, 16, 64, 256];

/// Purchases in one run of a crowd, at most; a crowd of one takes fewer.
const PURCHASES: usize = 4096;

/// Runs of each kind, in turn; the median counts.
const RUNS: usize = 3;

/// Bytes of a payment's record and a grant's together, with their frames.
const RECORD_BYTES: usize = 250;

/// Bytes around a record in a journal: length, check, hash.
const FRAME_BYTES: usize = 40;

struct Shop {
    books: Books,
    keys: Arc<Keys>,
    item: ItemId,
    hpke: HpkePublic,
    price: Money,
    entry: CatalogEntry,
}

fn main() -> anyhow::Result<()> {
    hold_to_one_processor();
    // Cargo passes --bench; what is left is ours.
    let folder =
        std::env::args().skip(1).find(|arg| !arg.starts_with("--")).map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&folder))
}

async fn measure(on: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(on)?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
    let shutdown = Shutdown::manual();
    let shop = open(&DataFolder::open(folder.path().join("data"))?, &shutdown).await?;
    println!("{}", memory(&shop));
    let mut next = 0;
    for crowd in CROWDS {
        let purchases = PURCHASES.min(crowd * 256);
        let (mut ours, mut bare, mut syncs) = (Vec::new(), Vec::new(), Vec::new());
        let mut waits = Vec::new();
        for _ in 0..RUNS {
            let orders = order(&shop, next..next + purchases).await?;
            next += purchases;
            let (elapsed, mut latencies) = sell(&shop, orders, crowd).await?;
            ours.push(purchases as f64 / elapsed.as_secs_f64());
            waits.append(&mut latencies);
            let (elapsed, mut each) = write_bare(folder.path(), 2 * purchases, crowd)?;
            bare.push(purchases as f64 / elapsed.as_secs_f64());
            syncs.append(&mut each);
        }
        let (ours, bare) = (median(&mut ours), median(&mut bare));
        let (p50, p99) = (percentile(&mut waits, 50), percentile(&mut waits, 99));
        let sync = percentile(&mut syncs, 50);
        let line = serde_json::json!({
            "bench": "paid to grant", "buyers": crowd, "purchases": purchases, "runs": RUNS,
            "purchases_per_sec": ours.round(), "bare_batches_per_sec": bare.round(), "share_of_bare": rounded(ours / bare),
            "grant_p50_us": p50.as_micros() as u64, "grant_p99_us": p99.as_micros() as u64,
            "fdatasync_p50_us": sync.as_micros() as u64, "grant_p99_in_fdatasyncs": rounded(p99.as_secs_f64() / sync.as_secs_f64()),
        });
        println!("{line}");
    }
    Ok(())
}

/// What orders with a payment and a grant take in memory, and what they take in a journal.
fn memory(shop: &Shop) -> serde_json::Value {
    const ORDERS: usize = 1_000_000;
    let mut ledger = Ledger::new(ledger::Config { max_orders: ORDERS, ..ledger::Config::default() });
    let (begun, mut journal_bytes) = (resident_bytes(), 0);
    let now = keyserver::clock::utc();
    let mut write = |record: Option<Record>| {
        let entry = keyserver::journal::Entry { at: now, record: record.expect("something has happened") };
        journal_bytes += serde_json::to_vec(&entry).expect("records are JSON").len() + FRAME_BYTES;
    };
    let _ = ledger.admit_publisher(now, shop.entry.publisher, "Acme").expect("admitted");
    let sealed = SealedKey::from_bytes([0; SealedKey::LEN]);
    let _ = ledger.deposit(now, &shop.entry, sealed).expect("deposited");
    for n in 0..ORDERS {
        let (order, account) = (OrderId::from(bytes_of(n)), AccountId::from(bytes_of(n)));
        let key = IdempotencyKey::new(&format!("purchase-number-{n:08}-of-this-account")).expect("a key");
        write(ledger.create_order(now, account, key, shop.item, "rent", order).expect("ordered").record);
        let event = event(shop, order, account);
        write(ledger.handle_till(now, &event).expect("paid").record);
        let asker = Asker { account, device: DeviceId::from_bytes([7; 32]), kind: DeviceKind::Box };
        write(ledger.request_grant(now, &asker, order).expect("granted").record);
    }
    let resident = resident_bytes().saturating_sub(begun);
    std::hint::black_box(&ledger);
    serde_json::json!({
        "bench": "memory of the ledger", "orders": ORDERS,
        "memory_bytes_per_order": resident / ORDERS, "journal_bytes_per_order": journal_bytes / ORDERS,
    })
}

/// Memory of this process that is in use.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default();
    pages * rustix::param::page_size()
}

async fn open(folder: &DataFolder, shutdown: &Shutdown) -> anyhow::Result<Shop> {
    let ring = KeyRing::new(Keys::open(folder, false, &[])?);
    let keys = ring.now();
    let shelf = Shelf::new(folder.path());
    Journal::create(&shelf.live(), keys.header())?;
    let (metrics, health) = (Metrics::new("bench", "0"), Health::new());
    let setting = Setting {
        shelf,
        config: ledger::Config::default(),
        volume_bytes: 64 << 20,
        forget_unpaid_after: Duration::from_secs(30 * 24 * 60 * 60),
        keys: ring,
        anchor: None,
        accept_rollback: false,
    };
    let watched = Watched {
        counters: books::Counters::new(&metrics),
        journal: health.check("journal", ""),
        clock: health.check("clock", ""),
    };
    let books = Books::open(setting, watched, shutdown)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let publisher = SigningKey::generate(&mut rng).publisher_id();
    books.admit_publisher(publisher, "Acme".to_owned()).await??;
    let film = Film::new(keyserver::clock::utc());
    let (entry, item, price) = (film.entry(publisher), film.item, money(299, "EUR"));
    let sealed = keys.vault.seal(&item, &film.key);
    books.deposit(entry.clone(), sealed).await??;
    let hpke = HpkeSecret::generate(&mut rng).public();
    Ok(Shop { books, keys, item, hpke, price, entry })
}

/// Orders that wait for money, each of an account of its own.
async fn order(shop: &Shop, numbers: std::ops::Range<usize>) -> anyhow::Result<Vec<(OrderId, AccountId)>> {
    let mut orders = Vec::new();
    for batch in numbers.collect::<Vec<_>>().chunks(256) {
        let placed = futures::future::join_all(batch.iter().map(|n| {
            let (order, account) = (OrderId::from(bytes_of(*n)), AccountId::from(bytes_of(*n)));
            let key = IdempotencyKey::new(&format!("purchase-number-{n:08}")).expect("a key");
            async move {
                let placed = shop.books.create_order(account, key, shop.item, "rent".to_owned(), order).await;
                placed.map(|placed| placed.map(|_| (order, account)))
            }
        }));
        for placed in placed.await {
            orders.push(placed??);
        }
    }
    Ok(orders)
}

/// Pays and grants them all, so many at a time; also gives how long each grant took.
async fn sell(
    shop: &Shop,
    orders: Vec<(OrderId, AccountId)>,
    crowd: usize,
) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let begun = Instant::now();
    let share = orders.len().div_ceil(crowd);
    let buyers = orders.chunks(share).map(async |orders| {
        let mut latencies = Vec::with_capacity(orders.len());
        for (order, account) in orders {
            let id = EventId::from_bytes(blake3::hash(&<[u8; 16]>::from(*order)).into());
            let event =
                TillEvent { id, what: TillNews::Succeeded, order: *order, account: *account, amount: shop.price };
            shop.books.handle_till(event).await??;
            let asked = Instant::now();
            let asker = Asker { account: *account, device: DeviceId::from_bytes([7; 32]), kind: DeviceKind::Box };
            let release = shop.books.request_grant(asker, *order).await??;
            release_key(shop, release)?;
            latencies.push(asked.elapsed());
        }
        anyhow::Ok(latencies)
    });
    let mut latencies = Vec::new();
    for each in futures::future::join_all(buyers).await {
        latencies.append(&mut each?);
    }
    Ok((begun.elapsed(), latencies))
}

/// The word of a till that an order is paid.
fn event(shop: &Shop, order: OrderId, account: AccountId) -> TillEvent {
    let id = EventId::from_bytes(blake3::hash(&<[u8; 16]>::from(order)).into());
    TillEvent { id, what: TillNews::Succeeded, order, account, amount: shop.price }
}

/// What the shop does with a release before it answers.
fn release_key(shop: &Shop, release: Release) -> anyhow::Result<()> {
    let Release { licence, key } = release;
    let content_key = shop.keys.vault.open(&licence.item, &licence.commitment, &key)?;
    let signed = Signed::sign(&shop.keys.signing, &licence)?;
    let secret = Released::Whole(content_key).encode();
    let mut rng = ChaCha8Rng::from_seed(*daemon::secrets::random::<32>());
    let wrapped = wrap(&mut rng, &shop.hpke, Label::Grant, &licence.grant_aad(&signed), &secret)?;
    std::hint::black_box(wrapped);
    Ok(())
}

/// Writes so many records in batches, each followed by `fdatasync`.
fn write_bare(folder: &Path, records: usize, batch: usize) -> anyhow::Result<(Duration, Vec<Duration>)> {
    let path = folder.join("bare");
    let mut file: File = OpenOptions::new().append(true).create(true).open(&path)?;
    let bytes = vec![0x5a; RECORD_BYTES / 2 * batch];
    let begun = Instant::now();
    let mut syncs = Vec::new();
    for _ in 0..records.div_ceil(batch) {
        let asked = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        syncs.push(asked.elapsed());
    }
    let elapsed = begun.elapsed();
    std::fs::remove_file(&path)?;
    Ok((elapsed, syncs))
}

fn hold_to_one_processor() {
    let mut set = rustix::thread::CpuSet::new();
    set.set(0);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("running on all processors: {error}");
    }
}

fn bytes_of(n: usize) -> [u8; 16] {
    *blake3::hash(&n.to_be_bytes()).as_bytes().first_chunk().expect("a hash is longer")
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 100.0).round() / 100.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort();
    values[(values.len() - 1) * percent / 100]
}
