//! How records write down what a catalog entry says.
//!
//! The journal outlives the types it was written from, so it has words of its own for offers, prices and clocks.
//! A bound is a number of milliseconds, or the word "unlimited". What is read back passes the same checks as what came
//! in from outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{Currency, Money, Offer, OfferId, OfferKind, Policy};
use crate::drip::{Drip, Preview};
use crate::invalid::Invalid;
use crate::limit::Limit;
use crate::seal::KeyCommitment;
use crate::signed::Signed;
use crate::succession::Succession;
use crate::time::Utc;

/// Makes the pair of functions that `#[serde(with = …)]` wants, from a written form.
macro_rules! written_as {
    ($(#[$doc:meta])* $name:ident, $type:ty, $form:ty) => {
        $(#[$doc])*
        pub(super) mod $name {
            use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

            use super::*;

            pub(in crate::keyserver::record) fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                <$form>::from(value).serialize(serializer)
            }

            pub(in crate::keyserver::record) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                <$form>::deserialize(deserializer)?.try_into().map_err(de::Error::custom)
            }
        }
    };
}

written_as!(commitment, KeyCommitment, CommitmentForm);
written_as!(offer_id, OfferId, OfferIdForm);
written_as!(money, Money, MoneyForm);
written_as!(currency, Currency, CurrencyForm);
written_as!(policy, Policy, PolicyForm);
written_as!(offers, Vec<Offer>, OffersForm);
written_as!(
    /// The signed bytes as they are, so that the signature can always be checked again.
    succession,
    Signed<Succession>,
    SuccessionForm
);

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct CommitmentForm(super::Hex<32>);

impl From<&KeyCommitment> for CommitmentForm {
    fn from(commitment: &KeyCommitment) -> Self {
        Self(super::Hex(*commitment.as_bytes()))
    }
}

impl TryFrom<CommitmentForm> for KeyCommitment {
    type Error = Invalid;

