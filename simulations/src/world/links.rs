//! Bytes on their way: flows over links that are shared fairly.
//!
//! A flow crosses one uplink and one downlink, and perhaps wide links (what a site shares, what sites have between
//! them). Rates are divided anew at both ends of every flow that starts or ends: max-min between the flows of a link,
//! each as far as its other links let it, and what one flow leaves another takes. Wide links are divided anew at a beat,
//! since thousands cross them. Everything is whole numbers. Never is more of a link used than there is: every change is
//! checked, and the first that breaks it is remembered.

use std::collections::BTreeSet;

/// Parts of a byte that progress is counted in: microseconds at one byte per second.
const PER_BYTE: u64 = 1_000_000;

/// A rate is raised only by more than one part in so many, so that ripples die out.
const WORTH_RAISING: u64 = 20;

/// What is free on a link is handed out only when it is more than one part in so many.
const WORTH_FILLING: u64 = 20;

/// Most wide links on one way.
pub(crate) const WIDE_MAX: usize = 3;

/// Not a link.
const NONE: u32 = u32::MAX;

/// A link, by its place in [`Links`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(u32);

/// A flow; reused once it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowId(u32);

impl FlowId {
    /// For indexing what goes with it.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The way of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    pub(crate) wide: [Option<LinkId>; WIDE_MAX],
}

#[derive(Debug, Default)]
struct Link {
    capacity: u64,
    used: u64,
    /// Of an uplink or downlink.
    flows: Vec<u32>,
    /// Of a wide link.
    crossing: BTreeSet<u32>,
    /// Whose uplink it is, as its owner says.
    owner: u32,
    /// It is among those whose next end may have changed.
    is_changed: bool,
}

impl Link {
    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    /// Whether so much is free that nobody is held back here.
    fn has_plenty(&self) -> bool {
        self.free() > self.capacity / WORTH_FILLING
    }
}

#[derive(Debug, Clone)]
struct Flow {
    up: u32,
    down: u32,
    wide: [u32; WIDE_MAX],
    rate: u64,
    /// What is to be sent, and what was left of it at `since`; in parts of bytes.
    whole: u64,
    left: u64,
    since: u64,
    ends: u64,
}

/// All links and all flows.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    flows: Vec<Flow>,
    free: Vec<u32>,
    wide: Vec<u32>,
    /// Uplinks whose next end may have changed.
    changed: Vec<u32>,
    caps: Vec<u64>,
    members: Vec<u32>,
    loosened: Vec<u32>,
    /// What a link carried, and what it can carry, when it first carried too much.
    overused: Option<(u64, u64)>,
}

impl Links {
    /// A link of a device, one way, in bytes per second.
    pub(crate) fn add(&mut self, capacity: u64, owner: u32) -> LinkId {
        self.links.push(Link { capacity, owner, ..Link::default() });
        LinkId((self.links.len() - 1) as u32)
    }

    /// A link that many flows share.
    pub(crate) fn add_wide(&mut self, capacity: u64) -> LinkId {
        let link = self.add(capacity, NONE);
        self.wide.push(link.0);
        link
    }

    /// Whether there is anything to divide at a beat.
    pub(crate) fn has_wide(&self) -> bool {
        !self.wide.is_empty()
    }

    /// Whose link it is.
    pub(crate) fn owner(&self, link: LinkId) -> u32 {
        self.links[link.0 as usize].owner
    }

    /// What a link carried and what it can carry, if ever one carried more.
    pub(crate) fn overused(&self) -> Option<(u64, u64)> {
        self.overused
    }

    /// What is being sent through an uplink or downlink.
    pub(crate) fn flows_of(&self, link: LinkId) -> Vec<FlowId> {
        self.links[link.0 as usize].flows.iter().copied().map(FlowId).collect()
    }

    /// Bytes per second that a link carries at the moment.
    #[cfg(test)]
    pub(crate) fn used(&self, link: LinkId) -> u64 {
        self.links[link.0 as usize].used
    }

