//! Frees what was fetched in part and nobody here wants any more.
//!
//! A whole copy stays: it serves the neighbours until its owner deletes it. What has been bought stays too, whole or
//! not. Everything else that leaves the queue half fetched is of no use to anybody and is deleted.

use daemon::exit::Failure;
use swarm_proto::geometry::CHUNK_BYTES;
use swarm_proto::id::ItemId;

use crate::cli::show;
use crate::engine;
use crate::grants::Grants;
use crate::items::Items;

/// What becomes of an item that leaves the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it is here.
    NotHere,
    /// All of it is here: it stays.
    Whole,
    /// It has been bought: it stays.
    Bought,
    /// So many bytes of it are freed.
    Freed(u64),
}

impl Fate {
    /// The same for a person; empty if there is nothing to say.
    pub fn in_words(self) -> String {
        match self {
            Fate::NotHere => String::new(),
            Fate::Whole => "the copy stays on this disk and serves your neighbours; --delete frees it".to_owned(),
            Fate::Bought => "what is here of it stays on this disk, since it has been bought".to_owned(),
            Fate::Freed(bytes) => format!("{} are freed: it was only partly here", show::bytes(bytes)),
        }
    }
}

/// Decides and deletes. Clones share everything.
#[derive(Clone)]
pub struct Freeing {
    items: Items,
    engine: engine::Handle,
    grants: Grants,
}

impl Freeing {
    /// Frees from this disk what these do not want.
    pub fn new(items: Items, engine: engine::Handle, grants: Grants) -> Freeing {
        Freeing { items, engine, grants }
    }

    /// What would become of an item that left the queue now.
    pub fn fate(&self, item: &ItemId) -> Fate {
        match self.items.holding(item) {
            None => Fate::NotHere,
            Some(holding) if holding.is_complete() => Fate::Whole,
            Some(_) if self.grants.is_bought(item) => Fate::Bought,
            Some(holding) => Fate::Freed(u64::from(holding.len()) * CHUNK_BYTES),
        }
    }

    /// An item has left the queue.
    pub async fn handle_unwanted(&self, item: ItemId) -> Result<Fate, Failure> {
        let fate = self.fate(&item);
        if let Fate::Freed(bytes) = fate {
            self.engine.remove(item).await.map_err(|error| Failure::of(&error))?;
            tracing::info!(%item, bytes, "what was only partly here is freed");
        }
        Ok(fate)
    }
}
