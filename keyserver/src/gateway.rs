//! Ways to pay, behind one trait.
//!
//! A way either settles a payment in the books at once (pass, bill), or has it settled elsewhere: it is begun in the
//! books first, so that its idempotency key is on disk, then a provider is asked, and asked again, until it says what
//! became of it; or the provider says so by itself, in a message that [`PaymentGateway::hear`] verifies. Whatever comes
//! back is held against the order by the ledger. A provider that is slow or away is [`Trouble`], never a lost payment.

pub(crate) mod bill;
mod http;
pub(crate) mod pass;
pub(crate) mod stripe;
pub(crate) mod till;

use std::sync::Arc;

use axum::http::HeaderMap;
use daemon::Failure;
use swarm_proto::catalog::Money;
use swarm_proto::id::{AccountId, AttemptId, OrderId};
use swarm_proto::keyserver::dues::Decline;
use swarm_proto::keyserver::ledger::{Collect, GiveBack, ProviderNews};
use swarm_proto::keyserver::record::Reference;

use crate::books::Standing;

/// What someone wants to pay with.
#[derive(Clone)]
pub(crate) enum Instrument {
    /// A code that they type.
    Code(String),
    /// A pass of their account.
    OwnPass(swarm_proto::keyserver::record::PassId),
    /// The bill of their account.
    Bill,
    /// The card that the provider keeps for their account.
    Card,
    /// A bank or wallet of this kind, on a page of its own.
    Elsewhere(String),
}

/// An order to be paid, and whose it has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purchase {
    pub(crate) account: AccountId,
    pub(crate) order: OrderId,
}

/// How far a provider has come with a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It knows of the payment now, and calls it so. Write that down, then go on.
    Named(Reference),
    /// The payer, or their bank, has something to do first, perhaps on this page.
    Waiting {
        /// Where to send the payer.
        go_to: Option<String>,
    },
    /// It has collected this.
    Collected(Money),
    /// It has not and will not.
    Declined(Decline),
}

/// How far a provider has come with giving money back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It is done, or certain.
    Made,
    /// Not yet.
    UnderWay,
    /// It will not.
    Refused,
}

/// Nobody knows what became of it: ask again later, under the same idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Trouble(pub(crate) String);

/// What a provider's message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Something about one payment.
    News {
        /// Which one.
        of: Payment,
        /// What happened.
        news: Vec<ProviderNews>,
    },
    /// Something else.
    Nothing,
}

/// How a message names a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payment {
    /// By our name, with the order and account it believes it is for.
    Ours(AttemptId, OrderId, AccountId),
    /// By the provider's name.
    Theirs(Reference),
}

/// A way to pay.
#[tonic::async_trait]
pub(crate) trait PaymentGateway: Send + Sync {
    /// Its name, for operators.
    fn name(&self) -> &'static str;

    /// What it is set up with, or what is missing; whether it is ready.
    fn setup(&self) -> (String, bool);

    /// Pays, or begins to. The same again changes nothing.
    async fn begin(&self, purchase: Purchase, with: Instrument) -> Result<Standing, Failure>;

    /// Brings a payment as far as it goes now: asks the provider to collect, or what became of it.
    async fn pursue(&self, _errand: &Collect) -> Result<Progress, Trouble> {
        Err(Trouble(format!("{} settles payments at once", self.name())))
    }

    /// Has the provider give money back.
    async fn give_back(&self, _errand: &GiveBack) -> Result<Returned, Trouble> {
        Err(Trouble(format!("{} gives nothing back by itself", self.name())))
    }

    /// Reads a message, after making sure that it is the provider's.
    async fn hear(&self, _headers: &HeaderMap, _body: &[u8]) -> Result<Heard, Failure> {
        Err(Failure::new(daemon::Exit::NotFound, "E-WAY-08", format!("{} sends no messages here", self.name())))
    }

    /// Whether it would work now; says what it found.
    async fn check(&self) -> Result<String, Failure> {
        Ok(self.setup().0)
    }
}

/// All ways to pay of a keyserver.
#[derive(Clone)]
pub(crate) struct Gateways {
    pub(crate) pass: Arc<pass::PassDesk>,
    pub(crate) bill: Arc<bill::BillDesk>,
    pub(crate) till: Arc<till::TillDesk>,
    /// Only when it is set up.
    pub(crate) stripe: Option<Arc<stripe::Stripe>>,
}

impl Gateways {
    /// Every one, by name.
    pub(crate) fn all(&self) -> Vec<Arc<dyn PaymentGateway>> {
        let mut all: Vec<Arc<dyn PaymentGateway>> = vec![
            Arc::clone(&self.pass) as Arc<dyn PaymentGateway>,
            Arc::clone(&self.till) as _,
            Arc::clone(&self.bill) as _,
        ];
        all.extend(self.stripe.clone().map(|stripe| stripe as Arc<dyn PaymentGateway>));
        all
    }

    /// The one that takes this.
    pub(crate) fn of(&self, instrument: &Instrument) -> Option<Arc<dyn PaymentGateway>> {
        match instrument {
            Instrument::Code(_) | Instrument::OwnPass(_) => Some(Arc::clone(&self.pass) as _),
            Instrument::Bill => Some(Arc::clone(&self.bill) as _),
            Instrument::Card | Instrument::Elsewhere(_) => self.stripe.clone().map(|stripe| stripe as _),
        }
    }
}

/// Someone wants to pay in a way that this keyserver does not take.
pub(crate) fn not_taken() -> Failure {
    Failure::new(daemon::Exit::Usage, "E-WAY-09", "this keyserver does not take that").hint("choose another way to pay")
}
