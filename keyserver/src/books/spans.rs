//! What is asked of the books about keys that leave span by span.

use swarm_proto::drip::Drip;
use swarm_proto::id::{ItemId, OrderId};
use swarm_proto::keyserver::grants::Asker;
use swarm_proto::keyserver::ledger::SpanRight;
use swarm_proto::keyserver::refusals::{PreviewRefusal, SpanRefusal};

use super::{Books, Closed};

impl Books {
    /// Whether keys of spans may leave for a device under an order now, and at which pace.
    pub async fn may_drip(
        &self,
        asker: Asker,
        order: OrderId,
    ) -> Result<Result<(Drip, SpanRight), SpanRefusal>, Closed> {
        self.look(move |keeper, now| keeper.ledger.may_drip(now, &asker, order)).await
    }

    /// Lets so many more keys leave as one record covers.
    pub async fn allow_spans(&self, asker: Asker, order: OrderId) -> Result<Result<(), SpanRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.allow_spans(now, &asker, order)).await
    }

    /// The beginning of a title for a device: how many spans.
    pub async fn request_preview(
        &self,
        asker: Asker,
        item: ItemId,
    ) -> Result<Result<(u32, SpanRight), PreviewRefusal>, Closed> {
        self.decide(move |ledger, now| ledger.request_preview(now, &asker, item)).await
    }
}
