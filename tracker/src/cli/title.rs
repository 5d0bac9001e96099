//! `tracker title`: what the catalog lists.

use clap::Subcommand;
use daemon::exit::{Exit, Failure};
use serde::Serialize;
use swarm_proto::catalog::CatalogEntry;
use swarm_proto::id::{ItemId, PublisherId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::get_title_request::By;
use swarm_proto::signed::Signed;

use super::Global;
use super::client::{PAGE_SIZE, Tracker, collect, table};
use crate::human;

#[derive(Subcommand)]
pub(super) enum TitleCommand {
    /// List titles, hidden ones included, newest first
    Ls,
    /// Keep a title, but do not show it to devices
    Hide {
        /// Its id, its item id or its exact name
        title: String,
    },
    /// Show a hidden title again
    Show {
        /// Its id, its item id or its exact name
        title: String,
    },
}

#[derive(Serialize)]
pub(super) struct Title {
    pub(super) title: TitleId,
    pub(super) item: ItemId,
    name: String,
    version: u64,
    sealed_len: u64,
    publisher: PublisherId,
    hidden: bool,
    withdrawn: bool,
}

impl Title {
    fn of(message: pb::Title) -> Result<Title, Failure> {
        let unreadable = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Integrity, "E-TITLE-04", "the tracker answered with an entry that cannot be believed")
                .why(why)
        };
        let signed = message.entry.ok_or_else(|| unreadable(&"it is missing"))?;
        let signed: Signed<CatalogEntry> = Signed::try_from(signed).map_err(|error| unreadable(&error))?;
        let entry = signed.verify(&signed.signer()).map_err(|error| unreadable(&error))?;
        Ok(Title {
            title: entry.title,
            item: entry.item,
            name: entry.name,
            version: entry.version,
            sealed_len: entry.geometry.sealed_len(),
            publisher: entry.publisher,
            hidden: message.hidden,
            withdrawn: entry.withdrawn,
        })
    }

    fn state(&self) -> &'static str {
        match (self.withdrawn, self.hidden) {
            (true, _) => "withdrawn",
            (false, true) => "hidden",
            (false, false) => "offered",
        }
    }
}

pub(super) async fn run(global: &Global, command: TitleCommand) -> anyhow::Result<Exit> {
    let mut tracker = Tracker::of(global).await?;
    let (text, hidden) = match command {
        TitleCommand::Ls => return list(global, tracker).await,
        TitleCommand::Hide { title } => (title, true),
        TitleCommand::Show { title } => (title, false),
    };
    let title = tracker.title(&text).await?.title.to_vec();
    let answer = tracker.operator.set_title_hidden(pb::SetTitleHiddenRequest { title, hidden }).await;
    let title = Title::of(tracker.answer(answer)?)?;
    global.print(&title, || format!("{}  {} is {}\n", title.title, title.name, title.state()))
}

async fn list(global: &Global, mut tracker: Tracker) -> anyhow::Result<Exit> {
    let mut all = Vec::new();
    let mut page_token = Vec::new();
    loop {
        let answer = tracker.catalog.list_titles(pb::ListTitlesRequest { page_size: PAGE_SIZE, page_token }).await;
        let page = tracker.answer(answer)?;
        all.extend(collect(page.titles, Title::of)?);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let row = |it: &Title| {
        let size = human::bytes(it.sealed_len);
        [
            it.title.to_string(),
            it.name.clone(),
            size,
            it.version.to_string(),
            it.state().to_owned(),
            it.item.to_string(),
        ]
    };
    global.print_list(&all, || table(["TITLE", "NAME", "SIZE", "VERSION", "STATE", "ITEM"], &all, row))
}

impl Tracker {
    /// The title that somebody means by its id, its item id or its name.
    pub(super) async fn title(&mut self, text: &str) -> Result<Title, Failure> {
        let by = match (text.parse::<TitleId>(), text.parse::<ItemId>()) {
            (Ok(title), _) => By::Title(title.to_vec()),
            (_, Ok(item)) => By::Item(item.to_vec()),
            _ => By::Name(text.to_owned()),
        };
        let answer = self.catalog.get_title(pb::GetTitleRequest { by: Some(by) }).await;
        Title::of(self.answer(answer)?)
    }
}
