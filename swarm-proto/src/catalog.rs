//! What a publisher says about a title, and what it costs.
//!
//! A [`CatalogEntry`] is checked field by field where it enters: text is bounded and free of control characters, sizes
//! agree with each other, every clock is stated. Versions only go up: [`CatalogEntry::may_replace`] is the one rule that
//! tracker and device share. The tracker can hide an entry but not alter one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::drip::{Drip, Preview};
use crate::geometry::Geometry;
use crate::id::{ItemId, PublisherId, TitleId, is_label};
use crate::invalid::{Invalid, id, positive, present};
use crate::limit::{self, Limit, MAX_DURATION_MS};
use crate::pb::common as pb;
use crate::seal::KeyCommitment;
use crate::signed::Statement;
use crate::span_tree::SpanCommitment;
use crate::time::Utc;

/// Longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 200;
/// Longest description, in bytes of UTF-8.
pub const MAX_DESCRIPTION_BYTES: usize = 4096;
/// Largest picture: an entry with it stays far below what may be signed, and below what a box keeps per title.
pub const MAX_ARTWORK_BYTES: usize = 32 * 1024;
/// Most offers of a title.
pub const MAX_OFFERS: usize = 16;
/// Most regions of a title; ISO 3166-1 has 249.
pub const MAX_REGIONS: usize = 300;
/// Most minor units of a price: ten thousand million of a currency with cents.
pub const MAX_PRICE_MINOR: u64 = 1_000_000_000_000;
/// Highest age rating in use anywhere.
pub const MAX_RATING_AGE: u32 = 21;
/// Longest time that a box may play after its licence should have been renewed: then one look at the keyserver.
pub const MAX_OFFLINE_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
/// Largest width or height of a picture.
const MAX_PIXELS: u32 = 65_536;
/// Longest MIME type (RFC 6838, one half).
const MAX_MIME_BYTES: usize = 127;
const MAX_CODECS_BYTES: usize = 128;

/// A title as its publisher describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Stays the same over all versions.
    pub title: TitleId,
    /// From 1 upwards.
    pub version: u64,
    /// Who signs.
    pub publisher: PublisherId,
    /// The sealed file.
    pub item: ItemId,
    /// The lengths of the sealed and the clear file.
    pub geometry: Geometry,
    /// To which content key the publisher commits.
    pub commitment: KeyCommitment,
    /// To which span keys; there where an offer drips or has a preview.
    pub span_commitment: Option<SpanCommitment>,
    /// One line for people.
    pub name: String,
    /// Some lines for people; may be empty.
    pub description: String,
    /// What sort of file.
    pub kind: Kind,
    /// For the player.
    pub media: Media,
    /// A small picture.
    pub artwork: Option<Artwork>,
    /// Youngest age that may watch; 0 is for all ages.
    pub rating_age: u32,
    /// Where it may be offered; none means everywhere.
    pub regions: Vec<Region>,
    /// First public showing.
    pub released: Utc,
    /// When a device begins to warn that its catalog is stale.
    pub expires: Limit<Utc>,
    /// What it costs; none when it is not for sale.
    pub offers: Vec<Offer>,
    /// No longer offered; bought rights stay.
    pub withdrawn: bool,
}

/// What sort of file a title is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A film or an episode.
    Video,
    /// Music or speech.
    Audio,
    /// Anything else.
    File,
}

/// What a player needs to know before it has a byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// As in a `Content-Type` header.
    pub mime: String,
    /// Playing time, where there is one.
    pub duration: Option<Duration>,
    /// RFC 6381; empty when unknown.
    pub codecs: String,
    /// Width and height of the picture, where there is one.
    pub picture: Option<(u32, u32)>,
    /// Mean bits per second, where known.
    pub bit_rate: Option<u64>,
}

/// A small picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artwork {
    /// Of which format.
    pub mime: ArtworkMime,
    /// The picture file.
    pub bytes: Bytes,
}

/// Picture formats that every browser shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArtworkMime {
    /// `image/jpeg`
    Jpeg,
    /// `image/png`
    Png,
    /// `image/webp`
    Webp,
}

