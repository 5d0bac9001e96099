//! How what is to be kept where lies in the store: draining seeds, and what operators want preloaded.

use prost::Message;
use swarm_proto::id::{DeviceId, SiteId, TitleId};
use swarm_proto::tracker::preload::{Extent, Wanted};

use super::{Key, Records};

/// What an operator wants preloaded.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StoredTarget {
    #[prost(uint32, tag = "1")]
    share_percent: u32,
    /// None: all of the title.
    #[prost(uint32, optional, tag = "2")]
    starts_spans: Option<u32>,
}

impl Records {
    /// Whether a seed gives up its copies.
    pub(crate) fn draining(self, seed: &DeviceId, draining: bool) -> Records {
        match draining {
            true => self.put(Key::Draining(seed), Vec::new()),
            false => Records(self.0.delete(Key::Draining(seed).bytes())),
        }
    }

    /// What an operator wants preloaded in a site; none: nothing any more.
    pub(crate) fn target(self, title: &TitleId, site: &SiteId, target: Option<Wanted>) -> Records {
        let key = Key::Target(title, site);
        let Some(Wanted { extent, share_percent }) = target else { return Records(self.0.delete(key.bytes())) };
        let starts_spans = match extent {
            Extent::Whole => None,
            Extent::Starts { spans } => Some(spans),
        };
        let stored = StoredTarget { share_percent: share_percent.into(), starts_spans };
        self.put(key, stored.encode_to_vec())
    }
}

pub(super) fn target(key: &[u8], value: &[u8]) -> Option<(TitleId, SiteId, Wanted)> {
    let stored = StoredTarget::decode(value).ok()?;
    let (title, site) = key.get(1..)?.split_at_checked(TitleId::LEN)?;
    let extent = match stored.starts_spans {
        None => Extent::Whole,
        Some(spans) => Extent::Starts { spans },
    };
    let wanted = Wanted { extent, share_percent: u8::try_from(stored.share_percent).ok()? };
    Some((TitleId::try_from(title).ok()?, SiteId::new(std::str::from_utf8(site).ok()?).ok()?, wanted))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use daemon::store::Memory;

    use super::super::Everything;
    use super::*;

    #[tokio::test]
    async fn what_seeds_and_boxes_shall_keep_comes_back_and_goes_again() {
        let (seed, title, site) = (DeviceId::from([1; 32]), TitleId::from([2; 16]), SiteId::new("north-1").unwrap());
        let starts = Wanted { extent: Extent::Starts { spans: 3 }, share_percent: 40 };
        for wanted in [starts, Wanted { extent: Extent::Whole, share_percent: 100 }] {
            let all = {
                let store = Memory::new();
                Records::new().draining(&seed, true).target(&title, &site, Some(wanted)).commit(&store).await.unwrap();
                Everything::load(&store).await.unwrap()
            };
            assert_eq!((all.draining, all.targets), (BTreeSet::from([seed]), vec![(title, site.clone(), wanted)]));
        }
        let store = Memory::new();
        for there in [true, false] {
            let target = there.then_some(starts);
            Records::new().draining(&seed, there).target(&title, &site, target).commit(&store).await.unwrap();
        }
        let all = Everything::load(&store).await.unwrap();
        assert!(all.draining.is_empty() && all.targets.is_empty());
    }
}
