//! Splits what is missing into portions: rarest chunks first, each source as much as its rate allows.
//!
//! Portions are disjoint, and a portion names only chunks its source holds and the asker lacks. Neighbouring chunks
//! that the same sources hold and that are equally rare are dealt out together, so the work grows with how scattered
//! the holdings are rather than with the length of the item.

use std::ops::Range;

use crate::peer::chunk_set::ChunkSet;

/// Most sources among which chunks are split: one bit for each.
pub(super) const MAX_SENDERS: usize = 64;

/// A run this short is dealt out chunk by chunk.
const DEALT_ONE_BY_ONE: u64 = 16;

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
        let dealt = deal_most(senders, &mut load, &run);
        for _ in dealt..run.chunks.end - run.chunks.start {
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
    let able = |chunk: u32| {
        let has = |at: &usize| senders[*at].chunks.contains(chunk);
        (0..senders.len()).filter(has).fold(0_u64, |all, at| all | 1 << at)
    };
    let cut_before = |chunk: u32| match order {
        Order::RarestFirst { from } => chunk == from,
        Order::Playing => true,
    };
    let mut runs: Vec<Run> = Vec::new();
    // Most words of all sets are alike from end to end, so their chunks are looked at only once.
    let is_even = |word: usize| senders.iter().all(|it| matches!(it.chunks.word(word), 0 | u64::MAX));
    let mut even: Option<(usize, u64)> = None;
    for chunk in 0..n_chunks {
        let word = chunk as usize / 64;
        let senders = match even {
            Some((known, senders)) if known == word => senders,
            _ => {
                let senders = able(chunk);
                even = is_even(word).then_some((word, senders));
                senders
            }
        };
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

/// Deals a long run out by rates at once; answers how many chunks of it. What rounding leaves is dealt one by one.
fn deal_most(senders: &[Sender], load: &mut [u64], run: &Run) -> u32 {
    let len = u64::from(run.chunks.end - run.chunks.start);
    if len <= DEALT_ONE_BY_ONE {
        return 0;
    }
    let able = || (0..senders.len()).filter(|at| run.senders & (1 << at) != 0);
    let total: u64 = len + able().map(|at| load[at]).sum::<u64>();
    let rates: u64 = able().map(|at| senders[at].rate_bytes_per_sec).sum::<u64>().max(1);
    let lacks = |at: usize| {
        let fair = u128::from(total) * u128::from(senders[at].rate_bytes_per_sec) / u128::from(rates);
        u64::try_from(fair).unwrap_or(u64::MAX).saturating_sub(load[at])
    };
    let lacking: Vec<(usize, u64)> = able().map(|at| (at, lacks(at))).collect();
    let sum: u64 = lacking.iter().map(|(_, lacks)| lacks).sum();
    let mut dealt = 0;
    for (at, lacks) in lacking {
        let mine = lacks * len / sum.max(len);
        load[at] += mine;
        dealt += mine;
    }
    u32::try_from(dealt).expect("no more than the run has chunks")
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