    /// Something begins to flow.
    pub(crate) fn start(&mut self, now: u64, way: &Way, bytes: u64) -> FlowId {
        let flow = Flow {
            up: way.up.0,
            down: way.down.0,
            wide: way.wide.map(|link| link.map_or(NONE, |link| link.0)),
            rate: 0,
            whole: bytes * PER_BYTE,
            left: bytes * PER_BYTE,
            since: now,
            ends: u64::MAX,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.flows[id as usize] = flow;
                id
            }
            None => {
                self.flows.push(flow);
                (self.flows.len() - 1) as u32
            }
        };
        let (up, down) = (way.up.0, way.down.0);
        self.links[up as usize].flows.push(id);
        self.links[down as usize].flows.push(id);
        for link in self.flows[id as usize].wide.into_iter().filter(|link| *link != NONE) {
            self.links[link as usize].crossing.insert(id);
        }
        self.make_room(now, id);
        FlowId(id)
    }

    /// A flow is over or is given up; answers how many of its bytes were sent.
    pub(crate) fn end(&mut self, now: u64, flow: FlowId) -> u64 {
        let id = flow.0;
        let it = &self.flows[id as usize];
        // Where there was enough before, nobody waits for what is free now.
        let held_back = [it.up, it.down].map(|link| !self.links[link as usize].has_plenty());
        self.set_rate(now, id, 0);
        let it = self.flows[id as usize].clone();
        let sent = (it.whole - it.left) / PER_BYTE;
        for link in [it.up, it.down] {
            let link = &mut self.links[link as usize];
            let at = link.flows.iter().position(|other| *other == id).expect("a flow is on its links");
            link.flows.swap_remove(at);
        }
        for link in it.wide.into_iter().filter(|link| *link != NONE) {
            self.links[link as usize].crossing.remove(&id);
        }
        self.free.push(id);
        for (link, held_back) in [it.up, it.down].into_iter().zip(held_back) {
            if held_back {
                self.fill(now, link);
            }
        }
        sent
    }

    /// Bytes of a flow that have been sent.
    pub(crate) fn sent(&self, now: u64, flow: FlowId) -> u64 {
        let it = &self.flows[flow.index()];
        (it.whole - it.left_at(now)) / PER_BYTE
    }

    /// When the first flow of an uplink ends.
    pub(crate) fn next_end(&self, up: LinkId) -> u64 {
        let flows = &self.links[up.0 as usize].flows;
        flows.iter().map(|flow| self.flows[*flow as usize].ends).min().unwrap_or(u64::MAX)
    }

    /// A flow of an uplink that has ended by now.
    pub(crate) fn ended(&self, now: u64, up: LinkId) -> Option<FlowId> {
        let flows = &self.links[up.0 as usize].flows;
        flows.iter().copied().find(|flow| self.flows[*flow as usize].ends <= now).map(FlowId)
    }

    /// An uplink whose next end may have changed since it was last named.
    pub(crate) fn poll_changed(&mut self) -> Option<LinkId> {
        let link = self.changed.pop()?;
        self.links[link as usize].is_changed = false;
        Some(LinkId(link))
    }

    /// Divides the wide links anew.
    pub(crate) fn divide_wide(&mut self, now: u64) {
        for at in 0..self.wide.len() {
            let link = self.wide[at];
            let level = self.level(link, None);
            let mut members = std::mem::take(&mut self.members);
            members.clear();
            members.extend(self.links[link as usize].crossing.iter().copied());
            for &flow in &members {
                if self.flows[flow as usize].rate > level {
                    self.set_rate(now, flow, level);
                }
            }
            for &flow in &members {
                self.raise(now, flow, level);
            }
            self.members = members;
        }
    }

    /// A new flow gets its fair part at both of its ends; what others then no longer use goes to their neighbours.
    fn make_room(&mut self, now: u64, id: u32) {
        let Flow { up, down, .. } = self.flows[id as usize];
        let mut at_up = self.level_for(up, id, u64::MAX);
        let at_down = self.level_for(down, id, at_up);
        let part = at_up.min(at_down);
        if at_down < at_up {
            at_up = self.level_for(up, id, part);
        }
        let mut loosened = std::mem::take(&mut self.loosened);
        loosened.clear();
        self.lower(now, up, at_up, id, &mut loosened);
        self.lower(now, down, at_down, id, &mut loosened);
        let part = part.min(self.room(id));
        self.set_rate(now, id, part);
        for (link, level) in [(up, at_up), (down, at_down)] {
            if level == u64::MAX || !self.links[link as usize].has_plenty() {
                continue;
            }
            for at in 0..self.links[link as usize].flows.len() {
                let flow = self.links[link as usize].flows[at];
                if flow != id {
                    self.raise(now, flow, level);
                }
            }
        }
        for link in loosened.drain(..) {
            self.fill(now, link);
        }
        self.loosened = loosened;
    }

    /// The level of a link with a newcomer that takes so much at most; no level where what is free is enough for it.
    fn level_for(&mut self, link: u32, newcomer: u32, cap: u64) -> u64 {
        match self.links[link as usize].free() >= cap {
            true => u64::MAX,
            false => self.level(link, Some((newcomer, cap))),
        }
    }

    /// Nobody on this link keeps more than its level.
    fn lower(&mut self, now: u64, link: u32, level: u64, spared: u32, loosened: &mut Vec<u32>) {
        if level == u64::MAX {
            return;
        }
        for at in 0..self.links[link as usize].flows.len() {
            let flow = self.links[link as usize].flows[at];
            let Flow { up, down, rate, .. } = self.flows[flow as usize];
            if flow != spared && rate > level {
                self.set_rate(now, flow, level);
                loosened.push(if up == link { down } else { up });
            }
        }
    }

    /// Hands out what is free on a link to those whose other links let them take it, the slowest first.
    fn fill(&mut self, now: u64, link: u32) {
        let it = &self.links[link as usize];
        if it.flows.is_empty() || !it.has_plenty() {
            return;
        }
        let level = self.level(link, None);
        for at in 0..self.links[link as usize].flows.len() {
            let flow = self.links[link as usize].flows[at];
            self.raise(now, flow, level);
        }
    }

    fn raise(&mut self, now: u64, flow: u32, level: u64) {
        let rate = self.flows[flow as usize].rate;
        if rate >= level {
            return;
        }
        let higher = level.min(rate + self.room(flow));
        if higher > rate + rate / WORTH_RAISING {
            self.set_rate(now, flow, higher);
        }
    }

    /// How much faster a flow could be at once.
    fn room(&self, flow: u32) -> u64 {
        let it = &self.flows[flow as usize];
        let ends = self.links[it.up as usize].free().min(self.links[it.down as usize].free());
        it.wide.iter().filter(|link| **link != NONE).map(|link| self.links[*link as usize].free()).fold(ends, u64::min)
    }

    /// The rate that no flow of a link may exceed, if each takes as much as its other links let it. A newcomer is let
    /// take as much as is said.
    fn level(&mut self, link: u32, newcomer: Option<(u32, u64)>) -> u64 {
        let mut caps = std::mem::take(&mut self.caps);
        caps.clear();
        let it = &self.links[link as usize];
        let cap = |flow: &u32| match newcomer {
            Some((id, cap)) if id == *flow => cap,
            _ => self.reach(*flow, link),
        };
        caps.extend(it.flows.iter().map(cap));
        caps.extend(it.crossing.iter().map(cap));
        let (mut rest, mut others) = (it.capacity, caps.len() as u64);
        let level = loop {
            if others == 0 {
                break u64::MAX;
            }
            let share = rest / others;
            caps.retain(|cap| {
                let contented = *cap <= share;
                if contented {
                    rest -= cap;
                }
                !contented
            });
            if caps.len() as u64 == others {
                break share;
            }
            others = caps.len() as u64;
        };
        self.caps = caps;
        level
    }

    /// The rate that the other links of a flow would allow it at once.
    fn reach(&self, flow: u32, but: u32) -> u64 {
        let it = &self.flows[flow as usize];
        let free = |link: u32| match link == NONE || link == but {
            true => u64::MAX,
            false => self.links[link as usize].free(),
        };
        let ends = free(it.up).min(free(it.down));
        let free = match it.wide == [NONE; WIDE_MAX] {
            true => ends,
            false => it.wide.iter().map(|link| free(*link)).fold(ends, u64::min),
        };
        it.rate + free
    }

    fn set_rate(&mut self, now: u64, flow: u32, rate: u64) {
        let it = &mut self.flows[flow as usize];
        let before = it.rate;
        it.left = it.left_at(now);
        it.since = now;
        it.rate = rate;
        it.ends = if rate == 0 { u64::MAX } else { now + it.left.div_ceil(rate) };
        let links = [it.up, it.down].into_iter().chain(it.wide);
        let up = &mut self.links[it.up as usize];
        if !std::mem::replace(&mut up.is_changed, true) {
            self.changed.push(it.up);
        }
        for link in links.filter(|link| *link != NONE) {
            let link = &mut self.links[link as usize];
            link.used = link.used - before + rate;
            if link.used > link.capacity {
                self.overused.get_or_insert((link.used, link.capacity));
            }
        }
    }
}

