//! How prices, dates and states read to people, on pages and in tables.

use std::time::Duration;

use swarm_proto::catalog::{Currency, Money, Policy};
use swarm_proto::keyserver::dues::{Decline, Dispute, Happening, Means, RefundStanding};
use swarm_proto::keyserver::orders::OrderState;
use swarm_proto::keyserver::record::RefundedBy;
use swarm_proto::time::Utc;

/// Currencies whose minor unit is not a hundredth (ISO 4217): how many digits follow the point.
const DIGITS: [(&str, usize); 23] = [
    ("BIF", 0),
    ("CLP", 0),
    ("DJF", 0),
    ("GNF", 0),
    ("ISK", 0),
    ("JPY", 0),
    ("KMF", 0),
    ("KRW", 0),
    ("PYG", 0),
    ("RWF", 0),
    ("UGX", 0),
    ("VND", 0),
    ("VUV", 0),
    ("XAF", 0),
    ("XOF", 0),
    ("XPF", 0),
    ("BHD", 3),
    ("IQD", 3),
    ("JOD", 3),
    ("KWD", 3),
    ("LYD", 3),
    ("OMR", 3),
    ("TND", 3),
];

/// A price: `2.99 EUR`, `300 JPY`, `2 credits`.
pub(crate) fn price(money: &Money) -> String {
    match money.currency {
        Currency::CREDITS => money.to_string(),
        currency => amount(money.minor, currency),
    }
}

/// An amount, which may be zero.
pub(crate) fn amount(minor: u64, currency: Currency) -> String {
    let digits = DIGITS.iter().find(|(code, _)| *code == currency.as_str()).map_or(2, |(_, digits)| *digits);
    if digits == 0 {
        return format!("{minor} {currency}");
    }
    let whole = 10u64.pow(digits as u32);
    format!("{}.{:0digits$} {currency}", minor / whole, minor % whole)
}

/// A moment to the minute: `2026-11-22 15:55 UTC`.
pub(crate) fn moment(at: Utc) -> String {
    let text = at.to_string();
    format!("{} {} UTC", &text[..10], &text[11..16])
}

/// A duration in the unit that fits: `48 hours`, `30 days`.
pub(crate) fn span(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let secs = duration.as_secs().max(1);
    // Up to three days are said in hours: "48 hours" is what people know rentals by.
    let fits = |(size, _): &&(u64, &str)| secs.is_multiple_of(*size) && (*size < 86_400 || secs > 3 * 86_400);
    let (size, unit) = UNITS.iter().find(fits).unwrap_or(&UNITS[3]);
    let count = secs / size;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// What an offer buys, in a sentence.
pub(crate) fn window(policy: &Policy) -> String {
    let mut parts = Vec::new();
    if let Some(start) = policy.start_by.bound() {
        parts.push(format!("start within {}", span(start)));
    }
    if let Some(finish) = policy.finish_within.bound() {
        parts.push(format!("finish within {} of starting", span(finish)));
    }
    if let Some(begin) = policy.not_before.bound() {
        parts.push(format!("from {}", moment(begin)));
    }
    if let Some(end) = policy.not_after.bound() {
        parts.push(format!("until {}", moment(end)));
    }
    match parts.join(", ") {
        none if none.is_empty() => "Yours to keep".to_owned(),
        sentence => sentence[..1].to_uppercase() + &sentence[1..],
    }
}

/// A state, in a word or two.
pub(crate) const fn state(state: OrderState) -> &'static str {
    match state {
        OrderState::Pending => "waiting for money",
        OrderState::Paid => "paid",
        OrderState::Granted => "key released",
        OrderState::Refunded => "refunded",
        OrderState::Disputed => "disputed",
        OrderState::Expired => "never paid",
    }
}

/// Why nothing was charged, to the payer.
pub(crate) const fn decline(why: Decline) -> &'static str {
    match why {
        Decline::Refused => "Your bank or card said no.",
        Decline::Funds => "There was not enough money on it.",
        Decline::Authentication => "Your bank could not make sure that it was you.",
        Decline::Cancelled => "The payment was called off.",
        Decline::Unusable => "This way to pay cannot be used any more.",
    }
}

/// One line of an order's timeline.
pub(crate) fn happening(what: &Happening, currency: Currency) -> String {
    match what {
        Happening::Begun(attempt) => format!("provider asked to collect, payment {attempt}"),
        Happening::Declined(why) => format!("declined: {}", decline(*why)),
        Happening::Paid(Means::Pass(_)) => "paid with a pass".to_owned(),
        Happening::Paid(Means::Webhook(_)) => "paid at a till".to_owned(),
        Happening::Paid(Means::Provider(attempt)) => format!("collected by the provider, payment {attempt}"),
        Happening::Paid(Means::Bill(month)) => format!("put on the bill of {month}"),
        Happening::Refunded(refund) => {
            let how_much = refund.minor.map_or_else(|| "all".to_owned(), |minor| amount(minor, currency));
            let by = match &refund.by {
                RefundedBy::Operator(reason) => format!("by the operator: {}", reason.as_str()),
                RefundedBy::Till(_) => "at the till".to_owned(),
                RefundedBy::Provider => "at the provider".to_owned(),
                RefundedBy::Overpaid => "by itself, since it was paid already".to_owned(),
            };
            let right = if refund.keeps_rights { ", the right stays" } else { "" };
            let standing = match refund.standing {
                RefundStanding::UnderWay => " (under way)",
                RefundStanding::Done(_) => "",
                RefundStanding::Failed(_) => " (the provider will not)",
            };
            format!("{how_much} given back {by}{right}{standing}")
        }
        Happening::Disputed(Dispute::Open) => "disputed by the payer".to_owned(),
        Happening::Disputed(Dispute::Won) => "dispute won: the money stays".to_owned(),
        Happening::Disputed(Dispute::Lost) => "dispute lost: the money went back".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use swarm_proto::limit::Limit;

    use super::*;

    #[test]
    fn prices_have_as_many_digits_as_their_currency() {
        let say = |minor, currency: &str| {
            price(&Money::new(minor, currency.parse().expect("a currency")).expect("an amount"))
        };
        assert_eq!(say(299, "EUR"), "2.99 EUR");
        assert_eq!(say(5, "EUR"), "0.05 EUR");
        assert_eq!(say(300, "JPY"), "300 JPY");
        assert_eq!(say(1_500, "KWD"), "1.500 KWD");
        assert_eq!(say(2, "XXX"), "2 credits");
    }

    #[test]
    fn windows_read_as_sentences() {
        let hours = |hours: u64| Limit::Of(Duration::from_secs(hours * 3_600));
        let rental = Policy { start_by: hours(30 * 24), finish_within: hours(48), ..Policy::UNLIMITED };
        assert_eq!(window(&rental), "Start within 30 days, finish within 48 hours of starting");
        assert_eq!(window(&Policy::UNLIMITED), "Yours to keep");
    }
}
