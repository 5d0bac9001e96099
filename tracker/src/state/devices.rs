//! Questions about devices and invitations for new ones.

use std::net::IpAddr;
use std::time::Duration;

use daemon::exit::Failure;
use futures::FutureExt as _;
use swarm_proto::code::EnrolCode;
use swarm_proto::id::{AccountId, DeviceId, SiteId};
use swarm_proto::membership::{DeviceKind, Membership};
use swarm_proto::pb::tracker as pb;
use swarm_proto::signed::Signed;
use swarm_proto::time::Now;
use swarm_proto::tracker::planner::Profile;
use swarm_proto::tracker::registry::{Applicant, Device, DeviceChange, Invite, InviteKey, RegistryError};
use swarm_proto::tracker::revocations::TOLD_FOR;
use tonic::Status as GrpcStatus;

use super::{Handle, State};
use crate::convert;
use crate::records::Records;
use crate::refusal;

/// Records that are written or deleted at a time: three of each fit a batch of the store.
pub(super) const MAX_SWEPT: usize = 300;

impl Handle {
    /// Makes a code for one device.
    pub(crate) async fn invite(
        &self,
        account: AccountId,
        kind: DeviceKind,
        site: String,
        valid: Duration,
    ) -> Result<pb::InviteDeviceResponse, Failure> {
        self.ask(move |state, now| {
            async move {
                let site = convert::site(&site, &state.default_site).map_err(|invalid| refusal::field(&invalid))?;
                state.invite(now, account, kind, site, valid).await
            }
            .boxed()
        })
        .await
    }

    /// Turns a code into a membership, for a device that has proven its key and asks from this address.
    pub(crate) async fn enrol(
        &self,
        from: IpAddr,
        code: EnrolCode,
        applicant: Applicant,
    ) -> Result<pb::EnrolResponse, Failure> {
        self.ask(move |state, now| state.enrol(now, from, code, applicant).boxed()).await
    }

    /// Whether a device belongs here.
    pub(crate) async fn check_member(&self, device: DeviceId) -> Result<(), Failure> {
        self.look(move |state, _| state.registry.member(&device).map(drop).map_err(refusal::caller)).await
    }

    /// A page of devices, of one customer or of all.
    pub(crate) async fn devices(
        &self,
        account: Option<AccountId>,
        after: Option<DeviceId>,
        page_size: usize,
    ) -> Result<pb::ListDevicesResponse, Failure> {
        self.look(move |state, _| {
            let all = account.is_none().then(|| state.registry.devices_after(after)).into_iter().flatten();
            let of_one = account.iter().flat_map(|account| state.registry.devices_of(account));
            let of_one = of_one.filter(|it| after.is_none_or(|after| it.device > after));
            let mut rest = all.chain(of_one).peekable();
            let page: Vec<&Device> = rest.by_ref().take(page_size).collect();
            let more = rest.peek().and_then(|_| page.last().map(|last| last.device.to_vec()));
            let devices = page.into_iter().map(|it| state.device_message(it)).collect();
            Ok(pb::ListDevicesResponse { devices, next_page_token: more.unwrap_or_default() })
        })
        .await
    }

    /// Renames a device, moves it, or limits it.
    pub(crate) async fn set_device(&self, device: DeviceId, change: DeviceChange) -> Result<pb::Device, Failure> {
        self.ask(move |state, now| state.set_device(now, device, change).boxed()).await
    }

    /// Shuts a device out.
    pub(crate) async fn revoke(&self, device: DeviceId) -> Result<pb::Device, Failure> {
        self.ask(move |state, now| state.revoke(now, device).boxed()).await
    }
}

impl State {
    async fn invite(
        &mut self,
        now: Now,
        account: AccountId,
        kind: DeviceKind,
        site: SiteId,
        valid: Duration,
    ) -> Result<pb::InviteDeviceResponse, Failure> {
        let code = EnrolCode::generate(&mut self.rng);
        let expires = now.utc + valid;
        let invite = Invite { key: InviteKey::of(&code), account, kind, site, expires, used_by: None };
        let invite = self.registry.new_invite(invite).map_err(refusal::registry)?;
        self.commit(Records::new().invite(&invite)).await?;
        self.registry.insert_invite(invite);
        Ok(pb::InviteDeviceResponse { code: code.reveal().to_string(), expires_utc_ms: expires.as_millis() })
    }

    async fn enrol(
        &mut self,
        now: Now,
        from: IpAddr,
        code: EnrolCode,
        applicant: Applicant,
    ) -> Result<pb::EnrolResponse, Failure> {
        if let Some(wait) = self.guesses.wait(now.mono, &from) {
            return Err(refusal::too_many_guesses(wait));
        }
        if self.revocations.contains(&applicant.device) {
            return Err(refusal::registry(RegistryError::Revoked));
        }
        let enrolment = match self.registry.enrol(now.utc, InviteKey::of(&code), applicant) {
            Ok(enrolment) => enrolment,
            Err(error) => {
                if error == RegistryError::NoInvite {
                    self.guesses.handle_wrong(now.mono, from);
                }
                return Err(refusal::registry(error));
            }
        };
        if !enrolment.already {
            self.commit(Records::new().device(&enrolment.device).invite(&enrolment.invite)).await?;
            let device = &enrolment.device;
            tracing::info!(device = %device.device.short(), account = %device.account, "device enrolled");
        }
        let membership = self.sign_membership(&enrolment.device)?;
        self.insert_device(now, enrolment.device, false);
        self.registry.insert_invite(enrolment.invite);
        Ok(pb::EnrolResponse { membership: Some(membership.into()), swarm_key: self.swarm_key.to_vec() })
    }

