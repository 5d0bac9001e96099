//! How a refusal of the ledger reads to whoever asked: a code, a sentence, a next step.
//!
//! The codes are part of the contract with devices (`proto/reelswarm/keyserver/v1`): a box shows one thing for
//! `PAYMENT_REQUIRED` and another for `TOO_LATE`. Nothing is decided here.

use daemon::{Exit, Failure};
use swarm_proto::invalid::Invalid;
use swarm_proto::keyserver::drips::DripRefusal;
use swarm_proto::keyserver::grants::GrantRefusal;
use swarm_proto::keyserver::players::PlayersRefusal;
use swarm_proto::keyserver::refusals::{
    AdmitRefusal, BillRefusal, DepositRefusal, Full, ImportRefusal, LookRefusal, OrderRefusal, PassRefusal, PayRefusal,
    PlayRefusal, PreviewRefusal, RefundRefusal, ReplaceRefusal, SpanRefusal, TillRefusal, VoidRefusal, WithdrawRefusal,
};
use swarm_proto::licence::Denied;
use tonic::{Code, Status};

/// A field that breaks a rule.
pub(crate) fn invalid(invalid: &Invalid) -> Failure {
    Failure::new(Exit::Usage, "E-FIELD-01", invalid).hint("correct the field and ask again")
}

/// A caller who does not prove who they are.
pub(crate) fn unauthenticated(why: impl std::fmt::Display, hint: &str) -> Status {
    let failure = Failure::new(Exit::NotAllowed, "E-CALL-01", "the caller is not known").why(why).hint(hint);
    let detailed = Status::from(failure);
    Status::with_details(Code::Unauthenticated, detailed.message(), detailed.details().to_vec().into())
}

pub(crate) fn admit(refusal: &AdmitRefusal) -> Failure {
    match refusal {
        AdmitRefusal::Invalid(field) => invalid(field),
        AdmitRefusal::Full(limit) => full(limit, "limits.publishers"),
    }
}

pub(crate) fn deposit(refusal: &DepositRefusal) -> Failure {
    let conflict = |code| Failure::new(Exit::Conflict, code, refusal);
    match refusal {
        DepositRefusal::NotAdmitted => Failure::new(Exit::NotAllowed, "E-DEPOSIT-01", refusal)
            .hint("the operator admits a publisher with `keyserver publisher add ID`"),
        DepositRefusal::OtherKey => {
            conflict("E-DEPOSIT-02").hint("publish the file again: it is sealed with a fresh key then")
        }
        DepositRefusal::OtherTitle => {
            conflict("E-DEPOSIT-03").hint("publish the file again: it becomes an item of its own then")
        }
        DepositRefusal::OldVersion(known) => {
            conflict("E-DEPOSIT-04").hint(format!("publish it as version {}", known + 1))
        }
        DepositRefusal::KeyUsed(_) => conflict("E-DEPOSIT-08")
            .hint("publish the file without --cpix, or with another key of the document: each seals one item"),
        DepositRefusal::Full(limit) => full(limit, "limits.items"),
    }
}

pub(crate) fn import(refusal: &ImportRefusal) -> Failure {
    match refusal {
        ImportRefusal::NotAdmitted => Failure::new(Exit::NotAllowed, "E-CPIX-02", refusal)
            .hint("the operator admits a publisher with `keyserver publisher add ID`"),
        ImportRefusal::OtherKey(_) => Failure::new(Exit::Conflict, "E-CPIX-03", refusal)
            .hint("ask the studio which key is right; a new key needs a new KID"),
        ImportRefusal::KeyUsed(_) => Failure::new(Exit::Conflict, "E-CPIX-04", refusal)
            .hint("ask the studio for another key: each seals one item"),
        ImportRefusal::Full(limit) => full(limit, "limits.items"),
    }
}

pub(crate) fn order(refusal: &OrderRefusal) -> Failure {
    let missing = |code| Failure::new(Exit::NotFound, code, refusal);
    match refusal {
        OrderRefusal::NoSuchItem => {
            missing("E-ORDER-01").hint("the title is sold by another keyserver, or not published yet")
        }
        OrderRefusal::NoSuchOffer => missing("E-ORDER-02").hint("look at the offers again: they may have changed"),
        OrderRefusal::OfferOver(_) => Failure::new(Exit::Payment, "TOO_LATE", refusal).hint("choose another offer"),
        OrderRefusal::KeyReused => {
            Failure::new(Exit::Conflict, "E-ORDER-03", refusal).hint("make a new idempotency key for each purchase")
        }
        OrderRefusal::TooManyOpen(_) => {
            Failure::new(Exit::Storage, "E-ORDER-04", refusal).hint("pay some of them, or wait until they expire")
        }
        OrderRefusal::Full(limit) => full(limit, "limits"),
    }
}

