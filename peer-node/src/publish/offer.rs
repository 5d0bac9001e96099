//! Offers as a publisher types them: `rent:2.99EUR:48h`, `buy:9.99EUR`, `pass:1:48h`, `rent:2.99EUR:48h:drip`.

use std::str::FromStr as _;
use std::time::Duration;

use daemon::exit::{Exit, Failure};
use daemon::units;
use swarm_proto::catalog::{Currency, MAX_OFFLINE_GRACE, Media, Money, Offer, OfferKind, Policy};
use swarm_proto::drip::{Drip, Preview, playing_time};
use swarm_proto::geometry::Geometry;
use swarm_proto::invalid::Invalid;
use swarm_proto::limit::Limit;

/// How long a rental waits for its first play unless the offer says otherwise: what cinemas at home are used to.
const START_BY: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How often a box with a rental looks at its keyserver, and how long it may fail to.
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Currencies of ISO 4217 whose minor unit is not a hundredth, with their digits.
const OTHER_DIGITS: [(&str, usize); 23] = [
    ("BHD", 3),
    ("BIF", 0),
    ("CLP", 0),
    ("DJF", 0),
    ("GNF", 0),
    ("IQD", 3),
    ("ISK", 0),
    ("JOD", 3),
    ("JPY", 0),
    ("KMF", 0),
    ("KRW", 0),
    ("KWD", 3),
    ("LYD", 3),
    ("OMR", 3),
    ("PYG", 0),
    ("RWF", 0),
    ("TND", 3),
    ("UGX", 0),
    ("VND", 0),
    ("VUV", 0),
    ("XAF", 0),
    ("XOF", 0),
    ("XPF", 0),
];

/// An offer, and what of it depends on how long the title plays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferWish {
    /// All that was typed, but for the drip and the preview.
    pub offer: Offer,
    /// Keys leave while the title plays.
    pub drips: bool,
}

impl OfferWish {
    /// The offer for this title, with a free beginning of this length, if any.
    pub(super) fn of(&self, geometry: &Geometry, media: &Media, preview: Option<Duration>) -> Result<Offer, Failure> {
        let mut offer = self.offer.clone();
        let unfit = |invalid: Invalid| {
            Failure::new(Exit::Usage, "E-OFFER-02", "the title is too short, or too long, for a drip or this preview")
                .why(invalid)
                .hint("leave out `drip`, or choose another --preview")
        };
        if !self.drips && preview.is_none() {
            return Ok(offer);
        }
        let playing = playing_time(media, geometry).ok_or_else(|| {
            Failure::new(Exit::Usage, "E-OFFER-03", "how long the file plays is not known")
                .why("a drip and a preview are measured in playing time")
                .hint("publish an MP4 file, or leave out `drip` and --preview")
        })?;
        if self.drips {
            offer.policy.drip = Some(Drip::of(geometry, playing).map_err(unfit)?);
        }
        offer.preview = preview.map(|length| Preview::of(geometry, playing, length)).transpose().map_err(unfit)?;
        Ok(offer)
    }
}

/// Reads `[ID=]KIND:PRICE[:WINDOW[:START-BY]][:drip]`.
///
/// Kinds are `rent` (with a window), `buy` (without) and `pass` (credits of a prepaid pass, with or without a window).
/// The id is the kind unless one is given. With `drip` its keys leave while the title plays, never all at once.
pub fn parse_offer(text: &str) -> Result<OfferWish, Failure> {
    let (rest, drips) = text.strip_suffix(":drip").map_or((text, false), |rest| (rest, true));
    Ok(OfferWish { offer: parse_plain(rest)?, drips })
}

