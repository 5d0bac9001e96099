//! What boxes are told about rights besides grants: what time it is, whether they may play now, what no longer counts.
//!
//! Asked by every box once a minute and by those that play twice, so nothing here is written to the journal without
//! need. Who plays at this moment is remembered in memory only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::{Exit, Failure};
use swarm_proto::id::{AccountId, DeviceId};
use swarm_proto::keyserver::players::{DeviceName, Players, Playing};
use swarm_proto::keyserver::record::Reason;
use swarm_proto::limit::Limit;
use swarm_proto::pb::keyserver as pb;
use swarm_proto::pb::keyserver::{rights_operator_server, rights_server};
use swarm_proto::server_time::{self, ServerTime};
use swarm_proto::signed::Signed;
use swarm_proto::time::Utc;
use tonic::{Request, Response, Status};

use super::{Context, Counters};
use crate::books::rights::Right;
use crate::convert::{id, optional_item, order, order_id, page_request, page_token, refuse, settled};
use crate::{clock, config, refusals};

/// Intervals that a device may miss before its place is free.
const MISSED: u32 = 3;

/// The places that accounts have for playing. Clones are the same places.
#[derive(Clone)]
pub(crate) struct Place {
    counters: Counters,
    interval: Duration,
    players: Arc<Mutex<Players>>,
}

impl Place {
    pub(crate) fn new(counters: Counters, config: &config::Play) -> Place {
        let interval = config.report_every.get();
        let players = Players::new(config.players(interval.saturating_mul(MISSED)));
        Place { counters, interval, players: Arc::new(Mutex::new(players)) }
    }

    /// Takes a place for a device, or keeps it.
    pub(crate) fn take(&self, account: AccountId, playing: Playing) -> Result<(), Status> {
        let mono = clock::now().mono;
        let mut players = self.players.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = players.handle_playing(mono, account, playing);
        self.counters.count_result("play", &admitted);
        admitted.map_err(|refusal| refusals::players(&refusal).into())
    }
}

/// Asked by devices.
pub(crate) struct Rights {
    context: Context,
    place: Place,
}

impl Rights {
    pub(crate) fn new(context: Context, place: Place) -> Rights {
        Rights { context, place }
    }
}

#[tonic::async_trait]
impl rights_server::Rights for Rights {
    async fn check_in(&self, request: Request<pb::CheckInRequest>) -> Result<Response<pb::CheckInResponse>, Status> {
        let device = self.context.caller(&request)?.asker.device;
        let pb::CheckInRequest { nonce, revocations_version } = request.into_inner();
        let nonce = server_time::nonce(&nonce).map_err(refuse)?;
        let revocations = self.context.books.revocations(device, revocations_version).await.map_err(Failure::from)?;
        let keys = self.context.keys.now();
        let revocations = revocations.map(|list| Signed::sign(&keys.signing, &list)).transpose().map_err(unsigned)?;
        let time = ServerTime::sign(&keys.signing, nonce, clock::utc()).map_err(unsigned)?;
        Ok(Response::new(pb::CheckInResponse { time: Some(time.into()), revocations: revocations.map(Into::into) }))
    }

    async fn report_play(
        &self,
        request: Request<pb::ReportPlayRequest>,
    ) -> Result<Response<pb::ReportPlayResponse>, Status> {
        let asker = self.context.caller(&request)?.asker;
        let pb::ReportPlayRequest { order, first_play_utc_ms, device_name, begins, take_over } = request.into_inner();
        let name = DeviceName::new(&device_name).map_err(refuse)?;
        let order = order_id(&order)?;
        let first_play = Utc::from_millis(first_play_utc_ms);
        settled(self.context.books.report_play(asker, order, first_play).await, refusals::play)?;
        let playing = Playing { device: asker.device, name, begins, takes_over: take_over };
        self.place.take(asker.account, playing)?;
        let interval_ms = u64::try_from(self.place.interval.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(pb::ReportPlayResponse { interval_ms }))
    }

