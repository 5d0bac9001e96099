//! Questions of boxes that show a code, and of those who type it.

use std::net::IpAddr;

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::code::EnrolCode;
use swarm_proto::id::{AccountId, DeviceId};
use swarm_proto::membership::DeviceKind;
use swarm_proto::pb::tracker as pb;
use swarm_proto::time::Now;
use swarm_proto::tracker::pairing::{LASTS, POLL_EVERY, PairingError};
use swarm_proto::tracker::registry::{Applicant, InviteKey, RegistryError};

use super::{Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

impl Handle {
    /// Gives a box a code to show.
    pub(crate) async fn request_pairing(
        &self,
        from: IpAddr,
        applicant: Applicant,
    ) -> Result<pb::RequestPairingResponse, Failure> {
        self.look(move |state, now| state.request_pairing(now, from, applicant)).await
    }

    /// Whether the code that a box shows has been typed.
    pub(crate) async fn poll_pairing(&self, device: DeviceId) -> Result<pb::PollPairingResponse, Failure> {
        self.look(move |state, now| state.poll_pairing(now, device)).await
    }

    /// Lets in the device that shows this code, for the operator.
    pub(crate) async fn pair(
        &self,
        account: AccountId,
        code: EnrolCode,
        kind: DeviceKind,
        site: String,
    ) -> Result<pb::Device, Failure> {
        self.ask(move |state, now| state.pair(now, account, InviteKey::of(&code), kind, site).boxed()).await
    }

    /// Which box shows the code that a customer has typed at this address. Wrong ones are counted.
    pub(crate) async fn waiting_box(&self, from: IpAddr, code: EnrolCode) -> Result<Applicant, Failure> {
        self.look(move |state, now| state.waiting_box(now, from, &InviteKey::of(&code))).await
    }

    /// Lets in the box that shows the code a customer has typed at this address, as that customer's.
    pub(crate) async fn pair_own(
        &self,
        from: IpAddr,
        account: AccountId,
        code: EnrolCode,
    ) -> Result<pb::Device, Failure> {
        self.ask(move |state, now| {
            async move {
                let key = InviteKey::of(&code);
                state.waiting_box(now, from, &key)?;
                state.pair(now, account, key, DeviceKind::Box, String::new()).await
            }
            .boxed()
        })
        .await
    }
}

impl State {
    fn request_pairing(
        &mut self,
        now: Now,
        from: IpAddr,
        applicant: Applicant,
    ) -> Result<pb::RequestPairingResponse, Failure> {
        if let Some(wait) = self.code_requests.wait(now.mono, &from) {
            return Err(refusal::too_many_codes(wait));
        }
        self.code_requests.handle_wrong(now.mono, from);
        if self.revocations.contains(&applicant.device)
            || self.registry.device(&applicant.device).is_some_and(|it| it.revoked)
        {
            return Err(refusal::caller(RegistryError::Revoked));
        }
        let code = EnrolCode::generate(&mut self.rng);
        self.pairings.ask(now.mono, InviteKey::of(&code), applicant).map_err(refusal::pairing)?;
        Ok(pb::RequestPairingResponse {
            code: code.reveal().to_string(),
            expires_utc_ms: (now.utc + LASTS).as_millis(),
            poll_every_ms: u64::try_from(POLL_EVERY.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn poll_pairing(&mut self, now: Now, device: DeviceId) -> Result<pb::PollPairingResponse, Failure> {
        if !self.pairings.poll(now.mono, &device).map_err(refusal::pairing)? {
            return Ok(pb::PollPairingResponse { enrolled: None });
        }
        let member = self.registry.member(&device).map_err(refusal::caller)?;
        let membership = Some(self.sign_membership(member)?.into());
        let enrolled = pb::EnrolResponse { membership, swarm_key: self.swarm_key.to_vec() };
        Ok(pb::PollPairingResponse { enrolled: Some(enrolled) })
    }

    fn waiting_box(&mut self, now: Now, from: IpAddr, key: &InviteKey) -> Result<Applicant, Failure> {
        if let Some(wait) = self.guesses.wait(now.mono, &from) {
            return Err(refusal::too_many_guesses(wait));
        }
        let found = self.pairings.find(now.mono, key).cloned();
        if found == Err(PairingError::NoCode) {
            self.guesses.handle_wrong(now.mono, from);
        }
        found.map_err(refusal::pairing)
    }

    async fn pair(
        &mut self,
        now: Now,
        account: AccountId,
        key: InviteKey,
        kind: DeviceKind,
        site: String,
    ) -> Result<pb::Device, Failure> {
        let site = convert::site(&site, &self.default_site).map_err(|invalid| refusal::field(&invalid))?;
        let applicant = self.pairings.find(now.mono, &key).map_err(refusal::pairing)?.clone();
        let device = self.registry.pair(now.utc, &account, kind, site, applicant).map_err(refusal::registry)?;
        self.commit(Records::new().device(&device)).await?;
        tracing::info!(device = %device.device.short(), account = %device.account, "device paired");
        let answer = self.device_message(&device);
        self.insert_device(now, device, false);
        self.pairings.handle_admitted(&key);
        Ok(answer)
    }
}
