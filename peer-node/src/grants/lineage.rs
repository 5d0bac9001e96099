//! The keyserver that a box believes: the one it is configured with, else the one it met first, and every key that has
//! followed since.
//!
//! A new key is believed because the one before has signed it; each step is stored before it counts. What an earlier
//! key has signed, licences above all, is still read.

use anyhow::Context as _;
use daemon::store::{Batch, MAX_PAGE, Store};
use daemon::{Exit, Failure};
use swarm_proto::id::ServerId;
use swarm_proto::pb::common as pb;
use swarm_proto::signed::Signed;
use swarm_proto::succession::{Lineage, Succession};

use super::records::{Key, SUCCESSIONS};
use crate::config::AUTO;

/// The keyserver to believe; `None` before the first contact.
pub(super) async fn known(store: &dyn Store, configured: &str) -> anyhow::Result<Option<Lineage>> {
    let known = match configured {
        AUTO => match store.get(&Key::Keyserver.bytes()).await? {
            Some(stored) => ServerId::try_from(stored.value.as_ref()).context("failed to read the known keyserver")?,
            None => return Ok(None),
        },
        id => id.parse().map_err(|error| {
            Failure::new(Exit::Config, "E-CONFIG-11", "keyserver.id is not the id of a keyserver")
                .why(error)
                .hint("copy it from what the keyserver prints when it starts, or set it to \"auto\"")
        })?,
    };
    // There are at most `MAX_SUCCESSIONS`: they fit on one page.
    let page = store.scan(SUCCESSIONS, None, MAX_PAGE).await?;
    let (mut kept, mut forget) = (Vec::new(), Batch::new());
    for entry in page.entries {
        kept.push(Signed::<Succession>::from_bytes(&entry.versioned.value).context("failed to read a succession")?);
        forget = forget.delete(entry.key);
    }
    let n_kept = kept.len();
    let lineage = Lineage::resumed(known, kept);
    if lineage.successions().len() < n_kept {
        tracing::info!(keyserver = %known, "what was known of another keyserver's keys is forgotten");
        store.commit(forget).await?;
    }
    Ok(Some(lineage))
}

/// Follows a keyserver to the key that it says is its own now.
pub(super) fn follow(known: &Lineage, told: Vec<pb::Signed>, server: ServerId) -> anyhow::Result<Lineage> {
    let mut followed = known.clone();
    for succession in told {
        followed.hand_over(succession.try_into()?)?;
    }
    anyhow::ensure!(followed.current() == server, "it is {server}, this device knows {}", known.current());
    Ok(followed)
}

/// What has to be stored before a followed keyserver counts.
pub(super) fn batch(known: &Lineage, followed: &Lineage) -> Batch {
    let new = followed.successions().iter().zip(0u16..).skip(known.successions().len());
    new.fold(Batch::new(), |batch, (succession, place)| {
        batch.put(Key::Succession(place).bytes(), succession.to_bytes())
    })
}
