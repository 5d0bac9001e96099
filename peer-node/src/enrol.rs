//! Turns an enrolment code into this device's membership.
//!
//! The same code from the same device again gives the same membership, so a lost answer is not a lost code. The tracker
//! that answers is the one that is believed from then on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use daemon::client;
use daemon::exit::{Exit, Failure};
use swarm_proto::code::EnrolCode;
use swarm_proto::id::ServerId;
use swarm_proto::pb;
use tokio::time::timeout;
use tonic::Request;

use crate::config::{Config, MAX_NAME_BYTES};
use crate::identity::{Enrolled, Enrolment, Identity};
use crate::tracker_link;

/// How long the tracker may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Enrols this device: at `url`, or where the configuration points.
pub async fn enrol(
    config: &Config,
    identity: &Identity,
    enrolment: &Enrolment,
    code: &str,
    url: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Arc<Enrolled>> {
    let code = EnrolCode::parse(code).map_err(|error| {
        Failure::new(Exit::Usage, "E-ENROL-11", "this is not an enrolment code")
            .why(error)
            .hint("type the eight characters that the operator's `tracker device invite` printed; hyphens and case do not matter")
    })?;
    let device_name = device_name(config, name)?;
    let url = url.map_or_else(|| tracker_link::url_of(&config.tracker, enrolment.current().as_deref()), str::to_owned);
    let channel = client::connect(&url, &config.tracker.trust()).await?;
    let info = tracker_link::tracker_info(channel.clone()).await?;
    let tracker = ServerId::try_from(info.server.as_slice()).context("the tracker did not say who it is")?;

    let hpke_public = identity.hpke.public().to_vec();
    let mut request =
        Request::new(pb::tracker::EnrolRequest { code: code.reveal().to_string(), hpke_public, device_name });
    identity.sign_call(&mut request, tracker);
    let mut client = pb::tracker::enrolment_client::EnrolmentClient::new(channel);
    let answer = timeout(CALL_TIMEOUT, client.enrol(request)).await.map_err(|_| {
        Failure::new(Exit::Unreachable, "E-ENROL-13", format!("the tracker at {url} did not answer in time"))
            .hint("try again: the code is still good")
    })?;
    let answer = answer.map_err(|status| client::failure(&url, &status))?.into_inner();
    let enrolled = enrolment.accept(identity, tracker, &url, answer).context("the tracker's answer cannot be used")?;
    tracing::info!(account = %enrolled.membership.account, site = %enrolled.membership.site, tracker = %tracker, "enrolled");
    Ok(enrolled)
}

/// What people will call this device.
pub(crate) fn device_name(config: &Config, given: Option<&str>) -> Result<String, Failure> {
    let name = given.unwrap_or(&config.name).to_owned();
    match name.is_empty() || name.len() > MAX_NAME_BYTES {
        false => Ok(name),
        true => {
            Err(Failure::new(Exit::Usage, "E-ENROL-12", format!("a device's name has 1 to {MAX_NAME_BYTES} bytes"))
                .hint("choose another --name"))
        }
    }
}
