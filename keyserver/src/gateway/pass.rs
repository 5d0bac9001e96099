//! Digital media passes: a code, or a pass of the account, pays at once.
//!
//! Wrong codes are counted against the account that tries them, wherever it tries: box or page.

use std::sync::{Arc, Mutex, PoisonError};

use daemon::{Exit, Failure};
use swarm_proto::code::PassCode;
use swarm_proto::id::AccountId;
use swarm_proto::keyserver::attempts::Attempts;
use swarm_proto::keyserver::passes::Pass;
use swarm_proto::keyserver::record::PassId;
use swarm_proto::keyserver::refusals::PayRefusal;

use super::{Instrument, PaymentGateway, Purchase, not_taken};
use crate::books::{Books, Closed, Standing};
use crate::services::Counters;
use crate::vault::ring::KeyRing;
use crate::{clock, refusals};

pub(crate) struct PassDesk {
    books: Books,
    keys: Arc<KeyRing>,
    counters: Counters,
    attempts: Mutex<Attempts>,
}

impl PassDesk {
    pub(crate) fn new(books: Books, keys: Arc<KeyRing>, counters: Counters) -> PassDesk {
        PassDesk { books, keys, counters, attempts: Mutex::default() }
    }

    /// The pass that a code names, unless the account has tried too many wrong ones.
    pub(crate) fn pass_of(&self, account: AccountId, code: &str) -> Result<PassId, Failure> {
        let admitted = self.attempts(|attempts| attempts.admit(clock::now().mono, &account));
        if let Err(wait) = admitted {
            self.counters.count("pass code", "held up");
            return Err(Failure::new(Exit::Storage, "E-PASS-02", "too many wrong pass codes")
                .hint(format!("try again in {} minutes", wait.as_secs().div_ceil(60))));
        }
        // A typing error is found by the check character and costs no attempt: it says nothing about any pass.
        let code = PassCode::parse(code).map_err(|error| {
            Failure::new(Exit::Usage, "E-PASS-03", "this is not a pass code")
                .why(error)
                .hint("check the code and type it again")
        })?;
        Ok(self.keys.now().vault.pass_id(&code))
    }

    /// What a code is still worth.
    pub(crate) async fn look(&self, account: AccountId, code: &str) -> Result<Pass, Failure> {
        let pass = self.pass_of(account, code)?;
        match self.books.any_pass(pass).await? {
            Some(pass) => Ok(pass),
            None => {
                self.count_wrong(account);
                Err(refusals::wrong_code())
            }
        }
    }

    /// Takes a pass into an account.
    pub(crate) async fn claim(&self, account: AccountId, code: &str) -> Result<Pass, Failure> {
        let pass = self.pass_of(account, code)?;
        let claimed = self.books.claim_pass(account, pass).await;
        self.settled(account, claimed)
    }

    fn settled<T>(&self, account: AccountId, paid: Result<Result<T, PayRefusal>, Closed>) -> Result<T, Failure> {
        paid?.map_err(|refusal| {
            if refusal == PayRefusal::WrongCode {
                self.count_wrong(account);
            }
            refusals::pay(&refusal)
        })
    }

    fn count_wrong(&self, account: AccountId) {
        self.counters.count("pass code", "wrong");
        self.attempts(|attempts| attempts.handle_wrong(clock::now().mono, account));
    }

    fn attempts<T>(&self, act: impl FnOnce(&mut Attempts) -> T) -> T {
        act(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[tonic::async_trait]
impl PaymentGateway for PassDesk {
    fn name(&self) -> &'static str {
        "pass"
    }

    fn setup(&self) -> (String, bool) {
        ("codes: keyserver pass create; kinds that customers buy: [[passes]]".to_owned(), true)
    }

    async fn begin(&self, purchase: Purchase, with: Instrument) -> Result<Standing, Failure> {
        let Purchase { account, order } = purchase;
        let pass = match with {
            Instrument::Code(code) => self.pass_of(account, &code)?,
            Instrument::OwnPass(pass) => pass,
            Instrument::Bill | Instrument::Card | Instrument::Elsewhere(_) => return Err(not_taken()),
        };
        let paid = self.books.pay_with_pass(account, order, pass).await;
        let standing = self.settled(account, paid)?;
        tracing::info!(%order, "order paid with a pass");
        Ok(standing)
    }
}
