//! Runs what has to be asked of a provider: payments to collect, refunds to make, money to send back.
//!
//! One task owns the [`Cashier`], which says what runs when and how much at a time. An errand's run asks the provider
//! and writes down what it says; its fate is in the books before the run counts as over. What a restart has interrupted,
//! or what nobody told of, is found in the books by looking there from time to time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::Shutdown;
use rand::rand_core::Rng;
use swarm_proto::id::{AttemptId, RefundId};
use swarm_proto::keyserver::cashier::{Cashier, Config, Errand, Outcome};
use swarm_proto::keyserver::ledger::{Collect, ProviderNews};
use swarm_proto::time::Mono;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::books::{Books, Closed};
use crate::clock;
use crate::gateway::{PaymentGateway, Progress, Returned, Trouble};
use crate::services::Counters;

/// Payments that were begun and wait to be heard of: more are found in the books a little later.
pub(crate) const NUDGES: usize = 64;

/// How often the books are looked through for errands that nobody told of.
const LOOK_AFTER: Duration = Duration::from_secs(15);

/// Steps of one run: made, confirmed, and one more for what changed in between.
const MAX_STEPS: usize = 3;

/// Where payers are to go for a payment that waits for them. Not kept over a restart: asking again brings it back.
#[derive(Clone, Default)]
pub(crate) struct Detours(Arc<Mutex<BTreeMap<AttemptId, String>>>);

impl Detours {
    /// The page for this payment.
    pub(crate) fn of(&self, attempt: &AttemptId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(attempt).cloned()
    }

    fn set(&self, attempt: AttemptId, page: Option<String>) {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match page {
            Some(page) => pages.insert(attempt, page),
            None => pages.remove(&attempt),
        };
    }
}

/// Starts the task. It ends with the daemon.
pub(crate) fn start(
    config: Config,
    gateway: Arc<dyn PaymentGateway>,
    books: Books,
    counters: Counters,
    detours: Detours,
    nudges: mpsc::Receiver<AttemptId>,
    shutdown: &Shutdown,
) {
    let cashier = Cashier::new(crate::rng().next_u64(), config);
    let clerk = Clerk { gateway, books, counters, detours };
    let mut task = Task { cashier, clerk, runs: JoinSet::new(), nudges };
    let stop = shutdown.token();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task.run() => {}
        }
    });
}

struct Task {
    cashier: Cashier,
    clerk: Clerk,
    runs: JoinSet<(Errand, Outcome)>,
    nudges: mpsc::Receiver<AttemptId>,
}

enum Woken {
    ByTime,
    ByNews(AttemptId),
    ByOutcome(Errand, Outcome),
    ToLook,
}

impl Task {
    async fn run(&mut self) {
        let mut look = tokio::time::interval(LOOK_AFTER);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let woken = self.wait(&mut look).await;
            let now = clock::now().mono;
            match woken {
                Woken::ByTime => self.cashier.handle_timeout(now),
                Woken::ByNews(attempt) => self.cashier.handle_errand(now, Errand::Collect(attempt)),
                Woken::ByOutcome(errand, outcome) => self.cashier.handle_outcome(now, errand, outcome),
                Woken::ToLook => match self.clerk.look().await {
                    Ok(errands) => self.cashier.handle_errands(now, &errands),
                    Err(closed) => tracing::debug!(%closed, "the books do not answer the cashier"),
                },
            }
            while let Some(errand) = self.cashier.poll_action() {
                let clerk = self.clerk.clone();
                self.runs.spawn(async move { (errand, clerk.run(errand).await) });
            }
        }
    }

    async fn wait(&mut self, look: &mut tokio::time::Interval) -> Woken {
        let due = self.cashier.poll_timeout();
        let pause = due.map(|due: Mono| due.since(clock::now().mono));
        tokio::select! {
            Some(attempt) = self.nudges.recv() => Woken::ByNews(attempt),
            Some(Ok((errand, outcome))) = self.runs.join_next(), if !self.runs.is_empty() => {
                Woken::ByOutcome(errand, outcome)
            }
            () = tokio::time::sleep(pause.unwrap_or(LOOK_AFTER)) => Woken::ByTime,
            _ = look.tick() => Woken::ToLook,
        }
    }
}

