//! Questions about customers' browsers.

use daemon::exit::Failure;
use daemon::secrets;
use data_encoding::BASE64URL_NOPAD;
use swarm_proto::id::AccountId;
use swarm_proto::pb::tracker as pb;
use swarm_proto::tracker::admission;
use swarm_proto::tracker::signins::{LINK_LASTS, SecretKey};

use super::{Handle, State};
use crate::refusal;

/// Where links lead.
pub(crate) const SIGN_IN_PATH: &str = "/sign-in/";

/// A browser that has signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SignedIn {
    /// As whom.
    pub(crate) account: AccountId,
    /// What that customer is called.
    pub(crate) name: String,
}

impl Handle {
    /// Makes a link that signs in once.
    pub(crate) async fn sign_in_link(&self, account: AccountId) -> Result<pb::SignInLink, Failure> {
        self.look(move |state, now| {
            admission::admit_customer(&state.registry, &account).map_err(refusal::admission)?;
            let secret = secrets::random::<32>();
            state.signins.add_link(now.mono, SecretKey::of(&secret), account);
            Ok(pb::SignInLink {
                path: format!("{SIGN_IN_PATH}{}", BASE64URL_NOPAD.encode(secret.as_slice())),
                expires_utc_ms: (now.utc + LINK_LASTS).as_millis(),
            })
        })
        .await
    }

    /// Uses a link up and begins a session; none if the link is over.
    pub(crate) async fn open_link(&self, link: SecretKey, session: SecretKey) -> Result<Option<SignedIn>, Failure> {
        self.look(move |state, now| {
            let account = state.signins.open(now.mono, &link, session);
            Ok(account.and_then(|account| state.signed_in(account)))
        })
        .await
    }

    /// Whose session this is, if it goes on and its customer is served.
    pub(crate) async fn session(&self, session: SecretKey) -> Result<Option<SignedIn>, Failure> {
        self.look(move |state, now| {
            let account = state.signins.account(now.mono, &session);
            Ok(account.and_then(|account| state.signed_in(account)))
        })
        .await
    }
}

impl State {
    fn signed_in(&self, account: AccountId) -> Option<SignedIn> {
        let customer = admission::admit_customer(&self.registry, &account).ok()?;
        Some(SignedIn { account, name: customer.name.clone() })
    }
}
