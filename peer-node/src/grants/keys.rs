//! The keys of an item that is watched: all of them, or one span after the other.
//!
//! Span keys come from the keyserver wrapped to this device, with what leads from them to the commitment in the signed
//! catalog entry; they are held against it before anything is opened with them. They exist in memory only, and those
//! behind the player are wiped. One task for each title that drips asks for them; it ends when nobody holds the
//! [`Keys`] any more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use daemon::exit::{Exit, Failure};
use futures::future::BoxFuture;
use swarm_proto::geometry::{ChunkIndex, Geometry};
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::pb::common;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::peer::dripping::{Action, Dripping};
use swarm_proto::seal::{KeyCommitment, Opener, Released, SpanKeys};
use swarm_proto::span_tree::{MAX_SIBLINGS, SpanCommitment};
use swarm_proto::time::{Mono, Now};
use swarm_proto::wrap::{self, Label};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::keeper::{Caller, Request, Session};
use super::{stopping, unfit};

/// Questions that wait for the task of a title: a few players, each a few segments ahead.
const QUEUE: usize = 16;

/// Readers that wait for a key at a time.
const MAX_WAITING: usize = 64;

/// How long a player waits for a key that does not come. Players give up a silent connection not much later; one that
/// asks again goes on where it was.
const PATIENCE: Duration = Duration::from_secs(20);

/// What opens an item. Clones are the same keys.
#[derive(Clone)]
pub struct Keys(Inner);

#[derive(Clone)]
enum Inner {
    /// Everything that was released, at once.
    Opener(Arc<Opener>),
    /// Span by span.
    Drip(mpsc::Sender<Read>),
}

struct Read {
    chunk: ChunkIndex,
    reply: oneshot::Sender<Result<Arc<Opener>, Failure>>,
}

impl Keys {
    /// Keys that are all here.
    pub fn of(opener: Opener) -> Keys {
        Keys(Inner::Opener(Arc::new(opener)))
    }

    /// What opens the segments of a chunk, as soon as its key is here.
    pub async fn opener(&self, chunk: ChunkIndex) -> Result<Arc<Opener>, Failure> {
        match &self.0 {
            Inner::Opener(opener) => Ok(opener.clone()),
            Inner::Drip(reads) => {
                let (reply, answer) = oneshot::channel();
                reads.send(Read { chunk, reply }).await.map_err(|_| stopping())?;
                answer.await.map_err(|_| stopping())?
            }
        }
    }
}

/// An item as its signed entry describes it, for whoever checks keys of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub(super) item: ItemId,
    pub(super) geometry: Geometry,
    pub(super) commitment: KeyCommitment,
    pub(super) span_commitment: SpanCommitment,
}

impl Subject {
    /// Unwraps released span keys and holds them against the entry; `order` is none for a preview.
    pub(super) fn unwrap(
        &self,
        caller: &Caller,
        order: Option<&OrderId>,
        released: pb::ReleasedSpans,
    ) -> Result<SpanKeys, Failure> {
        let wrong = |why: &str| unfit(&why);
        let pb::ReleasedSpans { spans, keys, siblings, .. } = released;
        let spans = spans.and_then(|range| range_of(&range)).ok_or_else(|| wrong("it does not say of which spans"))?;
        let wrapped = keys.ok_or_else(|| wrong("it is missing"))?;
        let wrapped: wrap::Wrapped = wrapped.try_into().map_err(|error| wrong(&format!("{error}")))?;
        let aad = wrap::span_keys_aad(order, &caller.identity.device, &self.item, &self.span_commitment, &spans);
        let secret = wrap::unwrap(&caller.identity.hpke, Label::SpanKeys, &aad, &wrapped);
        let secret = secret.map_err(|error| wrong(&error.to_string()))?;
        let keys = match Released::decode(&secret, &self.commitment) {
            Ok(Released::Spans(keys)) if keys.range() == spans => keys,
            Ok(_) => return Err(wrong("it is not for the spans that it names")),
            Err(error) => return Err(wrong(&error.to_string())),
        };
        if siblings.len() > MAX_SIBLINGS {
            return Err(wrong("its proof is too long"));
        }
        let siblings: Option<Vec<[u8; 32]>> = siblings.iter().map(|value| value.as_slice().try_into().ok()).collect();
        let proven =
            siblings.is_some_and(|siblings| self.span_commitment.proves(self.geometry.n_spans(), &keys, &siblings));
        if proven { Ok(keys) } else { Err(wrong("the publisher has not committed to it")) }
    }
}

fn range_of(range: &common::SpanRange) -> Option<Range<u32>> {
    Some(range.first..range.first.checked_add(range.count).filter(|end| *end > range.first)?)
}

/// The purchase under which keys drip, and whom to ask.
pub(super) struct Drip {
    pub(super) subject: Subject,
    pub(super) order: OrderId,
    pub(super) caller: Caller,
    pub(super) device_name: String,
    pub(super) keeper: mpsc::Sender<Request>,
    pub(super) clock: fn() -> Now,
}

/// Begins to follow a player of a title that drips.
pub(super) fn drip(drip: Drip, shutdown: &Shutdown) -> Keys {
    let (reads, inbox) = mpsc::channel(QUEUE);
    let stop = shutdown.token();
    let task = Task {
        machine: Dripping::new(drip.subject.geometry),
        drip: Arc::new(drip),
        inbox,
        asking: None,
        session: None,
        openers: BTreeMap::new(),
        waiting: Vec::new(),
    };
    shutdown.spawn(async move { stop.run_until_cancelled(task.run()).await });
    Keys(Inner::Drip(reads))
}

/// What came of a question, and whom to ask the next one.
type Answer = (Option<Session>, Result<Said, Failure>);

