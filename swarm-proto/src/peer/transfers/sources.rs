//! The devices that items come from, by number.
//!
//! Whatever a transfer keeps of a source it keeps under its number: ids are long, and events are many. A number is given
//! to another device only when nothing of the first is left.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use slab::Slab;

use crate::id::DeviceId;
use crate::membership::DeviceKind;
use crate::time::Mono;

/// How much the latest measurement counts in a source's rate: one part in so many.
const RATE_WEIGHT: u64 = 4;

/// A rate is measured over at least this long; the first chunk counts at once.
const MEASURED_OVER: Duration = Duration::from_millis(500);

/// A device, by its place in [`Sources`].
pub(super) type SourceNo = u32;

/// One device, whatever it is a source of.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) device: DeviceId,
    pub(super) kind: Option<DeviceKind>,
    /// Chunks asked and not yet arrived.
    pub(super) open: u32,
    pub(super) rate_bytes_per_sec: Option<u64>,
    /// Since when its rate is measured anew, and what has come since.
    pub(super) measured_from: Mono,
    pub(super) measured_bytes: u64,
    /// Left alone until then.
    pub(super) rests_until: Mono,
    pub(super) failures: u32,
}

impl Source {
    pub(super) fn is_seed(&self) -> bool {
        self.kind == Some(DeviceKind::Seed)
    }

    /// One more chunk is asked of it. What it did not send while it was asked for nothing says nothing of its rate.
    pub(super) fn open_one(&mut self, now: Mono) {
        if self.open == 0 {
            (self.measured_from, self.measured_bytes) = (now, 0);
        }
        self.open += 1;
    }

    /// A chunk has arrived. Several share one link and may end together, so that rates are those of stretches of time,
    /// not of chunks.
    pub(super) fn close_one(&mut self, now: Mono, bytes: u64) {
        self.open = self.open.saturating_sub(1);
        self.measured_bytes += bytes;
        let took = now.since(self.measured_from);
        if self.rate_bytes_per_sec.is_some() && took < MEASURED_OVER {
            return;
        }
        let rate = self.measured_bytes.saturating_mul(1_000) / took.as_millis().max(1) as u64;
        self.rate_bytes_per_sec = Some(match self.rate_bytes_per_sec {
            Some(before) => (before * (RATE_WEIGHT - 1) + rate) / RATE_WEIGHT,
            None => rate,
        });
        (self.measured_from, self.measured_bytes) = (now, 0);
    }
}

/// Everyone who is or was a source.
#[derive(Debug, Default)]
pub(super) struct Sources {
    numbers: BTreeMap<DeviceId, SourceNo>,
    all: Slab<Source>,
}

impl Sources {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn number(&self, device: &DeviceId) -> Option<SourceNo> {
        self.numbers.get(device).copied()
    }

    /// The number of a device, a new one if it has none.
    pub(super) fn enter(&mut self, device: DeviceId) -> SourceNo {
        let all = &mut self.all;
        *self.numbers.entry(device).or_insert_with(|| {
            let source = Source {
                device,
                kind: None,
                open: 0,
                rate_bytes_per_sec: None,
                measured_from: Mono::ZERO,
                measured_bytes: 0,
                rests_until: Mono::ZERO,
                failures: 0,
            };
            u32::try_from(all.insert(source)).expect("fewer than four billion sources are remembered")
        })
    }

    /// Forgets those that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(SourceNo, &Source) -> bool) {
        let all = &mut self.all;
        self.numbers.retain(|_, number| {
            let stays = keep(*number, &all[*number as usize]);
            if !stays {
                all.remove(*number as usize);
            }
            stays
        });
    }
}

impl Index<SourceNo> for Sources {
    type Output = Source;

    fn index(&self, number: SourceNo) -> &Source {
        &self.all[number as usize]
    }
}

impl IndexMut<SourceNo> for Sources {
    fn index_mut(&mut self, number: SourceNo) -> &mut Source {
        &mut self.all[number as usize]
    }
}