impl ArtworkMime {
    /// As in a `Content-Type` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }
}

/// A country: two capital letters of ISO 3166-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region([u8; 2]);

impl Region {
    /// The letters.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("regions are capital letters")
    }
}

impl FromStr for Region {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        capitals(text).map(Self).ok_or_else(|| Invalid::new("region", "must be two capital letters (ISO 3166-1)"))
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({self})")
    }
}

/// A currency: three capital letters of ISO 4217.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// Credits of a prepaid pass: ISO 4217's code for "no currency".
    pub const CREDITS: Self = Self(*b"XXX");

    /// The letters.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("currencies are capital letters")
    }
}

impl FromStr for Currency {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        capitals(text).map(Self).ok_or_else(|| Invalid::new("currency", "must be three capital letters (ISO 4217)"))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Currency({self})")
    }
}

/// An amount of a currency, in its minor unit; whole credits for [`Currency::CREDITS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// At least 1.
    pub minor: u64,
    /// Of what.
    pub currency: Currency,
}

impl Money {
    /// Checks an amount.
    pub fn new(minor: u64, currency: Currency) -> Result<Self, Invalid> {
        if positive("minor", minor)? > MAX_PRICE_MINOR {
            return Err(Invalid::new("minor", format!("must be at most {MAX_PRICE_MINOR}")));
        }
        Ok(Self { minor, currency })
    }
}

/// The amount and its unit, without a decimal point: how many digits are cents differs between currencies.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.currency, self.minor) {
            (Currency::CREDITS, 1) => f.write_str("1 credit"),
            (Currency::CREDITS, credits) => write!(f, "{credits} credits"),
            (currency, minor) => write!(f, "{minor} minor units of {currency}"),
        }
    }
}

/// A price and the rights it buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Unique in its entry.
    pub id: OfferId,
    /// How it is paid for.
    pub kind: OfferKind,
    /// How much.
    pub price: Money,
    /// Which clocks apply.
    pub policy: Policy,
    /// What may be watched before it is paid.
    pub preview: Option<Preview>,
}

/// The name of an offer: 1 to 32 of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferId(String);

impl OfferId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OfferId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_label(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("id", "must be 1 to 32 of a-z, 0-9 and hyphen, with a letter or digit at both ends"))
    }
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an offer is paid for and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfferKind {
    /// Money, for a time.
    Rent,
    /// Money, for ever.
    Buy,
    /// Credits of a prepaid pass.
    Pass,
}

/// The clocks of an offer. Zero is illegal; "unlimited" is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The first play begins this long after the grant at the latest.
    pub start_by: Limit<Duration>,
    /// Playing ends this long after the first play.
    pub finish_within: Limit<Duration>,
    /// A viewing under way when that time is over may be watched to its end, for [`crate::licence::SOFT_FINISH`] at most.
    pub soft_finish: bool,
    /// The device asks for a fresh licence this long after the last one.
    pub renew_after: Limit<Duration>,
    /// It may still play this long after the renewal was due; [`MAX_OFFLINE_GRACE`] at most where there are renewals.
    pub offline_grace: Limit<Duration>,
    /// The viewing period begins.
    pub not_before: Limit<Utc>,
    /// The viewing period ends.
    pub not_after: Limit<Utc>,
    /// Keys leave span by span while the title plays; else its whole key at once.
    pub drip: Option<Drip>,
}

impl Policy {
    /// No clock at all: for ever, anywhere, offline.
    pub const UNLIMITED: Self = Self {
        start_by: Limit::Unlimited,
        finish_within: Limit::Unlimited,
        soft_finish: false,
        renew_after: Limit::Unlimited,
        offline_grace: Limit::Unlimited,
        not_before: Limit::Unlimited,
        not_after: Limit::Unlimited,
        drip: None,
    };

    /// True when a key may be released at this moment: inside the viewing period, which ends before `not_after`.
    pub fn may_grant_at(&self, utc: Utc) -> bool {
        self.not_before.bound().is_none_or(|begin| begin <= utc) && self.not_after.bound().is_none_or(|end| utc < end)
    }
}

