//! Keys as studios hand them over: CPIX documents (DASH-IF, version 2.3 and before).
//!
//! Of such a document only the content keys are read, each under its KID; DRM signalling, periods and usage rules are
//! for other systems. A document type declaration is refused, so no entity is ever resolved, and everything is bounded
//! before it is read. Keys that are encrypted to someone (`DeliveryData`) are refused by name, not skipped. Signatures
//! inside a document are not checked: whoever brings the file vouches for it.
//!
//! A key of a studio is 16 or 32 bytes and belongs to a KID; ours seal one item each. So ours follows from both, and one
//! that a studio uses elsewhere never seals anything here by itself.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use roxmltree::{Document, Node, ParsingOptions};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::id::{ItemId, PublisherId};
use crate::invalid::Invalid;
use crate::seal::ContentKey;

/// Longest document: a thousand keys with the signalling of five DRM systems each.
pub const MAX_DOCUMENT_BYTES: usize = 2 << 20;

/// Most keys in one document.
pub const MAX_KEYS: usize = 1000;

/// Most elements, texts and comments in one document.
const MAX_NODES: u32 = 100_000;

const CPIX: &str = "urn:dashif:org:cpix";
const PSKC: &str = "urn:ietf:params:xml:ns:keyprov:pskc";
const CONTEXT: &str = "reelswarm v1 cpix content key";
const PLACE_CONTEXT: &str = "reelswarm v1 keyserver imported key";