    async fn list_rights(
        &self,
        request: Request<pb::ListRightsRequest>,
    ) -> Result<Response<pb::ListRightsResponse>, Status> {
        let asker = self.context.caller(&request)?.asker;
        let request = request.into_inner();
        let item = optional_item(&request.item)?;
        let (before, size) = page_request(request.page_size, &request.page_token)?;
        let page = self.context.books.rights_of(asker, item, before, size).await.map_err(Failure::from)?;
        let right = |Right { standing, commitment, granted_here }| pb::Right {
            order: Some(order(standing)),
            commitment: commitment.to_vec(),
            granted_here,
        };
        Ok(Response::new(pb::ListRightsResponse {
            rights: page.rights.into_iter().map(right).collect(),
            next_page_token: page_token(page.next),
        }))
    }

    async fn replace_device(
        &self,
        request: Request<pb::ReplaceDeviceRequest>,
    ) -> Result<Response<pb::ReplaceDeviceResponse>, Status> {
        let asker = self.context.caller(&request)?.asker;
        let order = order_id(&request.get_ref().order)?;
        let lost: DeviceId = id("device", &request.get_ref().device)?;
        let replaced = self.context.books.replace_device(asker, order, lost).await;
        let by = asker.device.short();
        settled(replaced, refusals::replace)?;
        tracing::info!(%order, lost = %lost.short(), %by, "device replaced");
        Ok(Response::new(pb::ReplaceDeviceResponse {}))
    }
}

/// Asked by the operator; the token is checked before a call comes here.
pub(crate) struct Operator {
    context: Context,
}

impl Operator {
    pub(crate) fn new(context: Context) -> Operator {
        Operator { context }
    }
}

#[tonic::async_trait]
impl rights_operator_server::RightsOperator for Operator {
    async fn list_grants(
        &self,
        request: Request<pb::ListGrantsRequest>,
    ) -> Result<Response<pb::ListGrantsResponse>, Status> {
        let order = order_id(&request.get_ref().order)?;
        let licences = settled(self.context.books.licences(order).await, refusals::look)?;
        let grants = licences.into_iter().map(|licence| pb::GrantInfo {
            device: licence.device.to_vec(),
            serial: licence.serial,
            issued_utc_ms: licence.issued.as_millis(),
            first_play_utc_ms: licence.first_play.map(Utc::as_millis),
            expiry: Some(licence.expiry(None).into()),
        });
        Ok(Response::new(pb::ListGrantsResponse { grants: grants.collect() }))
    }

    async fn withdraw_grant(
        &self,
        request: Request<pb::WithdrawGrantRequest>,
    ) -> Result<Response<pb::WithdrawGrantResponse>, Status> {
        let pb::WithdrawGrantRequest { order, device, reason } = request.into_inner();
        let (order, device): (_, DeviceId) = (order_id(&order)?, id("device", &device)?);
        let reason = Reason::new(&reason).map_err(refuse)?;
        settled(self.context.books.withdraw_grant(order, device, reason).await, refusals::withdraw)?;
        tracing::info!(%order, device = %device.short(), "key taken back by the operator");
        Ok(Response::new(pb::WithdrawGrantResponse {}))
    }

    async fn revoke_device(
        &self,
        request: Request<pb::RevokeDeviceRequest>,
    ) -> Result<Response<pb::RevokeDeviceResponse>, Status> {
        let pb::RevokeDeviceRequest { device, reason } = request.into_inner();
        let device: DeviceId = id("device", &device)?;
        let reason = Reason::new(&reason).map_err(refuse)?;
        let already = self.context.books.revoke_device(device, reason).await.map_err(Failure::from)?;
        tracing::info!(device = %device.short(), already, "device revoked by the operator");
        Ok(Response::new(pb::RevokeDeviceResponse { already }))
    }
}

impl config::Play {
    /// The limits as the machine wants them.
    fn players(&self, silence: Duration) -> swarm_proto::keyserver::players::Config {
        let at_a_time = match self.devices_at_a_time {
            config::Devices::AtMost(limit) => Limit::Of(limit),
            config::Devices::Unlimited(_) => Limit::Unlimited,
        };
        swarm_proto::keyserver::players::Config { at_a_time, silence }
    }
}

/// A statement of our own that breaks a rule.
fn unsigned(invalid: swarm_proto::invalid::Invalid) -> Status {
    Failure::new(Exit::Failed, "E-RIGHTS-05", "the keyserver cannot sign what it has to say")
        .why(invalid)
        .hint("report this: it is a fault of the keyserver, or of its clock")
        .into()
}
