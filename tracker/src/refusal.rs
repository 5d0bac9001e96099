//! How a tracker says no: one code for each reason, and what to do about it.
//!
//! The list of codes is here and nowhere else. `E-CALL-01` to `-03` mean that the caller has not proven who it is, or
//! does not belong here any more: gRPC calls that "unauthenticated".

use std::fmt;

use daemon::exit::{Exit, Failure};
use swarm_proto::catalog::Superseded;
use swarm_proto::id::SiteId;
use swarm_proto::invalid::Invalid;
use swarm_proto::tracker::admission::Refused;
use swarm_proto::tracker::catalog;
use swarm_proto::tracker::pairing::PairingError;
use swarm_proto::tracker::queue::QueueError;
use swarm_proto::tracker::registry::RegistryError;
use swarm_proto::tracker::sites::MAX_SITES;
use tonic::{Code, Status};

/// A refusal as gRPC carries it.
pub(crate) fn status(failure: Failure) -> Status {
    let code = match failure.code.as_ref() {
        "E-CALL-01" | "E-CALL-02" | "E-CALL-03" => Code::Unauthenticated,
        "E-QUEUE-04" | "E-SITE-02" => Code::Aborted,
        "E-PUBLISH-03" | "E-PUBLISH-05" => Code::FailedPrecondition,
        "E-ENROL-05" | "E-PAIR-04" => Code::ResourceExhausted,
        _ => return failure.into(),
    };
    let detailed = Status::from(failure);
    Status::with_details(code, detailed.message(), detailed.details().to_vec().into())
}

/// A field of a message breaks its rule.
pub(crate) fn field(invalid: &Invalid) -> Failure {
    Failure::new(Exit::Usage, "E-FIELD-01", format!("field {} is not acceptable", invalid.field)).why(&invalid.why)
}

/// The caller has not proven who it is.
pub(crate) fn unproven(why: impl fmt::Display) -> Failure {
    Failure::new(Exit::NotAllowed, "E-CALL-01", "this call does not say who makes it")
        .why(why)
        .hint("enrol this device, or present the operator's token")
}

/// The caller is not one of those who may ask this.
pub(crate) fn not_for_devices() -> Failure {
    Failure::new(Exit::NotAllowed, "E-CALL-04", "this is for the operator")
        .hint("present the token from operator.token in the tracker's data folder")
}

/// A report that only seeds make.
pub(crate) fn not_a_seed() -> Failure {
    Failure::new(Exit::NotAllowed, "E-CALL-06", "this is for seeds")
        .hint("a box's uploads are counted by their receivers")
}

/// A call that only devices make.
pub(crate) fn not_for_operators() -> Failure {
    Failure::new(Exit::NotAllowed, "E-CALL-05", "this is for devices").hint("call it with a device's call token")
}

/// The tracker ends before it has answered.
pub(crate) fn stopping() -> Failure {
    Failure::new(Exit::Unreachable, "E-STOP-01", "the tracker is stopping").hint("try again in a moment")
}

/// What the registry says about the one who calls.
pub(crate) fn caller(error: RegistryError) -> Failure {
    match error {
        RegistryError::NoDevice => Failure::new(Exit::NotAllowed, "E-CALL-02", error)
            .hint("enrol it: peer-node enrol CODE, with a code of its customer"),
        RegistryError::Revoked => Failure::new(Exit::NotAllowed, "E-CALL-03", error)
            .hint("start it with a new identity and enrol that, or talk to the operator"),
        other => registry(other),
    }
}

/// What the registry says about anyone.
pub(crate) fn registry(error: RegistryError) -> Failure {
    let (exit, code, hint) = match &error {
        RegistryError::NoCustomer => (Exit::NotFound, "E-CUSTOMER-01", "tracker customer ls"),
        RegistryError::NameTaken => (Exit::Conflict, "E-CUSTOMER-02", "choose another name"),
        RegistryError::Suspended => {
            (Exit::NotAllowed, "E-CUSTOMER-03", "talk to the operator (tracker customer activate NAME)")
        }
        RegistryError::Closed => {
            (Exit::NotAllowed, "E-CUSTOMER-04", "talk to the operator (tracker customer activate NAME, within 30 days)")
        }
        RegistryError::ClosedForGood => (Exit::NotAllowed, "E-CUSTOMER-05", "tracker customer add NAME"),
        RegistryError::NoDevice => (Exit::NotFound, "E-DEVICE-01", "tracker device ls"),
        RegistryError::Revoked => (Exit::NotAllowed, "E-DEVICE-02", "start it with a new identity and enrol that"),
        RegistryError::OtherCustomer => {
            (Exit::Conflict, "E-DEVICE-03", "revoke it there first, or start a new identity")
        }
        RegistryError::NoInvite => (Exit::NotAllowed, "E-ENROL-01", "check the code, or ask for a new one"),
        RegistryError::InviteExpired(_) => (Exit::NotAllowed, "E-ENROL-02", "ask for a new code"),
        RegistryError::InviteUsed => (Exit::NotAllowed, "E-ENROL-03", "ask for a code for this device alone"),
        RegistryError::Full { .. } => (Exit::Storage, "E-LIMIT-01", "remove what is not needed any more"),
    };
    Failure::new(exit, code, error).hint(hint)
}

