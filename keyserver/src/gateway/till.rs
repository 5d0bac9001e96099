//! A till of someone else: it takes the money on its own page, and says so in a signed message (`crate::till`).

use daemon::{Exit, Failure};
use swarm_proto::id::OrderId;

use super::{Instrument, PaymentGateway, Purchase};
use crate::books::{Books, Standing};
use crate::refusals;
use crate::secret::WebhookSecrets;

/// Stands for the order's code in the address of a till.
pub(crate) const ORDER: &str = "{order}";

pub(crate) struct TillDesk {
    books: Books,
    secrets: WebhookSecrets,
    page: Option<String>,
}

impl TillDesk {
    pub(crate) fn new(books: Books, secrets: WebhookSecrets, page: Option<String>) -> TillDesk {
        TillDesk { books, secrets, page }
    }

    /// Where the till takes money for an order.
    pub(crate) fn page(&self, order: OrderId) -> Option<String> {
        Some(self.page.as_ref()?.replace(ORDER, &order.to_string()))
    }
}

#[tonic::async_trait]
impl PaymentGateway for TillDesk {
    fn name(&self) -> &'static str {
        "till"
    }

    fn setup(&self) -> (String, bool) {
        match &self.page {
            Some(page) => (format!("payers are sent to {page}"), true),
            None => ("tills know of orders by themselves; checkout.till_url sends payers there".to_owned(), true),
        }
    }

    /// Nothing is begun here: the till knows of the order when the payer arrives.
    async fn begin(&self, purchase: Purchase, _with: Instrument) -> Result<Standing, Failure> {
        let found = self.books.order(purchase.account, purchase.order).await?;
        found.map_err(|refusal| refusals::look(&refusal))
    }

    async fn check(&self) -> Result<String, Failure> {
        let secrets = self.secrets.read().await.map_err(|failure| Failure { exit: Exit::ChecksFailed, ..failure })?;
        Ok(format!("{} live secrets", secrets.len()))
    }
}