impl CatalogEntry {
    /// Whether this entry may take the place of `old`, which is an entry of the same title.
    ///
    /// The same version is fine when nothing differs: the same file published twice.
    pub fn may_replace(&self, old: &Self) -> Result<(), Superseded> {
        if self.title != old.title || self.publisher != old.publisher {
            return Err(Superseded::OtherPublisher);
        }
        if self.version < old.version {
            return Err(Superseded::Older { offered: self.version, known: old.version });
        }
        if self.version == old.version && self != old {
            return Err(Superseded::Conflict { version: self.version });
        }
        Ok(())
    }

    /// The offer of this name.
    pub fn offer(&self, id: &str) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.id.as_str() == id)
    }

    /// True when the title may be offered in a region.
    pub fn is_offered_in(&self, region: Region) -> bool {
        !self.withdrawn && (self.regions.is_empty() || self.regions.binary_search(&region).is_ok())
    }
}

/// Why an entry may not take the place of another. Keep the one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Superseded {
    /// Another title, or someone else's.
    #[error("the title belongs to another publisher")]
    OtherPublisher,
    /// A step back.
    #[error("version {offered} is older than version {known}, which is known already")]
    Older {
        /// Of the entry that came.
        offered: u64,
        /// Of the entry that is known.
        known: u64,
    },
    /// Two different entries of one version.
    #[error("version {version} is known already and says something else; publish it as version {}", version + 1)]
    Conflict {
        /// Of both.
        version: u64,
    },
}

impl Statement for CatalogEntry {
    const CONTEXT: &'static str = "catalog entry";
    type Signer = PublisherId;

    fn encode(&self) -> Vec<u8> {
        pb::CatalogEntry::from(self).encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        pb::CatalogEntry::decode(bytes).map_err(|error| Invalid::new(Self::CONTEXT, error.to_string()))?.try_into()
    }

    fn may_be_signed_by(&self, signer: &PublisherId) -> bool {
        self.publisher == *signer
    }
}

impl From<&CatalogEntry> for pb::CatalogEntry {
    fn from(entry: &CatalogEntry) -> Self {
        Self {
            title_id: entry.title.to_vec(),
            version: entry.version,
            publisher_id: entry.publisher.to_vec(),
            item_id: entry.item.to_vec(),
            sealed_len: entry.geometry.sealed_len(),
            plain_len: entry.geometry.plain_len(),
            commitment: entry.commitment.to_vec(),
            name: entry.name.clone(),
            description: entry.description.clone(),
            kind: pb::Kind::from(entry.kind).into(),
            media: Some((&entry.media).into()),
            artwork: entry.artwork.as_ref().map(Into::into),
            rating_age: entry.rating_age,
            regions: entry.regions.iter().map(Region::to_string).collect(),
            released_utc_ms: entry.released.as_millis(),
            expires: Some(entry.expires.into()),
            offers: entry.offers.iter().map(Into::into).collect(),
            withdrawn: entry.withdrawn,
            span_commitment: entry.span_commitment.map(|spans| spans.to_vec()),
        }
    }
}

impl TryFrom<pb::CatalogEntry> for CatalogEntry {
    type Error = Invalid;

