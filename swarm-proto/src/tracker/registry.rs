//! Who belongs here: customers, their devices, invitations for new ones, and publishers.
//!
//! Every question that could change something answers with the record as it should become; the caller writes it down
//! and only then gives it back with an `insert_*`. An invitation is used by one device only, and that device may use
//! it again: a lost answer is not a lost code. A revoked device never comes back under the same key.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::catalog::Region;
use crate::code::EnrolCode;
use crate::id::{AccountId, DeviceId, PublisherId, SiteId};
use crate::limit::Limit;
use crate::membership::{DeviceKind, Membership};
use crate::time::Utc;
use crate::wrap::HpkePublic;

/// Customers of one tracker.
pub const MAX_CUSTOMERS: usize = 1_000_000;

/// Devices of one customer that are not revoked: far above a household, far below a swarm of one.
pub const MAX_DEVICES_PER_CUSTOMER: usize = 1_000;

/// Invitations that nobody has used, over all customers.
pub const MAX_OPEN_INVITES: usize = 100_000;

/// How long an invitation is remembered after its end, for a device that lost the answer.
pub const INVITE_KEPT: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How long a membership lasts. It is renewed when half of it is over, so a box may be off for half a month.
pub const MEMBERSHIP_LASTS: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Longest name of a customer, device or publisher.
pub const MAX_NAME_BYTES: usize = 64;

/// How long a closed account may be opened again. Its devices stay shut out: they are enrolled anew.
pub const REOPEN_WITHIN: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Whether a customer is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Active,
    /// Not until the operator says so.
    Suspended,
    /// No more: the account is over, and what is known of it waits to be deleted.
    Closed {
        /// Since when.
        since: Utc,
    },
}

/// What the operator makes of a customer's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is served.
    Active,
    /// It is not served for now.
    Suspended,
    /// It is over.
    Closed,
}

/// Someone who owns devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Never changes.
    pub account: AccountId,
    /// For people; unique.
    pub name: String,
    /// Whether it is served.
    pub status: Status,
    /// When it was added.
    pub created: Utc,
    /// The country its boxes stand in, where that is known.
    pub region: Option<Region>,
    /// The highest age rating that its boxes may fetch.
    pub rating_limit: Limit<u32>,
}

/// What shall be different about a customer; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomerChange {
    /// What people call it.
    pub name: Option<String>,
    /// Its country, or that it is not known.
    pub region: Option<Option<Region>>,
    /// The highest age rating.
    pub rating_limit: Option<Limit<u32>>,
}

/// A device that has been enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its key.
    pub device: DeviceId,
    /// Whose it is.
    pub account: AccountId,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub site: SiteId,
    /// What it is there for.
    pub kind: DeviceKind,
    /// What grants for it are sealed to.
    pub hpke: HpkePublic,
    /// When its membership was issued.
    pub issued: Utc,
    /// How often a membership was issued to it.
    pub serial: u64,
    /// Whether it has been shut out.
    pub revoked: bool,
    /// When it was last heard of.
    pub last_seen: Utc,
    /// The highest age rating that it may fetch, below its customer's: a children's room.
    pub rating_limit: Limit<u32>,
}

/// What shall be different about a device; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// What people call it.
    pub name: Option<String>,
    /// Where it stands. Its membership is issued anew.
    pub site: Option<SiteId>,
    /// The highest age rating.
    pub rating_limit: Option<Limit<u32>>,
}

impl Device {
    /// What the tracker signs for it.
    pub fn membership(&self) -> Membership {
        Membership {
            device: self.device,
            account: self.account,
            site: self.site.clone(),
            kind: self.kind,
            hpke: self.hpke,
            issued: self.issued,
            expires: self.issued + MEMBERSHIP_LASTS,
            serial: self.serial,
        }
    }

    /// The record of a device whose membership should be issued anew; none while the old one is good for long.
    pub fn renewed(&self, now: Utc) -> Option<Device> {
        let due = now.since(self.issued) >= MEMBERSHIP_LASTS / 2;
        due.then(|| Device { issued: now, serial: self.serial + 1, ..self.clone() })
    }
}

/// What an invitation is found by: a hash, so that a copy of the store invites nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InviteKey(pub [u8; 32]);

impl InviteKey {
    /// The key of a code.
    pub fn of(code: &EnrolCode) -> InviteKey {
        InviteKey(blake3::derive_key("reelswarm v1 enrolment code", code.reveal().as_bytes()))
    }
}