#[derive(Clone)]
struct Clerk {
    gateway: Arc<dyn PaymentGateway>,
    books: Books,
    counters: Counters,
    detours: Detours,
}

impl Clerk {
    /// All errands; money that buys nothing becomes one first.
    async fn look(&self) -> Result<std::collections::BTreeSet<Errand>, Closed> {
        let (errands, surplus) = self.books.errands().await?;
        if surplus.is_empty() {
            return Ok(errands);
        }
        for order in surplus {
            if self.books.return_surplus(order, RefundId::generate(&mut crate::rng())).await? {
                tracing::info!(%order, "money that bought nothing goes back");
            }
        }
        Ok(self.books.errands().await?.0)
    }

    async fn run(&self, errand: Errand) -> Outcome {
        let result = match errand {
            Errand::Collect(attempt) => self.collect(attempt).await,
            Errand::GiveBack(refund) => self.give_back(refund).await,
        };
        result.unwrap_or_else(|Trouble(why)| {
            self.counters.count("provider", "trouble");
            tracing::warn!(?errand, why, "a provider is asked again later");
            Outcome::Again
        })
    }

    async fn collect(&self, attempt: AttemptId) -> Result<Outcome, Trouble> {
        for _ in 0..MAX_STEPS {
            let Some(errand) = self.books.collect(attempt).await.map_err(away)? else {
                self.detours.set(attempt, None);
                return Ok(Outcome::Over);
            };
            let news = match self.gateway.pursue(&errand).await? {
                Progress::Named(reference) => ProviderNews::Named(reference),
                Progress::Waiting { go_to } => {
                    self.detours.set(attempt, go_to);
                    return Ok(Outcome::Again);
                }
                Progress::Collected(amount) => ProviderNews::Collected(amount),
                Progress::Declined(why) => ProviderNews::Declined(why),
            };
            self.write(&errand, news).await?;
        }
        Ok(Outcome::Again)
    }

    async fn write(&self, errand: &Collect, news: ProviderNews) -> Result<(), Trouble> {
        let (order, outcome) = (errand.order, word(&news));
        match self.books.handle_provider(errand.attempt, news).await.map_err(away)? {
            Ok(true) => {}
            Ok(false) => {
                self.counters.count("provider", outcome);
                tracing::info!(%order, outcome, "a provider has told the fate of a payment");
            }
            Err(refusal) => {
                tracing::warn!(%order, %refusal, "a provider says what does not agree with the order");
                return Err(Trouble(refusal.to_string()));
            }
        }
        Ok(())
    }

    async fn give_back(&self, refund: RefundId) -> Result<Outcome, Trouble> {
        let Some(errand) = self.books.give_back(refund).await.map_err(away)? else { return Ok(Outcome::Over) };
        let made = match self.gateway.give_back(&errand).await? {
            Returned::Made => true,
            Returned::Refused => false,
            Returned::UnderWay => return Ok(Outcome::Again),
        };
        self.books.handle_refund(refund, made).await.map_err(away)?;
        self.counters.count("provider", if made { "refunded" } else { "refund refused" });
        tracing::info!(order = %errand.order, made, "a provider has told the fate of a refund");
        Ok(Outcome::Over)
    }
}

/// What became of a payment, in a word for counters and logs.
pub(crate) fn word(news: &ProviderNews) -> &'static str {
    match news {
        ProviderNews::Named(_) => "named",
        ProviderNews::Collected(_) => "collected",
        ProviderNews::Declined(_) => "declined",
        ProviderNews::Returned(_) => "returned",
        ProviderNews::Disputed(..) => "disputed",
    }
}

fn away(closed: Closed) -> Trouble {
    Trouble(closed.to_string())
}