impl Flow {
    fn left_at(&self, now: u64) -> u64 {
        self.left.saturating_sub(self.rate * (now - self.since))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000;

    fn way(up: LinkId, down: LinkId) -> Way {
        Way { up, down, wide: [None; WIDE_MAX] }
    }

    #[test]
    fn two_flows_share_an_uplink_equally() {
        let mut links = Links::default();
        let (up, a, b) = (links.add(10 * MB, 0), links.add(100 * MB, 0), links.add(100 * MB, 0));
        let first = links.start(0, &way(up, a), 10 * MB);
        links.start(0, &way(up, b), 10 * MB);
        assert_eq!(links.used(a), 5 * MB);
        assert_eq!(links.next_end(up), 2 * SECOND);
        assert_eq!(links.end(2 * SECOND, first), 10 * MB);
    }

    #[test]
    fn what_one_flow_leaves_another_takes() {
        let mut links = Links::default();
        let (up, slow, fast) = (links.add(10 * MB, 0), links.add(MB, 0), links.add(100 * MB, 0));
        links.start(0, &way(up, slow), 10 * MB);
        links.start(0, &way(up, fast), 10 * MB);
        assert_eq!((links.used(slow), links.used(fast)), (MB, 9 * MB));
    }

    #[test]
    fn a_sender_that_must_give_way_gives_more_to_others() {
        let mut links = Links::default();
        let (x, y) = (links.add(10 * MB, 0), links.add(10 * MB, 0));
        let (shared, other) = (links.add(10 * MB, 0), links.add(100 * MB, 0));
        links.start(0, &way(x, shared), 100 * MB);
        links.start(0, &way(x, other), 100 * MB);
        links.start(0, &way(y, shared), 100 * MB);
        assert_eq!(links.used(shared), 10 * MB);
        assert_eq!(links.used(x), 10 * MB);
    }

    #[test]
    fn a_wide_link_is_shared_at_its_beat() {
        let mut links = Links::default();
        let transit = links.add_wide(10 * MB);
        let ends: Vec<_> = (0..5).map(|_| (links.add(100 * MB, 0), links.add(100 * MB, 0))).collect();
        for &(up, down) in &ends {
            links.start(0, &Way { wide: [Some(transit), None, None], ..way(up, down) }, 10 * MB);
        }
        links.divide_wide(0);
        assert!(ends.iter().all(|(_, down)| links.used(*down) == 2 * MB));
    }

    #[test]
    fn bytes_that_were_sent_are_known_at_any_time() {
        let mut links = Links::default();
        let (up, down) = (links.add(2 * MB, 0), links.add(MB, 0));
        let flow = links.start(0, &way(up, down), 10 * MB);
        assert_eq!(links.sent(3 * SECOND, flow), 3 * MB);
        assert_eq!(links.end(4 * SECOND, flow), 4 * MB);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_link_is_ever_overused_and_no_flow_starves(
            steps in prop::collection::vec((0u64..8, 0u64..8, 1u64..20, any::<bool>()), 1..120),
        ) {
            let mut links = Links::default();
            let ups: Vec<_> = (1..=8).map(|i| links.add(i * MB, 0)).collect();
            let downs: Vec<_> = (1..=8).map(|i| links.add(i * 2 * MB, 0)).collect();
            let (mut now, mut running) = (0, Vec::new());
            for (from, to, wait, ends) in steps {
                now += wait * 10_000;
                if ends && !running.is_empty() {
                    let flow = running.swap_remove(from as usize % running.len());
                    links.end(now, flow);
                } else {
                    running.push(links.start(now, &way(ups[from as usize], downs[to as usize]), 1_000 * MB));
                }
                prop_assert_eq!(links.overused(), None);
                for flow in &running {
                    prop_assert!(links.flows[flow.index()].rate > 0, "a flow of {} starves", running.len());
                }
            }
        }
    }
}