fn parse_plain(text: &str) -> Result<Offer, Failure> {
    let wrong = |why: String| {
        Failure::new(Exit::Usage, "E-OFFER-01", format!("\"{text}\" is not an offer")).why(why).hint(
            "write it like rent:2.99EUR:48h, buy:9.99EUR, pass:1:48h, with a name like weekend=rent:1.49EUR:72h, or with keys that leave while it plays like rent:2.99EUR:48h:drip",
        )
    };
    let (id, rest) = text.split_once('=').map_or((None, text), |(id, rest)| (Some(id), rest));
    let mut parts = rest.split(':');
    let kind_text = parts.next().unwrap_or_default();
    let kind = match kind_text {
        "rent" => OfferKind::Rent,
        "buy" => OfferKind::Buy,
        "pass" => OfferKind::Pass,
        other => return Err(wrong(format!("\"{other}\" is none of rent, buy, pass"))),
    };
    let price = parts.next().filter(|price| !price.is_empty()).ok_or_else(|| wrong("it has no price".to_owned()))?;
    let price = match kind {
        OfferKind::Pass => credits(price),
        _ => money(price),
    };
    let price = price.map_err(&wrong)?;
    let mut duration = |what: &str| {
        let read = |text: &str| match units::Duration::from_str(text) {
            Ok(duration) if duration.get().is_zero() => Err(wrong(format!("its {what} is zero"))),
            Ok(duration) => Ok(duration.get()),
            Err(error) => Err(wrong(format!("its {what} is not a time: {error}"))),
        };
        parts.next().map(read).transpose()
    };
    let (window, start_by) = (duration("window")?, duration("start")?);
    if parts.next().is_some() {
        return Err(wrong("it has too many parts".to_owned()));
    }
    let policy = match (kind, window) {
        (OfferKind::Buy, Some(_)) => return Err(wrong("what is bought has no window".to_owned())),
        (OfferKind::Rent, None) => return Err(wrong("a rental needs a window, such as 48h".to_owned())),
        (_, None) => Policy::UNLIMITED,
        (_, Some(window)) => Policy {
            start_by: Limit::Of(start_by.unwrap_or(START_BY)),
            finish_within: Limit::Of(window),
            soft_finish: true,
            renew_after: Limit::Of(RENEW_AFTER),
            offline_grace: Limit::Of(MAX_OFFLINE_GRACE),
            ..Policy::UNLIMITED
        },
    };
    let id = id.unwrap_or(kind_text).parse().map_err(|invalid| wrong(format!("{invalid}")))?;
    Ok(Offer { id, kind, price, policy, preview: None })
}

fn credits(text: &str) -> Result<Money, String> {
    let credits = text.parse().map_err(|_| format!("\"{text}\" is not a number of credits"))?;
    Money::new(credits, Currency::CREDITS).map_err(|invalid| invalid.to_string())
}

