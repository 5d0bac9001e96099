//! Questions about what waits on boxes before anybody asks for it.

use std::collections::BTreeSet;

use daemon::exit::{Exit, Failure};
use futures::FutureExt as _;
use swarm_proto::id::{SiteId, TitleId};
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::admission::Refused;
use swarm_proto::tracker::preload::{Extent, MAX_ITEMS_PER_BOX, Outcome, Plan, Wanted};
use swarm_proto::tracker::proofs::Standing;

use super::keeping::Aim;
use super::{Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

/// Targets that one answer tells.
const MAX_ANSWERED: usize = 1_000;

impl Handle {
    /// Wants a title on a share of a site's boxes, or only says what that would mean.
    pub(crate) async fn set_target(
        &self,
        title: TitleId,
        site: String,
        wanted: Wanted,
        dry_run: bool,
    ) -> Result<pb::PreloadTarget, Failure> {
        self.ask(move |state, now| {
            async move {
                let site = state.site(&site)?;
                state.set_target(now, title, site, wanted, dry_run).await
            }
            .boxed()
        })
        .await
    }

    /// Wants a title no longer; false if it was not wanted.
    pub(crate) async fn remove_target(&self, title: TitleId, site: String) -> Result<bool, Failure> {
        self.ask(move |state, now| {
            async move {
                let site = state.site(&site)?;
                state.remove_target(now, title, site).await
            }
            .boxed()
        })
        .await
    }

    /// Every target, of one site or of all, with what has come of it.
    pub(crate) async fn targets(&self, site: String) -> Result<Vec<pb::PreloadTarget>, Failure> {
        self.look(move |state, now| {
            let sites: BTreeSet<SiteId> = match site.is_empty() {
                true => state
                    .registry
                    .devices_after(None)
                    .map(|it| it.site.clone())
                    .chain(state.keeping.targets.keys().map(|(site, _)| site.clone()))
                    .collect(),
                false => BTreeSet::from([state.site(&site)?]),
            };
            let mut targets = Vec::new();
            for site in &sites {
                let aims = state.aims(now, site);
                let plan = state.preload_plan(now, site, &aims, &state.preload_lists(site));
                let messages = aims
                    .iter()
                    .zip(&plan.outcomes)
                    .map(|(aim, outcome)| state.target_message(now, site, aim, &plan, outcome));
                targets.extend(messages);
            }
            targets.truncate(MAX_ANSWERED);
            Ok(targets)
        })
        .await
    }
}

impl State {
    async fn set_target(
        &mut self,
        now: Now,
        title: TitleId,
        site: SiteId,
        wanted: Wanted,
        dry_run: bool,
    ) -> Result<pb::PreloadTarget, Failure> {
        let listing = self.catalog.title(&title).ok_or_else(refusal::no_title)?;
        if !listing.is_offered() {
            let refused = if listing.entry.withdrawn { Refused::Withdrawn } else { Refused::Hidden };
            return Err(refusal::admission(refused));
        }
        let new = self.aim(now, &site, listing, wanted, false);
        let of_site = self.keeping.targets.keys().filter(|(of, _)| *of == site);
        if of_site.filter(|(_, other)| *other != title).count() >= MAX_ITEMS_PER_BOX {
            return Err(Failure::new(
                Exit::Storage,
                "E-PRELOAD-01",
                format!("site {site} has {MAX_ITEMS_PER_BOX} targets already"),
            )
            .why("no box preloads more titles than that")
            .hint("remove one: tracker preload rm TITLE --site SITE"));
        }
        if !dry_run && self.keeping.targets.get(&(site.clone(), title)) != Some(&wanted) {
            self.commit(Records::new().target(&title, &site, Some(wanted))).await?;
            tracing::info!(%title, %site, share_percent = wanted.share_percent, "a title is preloaded");
            self.keeping.targets.insert((site.clone(), title), wanted);
            self.keeping.look_at(&site, now.mono);
        }
        let mut aims = self.aims(now, &site);
        aims.retain(|aim| aim.title != title);
        let operators = aims.iter().take_while(|aim| !aim.by_demand && aim.forecast >= new.forecast).count();
        aims.insert(operators, new);
        let plan = self.preload_plan(now, &site, &aims, &self.preload_lists(&site));
        Ok(self.target_message(now, &site, &aims[operators], &plan, &plan.outcomes[operators]))
    }

    async fn remove_target(&mut self, now: Now, title: TitleId, site: SiteId) -> Result<bool, Failure> {
        if !self.keeping.targets.contains_key(&(site.clone(), title)) {
            return Ok(false);
        }
        self.commit(Records::new().target(&title, &site, None)).await?;
        self.keeping.targets.remove(&(site.clone(), title));
        self.keeping.look_at(&site, now.mono);
        Ok(true)
    }

    fn site(&self, text: &str) -> Result<SiteId, Failure> {
        convert::site(text, &self.default_site).map_err(|invalid| refusal::field(&invalid))
    }

    fn target_message(&self, now: Now, site: &SiteId, aim: &Aim, plan: &Plan, outcome: &Outcome) -> pb::PreloadTarget {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let item = aim.target.item;
        let is_proven = |device: &&_| self.keeping.standing(now, device, &item) == Standing::Proven;
        pb::PreloadTarget {
            title: aim.title.to_vec(),
            item: item.to_vec(),
            name: self.catalog.title(&aim.title).map(|it| it.entry.name.clone()).unwrap_or_default(),
            site: site.to_string(),
            share_percent: aim.target.wanted.share_percent.into(),
            starts_spans: match aim.target.wanted.extent {
                Extent::Whole => None,
                Extent::Starts { spans } => Some(spans),
            },
            by_demand: aim.by_demand,
            demand_thousandths: aim.forecast.thousandths(),
            boxes: count(plan.boxes),
            wanted: count(outcome.wanted),
            have: count(outcome.have.len()),
            proven: count(outcome.have.iter().filter(is_proven).count()),
            doubted: count(self.doubted_boxes(now, site, &item)),
            fetching: count(outcome.fetching.len()),
            lacking: count(outcome.lacking()),
            bytes: outcome.bytes,
            cost: outcome.cost,
        }
    }
}