pub(crate) fn look(refusal: &LookRefusal) -> Failure {
    match refusal {
        LookRefusal::NoSuchOrder => Failure::new(Exit::NotFound, "E-ORDER-05", refusal).hint("check the order's id"),
        LookRefusal::OtherAccount => {
            Failure::new(Exit::NotAllowed, "E-ORDER-06", refusal).hint("ask from a device of the account that ordered")
        }
    }
}

pub(crate) fn pass(refusal: &PassRefusal) -> Failure {
    match refusal {
        PassRefusal::Invalid(field) => invalid(field),
        PassRefusal::Full(limit) => full(limit, "limits.passes"),
    }
}

pub(crate) fn pay(refusal: &PayRefusal) -> Failure {
    let unpaid = |code| Failure::new(Exit::Payment, code, refusal);
    match refusal {
        PayRefusal::Look(refusal) => look(refusal),
        PayRefusal::Refunded => unpaid("ORDER_REFUNDED").hint("order again"),
        PayRefusal::Disputed => unpaid("ORDER_DISPUTED").hint("wait until the bank has decided, or order again"),
        PayRefusal::Expired => unpaid("ORDER_EXPIRED").hint("order again"),
        PayRefusal::PassForPass => unpaid("E-WAY-01").hint("pay for the pass with money"),
        PayRefusal::CreditsOnly => unpaid("E-WAY-02").hint("pay with a pass"),
        PayRefusal::TooManyTries(_) => unpaid("E-WAY-03").hint("order again, and look at the way to pay before that"),
        PayRefusal::Busy(_) => {
            Failure::new(Exit::Unreachable, "E-WAY-04", refusal).hint("try again in a few minutes, or pay another way")
        }
        PayRefusal::NoBill => unpaid("E-WAY-05").hint("pay another way, or ask your provider to set up a bill"),
        PayRefusal::OverLimit { .. } => unpaid("E-WAY-06").hint("pay another way"),
        PayRefusal::MonthClosed(_) => Failure::new(Exit::Unreachable, "E-WAY-07", refusal)
            .hint("the operator sets the clock of the keyserver right; pay another way until then"),
        PayRefusal::PassOfAnother => unpaid("PASS_OF_ANOTHER").hint("use a pass of this account"),
        PayRefusal::PassVoid => unpaid("PASS_VOID").hint("use another pass"),
        PayRefusal::WrongCode => wrong_code(),
        PayRefusal::PassExpired(_) => unpaid("PASS_EXPIRED").hint("use another pass"),
        PayRefusal::PassEmpty { .. } => unpaid("PASS_EMPTY").hint("use another pass"),
        PayRefusal::TooDear => unpaid("PASS_EMPTY").hint("pay at a till"),
    }
}

pub(crate) fn refund(refusal: &RefundRefusal) -> Failure {
    let usage = |code| Failure::new(Exit::Usage, code, refusal);
    match refusal {
        RefundRefusal::Look(refusal) => look(refusal),
        RefundRefusal::WholeOnly => usage("E-REFUND-01").hint("leave the amount out"),
        RefundRefusal::NothingPaid => usage("E-REFUND-02").hint("leave the amount out to close the order"),
        RefundRefusal::NothingUnused => usage("E-REFUND-03").hint("say how much is to go back, if it is meant so"),
        RefundRefusal::TooMuch { .. } => usage("E-REFUND-04").hint("give back that much at most"),
        RefundRefusal::TooMany(_) => Failure::new(Exit::Storage, "E-REFUND-05", refusal)
            .hint("look at what happened with `keyserver order show`"),
        RefundRefusal::IdReused => {
            Failure::new(Exit::Conflict, "E-REFUND-06", refusal).hint("make a new id for each refund")
        }
    }
}

