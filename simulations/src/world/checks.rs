//! What must hold all the time, said as sentences.
//!
//! Cheap checks are made as things happen, the others at every sample and at the end. The first that fails ends the run;
//! scenario, seed and the number of the event lead back to it.

use std::fmt;

use swarm_proto::geometry::CHUNK_BYTES;

use super::World;
use super::device::Manners;
use super::trace::clock;

/// A shortfall below the fluid limit that is rounding, in microseconds.
const ROUNDING: u64 = 1_000;

/// Something that must hold did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What must hold.
    pub rule: Rule,
    /// How it did not.
    pub how: String,
    /// After how many events.
    pub event: u64,
    /// Virtual time, in microseconds.
    pub at_micros: u64,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// I5.
    ShownIsPublished,
    /// I6.
    OnlyVerifiedIsPassedOn,
    /// I8.
    BytesAddUp,
    /// I11.
    LimitsHold,
    /// I12.
    HonestAreNotBanned,
    /// Bandwidth.
    NoLinkCarriesTooMuch,
    /// The fluid limit.
    NobodyBeatsTheFluidLimit,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::ShownIsPublished => "bytes shown are bytes published (I5)",
            Rule::OnlyVerifiedIsPassedOn => "a device passes on only what it verified (I6)",
            Rule::BytesAddUp => "bytes from boxes and from seeds are verified or wasted (I8)",
            Rule::LimitsHold => "memory, requests and sends stay below their caps (I11)",
            Rule::HonestAreNotBanned => "no honest peer is banned (I12)",
            Rule::NoLinkCarriesTooMuch => "no link carries more than it can",
            Rule::NobodyBeatsTheFluidLimit => "nobody is faster than the fluid limit",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (event {}, at {})", self.rule, self.how, self.event, clock(self.at_micros))
    }
}

impl World {
    /// Remembers the first thing that went wrong.
    pub(super) fn violated(&mut self, rule: Rule, how: String) {
        let (event, at_micros) = (self.events(), self.schedule.now());
        self.tally.violation.get_or_insert(Violation { rule, how, event, at_micros });
    }

    /// What can be looked at now and then.
    pub(super) fn check_at_a_sample(&mut self) {
        if let Some((used, capacity)) = self.links.overused() {
            self.violated(Rule::NoLinkCarriesTooMuch, format!("{used} bytes per second on a link of {capacity}"));
        }
        for number in 0..self.devices.len() {
            let device = &self.devices[number];
            let (asked, most) = (device.transfers.outstanding_bytes(), self.limits.outstanding_bytes);
            let (sending, slots) = (device.uploads.sending(), self.limits.slots_of(device.kind));
            if asked > most {
                self.violated(Rule::LimitsHold, format!("device {number} has asked for {asked} of {most} bytes"));
            } else if sending > slots {
                self.violated(Rule::LimitsHold, format!("device {number} sends {sending} chunks, {slots} are allowed"));
            }
        }
    }

    /// What can only be known when all is over.
    pub(super) fn check_at_the_end(&mut self) -> Result<(), Violation> {
        self.check_at_a_sample();
        for number in 0..self.devices.len() {
            self.account(number as u32);
            let device = &self.devices[number];
            let (accounted, received) = (device.accounted_bytes, device.received_bytes);
            if device.online && accounted != received {
                let how = format!("device {number} accounts for {accounted} of {received} bytes");
                self.violated(Rule::BytesAddUp, how);
            }
        }
        if let (Some(crowd), 0) = (self.crowd(), self.open_wants) {
            let limit = super::micros(crowd.fluid());
            let last = self.wants.iter().filter(|want| !want.given_up).filter_map(|want| want.done_at).max();
            let everybody_counts = self.devices.iter().all(|it| it.manners == Manners::Honest);
            if let Some(last) = last.filter(|last| everybody_counts && last + ROUNDING < limit) {
                let how = format!("all are done after {}, the limit is {}", clock(last), clock(limit));
                self.violated(Rule::NobodyBeatsTheFluidLimit, how);
            }
        }
        self.tally.violation.take().map_or(Ok(()), Err)
    }

    /// Takes what the machine of a device says it has received.
    pub(super) fn account(&mut self, number: u32) {
        let device = &mut self.devices[number as usize];
        let traffic = device.transfers.take_traffic();
        device.accounted_bytes += traffic.values().map(|it| it.verified_bytes + it.wasted_bytes).sum::<u64>();
        device.uploads.take_ledger();
    }

    /// A chunk is about to be passed on or is part of a title that is complete now.
    pub(super) fn check_genuine(&mut self, rule: Rule, device: u32, title: u32, chunk: Option<u32>) {
        let range = match chunk {
            Some(chunk) => (device, title, chunk)..=(device, title, chunk),
            None => (device, title, 0)..=(device, title, u32::MAX),
        };
        if let Some((device, title, chunk)) = self.tainted.range(range).next().copied() {
            self.violated(rule, format!("device {device} has a forged chunk {chunk} of title {title}"));
        }
    }
}

/// Caps that hold for every device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) outstanding_bytes: u64,
    pub(super) slots: usize,
    pub(super) seed_slots: usize,
}

impl Limits {
    pub(super) fn of_chunks(outstanding_chunks: u32, slots: u32, seed_slots: u32) -> Limits {
        Limits {
            outstanding_bytes: u64::from(outstanding_chunks) * CHUNK_BYTES,
            slots: slots as usize,
            seed_slots: seed_slots as usize,
        }
    }

    fn slots_of(&self, kind: swarm_proto::membership::DeviceKind) -> usize {
        match kind {
            swarm_proto::membership::DeviceKind::Box => self.slots,
            swarm_proto::membership::DeviceKind::Seed => self.seed_slots,
        }
    }
}
