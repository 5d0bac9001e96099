//! Splits what is missing into portions: rarest chunks first, each source as much as its rate allows.
//!
//! Portions are disjoint, and a portion names only chunks its source holds and the asker lacks.

use std::ops::Range;

use super::choice::Pick;
use crate::bitmap::Holding;

/// In which order chunks are to be taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Rarest first; equally rare ones from this chunk on and around, so that two askers do not begin alike.
    RarestFirst { from: u32 },
    /// As they are watched; neighbouring chunks from different sources, so that all of them work on the next minutes.
    Playing,
}

/// How many holders each chunk has.
#[derive(Debug)]
pub(super) struct Counts {
    complete: i64,
    /// At each chunk, how many more hold it than the one before it.
    steps: Vec<i64>,
}

impl Counts {
    pub(super) fn new(n_chunks: u32) -> Counts {
        Counts { complete: 0, steps: vec![0; n_chunks as usize + 1] }
    }

    pub(super) fn add(&mut self, held: &Holding) {
        if held.is_complete() {
            self.complete += 1;
            return;
        }
        for run in held.runs() {
            self.steps[run.start as usize] += 1;
            self.steps[run.end as usize] -= 1;
        }
    }

    pub(super) fn finish(self) -> Vec<u32> {
        let mut holders = self.complete;
        let n_chunks = self.steps.len() - 1;
        let counted = self.steps.into_iter().take(n_chunks).map(|step| {
            holders += step;
            u32::try_from(holders).unwrap_or(u32::MAX)
        });
        counted.collect()
    }
}

/// Neighbouring chunks that the same picks may send and that are equally rare.
struct Run {
    chunks: Range<u32>,
    senders: u64,
    holders: u32,
}

/// The portions of each pick, in the order of the picks.
pub(super) fn split(picks: &[Pick], n_chunks: u32, holders: &[u32], order: Order) -> Vec<Vec<Range<u32>>> {
    let mut runs = runs_of(picks, n_chunks, holders, order);
    if let Order::RarestFirst { from } = order {
        runs.sort_by_key(|run| (run.holders, (run.chunks.start + n_chunks - from) % n_chunks));
    }
    let mut portions = vec![Vec::new(); picks.len()];
    let mut load = vec![0_u64; picks.len()];
    for run in runs {
        let mut given = vec![0_u32; picks.len()];
        for _ in run.chunks.clone() {
            let next = least_loaded(picks, &load, run.senders);
            load[next] += 1;
            given[next] += 1;
        }
        let mut start = run.chunks.start;
        for (pick, count) in given.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            append(&mut portions[pick], start..start + count);
            start += count;
        }
    }
    portions
}

fn runs_of(picks: &[Pick], n_chunks: u32, holders: &[u32], order: Order) -> Vec<Run> {
    let mut senders = vec![0_u64; n_chunks as usize];
    for (at, pick) in picks.iter().enumerate() {
        for chunk in &pick.chunks {
            senders[chunk as usize] |= 1 << at;
        }
    }
    let cut_before = |chunk: u32| match order {
        Order::RarestFirst { from } => chunk == from,
        Order::Playing => true,
    };
    let mut runs: Vec<Run> = Vec::new();
    for (chunk, (senders, holders)) in (0..n_chunks).zip(senders.into_iter().zip(holders.iter().copied())) {
        if senders == 0 {
            continue;
        }
        match runs.last_mut() {
            Some(run)
                if run.chunks.end == chunk
                    && run.senders == senders
                    && run.holders == holders
                    && !cut_before(chunk) =>
            {
                run.chunks.end += 1;
            }
            _ => runs.push(Run { chunks: chunk..chunk + 1, senders, holders }),
        }
    }
    runs
}

/// Who of the senders would be done first with one chunk more.
fn least_loaded(picks: &[Pick], load: &[u64], senders: u64) -> usize {
    let able = (0..picks.len()).filter(|at| senders & (1 << at) != 0);
    let sooner = |a: &usize, b: &usize| {
        let work = |one: usize, other: usize| u128::from(load[one] + 1) * u128::from(picks[other].rate_bytes_per_sec);
        work(*a, *b).cmp(&work(*b, *a))
    };
    able.min_by(sooner).expect("every run has a sender")
}

fn append(portions: &mut Vec<Range<u32>>, chunks: Range<u32>) {
    match portions.last_mut() {
        Some(last) if last.end == chunks.start => last.end = chunks.end,
        _ => portions.push(chunks),
    }
}