pub(crate) fn void(refusal: &VoidRefusal) -> Failure {
    match refusal {
        VoidRefusal::NoSuchPass => Failure::new(Exit::NotFound, "E-PASS-04", refusal).hint("keyserver pass ls"),
        VoidRefusal::Bought(order) => Failure::new(Exit::Conflict, "E-PASS-05", refusal)
            .hint(format!("give the money back with `keyserver order refund {order}`: the pass goes with it")),
    }
}

pub(crate) fn bill(refusal: &BillRefusal) -> Failure {
    match refusal {
        BillRefusal::NotOver(_) => Failure::new(Exit::Usage, "E-BILL-01", refusal).hint("close it when it is over"),
        BillRefusal::OtherCurrency => Failure::new(Exit::Conflict, "E-BILL-02", refusal)
            .hint("close the months in which it owes, then change the currency"),
        BillRefusal::Full(limit) => payers_full(limit),
    }
}

pub(crate) fn payers_full(limit: &Full) -> Failure {
    Failure::new(Exit::Storage, "E-BILL-03", limit).hint("no more accounts can be set up to pay this way")
}

/// A pass code that nobody sold.
pub(crate) fn wrong_code() -> Failure {
    Failure::new(Exit::NotFound, "E-PASS-01", "there is no pass with this code")
        .hint("check the code and type it again")
}

pub(crate) fn grant(refusal: &GrantRefusal) -> Failure {
    let closed = |code| Failure::new(Exit::Payment, code, refusal);
    match refusal {
        GrantRefusal::NoSuchOrder => look(&LookRefusal::NoSuchOrder),
        GrantRefusal::OtherAccount => look(&LookRefusal::OtherAccount),
        GrantRefusal::NotABox => {
            Failure::new(Exit::NotAllowed, "E-GRANT-01", refusal).hint("ask from a box of the account")
        }
        GrantRefusal::PaymentRequired => closed("PAYMENT_REQUIRED").hint("pay the order, with a pass or at a till"),
        GrantRefusal::OrderExpired => closed("ORDER_EXPIRED").hint("order again"),
        GrantRefusal::OrderRefunded => closed("ORDER_REFUNDED").hint("order again"),
        GrantRefusal::OrderDisputed => closed("ORDER_DISPUTED").hint("wait until the bank has decided, or order again"),
        GrantRefusal::NotATitle => Failure::new(Exit::Usage, "E-GRANT-06", refusal).hint("order a title"),
        GrantRefusal::TooEarly(begin) => closed("TOO_EARLY").hint(format!("ask again at {begin}")),
        GrantRefusal::TooLate(_) => closed("TOO_LATE").hint("order again, if the title is still offered"),
        GrantRefusal::DeviceRevoked => device_revoked(refusal),
        GrantRefusal::TooManyDevices(_) => closed("TOO_MANY_DEVICES")
            .hint("watch on one of the devices that have the key, or take the place of one: peer-node pay TITLE --replaces DEVICE"),
    }
}

/// A deposited key that does not come out of the vault.
pub(crate) fn sealed_key(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Integrity, "E-VAULT-03", "the key of the item cannot be released")
        .why(error)
        .hint("the operator checks the journal with `keyserver audit verify`")
}

/// A device whose public key nothing can be wrapped to.
pub(crate) fn unwrappable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, "E-GRANT-03", "the key cannot be wrapped to the device")
        .why(error)
        .hint("enrol the device again: its HPKE key is unusable")
}

pub(crate) fn span(refusal: &SpanRefusal) -> Failure {
    let closed = |code| Failure::new(Exit::Payment, code, refusal);
    match refusal {
        SpanRefusal::Grant(refusal) => grant(refusal),
        SpanRefusal::Over(Denied::TooEarly(begin)) => closed("TOO_EARLY").hint(format!("ask again at {begin}")),
        SpanRefusal::Over(Denied::RenewalOverdue(_)) => {
            closed("RENEWAL_OVERDUE").hint("ask for a grant: it brings a fresh licence")
        }
        SpanRefusal::Over(_) => closed("TOO_LATE").hint("order again, if the title is still offered"),
        SpanRefusal::NoGrant => closed("NO_GRANT").hint("buy it again, or take the place of another device"),
        SpanRefusal::WholeKey => {
            Failure::new(Exit::Usage, "NOT_DRIPPING", refusal).hint("ask for a grant: it brings the whole key")
        }
    }
}

pub(crate) fn drip_full(refusal: &DripRefusal) -> Failure {
    Failure::new(Exit::Storage, "E-PLAYERS-02", refusal)
        .hint("try again later; the operator runs another keyserver for some of the accounts")
}