/// Names a studio's key: a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Wraps the bytes of a UUID.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Where a keyserver keeps this key of a publisher until it is the key of an item: the vault wants the name of one.
    pub fn place(&self, publisher: &PublisherId) -> ItemId {
        let named = [publisher.as_bytes().as_slice(), &self.0].concat();
        ItemId::from_bytes(blake3::derive_key(PLACE_CONTEXT, &named))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = HEXLOWER.encode(&self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("kid", "must be a UUID, such as 40d02dd1-61a3-4787-a155-572325d47b80");
        if !text.split('-').map(str::len).eq([8, 4, 4, 4, 12]) {
            return Err(invalid());
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(text.replace('-', "").as_bytes()).map_err(|_| invalid())?;
        bytes.try_into().map(Self).map_err(|_| invalid())
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A key of a studio, as it seals an item here. No `Debug`.
pub struct StudioKey {
    /// What the studio calls it.
    pub kid: KeyId,
    /// What an item is sealed with.
    pub key: ContentKey,
}

/// Why a document is not taken. None of its keys is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpixError {
    /// Split it.
    #[error("the document is longer than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong,
    /// Split it.
    #[error("the document has more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// It may be an attack: no CPIX document needs one.
    #[error("the document declares a document type, which is refused")]
    DocumentType,
    /// It is damaged, or something else.
    #[error("the document is not XML: {0}")]
    NotXml(String),
    /// It is something else, or of a version that is not known here.
    #[error("the document is not a CPIX document of version 2")]
    NotCpix,
    /// It has only rules, or names keys that someone else is to fill in.
    #[error("the document has no key{}", .0.map_or(String::new(), |kid| format!(" for {kid}")))]
    NoKey(Option<KeyId>),
    /// Ask for it in clear, over a way that is safe itself.
    #[error("the key {0} is encrypted to someone's certificate, which cannot be read here")]
    Encrypted(KeyId),
    /// One of its keys breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads the keys of a document, in its order.
pub fn read(document: &str) -> Result<Vec<StudioKey>, CpixError> {
    if document.len() > MAX_DOCUMENT_BYTES {
        return Err(CpixError::TooLong);
    }
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let parsed = Document::parse_with_options(document, options).map_err(|error| match error {
        roxmltree::Error::DtdDetected => CpixError::DocumentType,
        error => CpixError::NotXml(error.to_string()),
    })?;
    let root = parsed.root_element();
    let version = root.attribute("version").unwrap_or("2");
    if !root.has_tag_name((CPIX, "CPIX")) || version.split('.').next() != Some("2") {
        return Err(CpixError::NotCpix);
    }
    let lists = root.children().filter(|node| node.has_tag_name((CPIX, "ContentKeyList")));
    let mut keys: Vec<StudioKey> = Vec::new();
    for node in lists.flat_map(|list| list.children()).filter(|node| node.has_tag_name((CPIX, "ContentKey"))) {
        if keys.len() == MAX_KEYS {
            return Err(CpixError::TooManyKeys);
        }
        let kid = node.attribute("kid").unwrap_or_default().trim().parse()?;
        if keys.iter().any(|known| known.kid == kid) {
            return Err(Invalid::new("kid", format!("{kid} stands there more than once")).into());
        }
        keys.push(StudioKey { kid, key: content_key(&kid, &secret(kid, node)?)? });
    }
    if keys.is_empty() { Err(CpixError::NoKey(None)) } else { Ok(keys) }
}

/// `ContentKey/Data/Secret/PlainValue`, decoded.
fn secret(kid: KeyId, node: Node<'_, '_>) -> Result<Zeroizing<Vec<u8>>, CpixError> {
    let child = |node: Node<'_, '_>, name: (&'static str, &'static str)| {
        node.children().find(|child| child.has_tag_name(name)).map(|child| child.id())
    };
    let descend = |from: Node<'_, '_>, name| child(from, name).and_then(|id| node.document().get_node(id));
    let secret = descend(node, (CPIX, "Data")).and_then(|data| descend(data, (PSKC, "Secret")));
    let secret = secret.ok_or(CpixError::NoKey(Some(kid)))?;
    if descend(secret, (PSKC, "EncryptedValue")).is_some() {
        return Err(CpixError::Encrypted(kid));
    }
    let plain = descend(secret, (PSKC, "PlainValue")).and_then(|value| value.text());
    let plain = plain.ok_or(CpixError::NoKey(Some(kid)))?;
    let invalid = || Invalid::new("PlainValue", format!("of {kid} must be base64"));
    Ok(Zeroizing::new(BASE64.decode(plain.trim().as_bytes()).map_err(|_| invalid())?))
}

/// The key that an item is sealed with instead of a studio's.
fn content_key(kid: &KeyId, secret: &[u8]) -> Result<ContentKey, Invalid> {
    if !matches!(secret.len(), 16 | 32) {
        return Err(Invalid::new("PlainValue", format!("of {kid} must have 16 or 32 bytes")));
    }
    let material = Zeroizing::new([kid.0.as_slice(), secret].concat());
    let derived = Zeroizing::new(blake3::derive_key(CONTEXT, &material));
    Ok(ContentKey::from_bytes(derived.as_slice()).expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As section 8 of the specification prints them, with the prefixes and upper case that real ones have.
    const DOCUMENT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cpix:CPIX xmlns:cpix="urn:dashif:org:cpix" xmlns:pskc="urn:ietf:params:xml:ns:keyprov:pskc" contentId="harbour" version="2.3">
  <cpix:ContentKeyList>
    <cpix:ContentKey kid="40d02dd1-61a3-4787-a155-572325d47b80" commonEncryptionScheme="cenc">
      <cpix:Data><pskc:Secret><pskc:PlainValue>gPxt0PMwrHM4TdjwdQmhhQ==</pskc:PlainValue></pskc:Secret></cpix:Data>
    </cpix:ContentKey>
    <cpix:ContentKey explicitIV="DkaqgUzRAe1b7TqTGlbpHg==" kid="0DC3EC4F-7683-548B-81E7-3C64E582E136">
      <cpix:Data>
        <pskc:Secret>
          <!-- of 256 bits -->
          <pskc:PlainValue> AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= </pskc:PlainValue>
        </pskc:Secret>
      </cpix:Data>
    </cpix:ContentKey>
  </cpix:ContentKeyList>
  <cpix:DRMSystemList>
    <cpix:DRMSystem kid="40d02dd1-61a3-4787-a155-572325d47b80" systemId="edef8ba9-79d6-4ace-a3c8-27dcd51d21ed">
      <cpix:PSSH>AAAANHBzc2gBAAAA7e+LqXnWSs6jyCfc1R0h7Q==</cpix:PSSH>
    </cpix:DRMSystem>
  </cpix:DRMSystemList>
  <cpix:ContentKeyUsageRuleList>
    <cpix:ContentKeyUsageRule kid="40d02dd1-61a3-4787-a155-572325d47b80"><cpix:VideoFilter/></cpix:ContentKeyUsageRule>
  </cpix:ContentKeyUsageRuleList>
</cpix:CPIX>"#;

    fn refused(document: &str) -> CpixError {
        read(document).err().expect("refused")
    }

    #[test]
    fn every_key_of_a_document_is_read_under_its_kid() {
        let keys = read(DOCUMENT).expect("a document");
        let kids: Vec<String> = keys.iter().map(|key| key.kid.to_string()).collect();
        assert_eq!(kids, ["40d02dd1-61a3-4787-a155-572325d47b80", "0dc3ec4f-7683-548b-81e7-3c64e582e136"]);
        let material = [keys[1].kid.as_bytes().as_slice(), &(0..32).collect::<Vec<u8>>()].concat();
        assert_eq!(*keys[1].key.expose(), blake3::derive_key("reelswarm v1 cpix content key", &material));
    }

    #[test]
    fn without_prefixes_and_without_a_version_it_is_the_same_document() {
        let plain = DOCUMENT.replace("xmlns:cpix=", "xmlns=").replace("<cpix:", "<").replace("</cpix:", "</");
        let plain = plain.replace(" version=\"2.3\"", "");
        let (plain, prefixed) = (read(&plain).expect("a document"), read(DOCUMENT).expect("a document"));
        assert!(plain.iter().zip(&prefixed).all(|(one, other)| one.key.expose() == other.key.expose()));
        assert_eq!(plain.len(), prefixed.len());
    }

    #[test]
    fn one_secret_under_two_kids_gives_two_keys() {
        let other = DOCUMENT.replace("40d02dd1-61a3", "50d02dd1-61a3");
        assert_ne!(read(DOCUMENT).expect("read")[0].key.expose(), read(&other).expect("read")[0].key.expose());
    }

    #[test]
    fn a_document_type_is_refused_before_any_entity_is_looked_at() {
        let declaration = DOCUMENT.find("<cpix:CPIX").expect("there");
        for attack in [
            r#"<!DOCTYPE x [<!ENTITY key SYSTEM "file:///etc/passwd">]>"#,
            r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"#,
            r#"<!DOCTYPE x SYSTEM "http://example.org/x.dtd" [<!ENTITY % more SYSTEM "x"> %more;]>"#,
        ] {
            let mut hostile = DOCUMENT.to_owned();
            hostile.insert_str(declaration, attack);
            assert_eq!(refused(&hostile), CpixError::DocumentType, "{attack}");
        }
        assert!(matches!(refused(&DOCUMENT.replace("gPxt0PMw", "&key;")), CpixError::NotXml(_)), "an unknown entity");
    }

    #[test]
    fn encrypted_missing_and_wrong_keys_are_named_and_nothing_of_the_document_is_taken() {
        let kid: KeyId = "40d02dd1-61a3-4787-a155-572325d47b80".parse().expect("a kid");
        let encrypted = DOCUMENT.replacen("PlainValue", "EncryptedValue", 2);
        assert_eq!(refused(&encrypted), CpixError::Encrypted(kid));
        let asked_for = DOCUMENT.replacen("<pskc:PlainValue>gPxt0PMwrHM4TdjwdQmhhQ==</pskc:PlainValue>", "", 1);
        assert_eq!(refused(&asked_for), CpixError::NoKey(Some(kid)));
        for bad in ["gPxt0PMwrHM4TdjwdQmh", "not base64!", ""] {
            let spoiled = DOCUMENT.replace("gPxt0PMwrHM4TdjwdQmhhQ==", bad);
            assert!(matches!(refused(&spoiled), CpixError::Invalid(_) | CpixError::NoKey(_)), "{bad}");
        }
        for bad in ["", "40d02dd1", "40d02dd161a34787a155572325d47b80", "40d02dd1-61a3-4787-a155-572325d47bxx"] {
            let spoiled = DOCUMENT.replacen("40d02dd1-61a3-4787-a155-572325d47b80", bad, 1);
            assert!(matches!(refused(&spoiled), CpixError::Invalid(_)), "{bad}");
        }
        let twice = DOCUMENT.replace("0DC3EC4F-7683-548B-81E7-3C64E582E136", "40D02DD1-61a3-4787-a155-572325d47b80");
        assert!(refused(&twice).to_string().contains("more than once"));
    }

    #[test]
    fn what_is_no_such_document_is_refused() {
        assert!(matches!(refused("keys: 1"), CpixError::NotXml(_)));
        assert!(matches!(refused(""), CpixError::NotXml(_)));
        assert_eq!(refused("<CPIX/>"), CpixError::NotCpix);
        assert_eq!(refused("<CPIX xmlns='urn:dashif:org:cpix'/>"), CpixError::NoKey(None));
        assert_eq!(refused(&DOCUMENT.replace("version=\"2.3\"", "version=\"3.0\"")), CpixError::NotCpix);
        assert_eq!(refused(&DOCUMENT.replace("urn:dashif:org:cpix", "urn:other")), CpixError::NotCpix);
    }

    #[test]
    fn documents_are_bounded_in_length_keys_and_nodes() {
        assert_eq!(refused(&" ".repeat(MAX_DOCUMENT_BYTES + 1)), CpixError::TooLong);
        let key = |n: usize| {
            format!(
                "<ContentKey kid='00000000-0000-0000-0000-{n:012x}'><Data><p:Secret><p:PlainValue>\
                 gPxt0PMwrHM4TdjwdQmhhQ==</p:PlainValue></p:Secret></Data></ContentKey>"
            )
        };
        let document = |keys: String| {
            format!("<CPIX xmlns='{CPIX}' xmlns:p='{PSKC}'><ContentKeyList>{keys}</ContentKeyList></CPIX>")
        };
        assert_eq!(read(&document((0..MAX_KEYS).map(key).collect())).expect("the most there may be").len(), MAX_KEYS);
        assert_eq!(refused(&document((0..=MAX_KEYS).map(key).collect())), CpixError::TooManyKeys);
        assert!(matches!(refused(&document("<a/>".repeat(MAX_NODES as usize))), CpixError::NotXml(_)));
        assert!(matches!(refused(&"<a>".repeat(90_000)), CpixError::NotXml(_)), "deep is no trouble");
    }
}
