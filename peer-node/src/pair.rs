//! Becomes a member by showing a code that somebody else types, for boxes that nobody can type on.
//!
//! The code is shown by whoever asked and on the television, and is renewed when its time is over. Ends when the box
//! is enrolled; the tracker that answers is the one that is believed from then on. One pairing at a time shows.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use daemon::client;
use daemon::exit::{Exit, Failure};
use swarm_proto::code::EnrolCode;
use swarm_proto::id::ServerId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::pb::tracker::pairing_client::PairingClient;
use swarm_proto::time::Utc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::config::Config;
use crate::enrol::{self, CALL_TIMEOUT};
use crate::identity::{Enrolled, Enrolment, Identity};
use crate::tracker_link;

/// How often the tracker is asked, whatever it says: neither a storm nor a box that seems dead.
const POLL_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);

/// Questions in a row without an answer after which the tracker counts as away: a minute or so.
const MISSED_MAX: u32 = 30;

/// A code to be typed elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// `XXXX-XXXX`.
    pub code: String,
    /// Until when it can be typed.
    pub expires: Utc,
}

/// Pairs this device with whoever types its code, at `url` or where the configuration points; `show` is told each code.
pub async fn pair(
    config: &Config,
    identity: &Identity,
    enrolment: &Enrolment,
    url: Option<&str>,
    name: Option<&str>,
    mut show: impl FnMut(&Shown),
) -> anyhow::Result<Arc<Enrolled>> {
    let device_name = enrol::device_name(config, name)?;
    let url = url.map_or_else(|| tracker_link::url_of(&config.tracker, enrolment.current().as_deref()), str::to_owned);
    let channel = client::connect(&url, &config.tracker.trust()).await?;
    let info = tracker_link::tracker_info(channel.clone()).await?;
    let tracker = ServerId::try_from(info.server.as_slice()).context("the tracker did not say who it is")?;
    let mut waiting = Waiting { client: PairingClient::new(channel), url: &url, identity, tracker, device_name };
    loop {
        let (shown, poll_every) = waiting.code().await?;
        show(&shown);
        let _on_television = enrolment.show_code(&shown.code);
        if let Some(answer) = waiting.until_typed(poll_every).await? {
            let enrolled = enrolment.accept(identity, tracker, &url, answer);
            let enrolled = enrolled.context("the tracker's answer cannot be used")?;
            tracing::info!(account = %enrolled.membership.account, site = %enrolled.membership.site, tracker = %tracker, "paired");
            return Ok(enrolled);
        }
    }
}

/// A device that waits for its code to be typed.
struct Waiting<'a> {
    client: PairingClient<Channel>,
    url: &'a str,
    identity: &'a Identity,
    tracker: ServerId,
    device_name: String,
}

impl Waiting<'_> {
    async fn code(&mut self) -> anyhow::Result<(Shown, Duration)> {
        let hpke_public = self.identity.hpke.public().to_vec();
        let request = pb::RequestPairingRequest { hpke_public, device_name: self.device_name.clone() };
        let request = self.signed(request);
        let answer = timeout(CALL_TIMEOUT, self.client.request_pairing(request)).await.ok();
        let answer = self.in_time(answer)?;
        // What is shown to people has been read as a code first.
        let code = EnrolCode::parse(&answer.code).context("the tracker gave something that is no code")?;
        let shown = Shown { code: code.reveal().to_string(), expires: Utc::from_millis(answer.expires_utc_ms) };
        Ok((shown, Duration::from_millis(answer.poll_every_ms).clamp(*POLL_EVERY.start(), *POLL_EVERY.end())))
    }

    /// The membership, once somebody has typed the code; none when its time is over.
    async fn until_typed(&mut self, poll_every: Duration) -> anyhow::Result<Option<pb::EnrolResponse>> {
        let mut missed = 0;
        loop {
            tokio::time::sleep(poll_every).await;
            let request = self.signed(pb::PollPairingRequest {});
            let answer = timeout(CALL_TIMEOUT, self.client.poll_pairing(request)).await.ok();
            match self.in_time(answer) {
                Ok(pb::PollPairingResponse { enrolled: Some(enrolled) }) => return Ok(Some(enrolled)),
                Ok(pb::PollPairingResponse { enrolled: None }) => missed = 0,
                Err(failure) if failure.exit == Exit::NotFound => return Ok(None),
                Err(failure) if failure.retryable() && missed < MISSED_MAX => missed += 1,
                Err(failure) => bail!(failure),
            }
        }
    }

    fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.identity.sign_call(&mut request, self.tracker);
        request
    }

    fn in_time<T>(&self, answer: Option<Result<Response<T>, Status>>) -> Result<T, Failure> {
        let Some(answer) = answer else {
            let what = format!("the tracker at {} did not answer in time", self.url);
            return Err(Failure::new(Exit::Unreachable, "E-ENROL-13", what).hint("try again"));
        };
        answer.map(Response::into_inner).map_err(|status| client::failure(self.url, &status))
    }
}