/// A place for one device that has not come yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// What it is found by.
    pub key: InviteKey,
    /// Whose device it will be.
    pub account: AccountId,
    /// What it will be there for.
    pub kind: DeviceKind,
    /// Where it will stand.
    pub site: SiteId,
    /// Until when it can be used for the first time.
    pub expires: Utc,
    /// Who has used it.
    pub used_by: Option<DeviceId>,
}

/// A device that shows an invitation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// Its key, proven.
    pub device: DeviceId,
    /// What grants for it are to be sealed to.
    pub hpke: HpkePublic,
    /// What people will call it.
    pub name: String,
}

/// An enrolment that may be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The device as it should become.
    pub device: Device,
    /// The invitation, used.
    pub invite: Invite,
    /// It was so already: nothing has to be written.
    pub already: bool,
}

/// Why someone is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Look at the list of customers.
    #[error("there is no such customer")]
    NoCustomer,
    /// Look at the list of devices.
    #[error("this device is not enrolled here")]
    NoDevice,
    /// Choose another name.
    #[error("another customer has this name")]
    NameTaken,
    /// Ask for a new code. Counts as a wrong guess.
    #[error("this code is not known here")]
    NoInvite,
    /// Ask for a new code.
    #[error("this code expired at {0}")]
    InviteExpired(Utc),
    /// Ask for a code of its own.
    #[error("another device has used this code")]
    InviteUsed,
    /// Revoke it there first, or start with a new identity.
    #[error("this device belongs to another customer")]
    OtherCustomer,
    /// Start with a new identity; this one does not come back.
    #[error("this device has been revoked")]
    Revoked,
    /// Talk to the operator.
    #[error("this customer is suspended")]
    Suspended,
    /// Activate it first, if that is still possible.
    #[error("this customer's account is closed")]
    Closed,
    /// Add a new customer.
    #[error("this account was closed more than 30 days ago")]
    ClosedForGood,
    /// Remove something first.
    #[error("no room for more {what}: {limit} is the limit")]
    Full {
        /// Of which there are too many.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

/// Everyone who belongs here.
#[derive(Debug, Default)]
pub struct Registry {
    customers: BTreeMap<AccountId, Customer>,
    by_name: BTreeMap<String, AccountId>,
    devices: BTreeMap<DeviceId, Device>,
    by_account: BTreeSet<(AccountId, DeviceId)>,
    invites: BTreeMap<InviteKey, Invite>,
    publishers: BTreeMap<PublisherId, String>,
}

impl Registry {
    /// A new customer, as it should be written down.
    pub fn new_customer(&self, now: Utc, account: AccountId, name: &str) -> Result<Customer, RegistryError> {
        self.is_free(name)?;
        if self.customers.len() >= MAX_CUSTOMERS {
            return Err(RegistryError::Full { what: "customers", limit: MAX_CUSTOMERS });
        }
        Ok(Customer {
            account,
            name: name.to_owned(),
            status: Status::Active,
            created: now,
            region: None,
            rating_limit: Limit::Unlimited,
        })
    }

    /// A customer in another standing. A closed account can only be opened again, and not for ever.
    pub fn with_standing(&self, now: Utc, account: &AccountId, to: Standing) -> Result<Customer, RegistryError> {
        let customer = self.customer(account).ok_or(RegistryError::NoCustomer)?;
        let status = match (customer.status, to) {
            (Status::Closed { .. }, Standing::Closed) => customer.status,
            (Status::Closed { .. }, Standing::Suspended) => return Err(RegistryError::Closed),
            (Status::Closed { since }, Standing::Active) if now.since(since) >= REOPEN_WITHIN => {
                return Err(RegistryError::ClosedForGood);
            }
            (_, Standing::Active) => Status::Active,
            (_, Standing::Suspended) => Status::Suspended,
            (_, Standing::Closed) => Status::Closed { since: now },
        };
        Ok(Customer { status, ..customer.clone() })
    }

    /// A customer of whom something is different.
    pub fn changed_customer(&self, account: &AccountId, change: CustomerChange) -> Result<Customer, RegistryError> {
        let customer = self.customer(account).ok_or(RegistryError::NoCustomer)?.clone();
        if let Some(name) = change.name.as_ref().filter(|name| **name != customer.name) {
            self.is_free(name)?;
        }
        Ok(Customer {
            name: change.name.unwrap_or(customer.name),
            region: change.region.unwrap_or(customer.region),
            rating_limit: change.rating_limit.unwrap_or(customer.rating_limit),
            ..customer
        })
    }

    /// A device of which something is different.
    pub fn changed_device(&self, now: Utc, device: &DeviceId, change: DeviceChange) -> Result<Device, RegistryError> {
        let device = self.member(device)?.clone();
        let moved = change.site.as_ref().is_some_and(|site| *site != device.site);
        Ok(Device {
            name: change.name.unwrap_or(device.name),
            site: change.site.unwrap_or(device.site),
            rating_limit: change.rating_limit.unwrap_or(device.rating_limit),
            issued: if moved { now } else { device.issued },
            serial: device.serial + u64::from(moved),
            ..device
        })
    }

    /// An invitation for one device.
    pub fn new_invite(&self, invite: Invite) -> Result<Invite, RegistryError> {
        self.may_grow(&invite.account)?;
        if self.invites.len() >= MAX_OPEN_INVITES {
            return Err(RegistryError::Full { what: "invitations", limit: MAX_OPEN_INVITES });
        }
        self.has_room(&invite.account)?;
        Ok(invite)
    }

    /// Turns an invitation into a device.
    pub fn enrol(&self, now: Utc, key: InviteKey, applicant: Applicant) -> Result<Enrolment, RegistryError> {
        let invite = self.invites.get(&key).ok_or(RegistryError::NoInvite)?;
        let known = self.devices.get(&applicant.device);
        if known.is_some_and(|it| it.revoked) {
            return Err(RegistryError::Revoked);
        }
        self.may_grow(&invite.account)?;
        match (invite.used_by, known) {
            (Some(user), Some(known)) if user == applicant.device && known.hpke == applicant.hpke => {
                return Ok(Enrolment { device: known.clone(), invite: invite.clone(), already: true });
            }
            (Some(_), _) => return Err(RegistryError::InviteUsed),
            (None, _) if invite.expires <= now => return Err(RegistryError::InviteExpired(invite.expires)),
            (None, Some(known)) if known.account != invite.account => return Err(RegistryError::OtherCustomer),
            (None, Some(_)) => {}
            (None, None) => self.has_room(&invite.account)?,
        }
        let used = Invite { used_by: Some(applicant.device), ..invite.clone() };
        let device = self.enrolled(now, invite.account, invite.kind, invite.site.clone(), applicant);
        Ok(Enrolment { device, invite: used, already: false })
    }

    /// A device that somebody of this customer lets in, as it should be written down.
    pub fn pair(
        &self,
        now: Utc,
        account: &AccountId,
        kind: DeviceKind,
        site: SiteId,
        applicant: Applicant,
    ) -> Result<Device, RegistryError> {
        self.may_grow(account)?;
        match self.device(&applicant.device) {
            Some(known) if known.revoked => return Err(RegistryError::Revoked),
            Some(known) if known.account != *account => return Err(RegistryError::OtherCustomer),
            Some(_) => {}
            None => self.has_room(account)?,
        }
        Ok(self.enrolled(now, *account, kind, site, applicant))
    }

    fn enrolled(&self, now: Utc, account: AccountId, kind: DeviceKind, site: SiteId, applicant: Applicant) -> Device {
        let known = self.device(&applicant.device);
        Device {
            device: applicant.device,
            account,
            name: applicant.name,
            site,
            kind,
            hpke: applicant.hpke,
            issued: now,
            serial: known.map_or(1, |it| it.serial + 1),
            revoked: false,
            last_seen: now,
            rating_limit: known.map_or(Limit::Unlimited, |it| it.rating_limit),
        }
    }

    /// A device, shut out.
    pub fn revoked(&self, device: &DeviceId) -> Result<Device, RegistryError> {
        let device = self.device(device).ok_or(RegistryError::NoDevice)?;
        Ok(Device { revoked: true, ..device.clone() })
    }

    /// Who is calling, if it belongs here.
    pub fn member(&self, device: &DeviceId) -> Result<&Device, RegistryError> {
        match self.device(device) {
            None => Err(RegistryError::NoDevice),
            Some(it) if it.revoked => Err(RegistryError::Revoked),
            Some(it) => Ok(it),
        }
    }

    /// Writes a customer in.
    pub fn insert_customer(&mut self, customer: Customer) {
        if let Some(old) = self.customers.get(&customer.account) {
            self.by_name.remove(&old.name);
        }
        self.by_name.insert(customer.name.clone(), customer.account);
        self.customers.insert(customer.account, customer);
    }

    /// Writes a device in.
    pub fn insert_device(&mut self, device: Device) {
        if let Some(old) = self.devices.get(&device.device) {
            self.by_account.remove(&(old.account, old.device));
        }
        self.by_account.insert((device.account, device.device));
        self.devices.insert(device.device, device);
    }

    /// Writes an invitation in.
    pub fn insert_invite(&mut self, invite: Invite) {
        self.invites.insert(invite.key, invite);
    }

    /// Writes a publisher in; false if it was there under this name already.
    pub fn insert_publisher(&mut self, publisher: PublisherId, name: String) -> bool {
        self.publishers.insert(publisher, name.clone()) != Some(name)
    }

    /// Notes that a device has been heard of.
    pub fn handle_seen(&mut self, now: Utc, device: &DeviceId) {
        if let Some(it) = self.devices.get_mut(device) {
            it.last_seen = it.last_seen.max(now);
        }
    }

    /// Forgets invitations that nobody can use or repeat any more, and says which.
    pub fn forget_invites(&mut self, now: Utc) -> Vec<InviteKey> {
        let over: Vec<InviteKey> =
            self.invites.values().filter(|it| it.expires + INVITE_KEPT <= now).map(|it| it.key).collect();
        for key in &over {
            self.invites.remove(key);
        }
        over
    }

    /// Forgets a customer with its devices and invitations, as if it had never been.
    pub fn forget_customer(&mut self, account: &AccountId) {
        if let Some(customer) = self.customers.remove(account) {
            self.by_name.remove(&customer.name);
        }
        let devices: Vec<DeviceId> = self.devices_of(account).map(|it| it.device).collect();
        for device in devices {
            self.by_account.remove(&(*account, device));
            self.devices.remove(&device);
        }
        self.invites.retain(|_, invite| invite.account != *account);
    }

    /// Invitations of a customer, used or not.
    pub fn invites_of(&self, account: &AccountId) -> impl Iterator<Item = &Invite> {
        self.invites.values().filter(move |it| it.account == *account)
    }

    /// A customer.
    pub fn customer(&self, account: &AccountId) -> Option<&Customer> {
        self.customers.get(account)
    }

    /// The customer of this name.
    pub fn customer_named(&self, name: &str) -> Option<&Customer> {
        self.customers.get(self.by_name.get(name)?)
    }

    /// Customers in order of their ids, from after one of them.
    pub fn customers_after(&self, after: Option<AccountId>) -> impl Iterator<Item = &Customer> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.customers.range((from, Bound::Unbounded)).map(|(_, it)| it)
    }

    /// A device, revoked or not.
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }

    /// Devices in order of their ids, from after one of them.
    pub fn devices_after(&self, after: Option<DeviceId>) -> impl Iterator<Item = &Device> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.devices.range((from, Bound::Unbounded)).map(|(_, it)| it)
    }

    /// Devices of one customer.
    pub fn devices_of(&self, account: &AccountId) -> impl Iterator<Item = &Device> {
        let all = (*account, DeviceId::from([0; 32]))..=(*account, DeviceId::from([0xff; 32]));
        self.by_account.range(all).map(|(_, device)| &self.devices[device])
    }

    /// Whether the operator has admitted this publisher.
    pub fn is_publisher(&self, publisher: &PublisherId) -> bool {
        self.publishers.contains_key(publisher)
    }

    /// The name under which a publisher was admitted.
    pub fn publisher_name(&self, publisher: &PublisherId) -> Option<&str> {
        self.publishers.get(publisher).map(String::as_str)
    }

    fn is_free(&self, name: &str) -> Result<(), RegistryError> {
        if self.by_name.contains_key(name) { Err(RegistryError::NameTaken) } else { Ok(()) }
    }

    /// Whether devices may join a customer.
    fn may_grow(&self, account: &AccountId) -> Result<(), RegistryError> {
        match self.customer(account).ok_or(RegistryError::NoCustomer)?.status {
            Status::Active => Ok(()),
            Status::Suspended => Err(RegistryError::Suspended),
            Status::Closed { .. } => Err(RegistryError::Closed),
        }
    }

    fn has_room(&self, account: &AccountId) -> Result<(), RegistryError> {
        match self.devices_of(account).filter(|it| !it.revoked).count() < MAX_DEVICES_PER_CUSTOMER {
            true => Ok(()),
            false => Err(RegistryError::Full { what: "devices of a customer", limit: MAX_DEVICES_PER_CUSTOMER }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn account(n: u8) -> AccountId {
        AccountId::from([n; 16])
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from([n; 32])
    }

    fn at(hours: u64) -> Utc {
        Utc::from_secs(1_800_000_000) + HOUR * u32::try_from(hours).expect("tests are short")
    }

    fn applicant(n: u8) -> Applicant {
        Applicant { device: device(n), hpke: HpkePublic::from_bytes([n; 32]), name: format!("box {n}") }
    }

    fn invite(n: u8, account: AccountId) -> Invite {
        let site = SiteId::new("north").expect("a label");
        let key = InviteKey([n; 32]);
        Invite { key, account, kind: DeviceKind::Box, site, expires: at(1), used_by: None }
    }

    /// Two customers, with one open invitation for the first.
    fn registry() -> Registry {
        let mut registry = Registry::default();
        for n in 1..=2 {
            let customer = registry.new_customer(at(0), account(n), &format!("customer {n}")).unwrap();
            registry.insert_customer(customer);
        }
        let open = registry.new_invite(invite(1, account(1))).unwrap();
        registry.insert_invite(open);
        registry
    }

    fn accept(registry: &mut Registry, enrolment: &Enrolment) {
        registry.insert_device(enrolment.device.clone());
        registry.insert_invite(enrolment.invite.clone());
    }

    fn enrolled() -> (Registry, Enrolment) {
        let mut registry = registry();
        let enrolment = registry.enrol(at(0), InviteKey([1; 32]), applicant(1)).unwrap();
        accept(&mut registry, &enrolment);
        (registry, enrolment)
    }

    #[test]
    fn code_turns_into_a_membership_of_its_account() {
        let (registry, enrolment) = enrolled();
        let membership = enrolment.device.membership();
        assert_eq!((membership.account, membership.serial), (account(1), 1));
        assert_eq!(membership.expires, at(0) + MEMBERSHIP_LASTS);
        assert_eq!(registry.member(&device(1)).unwrap().name, "box 1");
    }

    #[test]
    fn same_device_gets_the_same_membership_again_even_after_the_code_has_expired() {
        let (registry, first) = enrolled();
        let again = registry.enrol(at(5), InviteKey([1; 32]), applicant(1)).unwrap();
        assert!(again.already);
        assert_eq!(again.device.membership(), first.device.membership());
    }

    #[test]
    fn second_device_cannot_use_the_code() {
        let (registry, _) = enrolled();
        assert_eq!(registry.enrol(at(0), InviteKey([1; 32]), applicant(2)), Err(RegistryError::InviteUsed));
    }

    #[test]
    fn code_is_worth_nothing_after_its_time() {
        let refused = registry().enrol(at(1), InviteKey([1; 32]), applicant(1));
        assert_eq!(refused, Err(RegistryError::InviteExpired(at(1))));
    }

    #[test]
    fn unknown_code_lets_nobody_in() {
        assert_eq!(registry().enrol(at(0), InviteKey([9; 32]), applicant(1)), Err(RegistryError::NoInvite));
    }

    #[test]
    fn enrolled_device_gets_a_higher_serial_with_a_new_code_of_its_customer() {
        let (mut registry, _) = enrolled();
        let open = registry.new_invite(invite(2, account(1))).unwrap();
        registry.insert_invite(open);
        let again = registry.enrol(at(0), InviteKey([2; 32]), applicant(1)).unwrap();
        assert_eq!((again.device.serial, again.already), (2, false));
    }

    #[test]
    fn device_does_not_change_hands_by_a_code() {
        let (mut registry, _) = enrolled();
        let open = registry.new_invite(invite(2, account(2))).unwrap();
        registry.insert_invite(open);
        let refused = registry.enrol(at(0), InviteKey([2; 32]), applicant(1));
        assert_eq!(refused, Err(RegistryError::OtherCustomer));
    }

    #[test]
    fn revoked_device_does_not_come_back() {
        let (mut registry, _) = enrolled();
        let revoked = registry.revoked(&device(1)).unwrap();
        registry.insert_device(revoked);
        assert_eq!(registry.member(&device(1)), Err(RegistryError::Revoked));
        let refused = registry.enrol(at(0), InviteKey([1; 32]), applicant(1));
        assert_eq!(refused, Err(RegistryError::Revoked));
    }

    #[test]
    fn closed_account_opens_again_for_thirty_days_and_not_later() {
        let (mut registry, _) = enrolled();
        let closed = registry.with_standing(at(0), &account(1), Standing::Closed).unwrap();
        registry.insert_customer(closed.clone());
        assert_eq!(registry.with_standing(at(5), &account(1), Standing::Closed), Ok(closed));
        assert_eq!(registry.with_standing(at(5), &account(1), Standing::Suspended), Err(RegistryError::Closed));
        assert_eq!(registry.new_invite(invite(7, account(1))), Err(RegistryError::Closed));
        let reopened = registry.with_standing(at(30 * 24 - 1), &account(1), Standing::Active).unwrap();
        assert_eq!(reopened.status, Status::Active);
        let late = registry.with_standing(at(30 * 24), &account(1), Standing::Active);
        assert_eq!(late, Err(RegistryError::ClosedForGood));
    }

    #[test]
    fn suspended_customer_gets_no_new_devices() {
        let mut registry = registry();
        let suspended = registry.with_standing(at(0), &account(1), Standing::Suspended).unwrap();
        registry.insert_customer(suspended);
        let refused = registry.enrol(at(0), InviteKey([1; 32]), applicant(1));
        assert_eq!(refused, Err(RegistryError::Suspended));
        let site = SiteId::new("north").expect("a label");
        let refused = registry.pair(at(0), &account(1), DeviceKind::Box, site, applicant(1));
        assert_eq!(refused, Err(RegistryError::Suspended));
    }

    #[test]
    fn renamed_customer_frees_its_old_name_and_takes_no_others() {
        let mut registry = registry();
        let rename = |name: &str| CustomerChange { name: Some(name.to_owned()), ..CustomerChange::default() };
        assert_eq!(registry.changed_customer(&account(1), rename("customer 2")), Err(RegistryError::NameTaken));
        let renamed = registry.changed_customer(&account(1), rename("Ada")).unwrap();
        registry.insert_customer(renamed);
        assert_eq!(registry.customer_named("customer 1"), None);
        assert!(registry.new_customer(at(0), account(3), "customer 1").is_ok());
    }

    #[test]
    fn device_that_moves_gets_a_new_membership_and_one_that_is_renamed_keeps_its_own() {
        let (registry, enrolment) = enrolled();
        let rename = DeviceChange { name: Some("kitchen".to_owned()), ..DeviceChange::default() };
        let renamed = registry.changed_device(at(3), &device(1), rename).unwrap();
        assert_eq!((renamed.name.as_str(), renamed.serial), ("kitchen", enrolment.device.serial));
        let to = DeviceChange { site: Some(SiteId::new("south").expect("a label")), ..DeviceChange::default() };
        let moved = registry.changed_device(at(3), &device(1), to).unwrap();
        assert_eq!((moved.site.as_str(), moved.serial, moved.issued), ("south", enrolment.device.serial + 1, at(3)));
    }

    #[test]
    fn forgotten_customer_leaves_nothing_and_its_device_can_be_anothers() {
        let (mut registry, _) = enrolled();
        registry.forget_customer(&account(1));
        assert_eq!((registry.customer(&account(1)), registry.device(&device(1))), (None, None));
        assert_eq!(registry.invites_of(&account(1)).count() + registry.devices_of(&account(1)).count(), 0);
        let site = SiteId::new("north").expect("a label");
        assert!(registry.pair(at(1), &account(2), DeviceKind::Box, site, applicant(1)).is_ok());
    }

    #[test]
    fn membership_is_renewed_when_half_of_it_is_over() {
        let (_, enrolment) = enrolled();
        assert_eq!(enrolment.device.renewed(at(14 * 24)), None);
        let renewed = enrolment.device.renewed(at(15 * 24)).unwrap();
        assert_eq!((renewed.serial, renewed.issued), (2, at(15 * 24)));
    }

    #[test]
    fn customer_names_are_unique() {
        let refused = registry().new_customer(at(0), account(3), "customer 1");
        assert_eq!(refused, Err(RegistryError::NameTaken));
    }

    #[test]
    fn old_invitations_are_forgotten() {
        let mut registry = registry();
        assert_eq!(registry.forget_invites(at(2)), []);
        let long_after = at(1) + INVITE_KEPT;
        assert_eq!(registry.forget_invites(long_after), [InviteKey([1; 32])]);
        assert_eq!(registry.enrol(long_after, InviteKey([1; 32]), applicant(1)), Err(RegistryError::NoInvite));
    }

    #[test]
    fn devices_are_listed_by_customer() {
        let (registry, _) = enrolled();
        assert_eq!(registry.devices_of(&account(1)).count(), 1);
        assert_eq!(registry.devices_of(&account(2)).count(), 0);
    }
}