    fn try_from(form: CommitmentForm) -> Result<Self, Invalid> {
        Ok(Self::from_bytes(form.0.0))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct OfferIdForm(String);

impl From<&OfferId> for OfferIdForm {
    fn from(id: &OfferId) -> Self {
        Self(id.to_string())
    }
}

impl TryFrom<OfferIdForm> for OfferId {
    type Error = Invalid;

    fn try_from(form: OfferIdForm) -> Result<Self, Invalid> {
        form.0.parse()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct SuccessionForm(String);

impl From<&Signed<Succession>> for SuccessionForm {
    fn from(succession: &Signed<Succession>) -> Self {
        Self(succession.to_text())
    }
}

impl TryFrom<SuccessionForm> for Signed<Succession> {
    type Error = Invalid;

    fn try_from(form: SuccessionForm) -> Result<Self, Invalid> {
        Self::from_text(&form.0)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct CurrencyForm(String);

impl From<&Currency> for CurrencyForm {
    fn from(currency: &Currency) -> Self {
        Self(currency.to_string())
    }
}

impl TryFrom<CurrencyForm> for Currency {
    type Error = Invalid;

    fn try_from(form: CurrencyForm) -> Result<Self, Invalid> {
        form.0.parse()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoneyForm {
    minor: u64,
    currency: String,
}

impl From<&Money> for MoneyForm {
    fn from(money: &Money) -> Self {
        Self { minor: money.minor, currency: money.currency.to_string() }
    }
}

impl TryFrom<MoneyForm> for Money {
    type Error = Invalid;

    fn try_from(form: MoneyForm) -> Result<Self, Invalid> {
        Self::new(form.minor, form.currency.parse::<Currency>()?)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyForm {
    start_by_ms: Bound,
    finish_within_ms: Bound,
    soft_finish: bool,
    renew_after_ms: Bound,
    offline_grace_ms: Bound,
    not_before_utc_ms: Bound,
    not_after_utc_ms: Bound,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drip: Option<DripForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DripForm {
    every_ms: u64,
    ahead: u32,
}

impl From<Drip> for DripForm {
    fn from(drip: Drip) -> Self {
        // An hour at most: it fits.
        Self { every_ms: drip.every().as_millis() as u64, ahead: drip.ahead() }
    }
}

impl TryFrom<DripForm> for Drip {
    type Error = Invalid;

    fn try_from(form: DripForm) -> Result<Self, Invalid> {
        Self::new(Duration::from_millis(form.every_ms), form.ahead)
    }
}

impl From<&Policy> for PolicyForm {
    fn from(policy: &Policy) -> Self {
        Self {
            start_by_ms: policy.start_by.into(),
            finish_within_ms: policy.finish_within.into(),
            soft_finish: policy.soft_finish,
            renew_after_ms: policy.renew_after.into(),
            offline_grace_ms: policy.offline_grace.into(),
            not_before_utc_ms: policy.not_before.into(),
            not_after_utc_ms: policy.not_after.into(),
            drip: policy.drip.map(Into::into),
        }
    }
}

impl TryFrom<PolicyForm> for Policy {
    type Error = Invalid;

    fn try_from(form: PolicyForm) -> Result<Self, Invalid> {
        Ok(Self {
            start_by: form.start_by_ms.duration()?,
            finish_within: form.finish_within_ms.duration()?,
            soft_finish: form.soft_finish,
            renew_after: form.renew_after_ms.duration()?,
            offline_grace: form.offline_grace_ms.duration()?,
            not_before: form.not_before_utc_ms.moment()?,
            not_after: form.not_after_utc_ms.moment()?,
            drip: form.drip.map(Drip::try_from).transpose()?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct OffersForm(Vec<OfferForm>);

impl From<&Vec<Offer>> for OffersForm {
    fn from(offers: &Vec<Offer>) -> Self {
        Self(offers.iter().map(OfferForm::from).collect())
    }
}

impl TryFrom<OffersForm> for Vec<Offer> {
    type Error = Invalid;

    fn try_from(form: OffersForm) -> Result<Self, Invalid> {
        form.0.into_iter().map(Offer::try_from).collect()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfferForm {
    id: OfferIdForm,
    kind: OfferKindForm,
    price: MoneyForm,
    policy: PolicyForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preview: Option<PreviewForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviewForm {
    length_ms: u64,
    spans: u32,
}

impl From<Preview> for PreviewForm {
    fn from(preview: Preview) -> Self {
        // A day at most: it fits.
        Self { length_ms: preview.length().as_millis() as u64, spans: preview.spans() }
    }
}

impl TryFrom<PreviewForm> for Preview {
    type Error = Invalid;

    fn try_from(form: PreviewForm) -> Result<Self, Invalid> {
        Self::new(Duration::from_millis(form.length_ms), form.spans)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OfferKindForm {
    Rent,
    Buy,
    Pass,
}

impl From<&Offer> for OfferForm {
    fn from(offer: &Offer) -> Self {
        let kind = match offer.kind {
            OfferKind::Rent => OfferKindForm::Rent,
            OfferKind::Buy => OfferKindForm::Buy,
            OfferKind::Pass => OfferKindForm::Pass,
        };
        Self {
            id: (&offer.id).into(),
            kind,
            price: (&offer.price).into(),
            policy: (&offer.policy).into(),
            preview: offer.preview.map(Into::into),
        }
    }
}

impl TryFrom<OfferForm> for Offer {
    type Error = Invalid;

    fn try_from(form: OfferForm) -> Result<Self, Invalid> {
        let kind = match form.kind {
            OfferKindForm::Rent => OfferKind::Rent,
            OfferKindForm::Buy => OfferKind::Buy,
            OfferKindForm::Pass => OfferKind::Pass,
        };
        Ok(Self {
            id: form.id.try_into()?,
            kind,
            price: form.price.try_into()?,
            policy: form.policy.try_into()?,
            preview: form.preview.map(Preview::try_from).transpose()?,
        })
    }
}

/// Milliseconds, or "unlimited".
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bound {
    Of(u64),
    Word(Word),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Unlimited,
}

impl Bound {
    fn duration(&self) -> Result<Limit<Duration>, Invalid> {
        Ok(self.checked()?.map(Duration::from_millis))
    }

    fn moment(&self) -> Result<Limit<Utc>, Invalid> {
        Ok(self.checked()?.map(Utc::from_millis))
    }

    fn checked(&self) -> Result<Limit<u64>, Invalid> {
        match self {
            Self::Of(0) => Err(Invalid::new("limit", "must be at least 1, or \"unlimited\"")),
            Self::Of(millis) => Ok(Limit::Of(*millis)),
            Self::Word(Word::Unlimited) => Ok(Limit::Unlimited),
        }
    }
}

impl From<Limit<Duration>> for Bound {
    fn from(limit: Limit<Duration>) -> Self {
        // Durations of a policy are at most 100 years: they fit.
        limit.bound().map_or(Self::Word(Word::Unlimited), |bound| Self::Of(bound.as_millis() as u64))
    }
}

impl From<Limit<Utc>> for Bound {
    fn from(limit: Limit<Utc>) -> Self {
        limit.bound().map_or(Self::Word(Word::Unlimited), |bound| Self::Of(bound.as_millis()))
    }
}