/// What the keyserver said to a question.
enum Said {
    Keys(SpanKeys),
    Later(Duration),
}

struct Task {
    drip: Arc<Drip>,
    inbox: mpsc::Receiver<Read>,
    machine: Dripping,
    asking: Option<BoxFuture<'static, Answer>>,
    /// The keyserver, as long as it answers: who keeps house with it may be busy.
    session: Option<Session>,
    /// What opens each span whose key is held.
    openers: BTreeMap<u32, Arc<Opener>>,
    waiting: Vec<(Instant, Read)>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let now = (self.drip.clock)().mono;
            let wake = self.machine.poll_timeout(now).map(|at| Instant::now() + at.since(now));
            tokio::select! {
                read = self.inbox.recv() => match read {
                    Some(read) => self.read(read),
                    None => return,
                },
                (session, said) = answer(&mut self.asking) => {
                    (self.asking, self.session) = (None, session);
                    self.hear(said);
                }
                () = sleep_until(wake) => self.machine.handle_timeout(self.now()),
            }
            self.perform();
        }
    }

    fn read(&mut self, read: Read) {
        self.machine.handle_read(self.now(), read.chunk);
        self.waiting.retain(|(_, read)| !read.reply.is_closed());
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push((Instant::now(), read));
        }
    }

    fn hear(&mut self, said: Result<Said, Failure>) {
        let now = self.now();
        match said {
            Ok(Said::Keys(keys)) => {
                for key in keys.each() {
                    let span = key.range().start;
                    let opener = Opener::new(Released::Spans(key), self.drip.subject.geometry);
                    self.openers.insert(span, Arc::new(opener));
                }
                self.machine.handle_released(now, keys.range());
            }
            Ok(Said::Later(again_in)) => {
                tracing::debug!(item = %self.drip.subject.item, ?again_in, "no key leaves yet");
                self.machine.handle_ahead(now, again_in);
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                self.machine.handle_unanswered(now);
                self.refuse(|since| (since.elapsed() >= PATIENCE).then(away));
            }
            Err(failure) => {
                tracing::info!(item = %self.drip.subject.item, reason = %failure, "no further key leaves");
                self.machine.handle_unanswered(now);
                self.refuse(|_| Some(failure.clone()));
            }
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::Drop(span) => drop(self.openers.remove(&span)),
                Action::Ask(spans) => {
                    let asking = Drip::ask(self.drip.clone(), self.session.take(), spans);
                    self.asking = Some(Box::pin(asking));
                }
            }
        }
        let (openers, waiting) = (&self.openers, std::mem::take(&mut self.waiting));
        for (since, read) in waiting {
            match openers.get(&read.chunk.span().get()) {
                // A player that has hung up meanwhile does not wait for it.
                Some(opener) => drop(read.reply.send(Ok(opener.clone()))),
                None => self.waiting.push((since, read)),
            }
        }
    }

    /// Answers those who wait, where there is a reason.
    fn refuse(&mut self, why: impl Fn(&Instant) -> Option<Failure>) {
        for (since, read) in std::mem::take(&mut self.waiting) {
            match why(&since) {
                Some(failure) => drop(read.reply.send(Err(failure))),
                None => self.waiting.push((since, read)),
            }
        }
    }

    fn now(&self) -> Mono {
        (self.drip.clock)().mono
    }
}

impl Drip {
    async fn ask(self: Arc<Drip>, known: Option<Session>, spans: Range<u32>) -> Answer {
        if let Some(session) = known {
            match self.release(&session, spans.clone()).await {
                Ok(said) => return (Some(session), Ok(said)),
                // It may have moved, or have another key by now: met anew, it gives the reason that counts.
                Err(failure) => tracing::debug!(reason = %failure, "the keyserver is met anew"),
            }
        }
        let session = match session(&self.keeper).await {
            Ok(session) => session,
            Err(failure) => return (None, Err(failure)),
        };
        match self.release(&session, spans).await {
            Ok(said) => (Some(session), Ok(said)),
            Err(failure) => (None, Err(failure)),
        }
    }

    async fn release(&self, session: &Session, spans: Range<u32>) -> Result<Said, Failure> {
        let request = pb::ReleaseSpansRequest {
            order: self.order.to_vec(),
            spans: Some(common::SpanRange { first: spans.start, count: spans.len() as u32 }),
            device_name: self.device_name.clone(),
        };
        let request = self.caller.signed_call(session, request)?;
        let answer = session.call(session.spans().release_spans(request)).await?;
        if answer.spans.is_none() {
            return Ok(Said::Later(Duration::from_millis(answer.again_in_ms)));
        }
        let keys = self.subject.unwrap(&self.caller, Some(&self.order), answer)?;
        let range = keys.range();
        if range.start != spans.start || range.end > spans.end {
            return Err(Failure::new(Exit::Integrity, "E-RIGHTS-07", "the keyserver released keys of other spans")
                .hint("report this to whoever runs the keyserver"));
        }
        Ok(Said::Keys(keys))
    }
}

/// The keyserver, as the keeper knows it.
pub(super) async fn session(keeper: &mpsc::Sender<Request>) -> Result<Session, Failure> {
    let (reply, session) = oneshot::channel();
    keeper.send(Request::Session { reply }).await.map_err(|_| stopping())?;
    session.await.map_err(|_| stopping())?
}

fn away() -> Failure {
    Failure::new(Exit::Unreachable, "E-PLAY-07", "the next key of this title has not come")
        .why("its keys come while it plays, and the keyserver cannot be reached")
        .hint("play on when the keyserver is back; what has arrived stays here")
}

async fn answer<T>(asking: &mut Option<BoxFuture<'static, T>>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
