//! Viewers: who watches what arrives, and whether it arrives in time.
//!
//! A viewer begins when the first chunk is here and then needs one chunk after the other at the rate of the film. What
//! is not here in time is waited for: that is a stall, and the rest of the film is later by as much.

use swarm_proto::peer::chunk_set::ChunkSet;

use super::{Wake, World};

/// A player that waits looks again after this.
const LOOK_AGAIN_MICROS: u64 = 50_000;

/// How somebody watches.
#[derive(Debug, Clone, Default)]
pub(super) struct Play {
    /// The chunk that is needed next.
    at: u32,
    started_at: Option<u64>,
    /// It waits for a chunk at the moment.
    waits: bool,
    stalls: u32,
}

impl World {
    /// The viewer of a wish needs the next chunk.
    pub(super) fn play(&mut self, number: u32) {
        let (at, now) = (self.schedule.now(), self.clocks());
        let want = &mut self.wants[number as usize];
        let Some(play) = want.play.as_mut() else { return };
        let device = &mut self.devices[want.device as usize];
        let Some(chunk) = self.geometry.chunk(play.at).filter(|_| device.online) else { return };
        device.transfers.handle_playing(now, self.titles[want.title as usize].item, chunk);
        let is_here = device.held.get(&want.title).is_some_and(|held: &ChunkSet| held.contains(chunk.get()));
        if is_here {
            play.started_at.get_or_insert(at);
            play.waits = false;
            play.at += 1;
        } else if play.started_at.is_some() && !std::mem::replace(&mut play.waits, true) {
            play.stalls += 1;
        }
        let (device, next) = (want.device, if is_here { self.chunk_lasts } else { LOOK_AGAIN_MICROS });
        self.schedule.wake(at + next, Wake::Play(number));
        self.after(device);
    }

    /// The part of the started plays that never stalled, and how long each took to start, in seconds and ascending.
    pub(super) fn plays(&self) -> Option<(f64, Vec<f64>)> {
        let plays = || self.wants.iter().filter_map(|want| Some((want.at, want.play.as_ref()?)));
        let started = || plays().filter_map(|(asked, play)| Some((play.started_at? - asked, play.stalls)));
        let mut starts: Vec<f64> = started().map(|(took, _)| took as f64 / 1e6).collect();
        starts.sort_by(f64::total_cmp);
        let smooth = started().filter(|(_, stalls)| *stalls == 0).count();
        (!starts.is_empty()).then(|| (smooth as f64 / starts.len() as f64, starts))
    }
}
