//! Whether a daemon lives, whether it is ready, and if not, what is wrong and what to do.
//!
//! A daemon is ready when every named check is fine, and fresh if it promised to report regularly. Checks are set by
//! whoever knows (the store, the journal, the link to a tracker); nothing here probes. The names are constants of the
//! program, so their number is bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often checks that may have gone stale are looked at, for the watchers of gRPC health.
const STALENESS_CHECK: Duration = Duration::from_secs(1);

/// All the checks of a daemon. Clones share them.
#[derive(Debug, Clone)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    standings: Mutex<BTreeMap<&'static str, Standing>>,
    changed: watch::Sender<()>,
}

/// How one check stands.
#[derive(Debug, Clone)]
struct Standing {
    /// What is wrong, if anything.
    trouble: Option<String>,
    hint: &'static str,
    reported: Instant,
    max_age: Option<Duration>,
}

impl Health {
    /// A daemon without checks, which is ready.
    pub fn new() -> Health {
        Health(Arc::new(Shared { standings: Mutex::default(), changed: watch::channel(()).0 }))
    }

    /// Adds a check that is not fine until it is reported to be. The hint tells what to do when it is not.
    pub fn check(&self, name: &'static str, hint: &'static str) -> Check {
        self.add(name, hint, None)
    }

    /// Adds a check that has to be reported at least this often, such as the heartbeat of a task.
    pub fn check_every(&self, max_age: Duration, name: &'static str, hint: &'static str) -> Check {
        self.add(name, hint, Some(max_age))
    }

    /// Whether every check is fine.
    pub fn is_ready(&self) -> bool {
        let now = Instant::now();
        self.standings().values().all(|standing| standing.trouble_at(now).is_none())
    }

    /// Waits until [`Health::is_ready`].
    pub async fn ready(&self) {
        let mut changed = self.0.changed.subscribe();
        while !self.is_ready() {
            changed.changed().await.expect("the sender lives as long as this");
        }
    }

    /// Every check on a line: how it stands, since when, and what to do if it is not fine.
    pub fn report(&self) -> String {
        let now = Instant::now();
        let mut text = String::new();
        for (name, standing) in self.standings().iter() {
            let age = now.saturating_duration_since(standing.reported).as_secs();
            let written = match standing.trouble_at(now) {
                None => writeln!(text, "[+] {name}: ok, {age} s ago"),
                Some(trouble) => writeln!(text, "[-] {name}: {trouble}, {age} s ago; try: {}", standing.hint),
            };
            written.expect("a string takes every text");
        }
        text
    }

    /// `/livez` and `/readyz`; the latter with every check if asked for `?verbose`.
    pub(crate) fn routes(&self) -> Router {
        Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz)).with_state(self.clone())
    }

    /// Keeps the gRPC health service of the whole server in step, for ever.
    pub(crate) async fn feed(self, reporter: HealthReporter) {
        let mut changed = self.0.changed.subscribe();
        let mut announced = None;
        loop {
            let ready = self.is_ready();
            if announced.replace(ready) != Some(ready) {
                let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status("", status).await;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(STALENESS_CHECK) => {}
            }
        }
    }

    fn add(&self, name: &'static str, hint: &'static str, max_age: Option<Duration>) -> Check {
        let trouble = Some("not reported yet".to_owned());
        self.standings().insert(name, Standing { trouble, hint, reported: Instant::now(), max_age });
        self.0.changed.send_replace(());
        Check { health: self.clone(), name }
    }

    fn standings(&self) -> MutexGuard<'_, BTreeMap<&'static str, Standing>> {
        self.0.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Health {
        Health::new()
    }
}

impl Standing {
    fn trouble_at(&self, now: Instant) -> Option<&str> {
        let stale = self.max_age.is_some_and(|max_age| now.saturating_duration_since(self.reported) > max_age);
        self.trouble.as_deref().or(stale.then_some("no report for too long"))
    }
}

/// One check, in the hands of whoever knows how it stands.
#[derive(Debug, Clone)]
pub struct Check {
    health: Health,
    name: &'static str,
}

impl Check {
    /// It is fine.
    pub fn ok(&self) {
        self.set(None);
    }

    /// It is not fine, for this reason.
    pub fn failing(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    fn set(&self, trouble: Option<String>) {
        let changed = match self.health.standings().get_mut(self.name) {
            Some(standing) => {
                standing.reported = Instant::now();
                let changed = standing.trouble != trouble;
                standing.trouble = trouble;
                changed
            }
            None => false,
        };
        if changed {
            self.health.0.changed.send_replace(());
        }
    }
}

async fn readyz(State(health): State<Health>, RawQuery(query): RawQuery) -> Response {
    let ready = health.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let summary = if ready { "ready\n" } else { "not ready\n" };
    match verbose {
        true => (status, health.report() + summary).into_response(),
        false => (status, summary).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_is_ready_when_every_check_is_fine() {
        let health = Health::new();
        assert!(health.is_ready());
        let store = health.check("store", "free some disk space");
        assert!(!health.is_ready(), "a check that was never reported is not fine");
        store.ok();
        assert!(health.is_ready());
        store.failing("disk full");
        assert!(!health.is_ready());
        assert_eq!(health.report(), "[-] store: disk full, 0 s ago; try: free some disk space\n");
    }

    #[test]
    fn check_that_stops_reporting_goes_stale() {
        let health = Health::new();
        let planner = health.check_every(Duration::ZERO, "planner", "restart");
        planner.ok();
        let later = Instant::now() + Duration::from_millis(1);
        assert_eq!(health.standings()["planner"].trouble_at(later), Some("no report for too long"));
    }

    #[tokio::test]
    async fn waiting_for_readiness_ends_with_the_last_report() {
        let health = Health::new();
        let (a, b) = (health.check("a", ""), health.check("b", ""));
        a.ok();
        let reported = async { b.ok() };
        tokio::join!(health.ready(), reported);
        assert!(health.is_ready());
    }
}
