//! Who this device is: its keys, and the membership that a tracker gave it.
//!
//! Keys are made at the first start and never leave their files (mode 0600): `device.key` (Ed25519, also the libp2p
//! identity) and `hpke.key` (X25519, grants are sealed to it). `enrolment.json` holds the membership, the swarm key and
//! the tracker that is believed from then on. A membership is verified each time it is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use daemon::exit::{Exit, Failure};
use daemon::secrets;
use data_encoding::BASE64URL_NOPAD;
use libp2p::identity::Keypair;
use serde::{Deserialize, Serialize};
use swarm_proto::call::{self, CallToken};
use swarm_proto::id::{DeviceId, ServerId};
use swarm_proto::membership::Membership;
use swarm_proto::pb;
use swarm_proto::signed::{Signed, SigningKey};
use swarm_proto::time::Utc;
use swarm_proto::wrap::HpkeSecret;
use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::{Zeroize, Zeroizing};

use crate::clock;

const DEVICE_KEY: &str = "device.key";
const HPKE_KEY: &str = "hpke.key";
const ENROLMENT: &str = "enrolment.json";

/// How long a call token is used: half its life, so that one on its way does not run out.
const TOKEN_USED: Duration = call::MAX_LIFE.checked_div(2).expect("two is not zero");

/// Servers a device has call tokens for: its tracker, its keyserver, and those it had before.
const MAX_TOKENS: usize = 8;

/// Who this device is. It has no `Debug`, so that no key can slip into a log.
pub struct Identity {
    /// Its public key, which is its id.
    pub device: DeviceId,
    /// Signs call tokens.
    pub signing: SigningKey,
    /// Opens grants.
    pub hpke: HpkeSecret,
    /// The same Ed25519 key as libp2p wants it.
    pub keypair: Keypair,
    tokens: Mutex<BTreeMap<ServerId, Token>>,
}

struct Token {
    text: MetadataValue<Ascii>,
    issued: Utc,
}

impl Identity {
    /// Reads the device's keys from its data folder; makes them if this is the first start.
    pub fn open_or_create(folder: &Path) -> anyhow::Result<Identity> {
        let signing = SigningKey::from_bytes(secrets::read_or_create_key(&folder.join(DEVICE_KEY))?.as_slice())
            .context("device.key is not a key")?;
        let hpke = HpkeSecret::from_bytes(secrets::read_or_create_key(&folder.join(HPKE_KEY))?.as_slice())
            .context("hpke.key is not a key")?;
        Identity::of_keys(signing, hpke)
    }

    /// An identity of these keys.
    pub fn of_keys(signing: SigningKey, hpke: HpkeSecret) -> anyhow::Result<Identity> {
        let keypair =
            Keypair::ed25519_from_bytes(signing.expose().as_mut_slice()).context("failed to read the device key")?;
        Ok(Identity { device: signing.device_id(), signing, hpke, keypair, tokens: Mutex::default() })
    }

    /// Proves this device to a server in one call.
    pub fn sign_call<T>(&self, request: &mut tonic::Request<T>, audience: ServerId) {
        request.metadata_mut().insert(call::METADATA_KEY, self.call_token(audience, clock::utc()));
    }

    /// The token for this server, made anew when the last one has been used for long enough.
    fn call_token(&self, audience: ServerId, now: Utc) -> MetadataValue<Ascii> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.get(&audience)
            && now >= token.issued
            && now.since(token.issued) < TOKEN_USED
        {
            return token.text.clone();
        }
        let signed = CallToken::sign(&self.signing, audience, now).expect("a fresh token keeps its own rules");
        let mut text: MetadataValue<Ascii> = signed.to_text().parse().expect("base64url fits in metadata");
        text.set_sensitive(true);
        if tokens.len() == MAX_TOKENS {
            tokens.pop_first();
        }
        tokens.insert(audience, Token { text: text.clone(), issued: now });
        text
    }
}

/// What enrolment gave this device.
#[derive(Clone)]
pub struct Enrolled {
    /// What the tracker says about this device, verified.
    pub membership: Membership,
    /// The same as it was signed, to show to others.
    pub signed: Signed<Membership>,
    /// What blinds Kademlia provider keys.
    pub swarm_key: Zeroizing<[u8; 32]>,
    /// The tracker whose tickets are honoured; the signer of the membership.
    pub tracker: ServerId,
    /// Where it was reached.
    pub tracker_url: String,
}

/// The membership, now and after each change; `None` before enrolment.
pub type Members = watch::Receiver<Option<Arc<Enrolled>>>;

/// The one owner of the membership. Clones share it.
#[derive(Clone)]
pub struct Enrolment {
    path: PathBuf,
    now: watch::Sender<Option<Arc<Enrolled>>>,
    /// The code that this device shows at the moment, to be typed elsewhere.
    code: watch::Sender<Option<String>>,
}

/// Takes the code off the television when dropped.
pub struct CodeShown(watch::Sender<Option<String>>);

