//! The account's own bill: the ISP puts the price on it, up to a limit that the operator has set.

use daemon::Failure;

use super::{Instrument, PaymentGateway, Purchase};
use crate::books::{Books, Standing};
use crate::refusals;

pub(crate) struct BillDesk {
    books: Books,
}

impl BillDesk {
    pub(crate) fn new(books: Books) -> BillDesk {
        BillDesk { books }
    }
}

#[tonic::async_trait]
impl PaymentGateway for BillDesk {
    fn name(&self) -> &'static str {
        "bill"
    }

    fn setup(&self) -> (String, bool) {
        ("for accounts with a limit: keyserver billing limit set".to_owned(), true)
    }

    async fn begin(&self, purchase: Purchase, _with: Instrument) -> Result<Standing, Failure> {
        let billed = self.books.bill(purchase.account, purchase.order).await?;
        billed.map_err(|refusal| refusals::pay(&refusal))
    }
}
