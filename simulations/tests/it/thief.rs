//! A thief loose on a real seed: a member of the swarm who takes more than the hour's budget gives.
//!
//! It has keys, a membership and a connection like any box; it only leaves out what a box would keep to. Whatever it
//! tries, all bytes of the film that leave the seed within an hour stay below the number in the tracker's configuration.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use peer_node::config;
use peer_node::net::{self, Exchange};
use prost::Message as _;
use simulations::demo::device::Device;
use swarm_proto::geometry::{CHUNK_BYTES, ChunkIndex, Geometry};
use swarm_proto::id::{DeviceId, ItemId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::swarm_client::SwarmClient;
use swarm_proto::wire::{Answer, Ask, Request};
use tokio::time::timeout;

use crate::processes::{Swarm, text};

/// What the seed may send in an hour, and the size of the film.
const BUDGET_MIB: u64 = 6;
const FILM_MIB: u64 = 20;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A film, and where it is to be had.
struct Loot {
    item: ItemId,
    geometry: Geometry,
    seed: DeviceId,
    seed_addresses: Vec<Multiaddr>,
}

/// A member that keeps to nothing.
struct Thief {
    device: Device,
    taken: u64,
}

impl Thief {
    async fn enrol(swarm: &Swarm, name: &str) -> Thief {
        swarm.tracker.says(&["customer", "add", name]);
        let code = text(&swarm.tracker.says(&["device", "invite", name]), "code");
        Thief { device: Device::enrol(swarm.tracker.url(), &code, name).await.expect("it is invited"), taken: 0 }
    }

    async fn plan(&self, loot: &Loot, playing: bool) -> pb::Plan {
        let question = pb::AssignSourcesRequest { item: loot.item.to_vec(), playing, ..Default::default() };
        let question = self.device.to_tracker(question).expect("it has its keys");
        let answer = SwarmClient::new(self.device.tracker.clone()).assign_sources(question).await;
        answer.expect("it is a member").into_inner()
    }

    /// Asks for every chunk over a connection of its own, and breaks off each answer after so many bytes if told to.
    async fn take(&mut self, loot: &Loot, ticket: &Bytes, break_off: Option<u64>) {
        let secret = self.device.signing_key();
        let keypair = Keypair::ed25519_from_bytes(secret.expose().as_mut_slice()).expect("a key");
        let listen = config::Net { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..config::Net::default() };
        let listen = net::Config::of(&listen).expect("a configuration");
        let (net, _inbound) = net::spawn(keypair, listen).await.expect("a network");
        net.add_addresses(loot.seed, loot.seed_addresses.clone()).await;
        for index in (0..loot.geometry.n_chunks()).filter_map(ChunkIndex::new) {
            let ask = Ask::Chunk { index, want_segment_values: false };
            let request = Request { item: loot.item, ask, ticket: ticket.clone() };
            let exchange = Arc::new(Exchange::default());
            let answer = timeout(PATIENCE, async {
                let answer = net.ask(loot.seed, request, exchange.clone());
                tokio::pin!(answer);
                loop {
                    tokio::select! {
                        answer = &mut answer => return answer,
                        () = tokio::task::yield_now() => {
                            if break_off.is_some_and(|at| exchange.received() >= at) {
                                exchange.cancel();
                            }
                        }
                    }
                }
            });
            let answer = answer.await.expect("the seed answers or ends the connection");
            self.taken += match answer {
                Ok(Answer::Data { bytes, .. }) => bytes.len() as u64,
                _ => exchange.received().min(CHUNK_BYTES),
            };
        }
    }
}

fn ticket_of(plan: &pb::Plan) -> Bytes {
    plan.ticket.as_ref().expect("a plan carries a ticket").encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_thieves_try_a_seed_sends_no_more_in_an_hour_than_the_budget() {
    let mut swarm = Swarm::start_with("unlimited", &[&format!("origin.bytes_per_hour={BUDGET_MIB} MiB")]);
    swarm.publish("Atlas", FILM_MIB);
    let (mut thief, mut accomplice) = (Thief::enrol(&swarm, "thief").await, Thief::enrol(&swarm, "accomplice").await);
    let entry = thief.device.entry("Atlas").await.expect("everybody may read the catalog");
    let (seed, seed_addresses) = swarm.seed_contact();
    let mut loot = Loot { item: entry.item, geometry: entry.geometry, seed, seed_addresses };

    // More than the ticket says; then the same ticket again, broken off before the end of each chunk.
    let plan = thief.plan(&loot, false).await;
    let first = ticket_of(&plan);
    thief.take(&loot, &first, Some(CHUNK_BYTES * 9 / 10)).await;
    thief.take(&loot, &first, Some(40_000)).await;
    thief.take(&loot, &first, None).await;
    assert!(thief.taken > 0, "the first ticket is good for something, or this test tries nothing");

    // A ticket changed by its holder, and that of somebody else.
    let mut forged = first.to_vec();
    for at in (0..forged.len()).step_by(7) {
        forged[at] ^= 1;
    }
    let before = thief.taken;
    thief.take(&loot, &Bytes::from(forged), None).await;
    accomplice.take(&loot, &first, None).await;
    assert_eq!((thief.taken, accomplice.taken), (before, 0), "a ticket is its owner's, as it was signed");

    // New tickets, for other reasons, by another customer, at another run of the seed.
    for playing in [true, false, true] {
        let plan = thief.plan(&loot, playing).await;
        thief.take(&loot, &ticket_of(&plan), None).await;
        let plan = accomplice.plan(&loot, playing).await;
        accomplice.take(&loot, &ticket_of(&plan), None).await;
    }
    swarm.kill_and_restart_seed();
    (loot.seed, loot.seed_addresses) = swarm.seed_contact();
    thief.take(&loot, &first, None).await;
    let plan = accomplice.plan(&loot, false).await;
    accomplice.take(&loot, &ticket_of(&plan), None).await;

    let taken = thief.taken + accomplice.taken;
    assert!(taken <= BUDGET_MIB << 20, "{taken} bytes are more than {BUDGET_MIB} MiB");
    assert!(taken >= (BUDGET_MIB - 1) << 20, "the budget is there to be used: {taken} bytes");
}