impl Drop for CodeShown {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// The file. Whoever reads it can look items up in Kademlia, so it is as private as a key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    tracker: ServerId,
    tracker_url: String,
    membership: String,
    swarm_key: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.swarm_key.zeroize();
    }
}

impl Enrolment {
    /// Reads the membership from the data folder, if there is one.
    pub fn open(folder: &Path, identity: &Identity) -> anyhow::Result<Enrolment> {
        let path = folder.join(ENROLMENT);
        let enrolled = match path.try_exists().with_context(|| format!("failed to look at {}", path.display()))? {
            true => Some(Arc::new(read(&path, identity).map_err(|error| damaged(&path, &error))?)),
            false => None,
        };
        Ok(Enrolment { path, now: watch::Sender::new(enrolled), code: watch::Sender::new(None) })
    }

    /// The membership now.
    pub fn current(&self) -> Option<Arc<Enrolled>> {
        self.now.borrow().clone()
    }

    /// The code that somebody may type to make this device a member.
    pub fn code(&self) -> Option<String> {
        self.code.borrow().clone()
    }

    /// Shows a code until what is returned is dropped.
    pub fn show_code(&self, code: &str) -> CodeShown {
        self.code.send_replace(Some(code.to_owned()));
        CodeShown(self.code.clone())
    }

    /// The membership, now and after each change.
    pub fn watch(&self) -> Members {
        self.now.subscribe()
    }

    /// Takes what a tracker answered to an enrolment code. It is on disk before anyone sees it.
    pub fn accept(
        &self,
        identity: &Identity,
        tracker: ServerId,
        tracker_url: &str,
        answer: pb::tracker::EnrolResponse,
    ) -> anyhow::Result<Arc<Enrolled>> {
        let signed = Signed::<Membership>::try_from(answer.membership.context("the tracker gave no membership")?)?;
        let swarm_key = Zeroizing::new(answer.swarm_key);
        let swarm_key = <[u8; 32]>::try_from(swarm_key.as_slice())
            .map(Zeroizing::new)
            .ok()
            .context("the tracker gave no swarm key")?;
        let membership = verified(&signed, identity, tracker)?;
        self.keep(Enrolled { membership, signed, swarm_key, tracker, tracker_url: tracker_url.to_owned() })
    }

    /// Takes a later membership of the same tracker; an earlier one is left aside.
    pub fn renew(&self, identity: &Identity, old: &Enrolled, renewed: pb::common::Signed) -> anyhow::Result<()> {
        let signed = Signed::<Membership>::try_from(renewed)?;
        let membership = verified(&signed, identity, old.tracker)?;
        if membership.serial > old.membership.serial {
            tracing::info!(expires = %membership.expires, "membership renewed");
            self.keep(Enrolled { membership, signed, ..old.clone() })?;
        }
        Ok(())
    }

    fn keep(&self, enrolled: Enrolled) -> anyhow::Result<Arc<Enrolled>> {
        let stored = Stored {
            tracker: enrolled.tracker,
            tracker_url: enrolled.tracker_url.clone(),
            membership: enrolled.signed.to_text(),
            swarm_key: BASE64URL_NOPAD.encode(enrolled.swarm_key.as_slice()),
        };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&stored)?);
        secrets::replace(&self.path, &text)?;
        let enrolled = Arc::new(enrolled);
        self.now.send_replace(Some(enrolled.clone()));
        Ok(enrolled)
    }
}

fn read(path: &Path, identity: &Identity) -> anyhow::Result<Enrolled> {
    let stored: Stored = serde_json::from_slice(&secrets::read(path)?)?;
    let signed = Signed::<Membership>::from_text(&stored.membership)?;
    let membership = verified(&signed, identity, stored.tracker)?;
    let swarm_key = Zeroizing::new(BASE64URL_NOPAD.decode(stored.swarm_key.as_bytes())?);
    let swarm_key =
        Zeroizing::new(<[u8; 32]>::try_from(swarm_key.as_slice()).context("the swarm key does not have 32 bytes")?);
    Ok(Enrolled { membership, signed, swarm_key, tracker: stored.tracker, tracker_url: stored.tracker_url.clone() })
}

/// A membership of exactly this device, signed by this tracker. It may have run out: the tracker renews it.
fn verified(signed: &Signed<Membership>, identity: &Identity, tracker: ServerId) -> anyhow::Result<Membership> {
    let membership = signed.verify(&tracker)?;
    anyhow::ensure!(membership.device == identity.device, "the membership is another device's");
    anyhow::ensure!(membership.hpke == identity.hpke.public(), "the membership names another HPKE key");
    Ok(membership)
}

fn damaged(path: &Path, error: &anyhow::Error) -> Failure {
    match error.downcast_ref::<Failure>() {
        Some(failure) => failure.clone(),
        None => Failure::new(Exit::Integrity, "E-ENROL-14", format!("{} cannot be used", path.display()))
            .why(format!("{error:#}"))
            .hint("delete it and enrol again with a new code"),
    }
}