    async fn revoke(&mut self, now: Now, device: DeviceId) -> Result<pb::Device, Failure> {
        let revoked = self.registry.revoked(&device).map_err(refusal::registry)?;
        self.shut_out(now, vec![revoked.clone()]).await?;
        Ok(self.device_message(&revoked))
    }

    /// Shuts devices out: first on disk, then their streams are closed and everyone else is told.
    pub(super) async fn shut_out(&mut self, now: Now, revoked: Vec<Device>) -> Result<(), Failure> {
        let until = now.utc + TOLD_FOR;
        for some in revoked.chunks(MAX_SWEPT) {
            let records =
                some.iter().fold(Records::new(), |records, it| records.device(it).revocation(&it.device, until));
            self.commit(records).await?;
            for device in some {
                tracing::info!(device = %device.device.short(), "device revoked");
                self.registry.insert_device(device.clone());
                self.planner.handle_revoked(now, device.device);
                self.keep_revoked(now, device.device);
                self.revocations.insert(device.device, until);
                self.close_session(&device.device, refusal::status(refusal::caller(RegistryError::Revoked)));
            }
            for session in self.sessions.values() {
                session.mailbox.revoked(some.iter().map(|it| it.device));
            }
        }
        Ok(())
    }

    async fn set_device(&mut self, now: Now, device: DeviceId, change: DeviceChange) -> Result<pb::Device, Failure> {
        let old_serial = self.registry.device(&device).map(|it| it.serial);
        let changed = self.registry.changed_device(now.utc, &device, change).map_err(refusal::registry)?;
        self.commit(Records::new().device(&changed)).await?;
        let membership = self.sign_membership(&changed)?;
        let answer = self.device_message(&changed);
        self.insert_device(now, changed.clone(), false);
        if let Some(session) = self.sessions.get(&device).filter(|_| old_serial != Some(changed.serial)) {
            session.mailbox.membership(membership.into());
        }
        Ok(answer)
    }

    /// Forgets revocations that no ticket outlives. A failure is no harm: the next start finds them again.
    pub(super) async fn sweep_revocations(&mut self, now: Now) {
        for forgotten in self.revocations.forget(now.utc).chunks(MAX_SWEPT) {
            let records = forgotten.iter().fold(Records::new(), |records, it| records.forgotten_revocation(it));
            if let Err(failure) = self.commit(records.relaxed()).await {
                tracing::warn!(%failure, "old revocations could not be deleted");
                return;
            }
        }
    }

    /// Forgets invitations that are over. A failure is no harm: the next sweep finds them again after a restart.
    pub(super) async fn sweep_invites(&mut self, now: Now) {
        for forgotten in self.registry.forget_invites(now.utc).chunks(MAX_SWEPT) {
            let records = forgotten.iter().fold(Records::new(), |records, key| records.forgotten_invite(key));
            if let Err(failure) = self.commit(records.relaxed()).await {
                tracing::warn!(%failure, "old invitations could not be deleted");
                return;
            }
        }
    }

    /// Puts in a device that is on disk.
    pub(super) fn insert_device(&mut self, now: Now, device: Device, draining: bool) {
        let profile = Profile { kind: device.kind, site: device.site.clone(), account: device.account };
        self.planner.handle_enrolled(now, device.device, &profile);
        let before = self.registry.device(&device.device).map(|it| it.site.clone());
        if let Some(before) = before.filter(|it| *it != device.site) {
            self.keeping.handle_moved(now, device.device, &before, &device.site);
        }
        self.keeping.handle_enrolled(now, device.device, device.kind, &device.site, draining);
        self.registry.insert_device(device);
    }

    pub(super) fn sign_membership(&self, device: &Device) -> Result<Signed<Membership>, Failure> {
        Signed::sign(&self.key, &device.membership()).map_err(|invalid| refusal::field(&invalid))
    }

    /// The membership of a device, renewed if it is due.
    pub(super) async fn renew_membership(
        &mut self,
        now: Now,
        device: &DeviceId,
    ) -> Result<Option<Signed<Membership>>, Failure> {
        let Some(renewed) = self.registry.device(device).and_then(|it| it.renewed(now.utc)) else { return Ok(None) };
        self.commit(Records::new().device(&renewed)).await?;
        let membership = self.sign_membership(&renewed)?;
        self.registry.insert_device(renewed);
        Ok(Some(membership))
    }

    pub(super) fn close_session(&mut self, device: &DeviceId, why: GrpcStatus) {
        if let Some(session) = self.sessions.remove(device) {
            session.mailbox.close(why);
            self.count_online();
        }
    }
}