    fn try_from(message: pb::CatalogEntry) -> Result<Self, Invalid> {
        let geometry =
            Geometry::of_sealed(message.sealed_len).map_err(|error| Invalid::new("sealed_len", error.to_string()))?;
        if geometry.plain_len() != message.plain_len {
            return Err(Invalid::new("plain_len", format!("must be {}, to fit sealed_len", geometry.plain_len())));
        }
        if message.rating_age > MAX_RATING_AGE {
            return Err(Invalid::new("rating_age", format!("must be at most {MAX_RATING_AGE}")));
        }
        let kind = match message.kind() {
            pb::Kind::Unspecified => return Err(Invalid::new("kind", "is missing or unknown")),
            pb::Kind::Video => Kind::Video,
            pb::Kind::Audio => Kind::Audio,
            pb::Kind::File => Kind::File,
        };
        let offers = offers(message.offers)?;
        let span_commitment = message.span_commitment.map(|bytes| id("span_commitment", &bytes)).transpose()?;
        check_spans(&offers, span_commitment.as_ref(), &geometry)?;
        Ok(Self {
            title: id("title_id", &message.title_id)?,
            version: positive("version", message.version)?,
            publisher: id("publisher_id", &message.publisher_id)?,
            item: id("item_id", &message.item_id)?,
            geometry,
            commitment: id("commitment", &message.commitment)?,
            span_commitment,
            name: name(message.name)?,
            description: description(message.description)?,
            kind,
            media: Media::try_from(present("media", message.media)?).map_err(|error| error.inside("media"))?,
            artwork: message.artwork.map(Artwork::try_from).transpose().map_err(|error| error.inside("artwork"))?,
            rating_age: message.rating_age,
            regions: regions(&message.regions)?,
            released: limit::utc("released_utc_ms", message.released_utc_ms)?,
            expires: limit::moment("expires", message.expires)?,
            offers,
            withdrawn: message.withdrawn,
        })
    }
}

impl From<Kind> for pb::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Video => Self::Video,
            Kind::Audio => Self::Audio,
            Kind::File => Self::File,
        }
    }
}

impl From<&Media> for pb::Media {
    fn from(media: &Media) -> Self {
        let (width, height) = media.picture.unwrap_or_default();
        Self {
            mime: media.mime.clone(),
            duration_ms: media.duration.map_or(0, |long| u64::try_from(long.as_millis()).unwrap_or(u64::MAX)),
            codecs: media.codecs.clone(),
            width,
            height,
            bit_rate: media.bit_rate.unwrap_or(0),
        }
    }
}

impl TryFrom<pb::Media> for Media {
    type Error = Invalid;

    fn try_from(message: pb::Media) -> Result<Self, Invalid> {
        let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let (before, after) = message.mime.split_once('/').unwrap_or_default();
        let has_both = !before.is_empty() && !after.is_empty();
        if !has_both || message.mime.len() > MAX_MIME_BYTES || !printable(&message.mime) {
            return Err(Invalid::new("mime", "must be like video/mp4, at most 127 characters of ASCII"));
        }
        if message.codecs.len() > MAX_CODECS_BYTES || !printable(&message.codecs) {
            return Err(Invalid::new("codecs", "must be at most 128 characters of ASCII"));
        }
        if message.duration_ms > MAX_DURATION_MS {
            return Err(Invalid::new("duration_ms", "is longer than 100 years"));
        }
        if message.width > MAX_PIXELS || message.height > MAX_PIXELS {
            return Err(Invalid::new("width", format!("and height must be at most {MAX_PIXELS}")));
        }
        if (message.width == 0) != (message.height == 0) {
            return Err(Invalid::new("height", "and width must both be given, or neither"));
        }
        Ok(Self {
            mime: message.mime,
            duration: (message.duration_ms > 0).then(|| Duration::from_millis(message.duration_ms)),
            codecs: message.codecs,
            picture: (message.width > 0).then_some((message.width, message.height)),
            bit_rate: (message.bit_rate > 0).then_some(message.bit_rate),
        })
    }
}

impl From<&Artwork> for pb::Artwork {
    fn from(artwork: &Artwork) -> Self {
        Self { mime: artwork.mime.as_str().to_owned(), bytes: artwork.bytes.to_vec() }
    }
}

impl TryFrom<pb::Artwork> for Artwork {
    type Error = Invalid;

    fn try_from(message: pb::Artwork) -> Result<Self, Invalid> {
        let known = [ArtworkMime::Jpeg, ArtworkMime::Png, ArtworkMime::Webp];
        let mime = known.into_iter().find(|mime| mime.as_str() == message.mime);
        let mime = mime.ok_or_else(|| Invalid::new("mime", "must be image/jpeg, image/png or image/webp"))?;
        if message.bytes.is_empty() || message.bytes.len() > MAX_ARTWORK_BYTES {
            return Err(Invalid::new("bytes", format!("must have 1 to {MAX_ARTWORK_BYTES} bytes")));
        }
        Ok(Self { mime, bytes: message.bytes.into() })
    }
}