/// Why an entry does not enter the catalog.
pub(crate) fn publish(error: catalog::Refusal) -> Failure {
    let (exit, code, hint) = match &error {
        catalog::Refusal::Superseded(Superseded::OtherPublisher) => {
            (Exit::NotAllowed, "E-PUBLISH-02", "publish it under a title id of your own")
        }
        catalog::Refusal::Superseded(Superseded::Older { .. }) => {
            (Exit::Conflict, "E-PUBLISH-03", "publish it as the next version")
        }
        catalog::Refusal::Superseded(Superseded::Conflict { .. }) => {
            (Exit::Conflict, "E-PUBLISH-04", "publish it as the next version")
        }
        catalog::Refusal::OtherLength { .. } => {
            (Exit::Conflict, "E-PUBLISH-05", "compare the sealed file with its item id (b3sum)")
        }
        catalog::Refusal::Full => (Exit::Storage, "E-LIMIT-01", "run another tracker for further titles"),
    };
    Failure::new(exit, code, error).hint(hint)
}

/// Why a queue did not change.
pub(crate) fn queue(error: QueueError) -> Failure {
    let (exit, code, hint) = match &error {
        QueueError::Full => (Exit::Storage, "E-QUEUE-01", "take a title out first"),
        QueueError::Absent => (Exit::NotFound, "E-QUEUE-02", "look at the queue again"),
        QueueError::NoSuchPlace => (Exit::NotFound, "E-QUEUE-03", "look at the queue again"),
        QueueError::MovedOn { .. } => (Exit::Conflict, "E-QUEUE-04", "look at the queue again and repeat"),
    };
    Failure::new(exit, code, error).hint(hint)
}

/// No title is meant by this.
pub(crate) fn no_title() -> Failure {
    Failure::new(Exit::NotFound, "E-TITLE-01", "there is no such title in the catalog")
        .hint("tracker title ls shows what there is; a title is named by its id, its item id or its exact name")
}

/// Several titles are meant by this.
pub(crate) fn many_titles(name: &str, ids: &[String]) -> Failure {
    Failure::new(Exit::Conflict, "E-TITLE-02", format!("{} titles are called {name}", ids.len()))
        .why(ids.join(", "))
        .hint("name the one that is meant by its id")
}

/// Why a title is not for someone.
pub(crate) fn admission(refused: Refused) -> Failure {
    let (code, hint) = match &refused {
        Refused::NoDevice => return caller(RegistryError::NoDevice),
        Refused::Revoked => return caller(RegistryError::Revoked),
        Refused::NoCustomer => return registry(RegistryError::NoCustomer),
        Refused::Suspended => return registry(RegistryError::Suspended),
        Refused::Closed => return registry(RegistryError::Closed),
        Refused::Withdrawn => ("E-TITLE-03", "choose another title; what is complete on a disk stays there"),
        Refused::Hidden => ("E-TITLE-05", "choose another title; what is complete on a disk stays there"),
        Refused::NoRegion => {
            ("E-ADMIT-01", "ask the operator to state the region: tracker customer set NAME --region XX")
        }
        Refused::OtherRegion(_) => ("E-ADMIT-02", "choose a title that is offered there"),
        Refused::AboveCustomersLimit { .. } => {
            ("E-ADMIT-03", "choose another title, or raise the limit: tracker customer set NAME --rating-limit AGE")
        }
        Refused::AboveDevicesLimit { .. } => {
            ("E-ADMIT-04", "use another box, or raise the limit: tracker device limit DEVICE AGE")
        }
    };
    Failure::new(Exit::NotAllowed, code, refused).hint(hint)
}

/// Why a pairing does not go on.
pub(crate) fn pairing(error: PairingError) -> Failure {
    let (exit, code, hint) = match &error {
        PairingError::NoCode => (Exit::NotFound, "E-PAIR-01", "compare it with what the box shows"),
        PairingError::NotWaiting => (Exit::NotFound, "E-PAIR-02", "ask for a new code: peer-node enrol --pair"),
        PairingError::Full => (Exit::Unreachable, "E-PAIR-03", "try again in some minutes"),
    };
    Failure::new(exit, code, error).hint(hint)
}

/// Too many codes asked for.
pub(crate) fn too_many_codes(wait: std::time::Duration) -> Failure {
    Failure::new(Exit::NotAllowed, "E-PAIR-04", "too many codes were asked for from this address")
        .hint(format!("try again in {} s", wait.as_secs() + 1))
}

/// The publisher is not known here.
pub(crate) fn not_admitted(publisher: impl fmt::Display) -> Failure {
    Failure::new(Exit::NotAllowed, "E-PUBLISH-01", "this publisher has not been admitted here")
        .why(format!("its key is {publisher}"))
        .hint("ask the operator: tracker publisher add KEY --name NAME")
}

/// Too many wrong codes.
pub(crate) fn too_many_guesses(wait: std::time::Duration) -> Failure {
    Failure::new(Exit::NotAllowed, "E-ENROL-05", "too many wrong codes came from this address")
        .hint(format!("try again in {} s", wait.as_secs() + 1))
}

/// Nothing was said about a site, and no device stands there.
pub(crate) fn no_site(site: &SiteId) -> Failure {
    Failure::new(Exit::NotFound, "E-SITE-01", format!("there is no site {site}"))
        .hint("tracker site ls shows them; tracker site set describes a new one")
}

/// Somebody else has described the site meanwhile.
pub(crate) fn site_moved_on(site: &SiteId, seen: u64, now: u64) -> Failure {
    Failure::new(Exit::Conflict, "E-SITE-02", format!("site {site} has moved on from version {seen} to {now}"))
        .hint("look at the site again and repeat")
}

/// There are as many sites as a tracker keeps.
pub(crate) fn too_many_sites() -> Failure {
    Failure::new(Exit::Storage, "E-SITE-03", format!("a tracker keeps at most {MAX_SITES} sites"))
        .hint("remove one that is not needed any more (tracker site rm), or run another tracker")
}

/// A key file does not hold a key.
pub(crate) fn not_a_key(path: &std::path::Path) -> Failure {
    Failure::new(Exit::Integrity, "E-KEY-01", format!("{} is not the key of a tracker", path.display()))
        .hint("restore it from a backup; devices believe no other key")
}
