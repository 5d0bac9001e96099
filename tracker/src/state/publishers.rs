//! Questions about publishers.

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::id::PublisherId;

use super::{Handle, State};
use crate::records::Records;

impl Handle {
    /// Lets a publisher publish; true if it could already.
    pub(crate) async fn admit_publisher(&self, publisher: PublisherId, name: String) -> Result<bool, Failure> {
        self.ask(move |state, _| state.admit_publisher(publisher, name).boxed()).await
    }
}

impl State {
    async fn admit_publisher(&mut self, publisher: PublisherId, name: String) -> Result<bool, Failure> {
        if self.registry.publisher_name(&publisher) == Some(name.as_str()) {
            return Ok(true);
        }
        let already = self.registry.is_publisher(&publisher);
        self.commit(Records::new().publisher(&publisher, &name)).await?;
        self.registry.insert_publisher(publisher, name);
        Ok(already)
    }
}
