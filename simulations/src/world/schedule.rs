//! What happens next.
//!
//! One order for everything: by time, and at the same time in the order in which it was planned. What takes always
//! equally long (requests, deliveries, messages to and from the tracker) waits in lanes, which are queues; the rest
//! waits in a heap. Times are microseconds since the beginning of the run.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A queue of things that take equally long.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    delay: u64,
    waiting: VecDeque<(u64, u64, T)>,
}

impl<T> Lane<T> {
    fn new(delay: u64) -> Self {
        Self { delay, waiting: VecDeque::new() }
    }

    fn next(&self) -> (u64, u64) {
        self.waiting.front().map_or((u64::MAX, u64::MAX), |(at, number, _)| (*at, *number))
    }

    fn pop(&mut self) -> Option<T> {
        self.waiting.pop_front().map(|(.., what)| what)
    }
}

/// What comes out of a [`Schedule`].
#[derive(Debug)]
pub(crate) enum Due<W, Q, A, C> {
    Wake(W),
    Request(Q),
    Answer(A),
    Control(C),
}

/// How long the things of each lane take, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delays {
    pub(crate) request: u64,
    pub(crate) answer: u64,
    pub(crate) control: u64,
}

/// Everything that is to happen.
#[derive(Debug)]
pub(crate) struct Schedule<W, Q, A, C> {
    now: u64,
    numbers: u64,
    wakes: BinaryHeap<Reverse<(u64, u64, W)>>,
    requests: Lane<Q>,
    answers: Lane<A>,
    control: Lane<C>,
}

impl<W: Ord, Q, A, C> Schedule<W, Q, A, C> {
    pub(crate) fn new(delays: Delays) -> Self {
        Self {
            now: 0,
            numbers: 0,
            wakes: BinaryHeap::new(),
            requests: Lane::new(delays.request),
            answers: Lane::new(delays.answer),
            control: Lane::new(delays.control),
        }
    }

    /// The time of what came out last.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Something is to happen then, but not before now.
    pub(crate) fn wake(&mut self, at: u64, what: W) {
        let number = self.number();
        self.wakes.push(Reverse((at.max(self.now), number, what)));
    }

    pub(crate) fn request(&mut self, what: Q) {
        let number = self.number();
        self.requests.waiting.push_back((self.now + self.requests.delay, number, what));
    }

    pub(crate) fn answer(&mut self, what: A) {
        let number = self.number();
        self.answers.waiting.push_back((self.now + self.answers.delay, number, what));
    }

    pub(crate) fn control(&mut self, what: C) {
        let number = self.number();
        self.control.waiting.push_back((self.now + self.control.delay, number, what));
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        let at = self.heads().into_iter().min().map_or(u64::MAX, |(at, _)| at);
        (at < u64::MAX).then_some(at)
    }

    /// The next thing; time moves on to it.
    pub(crate) fn pop(&mut self) -> Option<Due<W, Q, A, C>> {
        let heads = self.heads();
        let first = *heads.iter().min()?;
        if first.0 == u64::MAX {
            return None;
        }
        self.now = first.0;
        match heads.iter().position(|head| *head == first)? {
            0 => self.wakes.pop().map(|Reverse((.., what))| Due::Wake(what)),
            1 => self.requests.pop().map(Due::Request),
            2 => self.answers.pop().map(Due::Answer),
            _ => self.control.pop().map(Due::Control),
        }
    }

    fn heads(&self) -> [(u64, u64); 4] {
        let wake = self.wakes.peek().map_or((u64::MAX, u64::MAX), |Reverse((at, number, _))| (*at, *number));
        [wake, self.requests.next(), self.answers.next(), self.control.next()]
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_at_the_same_time_in_the_order_they_were_planned() {
        let mut schedule = Schedule::<&str, &str, &str, &str>::new(Delays { request: 40, answer: 20, control: 20 });
        schedule.request("asked");
        schedule.wake(20, "woken");
        schedule.control("told");
        schedule.answer("answered");
        let mut order = Vec::new();
        while let Some(due) = schedule.pop() {
            let (Due::Wake(what) | Due::Request(what) | Due::Answer(what) | Due::Control(what)) = due;
            order.push((schedule.now(), what));
        }
        assert_eq!(order, [(20, "woken"), (20, "told"), (20, "answered"), (40, "asked")]);
    }

    #[test]
    fn nothing_happens_in_the_past() {
        let mut schedule = Schedule::<u8, u8, u8, u8>::new(Delays { request: 0, answer: 0, control: 0 });
        schedule.wake(100, 1);
        schedule.pop();
        schedule.wake(50, 2);
        assert_eq!(schedule.next_at(), Some(100));
    }
}
