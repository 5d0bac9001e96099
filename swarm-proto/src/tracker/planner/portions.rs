//! Splits what is missing into portions: rarest chunks first, each source as much as its rate allows.
//!
//! Portions are disjoint, and a portion names only chunks its source holds and the asker lacks. Neighbouring chunks
//! that the same sources hold and that are equally rare are dealt out together, so the work grows with how scattered
//! the holdings are rather than with the length of the item.

use std::ops::Range;

use crate::peer::chunk_set::ChunkSet;

/// Most sources among which chunks are split: one bit for each.
pub(super) const MAX_SENDERS: usize = 64;

/// Most ranges of one source. Portions are hints, and a source that is through with them is asked for what it has.
const MAX_RANGES: usize = 256;

/// A source that is to send something.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) rate_bytes_per_sec: u64,
    /// The missing chunks it may be asked for.
    pub(super) chunks: ChunkSet,
}

/// In which order chunks are to be taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Rarest first; equally rare ones from this chunk on and around, so that two askers do not begin alike.
    RarestFirst { from: u32 },
    /// As they are watched; neighbouring chunks from different sources, so that all of them work on the next minutes.
    Playing,
}

/// Neighbouring chunks that the same sources may send and that are equally rare.
struct Run {
    chunks: Range<u32>,
    senders: u64,
    holders: u32,
}

/// The portions of each sender, in the order of the senders.
pub(super) fn split(
    senders: &[Sender],
    n_chunks: u32,
    holders: impl Fn(u32) -> u32,
    order: Order,
) -> Vec<Vec<Range<u32>>> {
    let mut runs = runs_of(senders, n_chunks, holders, order);
    if let Order::RarestFirst { from } = order {
        runs.sort_by_key(|run| (run.holders, (run.chunks.start + n_chunks - from) % n_chunks));
    }
    let mut portions = vec![Vec::new(); senders.len()];
    let mut load = vec![0_u64; senders.len()];
    for run in runs {
        let before = load.clone();
        for _ in run.chunks.clone() {
            let next = least_loaded(senders, &load, run.senders);
            load[next] += 1;
        }
        let mut start = run.chunks.start;
        for (at, (after, before)) in load.iter().zip(before).enumerate() {
            let count = u32::try_from(after - before).expect("no more than the run has chunks");
            if count > 0 {
                append(&mut portions[at], start..start + count);
                start += count;
            }
        }
    }
    portions
}

fn runs_of(senders: &[Sender], n_chunks: u32, holders: impl Fn(u32) -> u32, order: Order) -> Vec<Run> {
    let mut able = vec![0_u64; n_chunks as usize];
    for (at, sender) in senders.iter().enumerate() {
        for chunk in sender.chunks.iter() {
            able[chunk as usize] |= 1 << at;
        }
    }
    let cut_before = |chunk: u32| match order {
        Order::RarestFirst { from } => chunk == from,
        Order::Playing => true,
    };
    let mut runs: Vec<Run> = Vec::new();
    for (chunk, senders) in (0..n_chunks).zip(able) {
        if senders == 0 {
            continue;
        }
        let holders = holders(chunk);
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

/// Who of the able would be done first with one chunk more.
fn least_loaded(senders: &[Sender], load: &[u64], able: u64) -> usize {
    let able = (0..senders.len()).filter(|at| able & (1 << at) != 0);
    // At most 32,768 chunks times a terabyte a second: far below where this would overflow.
    let sooner = |a: &usize, b: &usize| {
        let work = |one: usize, other: usize| (load[one] + 1) * senders[other].rate_bytes_per_sec;
        work(*a, *b).cmp(&work(*b, *a))
    };
    able.min_by(sooner).expect("every run has a sender")
}

fn append(portions: &mut Vec<Range<u32>>, chunks: Range<u32>) {
    let full = portions.len() >= MAX_RANGES;
    match portions.last_mut() {
        Some(last) if last.end == chunks.start => last.end = chunks.end,
        _ if full => {}
        _ => portions.push(chunks),
    }
}