/// `2.99EUR`: digits, at most as many decimals as the currency has, and the currency.
fn money(text: &str) -> Result<Money, String> {
    let not_a_price = || format!("\"{text}\" is not a price such as 2.99EUR");
    let (amount, currency) = text.split_at_checked(text.len().saturating_sub(3)).ok_or_else(not_a_price)?;
    let digits = OTHER_DIGITS.iter().find(|(code, _)| *code == currency).map_or(2, |(_, digits)| *digits);
    let currency: Currency = currency.parse().map_err(|_| not_a_price())?;
    if currency == Currency::CREDITS {
        return Err("credits are for pass offers: pass:1".to_owned());
    }
    let (whole, decimals) = amount.split_once('.').map_or((amount, ""), |(whole, decimals)| (whole, decimals));
    if decimals.len() > digits {
        return Err(format!("{currency} has {digits} decimals, \"{text}\" has more"));
    }
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(decimals) || amount.ends_with('.') {
        return Err(not_a_price());
    }
    let minor = format!("{whole}{decimals:0<digits$}").parse().map_err(|_| not_a_price())?;
    Money::new(minor, currency).map_err(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minor(text: &str) -> u64 {
        parse_offer(text).expect("an offer").offer.price.minor
    }

    fn refusal(text: &str) -> String {
        let failure = parse_offer(text).expect_err("no offer");
        assert_eq!(failure.exit, Exit::Usage);
        failure.why.expect("a reason")
    }

    #[test]
    fn rental_has_a_price_and_a_window() {
        let offer = parse_offer("rent:2.99EUR:48h").expect("an offer").offer;
        assert_eq!((offer.id.as_str(), offer.kind), ("rent", OfferKind::Rent));
        assert_eq!((offer.price.minor, offer.price.currency.as_str()), (299, "EUR"));
        assert_eq!(offer.policy.finish_within, Limit::Of(Duration::from_secs(48 * 3_600)));
        assert_eq!(offer.policy.start_by, Limit::Of(START_BY));
    }

    #[test]
    fn purchase_has_no_clock() {
        assert_eq!(parse_offer("buy:9.99EUR").expect("an offer").offer.policy, Policy::UNLIMITED);
    }

    #[test]
    fn offer_can_have_a_name() {
        assert_eq!(parse_offer("weekend=rent:1EUR:72h").expect("an offer").offer.id.as_str(), "weekend");
    }

    #[test]
    fn pass_is_paid_in_credits() {
        let offer = parse_offer("pass:1").expect("an offer").offer;
        assert_eq!((offer.price.minor, offer.price.currency), (1, Currency::CREDITS));
    }

    #[test]
    fn drip_and_preview_need_to_know_how_long_the_title_plays() {
        let wish = parse_offer("rent:2.99EUR:48h:drip").expect("an offer");
        assert!(wish.drips && !parse_offer("buy:9.99EUR").expect("an offer").drips);
        assert!(parse_offer("buy:9.99EUR:drip").expect("an offer").drips);
        assert!(parse_offer("buy:9.99EUR:drip:48h").is_err(), "it stands at the end");
        let media = |duration| Media {
            mime: "video/mp4".to_owned(),
            duration,
            codecs: String::new(),
            picture: None,
            bit_rate: None,
        };
        let film = Geometry::of_plain(1 << 30).expect("fits");
        let hour = Duration::from_secs(3_600);
        let offer = wish.of(&film, &media(Some(hour)), Some(hour / 12)).expect("an offer");
        assert_eq!(offer.preview.map(|preview| preview.spans()), Some(6), "five minutes of 65 spans");
        let drip = offer.policy.drip.expect("it drips");
        assert_eq!(drip.every(), Duration::from_millis(27_692), "half of what a span plays");
        let unknown = wish.of(&film, &media(None), None).expect_err("nobody knows how long it plays");
        assert_eq!(unknown.code, "E-OFFER-03");
        let all = wish.of(&film, &media(Some(hour)), Some(hour)).expect_err("all of it for nothing");
        assert_eq!(all.code, "E-OFFER-02");
        let small = Geometry::of_plain(100).expect("fits");
        assert!(parse_offer("buy:1EUR").expect("an offer").of(&small, &media(None), None).is_ok());
    }

    #[test]
    fn decimals_follow_the_currency() {
        assert_eq!(minor("buy:3EUR"), 300);
        assert_eq!(minor("buy:3.5EUR"), 350);
        assert_eq!(minor("buy:300JPY"), 300);
        assert_eq!(minor("buy:1.5KWD"), 1_500);
        assert!(refusal("buy:2.999EUR").contains("decimals"));
        assert!(refusal("buy:2.5JPY").contains("decimals"));
    }

    #[test]
    fn every_refusal_says_what_is_wrong() {
        assert!(refusal("lend:1EUR").contains("lend"));
        assert!(refusal("rent").contains("no price"));
        assert!(refusal("rent:2.99EUR").contains("window"));
        assert!(refusal("rent:2.99EUR:soon").contains("window"));
        assert!(refusal("rent:2.99EUR:0s").contains("zero"));
        assert!(refusal("buy:9.99EUR:48h").contains("no window"));
        assert!(refusal("buy:0EUR").contains("minor"));
        assert!(refusal("buy:free").contains("price"));
        assert!(refusal("buy:1.EUR").contains("price"));
        assert!(refusal("buy:-1EUR").contains("price"));
        assert!(refusal("buy:é").contains("price"));
        assert!(refusal("rent:1EUR:1h:1h:1h").contains("too many"));
        assert!(refusal("Big=buy:1EUR").contains("a-z"));
        assert!(refusal("buy:1XXX").contains("pass"));
    }
}