impl From<&Offer> for pb::Offer {
    fn from(offer: &Offer) -> Self {
        let kind = match offer.kind {
            OfferKind::Rent => pb::OfferKind::Rent,
            OfferKind::Buy => pb::OfferKind::Buy,
            OfferKind::Pass => pb::OfferKind::Pass,
        };
        Self {
            id: offer.id.0.clone(),
            kind: kind.into(),
            price: Some(offer.price.into()),
            policy: Some((&offer.policy).into()),
            preview: offer.preview.map(Into::into),
        }
    }
}

impl TryFrom<pb::Offer> for Offer {
    type Error = Invalid;

    fn try_from(message: pb::Offer) -> Result<Self, Invalid> {
        let kind = match message.kind() {
            pb::OfferKind::Unspecified => return Err(Invalid::new("kind", "is missing or unknown")),
            pb::OfferKind::Rent => OfferKind::Rent,
            pb::OfferKind::Buy => OfferKind::Buy,
            pb::OfferKind::Pass => OfferKind::Pass,
        };
        let price = Money::try_from(present("price", message.price)?).map_err(|error| error.inside("price"))?;
        let policy = Policy::try_from(present("policy", message.policy)?).map_err(|error| error.inside("policy"))?;
        if (kind == OfferKind::Pass) != (price.currency == Currency::CREDITS) {
            return Err(Invalid::new("price.currency", "must be XXX (credits) for a pass offer and for no other"));
        }
        let ends =
            [policy.start_by.is_unlimited(), policy.finish_within.is_unlimited(), policy.not_after.is_unlimited()];
        if kind == OfferKind::Buy && ends != [true; 3] {
            return Err(Invalid::new("policy", "of a buy offer must not end: start_by, finish_within, not_after"));
        }
        let preview = message.preview.map(Preview::try_from).transpose().map_err(|error| error.inside("preview"))?;
        Ok(Self { id: message.id.parse()?, kind, price, policy, preview })
    }
}

impl From<Money> for pb::Money {
    fn from(money: Money) -> Self {
        Self { minor: money.minor, currency: money.currency.to_string() }
    }
}

impl TryFrom<pb::Money> for Money {
    type Error = Invalid;

    fn try_from(message: pb::Money) -> Result<Self, Invalid> {
        Self::new(message.minor, message.currency.parse()?)
    }
}

impl From<&Policy> for pb::Policy {
    fn from(policy: &Policy) -> Self {
        Self {
            start_by: Some(policy.start_by.into()),
            finish_within: Some(policy.finish_within.into()),
            soft_finish: policy.soft_finish,
            renew_after: Some(policy.renew_after.into()),
            offline_grace: Some(policy.offline_grace.into()),
            not_before: Some(policy.not_before.into()),
            not_after: Some(policy.not_after.into()),
            drip: policy.drip.map(Into::into),
        }
    }
}

impl TryFrom<pb::Policy> for Policy {
    type Error = Invalid;

    fn try_from(message: pb::Policy) -> Result<Self, Invalid> {
        let (not_before, not_after) = period(message.not_before, message.not_after)?;
        let renew_after = limit::duration("renew_after", message.renew_after)?;
        let offline_grace = limit::duration("offline_grace", message.offline_grace)?;
        if !renew_after.is_unlimited() && offline_grace.bound().is_none_or(|grace| grace > MAX_OFFLINE_GRACE) {
            return Err(Invalid::new("offline_grace", "must be at most 24 hours where licences are renewed"));
        }
        Ok(Self {
            start_by: limit::duration("start_by", message.start_by)?,
            finish_within: limit::duration("finish_within", message.finish_within)?,
            soft_finish: message.soft_finish,
            renew_after,
            offline_grace,
            not_before,
            not_after,
            drip: message.drip.map(Drip::try_from).transpose().map_err(|error| error.inside("drip"))?,
        })
    }
}