pub(crate) fn preview(refusal: &PreviewRefusal) -> Failure {
    match refusal {
        PreviewRefusal::NotABox => grant(&GrantRefusal::NotABox),
        PreviewRefusal::DeviceRevoked => device_revoked(refusal),
        PreviewRefusal::NoSuchItem => order(&OrderRefusal::NoSuchItem),
        PreviewRefusal::NoPreview => {
            Failure::new(Exit::Payment, "NO_PREVIEW", refusal).hint("buy it: peer-node pay TITLE")
        }
        PreviewRefusal::TooMany(again) => Failure::new(Exit::Storage, "TOO_MANY_PREVIEWS", refusal)
            .hint(format!("ask again at {again}, or buy it: peer-node pay TITLE")),
        PreviewRefusal::Full(limit) => Failure::new(Exit::Storage, "E-PREVIEW-01", limit)
            .hint("try again tomorrow; the operator runs another keyserver for some of the accounts"),
    }
}

fn device_revoked(refusal: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::NotAllowed, "DEVICE_REVOKED", refusal).hint("ask the operator why")
}

pub(crate) fn play(refusal: &PlayRefusal) -> Failure {
    match refusal {
        PlayRefusal::Look(refusal) => look(refusal),
        PlayRefusal::NoGrant => {
            Failure::new(Exit::Payment, "NO_GRANT", refusal).hint("buy it again, or take the place of another device")
        }
        PlayRefusal::DeviceRevoked => device_revoked(refusal),
    }
}

pub(crate) fn players(refusal: &PlayersRefusal) -> Failure {
    match refusal {
        PlayersRefusal::TooMany { .. } => Failure::new(Exit::Conflict, "TOO_MANY_PLAYING", refusal)
            .hint("stop one of them, or take its place: peer-node play TITLE --take-over"),
        PlayersRefusal::TakenOver { .. } => Failure::new(Exit::Conflict, "TAKEN_OVER", refusal)
            .hint("to go on here, begin again: peer-node play TITLE --take-over"),
        PlayersRefusal::Full => Failure::new(Exit::Storage, "E-PLAYERS-01", refusal)
            .hint("try again later; the operator runs another keyserver for some of the accounts"),
    }
}

pub(crate) fn replace(refusal: &ReplaceRefusal) -> Failure {
    match refusal {
        ReplaceRefusal::Grant(refusal) => grant(refusal),
        ReplaceRefusal::NoSuchDevice => {
            Failure::new(Exit::NotFound, "E-GRANT-04", refusal).hint("name a device of this account that has the key")
        }
        ReplaceRefusal::Itself => Failure::new(Exit::Usage, "E-GRANT-05", refusal).hint("name the device that is lost"),
        ReplaceRefusal::TooOften(again) => Failure::new(Exit::Payment, "TOO_MANY_REPLACEMENTS", refusal)
            .hint(format!("ask again at {again}, or order again")),
    }
}

pub(crate) fn withdraw(refusal: &WithdrawRefusal) -> Failure {
    match refusal {
        WithdrawRefusal::Look(refusal) => look(refusal),
        WithdrawRefusal::NoGrant => {
            Failure::new(Exit::NotFound, "E-GRANT-06", refusal).hint("see who has it: keyserver grant ls ORDER")
        }
    }
}

/// A till's word that is not taken. It tells the till whether to say it again.
pub(crate) fn till(refusal: &TillRefusal) -> Failure {
    match refusal {
        TillRefusal::NoSuchOrder => Failure::new(Exit::NotFound, "E-WEBHOOK-05", refusal),
        TillRefusal::OtherAccount => Failure::new(Exit::Conflict, "E-WEBHOOK-06", refusal),
        TillRefusal::OtherAmount => Failure::new(Exit::Conflict, "E-WEBHOOK-07", refusal),
        TillRefusal::EventReused => Failure::new(Exit::Conflict, "E-WEBHOOK-08", refusal),
        TillRefusal::TooMany => Failure::new(Exit::Conflict, "E-WEBHOOK-09", refusal),
    }
    .hint("compare the order at the till with `keyserver order ls`")
}

fn full(limit: &Full, key: &str) -> Failure {
    Failure::new(Exit::Storage, "E-KEYSERVER-02", limit)
        .hint(format!("the operator can raise {key}, if there is memory for it"))
}