/// Reads a viewing period, which must not be empty.
pub(crate) fn period(
    not_before: Option<pb::MomentLimit>,
    not_after: Option<pb::MomentLimit>,
) -> Result<(Limit<Utc>, Limit<Utc>), Invalid> {
    let (begin, end) = (limit::moment("not_before", not_before)?, limit::moment("not_after", not_after)?);
    if let (Limit::Of(begin), Limit::Of(end)) = (begin, end)
        && begin >= end
    {
        return Err(Invalid::new("not_after", "must lie after not_before"));
    }
    Ok((begin, end))
}

fn name(text: String) -> Result<String, Invalid> {
    if text.trim().is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(Invalid::new("name", format!("must have 1 to {MAX_NAME_BYTES} bytes of text")));
    }
    if text.chars().any(|character| !is_displayable(character)) {
        return Err(Invalid::new("name", "must not contain control characters"));
    }
    Ok(text)
}

fn description(text: String) -> Result<String, Invalid> {
    if text.len() > MAX_DESCRIPTION_BYTES {
        return Err(Invalid::new("description", format!("must have at most {MAX_DESCRIPTION_BYTES} bytes")));
    }
    if text.chars().any(|character| character != '\n' && !is_displayable(character)) {
        return Err(Invalid::new("description", "must not contain control characters other than line feed"));
    }
    Ok(text)
}

/// False for control characters and for those that reorder or end a line, with which a name could pose as another.
fn is_displayable(character: char) -> bool {
    let reorders = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks_line = matches!(character, '\u{2028}' | '\u{2029}');
    !(character.is_control() || reorders || breaks_line)
}

fn regions(texts: &[String]) -> Result<Vec<Region>, Invalid> {
    if texts.len() > MAX_REGIONS {
        return Err(Invalid::new("regions", format!("must be at most {MAX_REGIONS}")));
    }
    let regions: Vec<Region> = texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, Invalid>>()
        .map_err(|error| error.inside("regions"))?;
    if !regions.is_sorted_by(|one, next| one < next) {
        return Err(Invalid::new("regions", "must ascend, without repetition"));
    }
    Ok(regions)
}

fn offers(messages: Vec<pb::Offer>) -> Result<Vec<Offer>, Invalid> {
    if messages.len() > MAX_OFFERS {
        return Err(Invalid::new("offers", format!("must be at most {MAX_OFFERS}")));
    }
    let mut offers: Vec<Offer> = Vec::with_capacity(messages.len());
    for (place, message) in messages.into_iter().enumerate() {
        let offer = Offer::try_from(message).map_err(|error| error.inside(format!("offers[{place}]")))?;
        if offers.iter().any(|other| other.id == offer.id) {
            return Err(Invalid::new(format!("offers[{place}].id"), "is used by two offers"));
        }
        offers.push(offer);
    }
    Ok(offers)
}

/// Keys of spans leave only where each can be checked, and a preview never is the whole title.
fn check_spans(offers: &[Offer], commitment: Option<&SpanCommitment>, geometry: &Geometry) -> Result<(), Invalid> {
    let releases_spans = |offer: &Offer| offer.policy.drip.is_some() || offer.preview.is_some();
    if commitment.is_none() && offers.iter().any(releases_spans) {
        return Err(Invalid::new("span_commitment", "is missing: an offer drips or has a preview"));
    }
    let is_whole = |preview: &Preview| preview.spans() >= geometry.n_spans();
    if offers.iter().filter_map(|offer| offer.preview.as_ref()).any(is_whole) {
        return Err(Invalid::new("offers", "have a preview that is the whole title"));
    }
    Ok(())
}

fn capitals<const N: usize>(text: &str) -> Option<[u8; N]> {
    let letters: [u8; N] = text.as_bytes().try_into().ok()?;
    letters.iter().all(u8::is_ascii_uppercase).then_some(letters)
}
